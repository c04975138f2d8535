//! A sending thread of a member's process. It sends messages of all sizes in all modes, and sometimes waits until they
//! are received or durable.

use crate::member::{MAIN, Shared, kind, letter};
use crate::record::{Record, TAG_BYTES, Tag};
use crate::rng::Rng;
use galerna::{Copies, Error, Mode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Of a hundred messages, so many are as large as the ring allows, or nearly.
const LARGE_OF_100: usize = 2;
/// The limit for all bytes that a thread sends in messages of more than `SHORT_BYTES`, so that no disk fills up by
/// itself.
const LONG_BYTES: usize = 4 << 20;
const SHORT_BYTES: usize = 200;

/// A thread that sends.
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    thread: u32,
    number: u64,
    rng: Rng,
    largest: usize,
    bytes: Vec<u8>,
    /// The bytes that may still be sent in long messages.
    budget: usize,
}

impl Outbox {
    pub(crate) fn new(shared: Arc<Shared>, thread: u32) -> Outbox {
        let rng = Rng::new(shared.role.seed ^ u64::from(thread + 1) << 32);
        let largest = shared.group.max_message(MAIN).unwrap();
        Outbox { shared, thread, number: 0, rng, largest, bytes: Vec::new(), budget: LONG_BYTES }
    }

    pub(crate) fn run(mut self) {
        let mut due = Instant::now();
        while !self.shared.quiet.load(Ordering::SeqCst) {
            let len = match self.step() {
                Ok(len) => len,
                // The ring is full, or the call must be made again.
                Err(Error::TimedOut { .. } | Error::WouldBlock(_)) => 0,
                Err(_) => return,
            };
            // The pause grows with the size, so that a large message costs as much time as the small ones it replaces.
            let pause_us = self.shared.role.habits.pause_us;
            let pause_us = self.rng.below(2 * pause_us as usize) as u64 + 4 * len as u64;
            due = (due + Duration::from_micros(pause_us)).max(Instant::now() - Duration::from_millis(20));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        // At the end, waits until all members have received everything and it is on disk.
        while !matches!(self.settle(0), Ok(()) | Err(Error::Left)) && self.shared.group.stopped().is_none() {}
        self.shared.idle.fetch_add(1, Ordering::SeqCst);
    }

    fn draw_mode(&mut self) -> Mode {
        match self.rng.below(20) {
            0..=4 if self.shared.role.habits.has_log => Mode::Durable,
            0..=9 => Mode::Safe,
            10..=14 => Mode::Ordered,
            _ => Mode::Fifo,
        }
    }

    fn draw_len(&mut self) -> usize {
        let least = if self.thread == 0 && self.number > 0 { 0 } else { TAG_BYTES };
        let most = match self.rng.below(100) {
            0..20 if least == 0 => TAG_BYTES - 1,
            n if n < 70 || self.budget == 0 => SHORT_BYTES,
            n if n >= 100 - LARGE_OF_100 => self.largest,
            _ => 20 * SHORT_BYTES,
        };
        let len = least + self.rng.below(most.min(self.largest) - least + 1);
        if len > SHORT_BYTES {
            self.budget = self.budget.saturating_sub(len);
        }
        len
    }

    fn step(&mut self) -> Result<usize, Error> {
        let (mode, len) = (self.draw_mode(), self.draw_len());
        self.fill(len);
        let Outbox { thread, number, .. } = *self;
        let (shared, bytes) = (self.shared.clone(), std::mem::take(&mut self.bytes));
        let (crc, letter) = (crc32c::crc32c(&bytes), letter(mode));
        shared.book.write(&Record::Send { thread, number, mode: letter, len: len as u32, crc });
        let timeout = Duration::from_millis(500);
        let sent = if self.rng.chance(1, 8) {
            shared.group.reserve(MAIN, len, timeout).and_then(|mut place| {
                place.copy_from_slice(&bytes);
                place.commit(mode)
            })
        } else {
            shared.group.send(MAIN, mode, &bytes, timeout)
        };
        self.bytes = bytes;
        if let Err(error) = sent {
            shared.book.write(&Record::Refused { thread, number, error: kind(&error) });
            return Err(error);
        }
        shared.book.write(&Record::Accepted { thread, number });
        self.number += 1;
        if self.rng.chance(1, 300) {
            let k = self.rng.below(3);
            self.settle(k)?;
        }
        Ok(len)
    }

    /// Waits until `k` members have received the messages sent so far; with a log, sometimes until they are durable.
    fn settle(&mut self, k: usize) -> Result<(), Error> {
        let Outbox { thread, number, .. } = *self;
        let shared = &self.shared;
        let quiet = shared.quiet.load(Ordering::SeqCst);
        let timeout = Duration::from_secs(5);
        if shared.role.habits.has_log && (quiet || self.rng.chance(1, 2)) {
            shared.group.persist(MAIN, timeout)?;
            shared.book.write(&Record::Persisted { thread, number });
        } else {
            let copies = if k == 0 { Copies::All } else { Copies::AtLeast(k) };
            shared.group.flush(MAIN, copies, timeout)?;
            shared.book.write(&Record::Flush { thread, number, k });
        }
        Ok(())
    }

    /// Fills in a payload. It begins with a tag if it is long enough; the rest depends on the message's number and
    /// sender.
    fn fill(&mut self, len: usize) {
        let tag = Tag { life: self.shared.role.process.life, thread: self.thread, number: self.number };
        self.bytes.clear();
        if len >= TAG_BYTES {
            self.bytes.extend(tag.bytes());
        }
        let mut rng = Rng::new(self.number ^ u64::from(self.shared.role.process.id) << 48 ^ self.shared.role.seed);
        while self.bytes.len() < len {
            self.bytes.extend(rng.next().to_le_bytes());
        }
        self.bytes.truncate(len);
    }
}
