//! The accounting of a send queue: a queue pair that gets more requests than fit fails.
//!
//! Requests complete in the order in which they were posted. Few of them are *signalled*; the completion of a signalled
//! one implies that of all before it. Each request has a number, starting at 0, which is its `wr_id`.

use std::collections::VecDeque;

/// The accounting of one send queue.
pub(super) struct Sends {
    depth: u64,
    /// The number of the next request.
    posted: u64,
    /// All requests below this number are complete.
    done: u64,
    /// The number of requests after the last signalled one.
    unsignalled: u64,
    /// One more than the number of the last signalled request.
    last_signalled: u64,
    /// Requests with sources that must not change, and their tickets.
    stable: VecDeque<(u64, u64)>,
}

impl Sends {
    pub(super) fn new(depth: u32) -> Sends {
        let depth = u64::from(depth.max(4));
        Sends { depth, posted: 0, done: 0, unsignalled: 0, last_signalled: 0, stable: VecDeque::new() }
    }

    /// The number of requests that still fit.
    pub(super) fn room(&self) -> usize {
        (self.depth - (self.posted - self.done)) as usize
    }

    /// The number of the next request.
    pub(super) fn next(&self) -> u64 {
        self.posted
    }

    /// Takes the next number, for a request with a source that must not change before `ticket` is complete.
    ///
    /// True if the request must be signalled: because that is `wanted`, or because a quarter of the queue is not.
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

    /// Marks the request with this number, and all before it, as complete. An error if it is not under way.
    pub(super) fn complete(&mut self, number: u64) -> Result<(), String> {
        if number < self.done || number >= self.posted {
            return Err(format!(
                "the device completed request {number}, which is not among the requests {} to {} under way",
                self.done, self.posted
            ));
        }
        self.done = number + 1;
        while self.stable.front().is_some_and(|(number, _)| *number < self.done) {
            self.stable.pop_front();
        }
        Ok(())
    }

    /// Whether the request with this number is complete.
    pub(super) fn is_done(&self, number: u64) -> bool {
        number < self.done
    }

    /// The number of complete requests.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// True if nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.posted == self.done
    }

    /// True if requests are under way, and a completion will report the end of at least some of them.
    pub(super) fn is_awaited(&self) -> bool {
        self.done < self.last_signalled
    }

    /// True if requests are under way, and no completion will report their end.
    pub(super) fn needs_signal(&self) -> bool {
        self.done >= self.last_signalled && !self.is_idle()
    }

    /// The ticket of the first write with a source that must not change yet.
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
