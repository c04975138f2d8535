//! What of the send queue is in use: a queue pair that is given more than fits is lost.
//!
//! Requests complete in the order they were posted. Few of them are *signalled*, and the completion of one is that of all
//! before it. Each has a number, the first 0, which is its `wr_id`.

use std::collections::VecDeque;

/// See the module.
pub(super) struct Sends {
    depth: u64,
    /// The number of the next request.
    posted: u64,
    /// Below this number all are complete.
    done: u64,
    /// Requests after the last signalled one.
    unsignalled: u64,
    /// The number of the last signalled one, and one more.
    last_signalled: u64,
    /// Requests whose sources must not change, with their tickets.
    stable: VecDeque<(u64, u64)>,
}

impl Sends {
    pub(super) fn new(depth: u32) -> Sends {
        let depth = u64::from(depth.max(4));
        Sends { depth, posted: 0, done: 0, unsignalled: 0, last_signalled: 0, stable: VecDeque::new() }
    }

    /// How many requests fit.
    pub(super) fn room(&self) -> usize {
        (self.depth - (self.posted - self.done)) as usize
    }

    /// The number of the next request.
    pub(super) fn next(&self) -> u64 {
        self.posted
    }

    /// Takes the next number, for a request whose source must stay for `ticket`. True if it is to be signalled: because that
    /// is wanted, or because a quarter of the queue was not.
    pub(super) fn post(&mut self, ticket: Option<u64>, wanted: bool) -> bool {
        assert!(self.room() > 0, "the send queue is full");
        self.stable.extend(ticket.map(|ticket| (self.posted, ticket)));
        self.posted += 1;
        self.unsignalled += 1;
        let signalled = wanted || self.unsignalled >= self.depth / 4;
        if signalled {
            self.unsignalled = 0;
            self.last_signalled = self.posted;
        }
        signalled
    }

    /// The request of this number is complete, and all before it. An error if there is none such.
    pub(super) fn complete(&mut self, number: u64) -> Result<(), String> {
        if number < self.done || number >= self.posted {
            return Err(format!("the device completed request {number}, of {} to {}", self.done, self.posted));
        }
        self.done = number + 1;
        while self.stable.front().is_some_and(|(number, _)| *number < self.done) {
            self.stable.pop_front();
        }
        Ok(())
    }

    /// Whether the request of this number is complete.
    pub(super) fn is_done(&self, number: u64) -> bool {
        number < self.done
    }

    /// How many are complete.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.posted == self.done
    }

    /// Something is under way, and a completion will tell of its end.
    pub(super) fn is_awaited(&self) -> bool {
        self.done < self.last_signalled
    }

    /// Something is under way, and no completion will tell of its end.
    pub(super) fn needs_signal(&self) -> bool {
        self.done >= self.last_signalled && !self.is_idle()
    }

    /// The ticket of the first write whose source must not change.
    pub(super) fn first_stable(&self) -> Option<u64> {
        self.stable.front().map(|(_, ticket)| *ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_never_overrun_and_never_stuck() {
        let mut sends = Sends::new(16);
        let (mut signalled, mut under_way) = (VecDeque::new(), 0);
        for round in 0..10_000u64 {
            if round % 7 < 5 && sends.room() > 0 {
                let number = sends.next();
                if sends.post((round % 3 == 0).then_some(round), round % 11 == 0) {
                    signalled.push_back(number);
                }
                under_way += 1;
                assert!(under_way <= 16);
            } else if let Some(number) = signalled.pop_front() {
                let before = sends.done();
                sends.complete(number).unwrap();
                under_way -= sends.done() - before;
            }
            assert_eq!(sends.needs_signal(), signalled.is_empty() && !sends.is_idle());
            assert!(sends.room() > 0 || !signalled.is_empty(), "nothing would ever make room");
        }
    }

    #[test]
    fn what_the_device_cannot_have_completed_is_an_error() {
        let mut sends = Sends::new(16);
        assert!(sends.complete(0).is_err());
        sends.post(Some(5), true);
        sends.post(None, true);
        assert_eq!(sends.first_stable(), Some(5));
        sends.complete(1).unwrap();
        assert!(sends.is_idle() && sends.first_stable().is_none());
        assert!(sends.complete(0).is_err() && sends.complete(u64::MAX).is_err());
    }
}
