//! `galerna_mode_t` and `galerna_message_t`.

use crate::failure::Failure;
use engine::{Delivery, Mode};
use std::ffi::c_void;

/// When a message may be delivered. One order holds for all modes.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_mode_t {
    /// As soon as it and all earlier messages of its sender are here; it may overtake other senders' messages.
    GALERNA_MODE_FIFO = 0,
    /// In the total order, as soon as everything before it is here. It can be lost with all members that saw it.
    GALERNA_MODE_ORDERED = 1,
    /// In the total order, once every member has received it.
    GALERNA_MODE_SAFE = 2,
    /// In the total order, once every member has received it and the members have it on their disks: all, or as many as
    /// are configured. Only in groups with a log: elsewhere it is refused with GALERNA_ERR_MISUSE.
    GALERNA_MODE_DURABLE = 3,
}

impl From<Mode> for galerna_mode_t {
    fn from(mode: Mode) -> galerna_mode_t {
        match mode {
            Mode::Fifo => galerna_mode_t::GALERNA_MODE_FIFO,
            Mode::Ordered => galerna_mode_t::GALERNA_MODE_ORDERED,
            Mode::Safe => galerna_mode_t::GALERNA_MODE_SAFE,
            Mode::Durable => galerna_mode_t::GALERNA_MODE_DURABLE,
        }
    }
}

/// `galerna_mode_t` as C passes it: any number.
pub type RawMode = i32;

/// One delivered message. It is valid during the callback only, like the payload: ring memory, or a copy of it.
#[repr(C)]
pub struct galerna_message_t {
    /// Bytes of this struct as the library knows it: later versions append fields.
    pub size: usize,
    /// The message's bytes, `length` of them. Never NULL.
    pub payload: *const c_void,
    /// Bytes of the payload.
    pub length: usize,
    /// Its number in the subgroup's total order; it goes on from view to view, and numbers are skipped where a
    /// sender had nothing to say.
    pub sequence: u64,
    /// The `id` of the member that sent it.
    pub sender: u32,
    /// The mode it was sent with.
    pub mode: galerna_mode_t,
    /// The subgroup.
    pub subgroup: u16,
    /// The number of the view that it is delivered in.
    pub view: u64,
}

/// The mode to send with.
pub(crate) fn mode(raw: RawMode) -> Result<Mode, Failure> {
    match raw {
        0 => Ok(Mode::Fifo),
        1 => Ok(Mode::Ordered),
        2 => Ok(Mode::Safe),
        3 => Ok(Mode::Durable),
        _ => Err(Failure::Argument("mode", "is no galerna_mode_t")),
    }
}

impl From<Delivery<'_>> for galerna_message_t {
    fn from(delivery: Delivery<'_>) -> galerna_message_t {
        galerna_message_t {
            size: size_of::<galerna_message_t>(),
            payload: delivery.payload.as_ptr().cast(),
            length: delivery.payload.len(),
            sequence: delivery.sequence,
            sender: delivery.sender.0,
            mode: delivery.mode.into(),
            subgroup: delivery.subgroup.0,
            view: delivery.view,
        }
    }
}
