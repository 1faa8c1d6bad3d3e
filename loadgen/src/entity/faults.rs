//! What a notifier can do wrong, and how often it did. Knows no entity and no message.

/// What a notifier must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A document older than the view that the entity has.
    ViewWentBack,
    /// The version did not grow by one from one NOTIFY with a body to the next (RFC 6665 5.3.2).
    VersionGap,
    /// A partial document whose base is not the entity's view.
    WrongBase,
    /// The CSeq of a new NOTIFY is not one more than that of the former (RFC 3261 12.2.1.1).
    CSeqOrder,
    /// A new NOTIFY while the former was not answered, and no SUBSCRIBE to excuse it.
    TwoOutstanding,
    /// A part of a document out of its turn.
    PartOrder,
    /// The notifier's tag or the Call-ID is not the dialog's.
    WrongDialog,
    /// A NOTIFY or its document that breaks the rules of the event package.
    Malformed,
    /// The notifier ended a subscription that nobody gave up.
    EndedByNotifier,
    /// A new NOTIFY in a subscription that had ended.
    AfterTheEnd,
    /// A NOTIFY without the route that the SUBSCRIBE recorded (RFC 3261 12.1.1).
    WrongRoute,
}

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::ViewWentBack,
        Fault::VersionGap,
        Fault::WrongBase,
        Fault::CSeqOrder,
        Fault::TwoOutstanding,
        Fault::PartOrder,
        Fault::WrongDialog,
        Fault::Malformed,
        Fault::EndedByNotifier,
        Fault::AfterTheEnd,
        Fault::WrongRoute,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::ViewWentBack => "view went back",
            Fault::VersionGap => "version gap",
            Fault::WrongBase => "wrong base",
            Fault::CSeqOrder => "cseq order",
            Fault::TwoOutstanding => "two outstanding",
            Fault::PartOrder => "part order",
            Fault::WrongDialog => "wrong dialog",
            Fault::Malformed => "malformed",
            Fault::EndedByNotifier => "ended by notifier",
            Fault::AfterTheEnd => "after the end",
            Fault::WrongRoute => "wrong route",
        }
    }
}

/// One fault with the figures that show it.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    pub entity: u32,
    pub fault: Fault,
    /// CSeq of the NOTIFY, 0 where it could not be read.
    pub cseq: u32,
    pub expected: u64,
    pub got: u64,
}

/// The faults of a run: all counted, the first few kept.
#[derive(Debug, Default)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    examples: Vec<Example>,
}

impl Faults {
    const EXAMPLES: usize = 16;

    pub fn add(&mut self, example: Example) {
        self.counts[example.fault as usize] += 1;
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(example);
        }
    }

    /// Adds those that other entities saw.
    pub fn merge(&mut self, other: &Faults) {
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count += other;
        }
        let room = Self::EXAMPLES - self.examples.len();
        self.examples.extend(other.examples.iter().take(room));
    }

    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn examples(&self) -> &[Example] {
        &self.examples
    }
}
