//! `galerna_mode_t` and `galerna_message_t`.

use crate::failure::Failure;
use engine::{Delivery, Mode, Ticket};
use std::ffi::{c_char, c_void};

/// The condition under which a message is delivered. All modes share one order.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_mode_t {
    /// Delivered as soon as this message and all earlier messages of its sender have arrived. It may overtake messages
    /// of other senders.
    GALERNA_MODE_FIFO = 0,
    /// Delivered in the total order, as soon as all messages before it have arrived. The message can be lost if all
    /// members that received it fail.
    GALERNA_MODE_ORDERED = 1,
    /// Delivered in the total order, once every member has received the message.
    GALERNA_MODE_SAFE = 2,
    /// Delivered in the total order, once every member has received the message and the voters have it on disk.
    ///
    /// The message must be on the disks of all voters, or of as many as `log.durable_members` specifies. Only groups
    /// with a log support this mode. In other groups sending fails with GALERNA_ERR_MISUSE.
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

/// A `galerna_mode_t` as C passes it: any number.
pub type RawMode = i32;

/// Returns the name of a mode, for example "GALERNA_MODE_SAFE".
///
/// For a number that is no mode it returns "unknown mode". The string is static. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_mode_name(mode: RawMode) -> *const c_char {
    let name = match mode {
        0 => c"GALERNA_MODE_FIFO",
        1 => c"GALERNA_MODE_ORDERED",
        2 => c"GALERNA_MODE_SAFE",
        3 => c"GALERNA_MODE_DURABLE",
        _ => c"unknown mode",
    };
    name.as_ptr()
}

/// A delivered message.
///
/// The message and its payload are valid only during the callback. The payload is in ring memory or in a copy of it.
#[repr(C)]
pub struct galerna_message_t {
    /// Size in bytes of this struct in the library's version. Later versions append fields.
    pub size: usize,
    /// The payload, `length` bytes. Never NULL. It may have any alignment: copy it before it is used as a struct.
    pub payload: *const c_void,
    /// Size of the payload in bytes.
    pub length: usize,
    /// Sequence number in the subgroup's total order. It continues from view to view. A number is skipped where a
    /// sender sent a null message.
    pub sequence: u64,
    /// The `id` of the member that sent the message.
    pub sender: u32,
    /// The mode with which the message was sent.
    pub mode: galerna_mode_t,
    /// The subgroup of the message.
    pub subgroup: u16,
    /// Number of the view in which the message is delivered.
    pub view: u64,
    /// The ticket that sending it gave, if this process has sent it in its present life; otherwise 0.
    pub ticket: u64,
    /// In a group with a log: the time of the message's record, in nanoseconds since 1970; otherwise 0. A
    /// GALERNA_MODE_FIFO message that overtakes others has the time at which it was sent, and its record may have a later
    /// one. The record of a GALERNA_MODE_ORDERED message may have another time if this process is removed from the
    /// view.
    pub time_ns: u64,
}

/// Converts a mode that C passed.
pub(crate) fn mode(raw: RawMode) -> Result<Mode, Failure> {
    match raw {
        0 => Ok(Mode::Fifo),
        1 => Ok(Mode::Ordered),
        2 => Ok(Mode::Safe),
        3 => Ok(Mode::Durable),
        _ => Err(Failure::Argument("mode", "is not a galerna_mode_t")),
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
            ticket: delivery.ticket.map_or(0, Ticket::get),
            time_ns: delivery.time_ns,
        }
    }
}
