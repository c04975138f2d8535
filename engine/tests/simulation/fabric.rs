//! The simulated fabric: per-link order and nothing more. Writes land word by word in any order within one write, with
//! any delay, independently of other links; the source of a `Stable` write is read as late as it lands.

use super::rng::Rng;
use crate::fabric::{Event, Fabric, FabricStats, Rank, Row, Source, TableId, TableRows, TableSpec, Ticket};
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A write on its way.
struct Write {
    ticket: Ticket,
    table: usize,
    range: Range<usize>,
    /// The bytes of a snapshot; a stable write has none and reads its source as it lands.
    snapshot: Option<Vec<u64>>,
    /// Word offsets still to land, in the order in which they will.
    left: Vec<usize>,
}

/// A stable write that has landed, but whose sender does not know yet: a real transport may still read its source.
struct Held {
    ticket: Ticket,
    table: usize,
    range: Range<usize>,
    /// The source as it was when the write landed.
    bytes: Vec<u64>,
}

/// What is under way from one member to another.
#[derive(Default)]
struct Link {
    writes: VecDeque<Write>,
    held: VecDeque<Held>,
    down: bool,
    /// The receiver has been told.
    reported: bool,
    /// The sender closed: down once everything has landed.
    closing: bool,
    severed: bool,
}

/// All memory and links of a simulated cluster.
pub(crate) struct World {
    n: usize,
    /// `tables[t].1[m]`: member m's copy of table t.
    tables: Vec<(TableSpec, Vec<TableRows>)>,
    links: Vec<Link>,
    /// Something landed since the member last polled.
    news: Vec<bool>,
    next_ticket: Vec<u64>,
    pub(crate) posted: u64,
    rng: Rng,
}

/// A handle on the world.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<World>>);

