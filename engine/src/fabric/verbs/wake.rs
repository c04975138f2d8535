//! Decides when a peer has to be woken. A one-sided write interrupts nobody; a write with immediate data does.
//!
//! Each end of a link has a *line*: two words that the other end writes. They count how often the other end has gone to
//! sleep, and how many wake-ups it has taken.
//!
//! * A process that goes to sleep announces it in the peer's line. It does not repeat the announcement if the peer has
//!   not woken it since the last one. The peer's next write, the first one to the sleeper, wakes it. Later writes do
//!   not, until the process announces another sleep.
//! * A write that was posted before the peer's announcement arrived may land after the peer's last look. So an end that
//!   has written without a wake-up sends one when it sees the announcement. It also sends one before it goes to sleep
//!   itself, because it would not see the announcement then.
//! * A wake-up uses one receive request of the peer. There are [`RECEIVES`] of them, and never more wake-ups under way.
//!   An end without a free receive request owes the wake-up. When the peer has taken half of [`RECEIVES`], it reports
//!   the count, with a wake-up.

use super::super::Row;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The number of receive requests that each end keeps posted.
pub(super) const RECEIVES: u32 = 16;
/// Offsets of the two words of a line.
const SLEEPS: usize = 0;
const TAKEN: usize = 8;
/// Bytes of a line.
pub(super) const LINE_LEN: usize = 16;

/// One end of a link.
pub(super) struct Wake {
    /// The peer's counters are at its beginning.
    line: Arc<Row>,
    /// The number of the peer's last sleep that we ended.
    woken: Option<u64>,
    /// The number of wake-ups sent.
    sent: u64,
    /// Something was written after the last wake-up.
    dirty: bool,
    /// A wake-up was due, but the peer had no receive request for it.
    owes: bool,
    /// The number of wake-ups taken, and its value when the last sleep was announced.
    taken: u64,
    taken_at_sleep: u64,
    /// The last contents that we wrote to the peer's line.
    told: Told,
}

/// The contents of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    sleeps: u64,
    taken: u64,
}

impl Told {
    pub(super) fn bytes(self) -> [u8; LINE_LEN] {
        let mut bytes = [0; LINE_LEN];
        bytes[SLEEPS..][..8].copy_from_slice(&self.sleeps.to_ne_bytes());
        bytes[TAKEN..][..8].copy_from_slice(&self.taken.to_ne_bytes());
        bytes
    }
}

/// The messages to send: new contents for the peer's line, and whether to wake the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Notice {
    pub(super) tell: Option<Told>,
    pub(super) wake: bool,
}

impl Wake {
    pub(super) fn new(line: Arc<Row>) -> Wake {
        Wake {
            line,
            woken: None,
            sent: 0,
            dirty: false,
            owes: false,
            taken: 0,
            taken_at_sleep: 0,
            told: Told::default(),
        }
    }

    /// The number of the peer's last announced sleep, if we have not ended it.
    fn sleep(&self) -> Option<u64> {
        // Acquire: everything that the peer wrote before its announcement is visible.
        let sleep = self.line.word(SLEEPS).load(Ordering::Acquire);
        (self.woken != Some(sleep)).then_some(sleep)
    }

    fn may_wake(&self) -> bool {
        let taken = self.line.word(TAKEN).load(Ordering::Acquire);
        self.sent.saturating_sub(taken) < u64::from(RECEIVES)
    }

    fn woke(&mut self) {
        self.woken = Some(self.line.word(SLEEPS).load(Ordering::Acquire));
        self.sent += 1;
        (self.dirty, self.owes) = (false, false);
    }

    /// Accounts for a write that is about to be posted. True if that write must wake the peer.
    pub(super) fn write(&mut self) -> bool {
        let wake = self.sleep().is_some() && self.may_wake();
        if wake {
            self.woke();
        } else {
            self.dirty = true;
        }
        wake
    }

    /// Accounts for a wake-up from the peer.
    pub(super) fn take(&mut self) {
        self.taken += 1;
    }

    /// Returns the messages that are due; called at every look.
    pub(super) fn look(&mut self) -> Notice {
        let tell = (self.taken - self.told.taken >= u64::from(RECEIVES / 2)).then(|| {
            self.told.taken = self.taken;
            self.told
        });
        // The peer may sleep and owe us a wake-up for lack of a receive request, so it is woken to see the free ones.
        self.owes |= tell.is_some();
        let overdue = self.owes || self.dirty && self.sleep().is_some();
        let wake = overdue && self.may_wake();
        if wake {
            self.woke();
        }
        Notice { tell, wake }
    }

