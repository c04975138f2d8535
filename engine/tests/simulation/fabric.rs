//! The simulated fabric, which guarantees order per link and nothing more.
//!
//! The words of one write land in any order, with any delay, independently of other links. The source of a `Stable`
//! write is read as late as it lands. Alternatively a whole world has shared memory: every store is visible at once,
//! and rows are read in place.

use super::rng::Rng;
use crate::error::Error;
use crate::fabric::{
    Connection, Event, Fabric, FabricStats, Renewed, Row, SLOTS, Slot, Source, TableId, TableSpec, Ticket,
};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An operation on its way.
enum Item {
    Write {
        ticket: Ticket,
        table: usize,
        range: Range<usize>,
        /// The bytes of a snapshot. A stable write has none; its source is read as it lands.
        snapshot: Option<Vec<u64>>,
        /// Offsets of the words that have not landed yet, in the order in which they will land.
        left: Vec<usize>,
    },
    /// A fetch on its way to the process that it asks.
    Ask { table: usize, owner: Slot, range: Range<usize> },
    /// The answer on its way back.
    Answer { table: usize, owner: Slot, range: Range<usize>, words: Vec<u64>, left: Vec<usize> },
}

/// A stable write that has landed and is not reported complete yet: a real transport may still read its source.
struct Held {
    ticket: Ticket,
    table: usize,
    range: Range<usize>,
    /// The source as it was when the write landed.
    bytes: Vec<u64>,
}

/// The operations on the way from one process to another.
#[derive(Default)]
struct Link {
    items: VecDeque<Item>,
    /// The link is in the world's list of queued links.
    queued: bool,
    held: VecDeque<Held>,
    down: bool,
    /// The receiver was notified of the end of the link, or has ended it itself.
    reported: bool,
    /// The sender has closed: the link goes down once everything has landed.
    closing: bool,
    /// The receiver lets nothing land any more.
    severed: bool,
    /// Nothing moves for now, and neither end notices.
    stalled: bool,
    /// Operations take much longer than on other links.
    slow: bool,
    /// The number of the connection that the sender's end uses, and of the one that the receiver's end uses; 0 is the
    /// first between the two. Operations on the way belong to the sender's connection. They land once the receiver has
    /// it, too, and are lost when the receiver has a later one.
    sender: u64,
    receiver: u64,
    /// This connection and all earlier ones are broken; `None` if none is.
    broken: Option<u64>,
}

/// The memory of one process.
struct Memory {
    slot: Slot,
    /// The process's own row, by table.
    own: Vec<Arc<Row>>,
    /// By slot: the process that is attached there, and by table the copy of its row.
    copies: Vec<Option<(usize, Vec<Arc<Row>>)>>,
    /// Where rows are shared: new memory of rows that the process was given and has not asked for yet, as (process,
    /// table, epoch, row).
    renewed: Vec<(usize, usize, u64, Arc<Row>)>,
    /// `used`: the epoch of the memory that it uses, by process and table. `owed`: (process, table) pairs to which it
    /// has yet to give new memory.
    used: HashMap<(usize, usize), u64>,
    owed: Vec<(usize, usize)>,
    /// The epoch of the memory of its own row, by table.
    epochs: Vec<u64>,
    /// Something landed since its last poll.
    news: bool,
    next_ticket: u64,
    fetched: Vec<Event>,
    dead: bool,
    /// It dies once it has posted so many more writes.
    fuse: Option<usize>,
    /// It is in a pass.
    burns: bool,
}

/// The panic payload that ends a pass in the middle of which its process dies.
pub(crate) struct Crash;

/// All memory and links of a simulated cluster.
pub(crate) struct World {
    specs: Vec<TableSpec>,
    shared: bool,
    memories: Vec<Memory>,
    /// Indexed by sender and receiver.
    links: Vec<Vec<Link>>,
    /// All links with operations on their way, and perhaps some that had them.
    queued: Vec<(usize, usize)>,
    /// The number of writes except heartbeats.
    pub(crate) posted: u64,
    pub(crate) fetches: u64,
    /// Pairs (receiver, owner): the receiver lost the new memory that the owner gave it, and the link with it.
    pub(crate) lost_memory: Vec<(usize, usize)>,
    rng: Rng,
}