impl Net {
    pub(crate) fn new(n: usize, specs: &[TableSpec], seed: u64) -> Net {
        let rows = |spec: &TableSpec| TableRows {
            spec: *spec,
            rows: (0..n).map(|_| Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap())).collect(),
        };
        let tables = specs.iter().map(|spec| (*spec, (0..n).map(|_| rows(spec)).collect())).collect();
        Net(Arc::new(Mutex::new(World {
            n,
            tables,
            links: (0..n * n).map(|_| Link::default()).collect(),
            news: vec![false; n],
            next_ticket: vec![0; n],
            posted: 0,
            rng: Rng::new(seed),
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        // A caller that breaks the contract panics under the lock and leaves the world as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Member `me`'s fabric and tables.
    pub(crate) fn endpoint(&self, me: Rank) -> (SimFabric, Vec<TableRows>) {
        let tables = self.world().tables.iter().map(|(_, copies)| copies[me].clone()).collect();
        (SimFabric { net: self.clone(), me, closed: false }, tables)
    }
}

impl World {
    fn link(&mut self, from: Rank, to: Rank) -> &mut Link {
        &mut self.links[from * self.n + to]
    }

    /// Lets some words of some links land. False if nothing is under way.
    pub(crate) fn step(&mut self) -> bool {
        let busy: Vec<usize> = (0..self.links.len()).filter(|&l| !self.links[l].writes.is_empty()).collect();
        if busy.is_empty() {
            return false;
        }
        let link = busy[self.rng.below(busy.len())];
        // Mostly whole writes, sometimes a few words.
        let words = if self.rng.chance(1, 3) { 1 + self.rng.below(4) } else { usize::MAX };
        self.land(link / self.n, link % self.n, words);
        true
    }

    /// Lets up to `words` words of the oldest write of a link land.
    fn land(&mut self, from: Rank, to: Rank, words: usize) {
        let (n, tables) = (self.n, &self.tables);
        let Some(write) = self.links[from * n + to].writes.front_mut() else {
            return;
        };
        let (_, copies) = &tables[write.table];
        let (source, target) = (&copies[from].rows[from], &copies[to].rows[from]);
        for _ in 0..words.min(write.left.len()) {
            let offset = write.left.pop().unwrap();
            let value = match &write.snapshot {
                Some(words) => words[(offset - write.range.start) / 8],
                None => source.word(offset).load(Ordering::Acquire),
            };
            target.word(offset).store(value, Ordering::Release);
        }
        if write.left.is_empty()
            && let Some(write) = self.links[from * n + to].writes.pop_front()
            && write.snapshot.is_none()
            // A column that guards nothing may change meanwhile; that one that guards data must not is for the protocol's
            // own checks to show.
            && write.range.start >= tables[write.table].0.columns_len
        {
            let Write { ticket, table, range, .. } = write;
            let bytes = range.clone().step_by(8).map(|o| source.word(o).load(Ordering::Acquire)).collect();
            self.links[from * n + to].held.push_back(Held { ticket, table, range, bytes });
        }
        self.news[to] = true;
    }

    /// Whether something is there that wakes a sleeping member.
    pub(crate) fn wakes(&self, me: Rank) -> bool {
        let others = || (0..self.n).filter(|&p| p != me);
        self.news[me]
            || others().any(|p| !self.links[me * self.n + p].held.is_empty())
            || others().any(|p| {
                let link = &self.links[p * self.n + me];
                !link.reported && !link.severed && (link.down || link.closing && link.writes.is_empty())
            })
    }

    /// Everything under way lands.
    pub(crate) fn drain(&mut self) {
        while self.step() {}
    }

    pub(crate) fn idle(&self) -> bool {
        self.links.iter().all(|l| l.writes.is_empty() && (l.down || l.held.is_empty()))
    }

    /// Tells a sender of some of its stable writes that they are complete.
    fn complete(&mut self, from: Rank) {
        for to in (0..self.n).filter(|&to| to != from) {
            while !self.link(from, to).held.is_empty() && (self.link(from, to).down || self.rng.chance(1, 8)) {
                let Some(held) = self.link(from, to).held.pop_front() else { break };
                let row = &self.tables[held.table].1[from].rows[from];
                let unchanged =
                    held.range.step_by(8).zip(held.bytes).all(|(o, b)| row.word(o).load(Ordering::Acquire) == b);
                assert!(
                    unchanged || self.link(from, to).down,
                    "member {from} changed the source of a stable write that was not complete"
                );
                self.news[from] = true;
            }
        }
    }

    /// The link between two members breaks: what is under way is lost, from any word on.
    pub(crate) fn cut(&mut self, a: Rank, b: Rank) {
        for (from, to) in [(a, b), (b, a)] {
            let words = self.rng.below(64);
            if self.rng.chance(1, 2) {
                self.land(from, to, words);
            }
            let link = self.link(from, to);
            link.writes.clear();
            link.down = true;
            self.news[to] = true;
        }
    }

    /// The process of a member ends; what it gave to the network still lands.
    pub(crate) fn end(&mut self, member: Rank) {
        for peer in (0..self.n).filter(|&p| p != member) {
            self.link(member, peer).closing = true;
        }
    }

    /// The process of a member dies: what it posted may still land, in part.
    pub(crate) fn kill(&mut self, member: Rank) {
        for peer in (0..self.n).filter(|&p| p != member) {
            self.cut(member, peer);
        }
    }

    /// Everything under way from one member to another lands.
    pub(crate) fn drain_link(&mut self, from: Rank, to: Rank) {
        while !self.link(from, to).writes.is_empty() {
            self.land(from, to, usize::MAX);
        }
    }

    /// Member `at`'s copy of `of`'s row, for what a hostile member writes there.
    pub(crate) fn copy(&mut self, table: usize, at: Rank, of: Rank) -> &Row {
        self.news[at] = true;
        &self.tables[table].1[at].rows[of]
    }

    /// A member's own row: the truth about it.
    pub(crate) fn row(&self, table: usize, member: Rank) -> &Row {
        &self.tables[table].1[member].rows[member]
    }

    /// Every copy of every row of a table.
    pub(crate) fn copies(&self, table: usize) -> impl Iterator<Item = &Arc<Row>> {
        self.tables[table].1.iter().flat_map(|copy| &copy.rows)
    }
}

/// One member's end.
pub(crate) struct SimFabric {
    net: Net,
    me: Rank,
    closed: bool,
}

impl Fabric for SimFabric {
    fn write(&mut self, peer: Rank, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let world = &mut *self.net.world();
        world.next_ticket[self.me] += 1;
        let ticket = Ticket(world.next_ticket[self.me]);
        let index = world.tables.iter().position(|(spec, _)| spec.id == table).unwrap();
        let (spec, copies) = &world.tables[index];
        assert!(!range.is_empty(), "{range:?} of {table:?} is nothing to write");
        spec.check_write(&range, source);
        let row = &copies[self.me].rows[self.me];
        let snapshot = (source == Source::Snapshot)
            .then(|| range.clone().step_by(8).map(|offset| row.word(offset).load(Ordering::Acquire)).collect());
        let mut left: Vec<usize> = range.clone().step_by(8).collect();
        world.rng.shuffle(&mut left);
        let link = &mut world.links[self.me * world.n + peer];
        if peer != self.me && !link.down && !link.severed && !link.closing {
            link.writes.push_back(Write { ticket, table: index, range, snapshot, left });
            world.posted += 1;
        }
        ticket
    }

    fn submit(&mut self) {}

    fn completed(&self) -> Ticket {
        let world = self.net.world();
        let open = (0..world.n).filter_map(|to| world.links[self.me * world.n + to].writes.front());
        let held = (0..world.n).filter_map(|to| world.links[self.me * world.n + to].held.front());
        let open = open.map(|w| w.ticket.0 - 1).chain(held.map(|h| h.ticket.0 - 1)).min();
        Ticket(open.unwrap_or(world.next_ticket[self.me]))
    }

    fn has_unsent(&self) -> bool {
        let world = self.net.world();
        (0..world.n).any(|to| !world.links[self.me * world.n + to].writes.is_empty())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        let mut world = self.net.world();
        world.complete(self.me);
        for peer in (0..world.n).filter(|&p| p != self.me) {
            let link = world.link(peer, self.me);
            let ended = link.closing && link.writes.is_empty();
            if (link.down || ended) && !link.reported && !link.severed {
                let cut = link.down;
                link.down = true;
                link.reported = true;
                // What was queued before the own close still goes out; otherwise the end of one side ends the other.
                if cut || !self.closed {
                    world.link(self.me, peer).down = true;
                    world.link(self.me, peer).writes.clear();
                }
                if !self.closed {
                    events.push(Event::LinkDown { peer, cause: "the link went down".into() });
                }
                world.news[self.me] = true;
            }
        }
        std::mem::take(&mut world.news[self.me])
    }

    fn sever(&mut self, peer: Rank) {
        if peer != self.me {
            let mut world = self.net.world();
            for (from, to) in [(peer, self.me), (self.me, peer)] {
                let link = world.link(from, to);
                link.writes.clear();
                link.down = true;
            }
            world.link(peer, self.me).severed = true;
            world.news[peer] = true;
        }
    }

    fn close(&mut self) {
        self.closed = true;
        let mut world = self.net.world();
        for peer in (0..world.n).filter(|&p| p != self.me) {
            world.link(self.me, peer).closing = true;
        }
    }

    fn closed(&self) -> bool {
        let world = self.net.world();
        let down = |p: Rank| {
            let (theirs, mine) = (&world.links[p * world.n + self.me], &world.links[self.me * world.n + p]);
            theirs.down && mine.writes.is_empty()
        };
        (0..world.n).filter(|&p| p != self.me).all(down)
    }

    fn arm(&mut self) {}

    fn disarm(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> FabricStats {
        FabricStats { writes_posted: self.net.world().next_ticket[self.me], ..FabricStats::default() }
    }
}