    /// Returns the messages that are due before this process goes to sleep, or continues to sleep.
    pub(super) fn sleep_now(&mut self) -> Notice {
        let tell = (self.taken > self.taken_at_sleep).then(|| {
            self.taken_at_sleep = self.taken;
            self.told = Told { sleeps: self.told.sleeps + 1, taken: self.taken };
            self.told
        });
        self.owes |= self.dirty;
        let wake = self.owes && self.may_wake();
        if wake {
            self.woke();
        }
        Notice { tell, wake }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// The messages between the ends, delivered in order.
    enum Sent {
        Value(u64),
        Tell(Told),
        Wake,
    }

    /// One end, with the messages that the other has sent to it.
    struct End {
        wake: Wake,
        line: Arc<Row>,
        inbox: VecDeque<Sent>,
        /// Wake-ups that have arrived and were not taken.
        arrived: u32,
        /// The last value that arrived, the last one that was seen, and the last one that was written.
        value: u64,
        seen: u64,
        written: u64,
        /// The number of looks before it sleeps; at 0 it sleeps.
        looks: u32,
    }

    fn end() -> End {
        let line = Arc::new(Row::anonymous(4096, 4096).unwrap());
        let (inbox, wake) = (VecDeque::new(), Wake::new(line.clone()));
        End { wake, line, inbox, arrived: 0, value: 0, seen: 0, written: 0, looks: 3 }
    }

    fn random(state: &mut u64, below: u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 20) % below
    }

    impl End {
        fn arrive(&mut self) {
            match self.inbox.pop_front() {
                Some(Sent::Value(value)) => self.value = value,
                Some(Sent::Tell(told)) => self.line.store_words(0, &told.bytes()),
                Some(Sent::Wake) => {
                    self.arrived += 1;
                    assert!(self.arrived <= RECEIVES, "a wake-up without a receive request");
                }
                None => {}
            }
        }

        fn send(&mut self, to: &mut End, notice: Notice) {
            to.inbox.extend(notice.tell.map(Sent::Tell));
            to.inbox.extend(notice.wake.then_some(Sent::Wake));
        }

        fn write(&mut self, to: &mut End) {
            self.written += 1;
            to.inbox.push_back(Sent::Value(self.written));
            if self.wake.write() {
                to.inbox.push_back(Sent::Wake);
            }
        }

        /// True if anything was new.
        fn look(&mut self, to: &mut End) -> bool {
            let new = self.arrived > 0 || self.seen != self.value;
            for _ in 0..std::mem::take(&mut self.arrived) {
                self.wake.take();
            }
            self.seen = self.value;
            let notice = self.wake.look();
            self.send(to, notice);
            new
        }

        /// One step of a process that sleeps after a few looks that find nothing.
        fn step(&mut self, to: &mut End) {
            if self.looks == 0 {
                if self.arrived == 0 {
                    return;
                }
                self.looks = 3;
            }
            if self.looks == 1 {
                let notice = self.wake.sleep_now();
                self.send(to, notice);
            }
            self.looks = if self.look(to) { 3 } else { self.looks - 1 };
        }
    }

    #[test]
    fn nobody_sleeps_over_what_was_written() {
        for seed in 1..3000u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let [mut a, mut b] = [end(), end()];
            let eager = 1 + random(&mut state, 60);
            for step in 0..600 {
                match random(&mut state, 8) {
                    0 | 1 => a.step(&mut b),
                    2 | 3 => b.step(&mut a),
                    4 => a.arrive(),
                    5 => b.arrive(),
                    // A process that writes is awake, and looks again before it sleeps.
                    n if step < 400 && random(&mut state, eager) == 0 => {
                        let (from, to) = if n == 6 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                        from.looks = 3;
                        (0..1 + random(&mut state, 40)).for_each(|_| from.write(to));
                    }
                    _ => {}
                }
            }
            // Without further writes both processes go to sleep, and everything under way arrives.
            for _ in 0..20_000 {
                a.step(&mut b);
                b.step(&mut a);
                a.arrive();
                b.arrive();
            }
            assert!(
                a.looks == 0 && b.looks == 0 && a.inbox.is_empty() && b.inbox.is_empty(),
                "{seed}: they never sleep"
            );
            assert_eq!((a.seen, b.seen), (b.written, a.written), "seed {seed}: a write was slept over");
        }
    }
}
