//! One test suite for every fabric: it tests the contract of [`crate::fabric`].
//!
//! It is compiled into the library's unit tests, because the simulated fabric exists only there. A fabric takes part
//! with a [`Harness`] and one line, `conformance!(name, Harness);`.
//!
//! Tests name members by rank. Their fabric knows each member by its slot, which is another number ([`SLOT_OF`]).
//!
//! A test is a set of *acts*, one per member. An act is a closure that is called after every poll of its member and
//! returns true when it is done ([`run`]). Members of a real fabric run in threads of their own, those of the simulated
//! one take turns.

use super::*;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Instantiates every test for one fabric.
macro_rules! conformance {
    ($name:ident, $harness:ty $(, if $there:expr)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            conformance!(@tests $harness, { true $(&& $there)? }
                order::writes_land_in_the_order_they_were_posted
                order::data_precedes_its_counter
                order::words_of_columns_are_never_torn
                order::a_snapshot_is_taken_when_it_is_posted
                order::a_completed_source_may_change
                sizes::every_size_arrives
                sizes::many_small_writes_in_one_submit
                sizes::five_members_write_to_each_other
                links::nothing_lands_after_sever
                links::severing_twice_or_oneself_or_the_dead_is_harmless
                links::link_down_comes_once_and_last
                links::who_polls_seldom_learns_of_a_death
                links::what_was_queued_before_close_arrives
                links::all_can_close_at_once
                wake::a_write_wakes_a_sleeper
                wake::a_write_before_the_attach_costs_no_wake_up
                wake::no_wake_up_is_lost_between_two
                wake::no_wake_up_is_lost_with_many_writers
                wake::a_death_wakes_a_sleeper
                wake::an_idle_fabric_is_not_readable
                wake::fetches_wake_both_ends
                wake::a_release_wakes_a_sleeper
                misuse::bad_ranges_panic_and_harm_nothing
                misuse::bad_fetches_panic_and_harm_nothing
                attach::whoever_comes_late_takes_part
                attach::a_slot_attached_anew_starts_at_zero
                attach::bad_slots_and_connections_are_refused
                fetch::a_dead_members_data_come_from_another
                fetch::data_come_from_their_owner
                fetch::a_fetch_from_a_peer_that_dies_ends_with_the_link
                fetch::a_fetch_from_nobody_does_nothing
                relink::rows_keep_their_contents
                relink::nothing_of_the_former_link_lands
                relink::fetches_end_with_the_former_link
                relink::a_link_is_made_again_and_again
                relink::a_link_that_was_made_again_breaks_as_any_other
                relink::what_cannot_be_made_again_is_refused
                renew::a_row_gets_new_memory
                renew::who_comes_later_has_the_new_memory
                renew::new_memory_outlives_the_link
                renew::new_memory_that_was_missed_is_awaited
                sizes::a_store_is_seen_by_the_peer_or_is_not
                sizes::bytes_that_come_are_counted
                release::what_was_queued_arrives_then_the_link_ends
                release::a_released_peer_that_does_not_read_blocks_nobody
                release::releasing_twice_or_oneself_or_the_dead_is_harmless
            );
        }
    };
    (@tests $harness:ty, $there:block $($module:ident :: $test:ident)*) => {
        $(
            #[test]
            fn $test() {
                if $there {
                    $crate::fabric::conformance::$module::$test::<$harness>();
                }
            }
        )*
    };
}

mod attach;
mod fetch;
mod links;
mod misuse;
mod order;
mod release;
mod relink;
mod renew;
mod shm;
mod sim;
mod sizes;
mod tcp;
mod verbs;
mod wake;

/// Limit of every wait; only a bug makes a test wait so long.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Bytes of the columns of every table of the suite.
const COLUMNS: usize = 4096;

/// The slots of the members, by rank.
const SLOT_OF: [Slot; 6] = [5, 0, 63, 17, 2, 40];

/// Makes processes that are connected by one fabric.
pub(crate) trait Harness: Sized {
    /// The fabric has descriptors and runs by itself, with each member in its own thread.
    const HAS_FD: bool;
    /// Peers see a store to a process's own row without a push.
    const SHARED: bool;

    /// Makes a world without processes. All processes will have these tables.
    fn new(specs: &[TableSpec]) -> Self;

    /// Makes a new process in `slot`, attached to no peer. A process that is in that slot already goes on.
    fn process(&mut self, slot: Slot) -> Endpoint;