/// A handle to the world.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<World>>);

/// Returns both ends of a new connection between two processes that were linked before, that of `a` first. Each process
/// takes its own end by `relink` at any later time. An end that is never taken looks like one that is not taken yet.
pub(crate) fn again(a: usize, b: usize, number: u64) -> [Connection; 2] {
    [Connection::SimulatedAgain(b, number), Connection::SimulatedAgain(a, number)]
}

impl Net {
    pub(crate) fn new(specs: &[TableSpec], shared: bool, seed: u64) -> Net {
        let (memories, links, queued, rng) = (Vec::new(), Vec::new(), Vec::new(), Rng::new(seed));
        let specs = specs.to_vec();
        Net(Arc::new(Mutex::new(World {
            specs,
            shared,
            memories,
            links,
            queued,
            posted: 0,
            fetches: 0,
            lost_memory: Vec::new(),
            rng,
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        // A caller that breaks the contract panics under the lock, and leaves the world as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a process in `slot`. Returns its number, its fabric and its rows.
    pub(crate) fn process(&self, slot: Slot) -> (usize, SimFabric, Vec<Arc<Row>>) {
        let mut world = self.world();
        let own = world.new_rows();
        let copies = (0..SLOTS).map(|_| None).collect();
        let me = world.memories.len();
        world.memories.push(Memory {
            slot,
            own: own.clone(),
            copies,
            renewed: Vec::new(),
            used: HashMap::new(),
            owed: Vec::new(),
            epochs: vec![0; own.len()],
            news: false,
            next_ticket: 0,
            fetched: vec![],
            dead: false,
            fuse: None,
            burns: false,
        });
        world.links.iter_mut().for_each(|links| links.push(Link::default()));
        world.links.push((0..=me).map(|_| Link::default()).collect());
        (me, SimFabric { net: self.clone(), me, closed: false }, own)
    }
}

impl World {
    fn new_rows(&self) -> Vec<Arc<Row>> {
        let row = |spec: &TableSpec| Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap());
        self.specs.iter().map(row).collect()
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from][to]
    }

    /// The process that `me` has attached in a slot.
    fn process_in(&self, me: usize, slot: Slot) -> Option<usize> {
        self.memories[me].copies.get(slot)?.as_ref().map(|(process, _)| *process)
    }

    /// Gives the present memory of a row to a peer, if the link to it is up.
    ///
    /// If the link was made `again`, the other end may not have taken it yet.
    fn give_memory(&mut self, from: usize, to: usize, index: usize, again: bool) {
        let (epoch, row) = (self.memories[from].epochs[index], self.memories[from].own[index].clone());
        let link = &self.links[from][to];
        if epoch > 0 && !link.down && (again || !link.severed) {
            self.memories[to].renewed.retain(|(of, at, since, _)| (*of, *at, *since) != (from, index, epoch));
            self.memories[to].renewed.push((from, index, epoch, row));
            self.memories[to].news = true;
        }
    }

    fn attached(&self, me: usize, process: usize) -> bool {
        self.process_in(me, self.memories[process].slot) == Some(process)
    }

    fn can_move(&self, from: usize, to: usize) -> bool {
        let link = &self.links[from][to];
        let joined = link.sender == link.receiver;
        !link.items.is_empty() && joined && !link.stalled && self.attached(to, from)
    }

    fn enqueue(&mut self, from: usize, to: usize, item: Item) {
        let link = &mut self.links[from][to];
        link.items.push_back(item);
        if !std::mem::replace(&mut link.queued, true) {
            self.queued.push((from, to));
        }
    }

    /// Lets some words of some link land. Returns false if nothing can move.
    pub(crate) fn step(&mut self) -> bool {
        let links = &mut self.links;
        self.queued.retain(|&(from, to)| {
            links[from][to].queued = !links[from][to].items.is_empty();
            links[from][to].queued
        });
        if self.queued.is_empty() {
            return false;
        }
        // Picks a link that can move, from a random one on.
        let start = self.rng.below(self.queued.len());
        let around = self.queued[start..].iter().chain(&self.queued[..start]);
        let Some(&(from, to)) = around.into_iter().find(|&&(from, to)| self.can_move(from, to)) else { return false };
        if self.links[from][to].slow && self.rng.chance(15, 16) {
            return true;
        }
        // Mostly whole writes, sometimes a part.
        let left = match self.links[from][to].items.front() {
            Some(Item::Write { left, .. } | Item::Answer { left, .. }) => left.len(),
            _ => 0,
        };
        let words = if self.rng.chance(1, 3) { 1 + self.rng.below(left.max(1)) } else { usize::MAX };
        self.land(from, to, words);
        true
    }

    /// Lets up to `words` words of the oldest item of a link land.
    fn land(&mut self, from: usize, to: usize, words: usize) {
        let from_slot = self.memories[from].slot;
        let Some(item) = self.links[from][to].items.front_mut() else { return };
        match item {
            Item::Write { table, range, snapshot, left, .. } => {
                let Some((_, copies)) = &self.memories[to].copies[from_slot] else { return };
                let (source, target) = (&self.memories[from].own[*table], &copies[*table]);
                for _ in 0..words.min(left.len()) {
                    let offset = left.pop().unwrap();
                    let value = match snapshot {
                        Some(words) => words[(offset - range.start) / 8],
                        None => source.word(offset).load(Ordering::Acquire),
                    };
                    target.word(offset).store(value, Ordering::Release);
                }
                if !left.is_empty() {
                    return;
                }
            }
            Item::Ask { table, owner, range } => {
                let (table, owner, range) = (*table, *owner, range.clone());
                let memory = &self.memories[to];
                let row = if owner == memory.slot { &memory.own } else { &memory.copies[owner].as_ref().unwrap().1 };
                let words = range.clone().step_by(8).map(|o| row[table].word(o).load(Ordering::Acquire)).collect();
                let mut left: Vec<usize> = range.clone().step_by(8).collect();
                self.rng.shuffle(&mut left);
                self.enqueue(to, from, Item::Answer { table, owner, range, words, left });
            }
            Item::Answer { table, owner, range, words: bytes, left } => {
                let (_, rows) = self.memories[to].copies[*owner].as_ref().unwrap();
                for _ in 0..words.min(left.len()) {
                    let offset = left.pop().unwrap();
                    rows[*table].word(offset).store(bytes[(offset - range.start) / 8], Ordering::Release);
                }
                if !left.is_empty() {
                    return;
                }
                let (table, owner, range) = (self.specs[*table].id, *owner, range.clone());
                self.memories[to].fetched.push(Event::Fetched { peer: from_slot, table, owner, range });
            }
        }
        self.landed(from, to);
    }

    fn landed(&mut self, from: usize, to: usize) {
        let item = self.links[from][to].items.pop_front();
        if let Some(Item::Write { ticket, table, range, snapshot: None, .. }) = item
            // Only data are held for the check: a column that guards no data may change at this time, and the
            // protocol's own checks cover the columns that do guard data.
            && range.start >= self.specs[table].columns_len
        {
            let source = &self.memories[from].own[table];
            let bytes = range.clone().step_by(8).map(|o| source.word(o).load(Ordering::Acquire)).collect();
            self.links[from][to].held.push_back(Held { ticket, table, range, bytes });
        }
        self.memories[to].news = true;
    }

    fn others(&self, me: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.memories.len()).filter(move |&p| p != me)
    }

    /// Whether there is an event that wakes a sleeping process.
    pub(crate) fn wakes(&self, me: usize) -> bool {
        self.memories[me].news
            || self.others(me).any(|p| !self.links[me][p].held.is_empty())
            || self.others(me).any(|p| self.has_ended(p, me))
    }

    /// Whether the link from `peer` has ended without a report to `me`.
    fn has_ended(&self, peer: usize, me: usize) -> bool {
        let link = &self.links[peer][me];
        // An end that has not taken the new connection yet cannot notice its end.
        let joined = link.sender == link.receiver;
        let broken = link.broken >= Some(link.receiver);
        let ended = broken || joined && (link.down || link.closing && link.items.is_empty());
        ended && !link.reported && !link.severed && !link.stalled && self.attached(me, peer)
    }

    /// Lets all operations land, except on stalled links.
    pub(crate) fn drain(&mut self) {
        while self.step() {}
    }

    pub(crate) fn idle(&self) -> bool {
        let n = self.memories.len();
        (0..n).all(|from| (0..n).all(|to| !self.can_move(from, to)))
    }

    /// Reports some of its stable writes to a sender as complete.
    fn complete(&mut self, from: usize) {
        for to in self.others(from) {
            while !self.link(from, to).held.is_empty() && (self.link(from, to).down || self.rng.chance(1, 8)) {
                let Some(held) = self.link(from, to).held.pop_front() else { break };
                let row = &self.memories[from].own[held.table];
                let unchanged =
                    held.range.step_by(8).zip(held.bytes).all(|(o, b)| row.word(o).load(Ordering::Acquire) == b);
                assert!(
                    unchanged || self.link(from, to).down,
                    "process {from} changed the source of a stable write that was not complete"
                );
                self.memories[from].news = true;
            }
        }
    }

    /// Breaks the link between two processes. Operations on the way are lost, from any word on.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let words = self.rng.below(64);
            if self.rng.chance(1, 2) && self.can_move(from, to) {
                self.land(from, to, words);
            }
            let link = self.link(from, to);
            link.items.clear();
            link.down = true;
            link.broken = Some(link.sender.max(link.receiver));
            self.memories[to].news = true;
        }
    }

