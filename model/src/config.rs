//! The bounds of an exploration, and the mistakes that can be planted in the protocol.

use crate::row::N;

/// The bounds of an exploration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The number of messages that each member has at the start. Member 0 is the sender of all of them.
    pub received: [u8; N],
    /// The most attempts of each member as a leader.
    pub attempts: [u8; N],
    /// The most suspicions of live members. Suspicions of crashed members are not counted.
    pub suspicions: u8,
    /// The most members that crash.
    pub crashes: u32,
    /// Whether any member may wedge without a suspicion, as for a join or a leave.
    pub asks: bool,
    /// Whether a reader can see a record without its guard.
    pub torn: bool,
    /// Whether one pass can read new pushes of both peers.
    pub joint: bool,
    /// Whether to explore only the ballots: all members are flushed, and each one leads with a value of its own.
    pub synod: bool,
    /// The planted mistake.
    pub bug: Option<Bug>,
}

impl Config {
    /// No fault, and one message that only its sender has. No run needs as many as four attempts.
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
    /// Only the ballots, one attempt for each member.
    pub const SYNOD: Self = Self { received: [0; N], attempts: [1; N], synod: true, ..Self::QUIET };
}

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The trim is the minimum of the vectors.
    TrimByMinimum,
    /// A value is proposed when all candidates are wedged, before they are flushed.
    ProposeUnflushed,
    /// A new leader ignores accepted values.
    IgnoreAccepted,
    /// A ballot below a promise is accepted.
    AcceptAfterPromise,
    /// A majority that accepted any values decides the value of the highest ballot.
    MajorityAcrossBallots,
    /// A majority that accepted one value decides it, even in different ballots.
    MajorityOfOneValue,
    /// A pass publishes its promise before the record that it accepted.
    PromiseBeforeAccepted,
    /// A wedged member continues to receive messages.
    TakeInAfterWedge,
    /// A record's counter is published before its slot.
    CounterBeforeSlot,
    /// No leader asks for promises.
    SkipPromises,
    /// Rank 0 proposes another value in a ballot that it has used already.
    ReuseBallot,
    /// Rank 0 uses its first ballot although it has promised a higher one.
    FirstBallotAfterPromise,
    /// A member does not flush again when the candidates change.
    FlushOnce,
    /// A member that is not in the next view installs it.
    InstallThoughRemoved,
}