    /// Makes a new link between the newest processes in slots `a` and `b`, and returns both ends, that of `a` first.
    /// Each process attaches its own end at any later time.
    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2];

    /// Like [`Harness::link`], between processes that are attached to each other already: for `relink`.
    fn link_again(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        self.link(a, b)
    }

    /// Advances the world a little, for a fabric that does not run by itself.
    fn step(&mut self) {}

    /// Kills the member's process.
    fn kill(&mut self, endpoint: Endpoint) {
        drop(endpoint);
    }

    /// Makes members of ranks 0 to `members - 1`, each attached to all others, in rank order.
    fn cluster(members: usize, specs: &[TableSpec]) -> (Self, Vec<Endpoint>) {
        let mut harness = Self::new(specs);
        let mut endpoints: Vec<_> = SLOT_OF[..members].iter().map(|slot| harness.process(*slot)).collect();
        for (a, b) in pairs(members) {
            let [of_a, of_b] = harness.link(SLOT_OF[a], SLOT_OF[b]);
            endpoints[a].attach(b, of_a);
            endpoints[b].attach(a, of_b);
        }
        (harness, endpoints)
    }
}

/// One member.
pub(crate) struct Endpoint {
    pub(crate) slot: Slot,
    rank: Rank,
    pub(crate) fabric: Box<dyn Fabric>,
    specs: Vec<TableSpec>,
    /// By rank, then by table; empty for a member that was never attached.
    rows: Vec<Vec<Arc<Row>>>,
    /// All events that the fabric has reported.
    pub(crate) events: Vec<Event>,
    /// The last stable write. Its source, and those of earlier writes, may change when it is complete.
    last_stable: Ticket,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = (0..self.rows.len()).filter(|r| !self.rows[*r].is_empty());
        let firsts: Vec<_> = known.map(|r| (r, self.sees(r, 0), self.sees(r, 64))).collect();
        let (unsent, completed) = (self.fabric.has_unsent(), self.fabric.completed());
        write!(f, "{:?}, words 0 and 64 of each row {firsts:?}, ", self.events)?;
        write!(f, "unsent {unsent}, {completed:?}, {:?}", self.fabric.stats())
    }
}

impl Endpoint {
    /// Makes a process in `slot`, one of [`SLOT_OF`], with the fabric's `own` row of each table.
    pub(crate) fn new(slot: Slot, fabric: Box<dyn Fabric>, own: Vec<Arc<Row>>, specs: &[TableSpec]) -> Endpoint {
        let Some(rank) = SLOT_OF.iter().position(|s| *s == slot) else { panic!("slot {slot} has no rank") };
        let mut rows = vec![Vec::new(); SLOT_OF.len()];
        rows[rank] = own;
        let specs = specs.to_vec();
        Endpoint { slot, rank, fabric, specs, rows, events: Vec::new(), last_stable: Ticket::default() }
    }

    fn attach(&mut self, peer: Rank, connection: Connection) {
        self.rows[peer] = self.fabric.attach(SLOT_OF[peer], connection).unwrap();
        assert_eq!(self.rows[peer].len(), self.specs.len());
    }

    fn relink(&mut self, peer: Rank, connection: Connection) {
        self.rows[peer] = self.fabric.relink(SLOT_OF[peer], connection).unwrap();
        assert_eq!(self.rows[peer].len(), self.specs.len());
    }

    fn poll(&mut self) -> bool {
        self.fabric.poll(&mut self.events)
    }

    /// The row of `rank` in the first table.
    fn row(&self, rank: Rank) -> &Row {
        &self.rows[rank][0]
    }

    fn own(&self) -> &Row {
        self.row(self.rank)
    }

    fn write(&mut self, peer: Rank, range: Range<usize>, source: Source) -> Ticket {
        self.write_to(0, peer, range, source)
    }

    /// Writes to the table with this index.
    fn write_to(&mut self, table: usize, peer: Rank, range: Range<usize>, source: Source) -> Ticket {
        let ticket = self.fabric.write(SLOT_OF[peer], self.specs[table].id, range, source);
        if source == Source::Stable {
            self.last_stable = ticket;
        }
        ticket
    }

    fn sever(&mut self, peer: Rank) {
        self.fabric.sever(SLOT_OF[peer]);
    }

    fn release(&mut self, peer: Rank) {
        self.fabric.release(SLOT_OF[peer]);
    }

    /// Fetches from the first table.
    fn fetch(&mut self, peer: Rank, owner: Rank, range: Range<usize>) {
        self.fabric.fetch(SLOT_OF[peer], self.specs[0].id, SLOT_OF[owner], range);
    }

    /// The ranges of the first table that were fetched from `peer`, in order, each with its owner.
    fn fetched(&self, peer: Rank) -> Vec<(Rank, Range<usize>)> {
        let of = |slot: Slot| SLOT_OF.iter().position(|s| *s == slot).unwrap();
        let mut list = Vec::new();
        for event in &self.events {
            if let Event::Fetched { peer: from, table, owner, range } = event {
                assert_eq!(*table, self.specs[0].id);
                list.extend((of(*from) == peer).then(|| (of(*owner), range.clone())));
            }
        }
        list
    }

    /// Whether the sources of all stable writes may change.
    fn may_change(&self) -> bool {
        self.fabric.completed() >= self.last_stable
    }

