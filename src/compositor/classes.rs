//! What a change of an entry is to subscribers: urgent, worth telling, a change of load, or nothing. Knows no table.

use crate::info::{Entry, Server};

/// From how many points on a change of load counts as one.
const LOAD_STEP: u8 = 5;

/// What a publication changes for subscribers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    pub(super) urgent: bool,
    pub(super) notable: bool,
    pub(super) load: bool,
}

impl Classes {
    pub(super) fn of(before: Option<&Entry>, after: &Entry, announced: Option<u8>) -> Self {
        let Some(before) = before.filter(|before| before.deleted == after.deleted) else {
            return Classes {
                urgent: true,
                ..Classes::default()
            };
        };
        let (one, other) = (&before.server, &after.server);
        let said = |server: &Server| (server.priority, server.weight);
        Classes {
            urgent: one.status != other.status,
            notable: said(one) != said(other)
                || one.addresses != other.addresses
                || one.services != other.services
                || one.attributes != other.attributes,
            load: counts(announced, other.load),
        }
    }
}

/// Whether a change of load counts as one: from 5 points on, when it crosses 0, 50, 80, 90 or 100, and when it becomes
/// known or unknown.
fn counts(announced: Option<u8>, load: Option<u8>) -> bool {
    let band = |load: u8| [1, 50, 80, 90, 100].partition_point(|bound| *bound <= load);
    match (announced, load) {
        (Some(one), Some(other)) => one.abs_diff(other) >= LOAD_STEP || band(one) != band(other),
        (one, other) => one.is_some() != other.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_counts_from_five_points_on_and_across_the_bounds() {
        for (one, other, expected) in [
            (10, 14, false),
            (10, 15, true),
            (10, 5, true),
            (0, 1, true),
            (1, 0, true),
            (1, 2, false),
            (49, 50, true),
            (50, 49, true),
            (50, 51, false),
            (79, 80, true),
            (89, 90, true),
            (99, 100, true),
            (96, 99, false),
        ] {
            assert_eq!(counts(Some(one), Some(other)), expected, "{one} {other}");
        }
        assert!(counts(None, Some(0)) && counts(Some(0), None) && !counts(None, None));
    }
}