    /// Breaks connection `number` between two processes and all earlier ones, but not a later one.
    pub(crate) fn refuse(&mut self, a: usize, b: usize, number: u64) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link(from, to);
            link.broken = link.broken.max(Some(number));
            if link.sender <= number {
                link.items.clear();
                link.down = true;
            }
            self.memories[to].news = true;
        }
    }

    /// The end of `me` takes connection `number` to `peer`, and severs the earlier one.
    fn relink(&mut self, me: usize, peer: usize, number: u64) {
        let link = self.link(me, peer);
        link.items.clear();
        link.held.clear();
        (link.sender, link.closing, link.down) = (number, false, link.broken >= Some(number));
        let link = self.link(peer, me);
        if link.sender < number {
            link.items.clear();
        }
        (link.receiver, link.reported, link.severed) = (number, false, false);
        self.memories[me].fetched.retain(|event| !matches!(event, Event::Fetched { peer: from, .. } if *from == peer));
        (self.memories[me].news, self.memories[peer].news) = (true, true);
        if self.memories[peer].dead {
            self.cut(me, peer);
        }
    }

    /// Stalls the direction from one process to another, or lets it move again.
    pub(crate) fn stall(&mut self, from: usize, to: usize, stalled: bool) {
        self.link(from, to).stalled = stalled;
        self.memories[to].news = true;
    }

    pub(crate) fn is_stalled(&self, from: usize, to: usize) -> bool {
        self.links[from][to].stalled
    }

    /// Makes the direction from one process to another slow, or fast again.
    pub(crate) fn slow(&mut self, from: usize, to: usize, slow: bool) {
        self.link(from, to).slow = slow;
    }

    /// Ends the process in order; its queued writes still land.
    pub(crate) fn end(&mut self, process: usize) {
        for peer in self.others(process) {
            let link = self.link(process, peer);
            link.closing = true;
            if link.receiver > link.sender {
                link.broken = Some(link.receiver);
            }
        }
    }

    /// No process waits for these writes to complete any more, so their bytes are copied now.
    fn take_sources(&mut self, from: usize, to: usize) {
        let own = &self.memories[from].own;
        for item in &mut self.links[from][to].items {
            if let Item::Write { table, range, snapshot, .. } = item {
                let row = &own[*table];
                let words =
                    || range.clone().step_by(8).map(|offset| row.word(offset).load(Ordering::Acquire)).collect();
                snapshot.get_or_insert_with(words);
            }
        }
        self.links[from][to].held.clear();
    }

    /// The new memory of `from` in the table with this index does not reach `to`.
    pub(crate) fn lose_memory(&mut self, from: usize, to: usize, index: usize) {
        self.memories[from].owed.retain(|(peer, of)| (*peer, *of) != (to, index));
        self.memories[to].renewed.retain(|(owner, of, ..)| (*owner, *of) != (from, index));
    }

    /// Kills the process; a part of its posted writes may still land.
    pub(crate) fn kill(&mut self, process: usize) {
        self.memories[process].dead = true;
        for peer in self.others(process) {
            self.cut(process, peer);
        }
    }

    /// Sets whether the process is in a pass. Its fuse counts writes only then.
    pub(crate) fn burn(&mut self, process: usize, burns: bool) {
        self.memories[process].burns = burns;
    }

    /// The process will die in a pass, after `writes` further writes.
    pub(crate) fn light_fuse(&mut self, process: usize, writes: usize) {
        self.memories[process].fuse = Some(writes);
    }

    /// Lets all operations from one process to another land.
    pub(crate) fn drain_link(&mut self, from: usize, to: usize) {
        while self.can_move(from, to) {
            self.land(from, to, usize::MAX);
        }
    }

    /// Process `at`'s copy of the row of the process in slot `of`, for tests in which a hostile process writes there.
    pub(crate) fn copy(&mut self, table: usize, at: usize, of: Slot) -> &Row {
        self.memories[at].news = true;
        &self.memories[at].copies[of].as_ref().unwrap().1[table]
    }

    /// A process's own row, from which all copies are made.
    pub(crate) fn row(&self, table: usize, process: usize) -> &Row {
        &self.memories[process].own[table]
    }

    /// Every copy of every row of a table.
    pub(crate) fn copies(&self, table: usize) -> impl Iterator<Item = &Arc<Row>> {
        let own = self.memories.iter().map(move |memory| &memory.own[table]);
        own.chain(self.memories.iter().flat_map(move |m| m.copies.iter().flatten().map(move |(_, rows)| &rows[table])))
    }
}

