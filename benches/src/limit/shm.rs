//! Raw shared memory: every sender copies its messages into one ring, and every peer reads one word of each message.

use super::{Work, finish};
use crate::Result;
use crate::args::LimitArgs;
use crate::control::{Control, Plan, Word};
use crate::measure::{Cpu, sleep_until};
use galerna::fabric::Row;
use memmap2::MmapOptions;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The offset of the ring in a row.
///
/// Before it: at 0 the number of messages that the owner has written, and at `64 * (1 + rank)` the number that it has
/// read from that member.
const RING: usize = 8192;
const WRITTEN: usize = 0;
/// The bytes after which a sender publishes its messages. It also publishes when the ring is full.
const SHOW_BYTES: usize = 64 << 10;

fn read_of(rank: usize) -> usize {
    64 * (1 + rank)
}

/// The bytes that a message takes in the ring.
fn stride(args: &LimitArgs) -> usize {
    (args.size as usize).next_multiple_of(8)
}

/// The size of each member's row in bytes.
pub(super) fn memory_bytes(args: &LimitArgs) -> Result<usize> {
    super::fits_ring(args.size, stride(args), args.ring_bytes)?;
    Ok(RING + args.ring_bytes.next_multiple_of(8))
}

/// Maps memory that the parent created.
pub(crate) fn map(path: &Path, columns_len: usize) -> Result<Row> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(Row::from_map(MmapOptions::new().map_raw(&file)?, columns_len))
}

/// Copies `bytes` to `offset` of `row`.
pub(crate) fn copy(bytes: &[u8], row: &Row, offset: usize) {
    let place = row.ptr(offset..offset + bytes.len());
    // SAFETY: `place` has `bytes.len()` bytes, as checked by `ptr`. `bytes` is private, so the two do not overlap. Only
    // the owner writes these bytes, and no process reads them before a counter, stored with Release after this copy,
    // publishes them.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
}

struct Ring<'a> {
    me: usize,
    rows: &'a [Row],
    /// The number of messages that fit the ring.
    slots: u64,
    stride: usize,
    source: Vec<u8>,
    /// The number of messages that this member has written, and read from each peer.
    written: u64,
    read: Vec<u64>,
    /// The sum of the words read, so that the reads are not optimised away.
    sum: u64,
}

/// Runs the member: see [`crate::control`].
pub(super) fn work(args: &LimitArgs, plan: &Plan, control: &Control) -> Result<()> {
    let rows = plan.memory.iter().map(|path| map(path, RING));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let stride = stride(args);
    let mut ring = Ring {
        me: plan.rank,
        rows: &rows,
        slots: (args.ring_bytes / stride) as u64,
        stride,
        source: vec![7; args.size as usize],
        written: 0,
        read: vec![0; rows.len()],
        sum: 0,
    };
    let senders = args.senders.count(args.members());
    ring.run(senders, args.run.warmup(args.messages));
    control.say(&Word::Ready)?;
    let start_ns = control.wait_start();
    sleep_until(start_ns);
    let cpu = Cpu::now();
    ring.run(senders, args.run.warmup(args.messages) + args.messages);
    std::hint::black_box(ring.sum);
    finish(control, start_ns, cpu, Work::default())
}

impl Ring<'_> {
    /// Runs until each of the first `senders` members has written `target` messages and this member has read them.
    fn run(&mut self, senders: usize, target: u64) {
        let mine = if self.me < senders { target } else { 0 };
        loop {
            let mut moved = self.write(mine);
            let mut done = self.written == mine;
            let me = self.me;
            for sender in (0..senders).filter(|&s| s != me) {
                moved |= self.read(sender, target);
                done &= self.read[sender] == target;
            }
            if done {
                return;
            }
            if !moved {
                std::thread::yield_now();
            }
        }
    }

    fn offset(&self, message: u64) -> usize {
        RING + (message % self.slots) as usize * self.stride
    }

    /// Fills the space that the slowest reader has freed. Returns true if there was any.
    fn write(&mut self, target: u64) -> bool {
        if self.written == target {
            return false;
        }
        let others = (0..self.rows.len()).filter(|&r| r != self.me);
        let slowest = others.map(|r| self.rows[r].word(read_of(self.me)).load(Ordering::Acquire)).min();
        let limit = target.min(slowest.unwrap_or(self.written) + self.slots);
        let own = &self.rows[self.me];
        let before = self.written;
        let batch = (SHOW_BYTES / self.stride).max(1) as u64;
        while self.written < limit {
            copy(&self.source, own, self.offset(self.written));
            self.written += 1;
            if self.written == limit || self.written.is_multiple_of(batch) {
                own.word(WRITTEN).store(self.written, Ordering::Release);
            }
        }
        self.written != before
    }

    /// Reads one word of each message that `sender` has published. Returns true if there was any.
    fn read(&mut self, sender: usize, target: u64) -> bool {
        let row = &self.rows[sender];
        let shown = row.word(WRITTEN).load(Ordering::Acquire).min(target);
        let before = self.read[sender];
        for message in before..shown {
            let word = row.word(self.offset(message)).load(Ordering::Relaxed);
            self.sum = self.sum.wrapping_add(word);
        }
        if shown != before {
            self.read[sender] = shown;
            self.rows[self.me].word(read_of(sender)).store(shown, Ordering::Release);
        }
        shown != before
    }
}
