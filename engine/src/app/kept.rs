//! A message that outlives its delivery.

use crate::multicast::Delivery;
use crate::types::{MemberId, Mode, SubgroupId};

/// A message, copied out of the ring, for a process that passes it to the application later.
///
/// It has no ticket: only processes that join keep messages, and those have sent nothing.
pub struct Kept {
    subgroup: SubgroupId,
    pub(crate) view: u64,
    sender: MemberId,
    pub(crate) sequence: u64,
    mode: Mode,
    time_ns: u64,
    pub(crate) payload: Box<[u8]>,
}

impl From<&Delivery<'_>> for Kept {
    fn from(message: &Delivery<'_>) -> Kept {
        let Delivery { subgroup, view, sender, sequence, mode, time_ns, payload, ticket: _ } = *message;
        Kept { subgroup, view, sender, sequence, mode, time_ns, payload: payload.into() }
    }
}

impl Kept {
    /// The delivery that was kept.
    pub fn delivery(&self) -> Delivery<'_> {
        let Kept { subgroup, view, sender, sequence, mode, time_ns, ref payload } = *self;
        Delivery { subgroup, view, sender, sequence, mode, ticket: None, time_ns, payload }
    }
}
