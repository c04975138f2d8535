//! Who has to be woken: a one-sided write interrupts nobody, a write with immediate data does.
//!
//! Each end of a link has a *line*, two words that the other end writes: how often that has gone to sleep, and how many
//! wake-ups it has taken.
//!
//! * A process that goes to sleep says so, unless the peer knows it: it has not woken it since. The peer's next write, the
//!   first to a sleeper, wakes it; those after it do not, until it says again that it sleeps.
//! * What was written before the peer's word of its sleep arrived may have come too late for its last look. So whoever has
//!   written without waking wakes when it learns of the sleep; and it does so before it goes to sleep itself, since
//!   then it would not learn of it.
//! * A wake-up needs a receive request at the peer, of which there are [`RECEIVES`]: there are never more on their way than
//!   that. Whoever cannot wake for want of one owes it. The peer has many to take, and tells, waking, when half are taken.

use super::super::Row;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Receive requests that each end keeps posted.
pub(super) const RECEIVES: u32 = 16;
/// Offsets of the words of a line.
const SLEEPS: usize = 0;
const TAKEN: usize = 8;
/// Bytes of a line.
pub(super) const LINE_LEN: usize = 16;

/// One end of a link.
pub(super) struct Wake {
    /// What the peer says is at its beginning.
    line: Arc<Row>,
    /// The peer was woken from the sleep of this number.
    woken: Option<u64>,
    /// Wake-ups sent.
    sent: u64,
    /// Something was written since the last of them.
    dirty: bool,
    /// One was due when there was no receive request for it.
    owes: bool,
    /// Wake-ups taken, and how many of them when the peer was told of the last sleep.
    taken: u64,
    taken_at_sleep: u64,
    /// What the peer was told last.
    told: Told,
}

/// What the peer is to find in its line; what follows is whether it is woken by it.
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

/// What is to be sent, if anything.
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

    /// The number of the peer's sleep, if it was not woken from it.
    fn sleep(&self) -> Option<u64> {
        // Acquire: what was written before its word is there.
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

    /// Something is about to be written. True if it is to wake the peer.
    pub(super) fn write(&mut self) -> bool {
        let wake = self.sleep().is_some() && self.may_wake();
        if wake {
            self.woke();
        } else {
            self.dirty = true;
        }
        wake
    }

    /// The peer has sent a wake-up.
    pub(super) fn take(&mut self) {
        self.taken += 1;
    }

    /// At every look.
    pub(super) fn look(&mut self) -> Notice {
        let tell = (self.taken - self.told.taken >= u64::from(RECEIVES / 2)).then(|| {
            self.told.taken = self.taken;
            self.told
        });
        // Whoever owes a wake-up for want of a receive request is to hear of those that are free again.
        self.owes |= tell.is_some();
        let overdue = self.owes || self.dirty && self.sleep().is_some();
        let wake = overdue && self.may_wake();
        if wake {
            self.woke();
        }
        Notice { tell, wake }
    }

    /// This process goes to sleep, or sleeps on.
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

    /// What travels, in order.
    enum Sent {
        Value(u64),
        Tell(Told),
        Wake,
    }

    /// One end, with what the other has sent to it.
    struct End {
        wake: Wake,
        line: Arc<Row>,
        inbox: VecDeque<Sent>,
        /// Wake-ups that arrived and were not taken.
        arrived: u32,
        /// The value that arrived, that was seen, and that was written.
        value: u64,
        seen: u64,
        written: u64,
        /// Looks left before it sleeps; it sleeps at 0.
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

        /// One step of a process that sleeps after a few looks at nothing.
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
                    // Whoever writes is awake, and looks before it sleeps.
                    n if step < 400 && random(&mut state, eager) == 0 => {
                        let (from, to) = if n == 6 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                        from.looks = 3;
                        (0..1 + random(&mut state, 40)).for_each(|_| from.write(to));
                    }
                    _ => {}
                }
            }
            // A process that looks at nothing new sleeps; then everything that is on its way arrives.
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
