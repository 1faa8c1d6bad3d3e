//! Where a publication stands. Knows no message.

use crate::client::{PATIENCE_MS, Transaction};

/// RFC 3903 4.1, table 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Initial,
    Refresh,
    Modify,
    Remove,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing is outstanding; the next request leaves then.
    Waiting {
        until_ms: u64,
    },
    Asking {
        transaction: Transaction,
        operation: Operation,
        /// When the user is told that no answer comes; `None`: was told.
        silent_ms: Option<u64>,
        /// When another notifier is asked; `None`: never.
        turn_ms: Option<u64>,
    },
    /// The lease holds.
    Published {
        refresh_ms: u64,
    },
    Ended,
}

impl Phase {
    pub(super) fn asking(now_ms: u64, transaction: Transaction, operation: Operation) -> Self {
        Phase::Asking {
            transaction,
            operation,
            silent_ms: Some(now_ms + PATIENCE_MS),
            turn_ms: None,
        }
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match self {
            Phase::Waiting { until_ms } => Some(*until_ms),
            Phase::Published { refresh_ms } => Some(*refresh_ms),
            Phase::Asking {
                transaction,
                silent_ms,
                turn_ms,
                ..
            } => {
                let due = [Some(transaction.deadline_ms()), *silent_ms, *turn_ms];
                due.into_iter().flatten().min()
            }
            Phase::Ended => None,
        }
    }
}