    /// Stores a word of the member's own columns and pushes it to `peers`.
    fn announce(&mut self, peers: &[Rank], offset: usize, value: u64) {
        self.own().word(offset).store(value, Ordering::Release);
        for &peer in peers {
            self.write(peer, offset..offset + 8, Source::Snapshot);
        }
    }

    /// Reads the word at `offset` in the columns of `rank`.
    fn sees(&self, rank: Rank, offset: usize) -> u64 {
        self.row(rank).word(offset).load(Ordering::Acquire)
    }

    fn links_down(&self, peer: Rank) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::LinkDown { peer: p, .. } if *p == SLOT_OF[peer])).count()
    }

    fn no_breach(&self) {
        assert!(!self.events.iter().any(|e| matches!(e, Event::Violation { .. })), "{:?}", self.events);
    }
}

/// All pairs of members, each with the higher rank first.
fn pairs(members: usize) -> impl Iterator<Item = (Rank, Rank)> {
    (0..members).flat_map(|a| (0..a).map(move |b| (a, b)))
}

/// Describes a table of [`COLUMNS`] and `data` bytes.
fn table(id: u16, data: usize) -> TableSpec {
    TableSpec { id: TableId(id), columns_len: COLUMNS, row_len: COLUMNS + data }
}

/// A word that depends on the round and the offset, and differs from that of any other round.
fn pattern(round: u64, offset: usize) -> u64 {
    let mut x = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (offset as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 29)
}

fn fill(row: &Row, range: Range<usize>, round: u64) {
    for offset in range.step_by(8) {
        row.word(offset).store(pattern(round, offset), Ordering::Relaxed);
    }
}

fn assert_filled(row: &Row, range: Range<usize>, round: u64) {
    for offset in range.clone().step_by(8) {
        let found = row.word(offset).load(Ordering::Relaxed);
        assert_eq!(found, pattern(round, offset), "round {round} at {offset} of {range:?}");
    }
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// Returns a number from 0 to `bound` - 1.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// A closure that is called after each poll of its member, until it returns true.
type Act<'a> = Box<dyn FnMut(&mut Endpoint) -> bool + Send + 'a>;

/// Runs one act per endpoint until all are done. Members with a finished act are still polled.
fn run<H: Harness>(harness: &mut H, endpoints: &mut [Endpoint], acts: Vec<Act<'_>>) {
    assert_eq!(endpoints.len(), acts.len());
    if H::HAS_FD {
        run_in_threads(endpoints, acts);
    } else {
        run_in_turn(harness, endpoints, acts);
    }
}

fn run_in_threads(endpoints: &mut [Endpoint], acts: Vec<Act<'_>>) {
    let (all, done, failed) = (acts.len(), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (done, failed) = (&done, &failed);
        let threads: Vec<_> = endpoints
            .iter_mut()
            .zip(acts)
            .map(|(endpoint, act)| {
                scope.spawn(move || {
                    let _alarm = Alarm(failed);
                    act_until(endpoint, act, done, || done.load(Ordering::Acquire) == all, failed);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap_or_else(|cause| resume_unwind(cause));
        }
    });
}

/// Signals to the other threads that this one has panicked.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

fn act_until(
    endpoint: &mut Endpoint,
    mut act: Act<'_>,
    done: &AtomicUsize,
    over: impl Fn() -> bool,
    failed: &AtomicBool,
) {
    let deadline = Instant::now() + WATCHDOG;
    let mut finished = false;
    while !over() && !failed.load(Ordering::Acquire) {
        let found = endpoint.poll();
        if !finished && act(endpoint) {
            finished = true;
            done.fetch_add(1, Ordering::Release);
        }
        if !found {
            assert!(
                Instant::now() < deadline,
                "member {} in slot {} waits for ever: {endpoint:?}",
                endpoint.rank,
                endpoint.slot
            );
            thread::yield_now();
        }
    }
}

fn run_in_turn<H: Harness>(harness: &mut H, endpoints: &mut [Endpoint], mut acts: Vec<Act<'_>>) {
    let deadline = Instant::now() + WATCHDOG;
    let mut finished = vec![false; acts.len()];
    while finished.contains(&false) {
        for ((endpoint, act), finished) in endpoints.iter_mut().zip(&mut acts).zip(&mut finished) {
            endpoint.poll();
            *finished = *finished || act(endpoint);
            harness.step();
        }
        assert!(Instant::now() < deadline, "the members wait for ever: {finished:?}");
    }
}

/// An act that only lets its member be polled.
fn idle<'a>() -> Act<'a> {
    Box::new(|_| true)
}

/// Polls all members until nothing was found for many rounds.
fn settle<H: Harness>(harness: &mut H, endpoints: &mut [Endpoint]) {
    let deadline = Instant::now() + WATCHDOG;
    let mut quiet = 0;
    while quiet < 1000 {
        assert!(Instant::now() < deadline, "the members find something in every poll");
        quiet += 1;
        for endpoint in endpoints.iter_mut() {
            if endpoint.poll() {
                quiet = 0;
            }
            harness.step();
        }
    }
}
