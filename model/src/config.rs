//! The bounds of an exploration, and the mistakes that can be planted.

use crate::row::N;

/// What is explored, and up to which bounds.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What each member has received at the start; member 0 is the sender, and has sent what it has.
    pub received: [u8; N],
    /// Each member's highest attempt as a leader.
    pub attempts: [u8; N],
    /// Suspicions of members that live. Those of crashed members are not counted.
    pub suspicions: u8,
    /// Members that may crash.
    pub crashes: u32,
    /// Whether any member may wedge without a suspicion, as a join or a leave makes it.
    pub asks: bool,
    /// Whether a reader can stop between a record and its guard.
    pub torn: bool,
    /// Whether a pass can find news of both peers at once.
    pub joint: bool,
    /// Whether to explore the ballots alone: all are flushed, and each member leads, with a value of its own.
    pub synod: bool,
    /// What is wrong with the protocol.
    pub bug: Option<Bug>,
}

impl Config {
    /// Nothing goes wrong with one message that only its sender has. Four attempts are more than any run here takes.
    pub const QUIET: Self = Self {
        received: [1, 0, 0],
        attempts: [4; N],
        suspicions: 0,
        crashes: 0,
        asks: false,
        torn: false,
        joint: false,
        synod: false,
        bug: None,
    };
    /// The ballots alone, one for each member.
    pub const SYNOD: Self = Self { received: [0; N], attempts: [1; N], synod: true, ..Self::QUIET };
}

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The trim is the minimum of the vectors.
    TrimByMinimum,
    /// A value is proposed when all candidates are wedged, before they are flushed.
    ProposeUnflushed,
    /// A new leader does not look at what was accepted.
    IgnoreAccepted,
    /// A ballot below a promise is accepted.
    AcceptAfterPromise,
    /// A majority that accepted anything decides the value of the highest ballot.
    MajorityAcrossBallots,
    /// A majority that accepted one value decides it, in whatever ballots.
    MajorityOfOneValue,
    /// A pass shows its promise before the record that it accepted.
    PromiseBeforeAccepted,
    /// A wedged member goes on taking messages in.
    TakeInAfterWedge,
    /// A record's counter is shown before its slot.
    CounterBeforeSlot,
    /// No leader asks for promises.
    SkipPromises,
    /// Rank 0 proposes another value in the ballot it has used.
    ReuseBallot,
    /// Rank 0 uses its first ballot though it promised a higher one.
    FirstBallotAfterPromise,
    /// A member does not flush again when the candidates change.
    FlushOnce,
    /// A member that is not in the next view installs it.
    InstallThoughRemoved,
}