/// The fabric of one process.
pub(crate) struct SimFabric {
    net: Net,
    me: usize,
    closed: bool,
}

impl SimFabric {
    /// Ends both directions with `peer`; nothing from `peer` lands any more.
    fn drop_incoming(&self, world: &mut World, peer: usize) {
        let link = world.link(peer, self.me);
        link.severed = true;
        // Operations of a later connection wait until this end takes it.
        if link.sender <= link.receiver {
            link.items.clear();
            link.down = true;
        }
        world.memories[peer].news = true;
    }
}

impl Fabric for SimFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let (process, number) = match connection {
            Connection::Simulated(process) => (process, None),
            Connection::SimulatedAgain(process, number) => (process, Some(number)),
            _ => return Err(Error::Misuse("no simulated connection")),
        };
        let mut world = self.net.world();
        if peer >= SLOTS || world.memories[self.me].slot == peer || world.memories[process].slot != peer {
            return Err(Error::Misuse("not the slot of that process"));
        }
        let rows = if world.shared { world.memories[process].own.clone() } else { world.new_rows() };
        if let Some(former) = world.process_in(self.me, peer) {
            self.drop_incoming(&mut world, former);
            world.link(self.me, former).items.clear();
            world.link(self.me, former).down = true;
        }
        world.memories[self.me].renewed.retain(|(of, ..)| *of != process);
        for (index, epoch) in world.memories[process].epochs.clone().into_iter().enumerate() {
            world.memories[self.me].used.insert((process, index), epoch);
        }
        world.memories[self.me].copies[peer] = Some((process, rows.clone()));
        world.memories[self.me].news = true;
        if let Some(number) = number {
            world.relink(self.me, process, number);
        } else if world.memories[process].dead {
            world.cut(self.me, process);
        }
        Ok(rows)
    }

    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        self.sever(peer);
        let Connection::SimulatedAgain(process, number) = connection else {
            return Err(Error::Misuse("no simulated connection of a link that is made again"));
        };
        let mut world = self.net.world();
        let rows = match world.memories[self.me].copies.get(peer) {
            Some(Some((attached, rows))) if *attached == process => rows.clone(),
            _ => return Err(Error::Misuse("the process to link again is not the one that was attached")),
        };
        world.relink(self.me, process, number);
        // Announces this process's present memory again, over the new connection.
        for index in 0..world.specs.len() {
            world.give_memory(self.me, process, index, true);
        }
        Ok(rows)
    }

    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let world = &mut *self.net.world();
        let me = self.me;
        let burns = world.memories[me].burns;
        if let Some(left) = world.memories[me].fuse.as_mut().filter(|_| burns) {
            if *left == 0 {
                // `resume_unwind` does not call the panic hook, so nothing is printed.
                std::panic::resume_unwind(Box::new(Crash));
            }
            *left -= 1;
        }
        world.memories[me].next_ticket += 1;
        let ticket = Ticket(world.memories[me].next_ticket);
        let index = world.specs.iter().position(|spec| spec.id == table).unwrap();
        assert!(!range.is_empty(), "{range:?} of {table:?} is nothing to write");
        world.specs[index].check_write(&range, source);
        let Some(process) = world.process_in(me, peer) else { return ticket };
        let row = &world.memories[me].own[index];
        let snapshot = (source == Source::Snapshot)
            .then(|| range.clone().step_by(8).map(|offset| row.word(offset).load(Ordering::Acquire)).collect());
        let mut left: Vec<usize> = range.clone().step_by(8).collect();
        if world.shared {
            left.clear();
        }
        world.rng.shuffle(&mut left);
        let link = &mut world.links[me][process];
        // Operations of a connection that the other end has given up are lost.
        if !link.down && !link.closing && link.sender >= link.receiver {
            let heartbeat = index == 0 && range == (0..24);
            world.enqueue(me, process, Item::Write { ticket, table: index, range, snapshot, left });
            world.posted += u64::from(!heartbeat);
        }
        ticket
    }

    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>) {
        let mut world = self.net.world();
        let index = world.specs.iter().position(|spec| spec.id == table).unwrap();
        world.specs[index].check_fetch(&range);
        assert!(world.memories[self.me].copies[owner].is_some(), "nobody was attached in slot {owner}");
        world.fetches += 1;
        let Some(process) = world.process_in(self.me, peer) else { return };
        if world.shared {
            world.memories[self.me].fetched.push(Event::Fetched { peer, table, owner, range });
        } else if let link = world.link(self.me, process)
            && !link.down
            && !link.closing
            && link.sender >= link.receiver
        {
            world.enqueue(self.me, process, Item::Ask { table: index, owner, range });
        }
    }

    fn submit(&mut self) {}

    fn completed(&self) -> Ticket {
        let world = self.net.world();
        let first = |to: usize| {
            let link = &world.links[self.me][to];
            let open = link.items.iter().find_map(|item| match item {
                Item::Write { ticket, snapshot: None, .. } => Some(ticket.0 - 1),
                _ => None,
            });
            open.into_iter().chain(link.held.front().map(|held| held.ticket.0 - 1)).min()
        };
        let open = world.others(self.me).filter_map(first).min();
        Ticket(open.unwrap_or(world.memories[self.me].next_ticket))
    }

    fn has_unsent(&self) -> bool {
        let world = self.net.world();
        world.others(self.me).any(|to| !world.links[self.me][to].items.is_empty() && !world.links[self.me][to].closing)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        let mut world = self.net.world();
        world.complete(self.me);
        for (peer, index) in std::mem::take(&mut world.memories[self.me].owed) {
            match world.rng.chance(1, 2) {
                true => world.give_memory(self.me, peer, index, false),
                false => world.memories[self.me].owed.push((peer, index)),
            }
        }
        events.append(&mut world.memories[self.me].fetched);
        for peer in world.others(self.me) {
            if !world.has_ended(peer, self.me) {
                continue;
            }
            let link = world.link(peer, self.me);
            let cut = link.down;
            // A peer with a later connection goes on with that one.
            link.down |= link.sender == link.receiver;
            link.reported = true;
            // Writes queued before the process's own close still go out. Otherwise the end of one side ends the other.
            if cut || !self.closed {
                world.link(self.me, peer).down = true;
                world.link(self.me, peer).items.clear();
            }
            if !self.closed {
                let peer = world.memories[peer].slot;
                events.push(Event::LinkDown { peer, cause: "the link went down".into() });
            }
            world.memories[self.me].news = true;
        }
        std::mem::take(&mut world.memories[self.me].news)
    }

    fn sever(&mut self, peer: Slot) {
        let mut world = self.net.world();
        if let Some(process) = world.process_in(self.me, peer) {
            self.drop_incoming(&mut world, process);
            let link = world.link(self.me, process);
            link.items.clear();
            link.down = true;
        }
    }

    fn release(&mut self, peer: Slot) {
        let mut world = self.net.world();
        if let Some(process) = world.process_in(self.me, peer) {
            self.drop_incoming(&mut world, process);
            world.link(self.me, process).closing = true;
            world.take_sources(self.me, process);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        let mut world = self.net.world();
        world.end(self.me);
    }

    fn closed(&self) -> bool {
        let world = self.net.world();
        let ended = |p: usize| world.links[p][self.me].down && world.links[self.me][p].items.is_empty();
        world.others(self.me).all(|p| !world.attached(self.me, p) || ended(p))
    }

    fn arm(&mut self) {}

    fn disarm(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn shares_rows(&self) -> bool {
        self.net.world().shared
    }

    fn renew(&mut self, table: TableId, epoch: u64, departed: &[Slot]) -> Result<Option<Arc<Row>>, Error> {
        let world = &mut *self.net.world();
        let departed: Vec<_> = departed.iter().map(|&slot| world.process_in(self.me, slot)).collect();
        let is_dead = |process: &Option<usize>| process.is_some_and(|process| world.memories[process].dead);
        if !world.shared || departed.iter().all(is_dead) {
            return Ok(None);
        }
        let index = world.specs.iter().position(|spec| spec.id == table).unwrap();
        assert!(epoch > world.memories[self.me].epochs[index], "epoch {epoch} is not a later one");
        let TableSpec { row_len, columns_len, .. } = world.specs[index];
        let row = Arc::new(Row::anonymous(row_len, columns_len).unwrap());
        let mut columns = vec![0; columns_len];
        world.memories[self.me].own[index].load_words(0, &mut columns);
        row.store_words(0, &columns);
        world.memories[self.me].own[index] = row;
        world.memories[self.me].epochs[index] = epoch;
        for peer in 0..world.memories.len() {
            // Writes on their way read the former memory, which does not change any more.
            world.links[self.me][peer].held.clear();
            if world.attached(peer, self.me) && !departed.contains(&Some(peer)) {
                // Now, or later by `owed`.
                match world.rng.chance(3, 4) {
                    true => world.give_memory(self.me, peer, index, false),
                    false => world.memories[self.me].owed.push((peer, index)),
                }
            }
        }
        Ok(Some(world.memories[self.me].own[index].clone()))
    }

    fn renewed(&mut self, peer: Slot, table: TableId, epoch: u64) -> Renewed {
        let world = &mut *self.net.world();
        let index = world.specs.iter().position(|spec| spec.id == table).unwrap();
        let Some((process, _)) = world.memories[self.me].copies[peer] else { return Renewed::Same };
        let shown = world.memories[process].epochs[index];
        if world.memories[self.me].renewed.iter().any(|one| one.0 == process) && world.rng.chance(1, 64) {
            // This process has no free descriptor for the new memory.
            world.memories[self.me].renewed.retain(|one| one.0 != process);
            world.cut(self.me, process);
            world.lost_memory.push((self.me, process));
        }
        let memory = &mut world.memories[self.me];
        let of_row = |(of, at, ..): &(usize, usize, u64, Arc<Row>)| (*of, *at) == (process, index);
        // A fabric keeps the last two memories of a row.
        while memory.renewed.iter().filter(|one| of_row(one)).count() > 2
            && let Some(oldest) = memory.renewed.iter().position(of_row)
        {
            memory.renewed.remove(oldest);
        }
        let due = memory.renewed.extract_if(.., |one| of_row(one) && one.2 <= epoch).max_by_key(|one| one.2);
        let used = memory.used.entry((process, index)).or_default();
        let renewed = due.map(|(.., since, row)| {
            *used = since;
            row
        });
        if shown <= epoch && *used < shown {
            return Renewed::Awaited;
        }
        let Some(row) = renewed else { return Renewed::Same };
        if let Some((_, rows)) = &mut memory.copies[peer] {
            rows[index] = row.clone();
        }
        Renewed::New(row)
    }

    fn received_from(&self, _: Slot) -> u64 {
        0
    }

    fn stats(&self) -> FabricStats {
        FabricStats { writes_posted: self.net.world().memories[self.me].next_ticket, ..FabricStats::default() }
    }
}
