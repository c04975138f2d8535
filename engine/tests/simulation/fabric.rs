//! The simulated fabric: per-link order and nothing more. Writes land word by word in any order within one write, with
//! any delay, independently of other links; the source of a `Stable` write is read as late as it lands. Or, for a whole
//! world, shared memory: every store is seen at once, and rows are read where they are.

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

/// What is on its way.
enum Item {
    Write {
        ticket: Ticket,
        table: usize,
        range: Range<usize>,
        /// The bytes of a snapshot; a stable write has none and reads its source as it lands.
        snapshot: Option<Vec<u64>>,
        /// Word offsets still to land, in the order in which they will.
        left: Vec<usize>,
    },
    /// A fetch on its way to the memory it asks.
    Ask { table: usize, owner: Slot, range: Range<usize> },
    /// And back.
    Answer { table: usize, owner: Slot, range: Range<usize>, words: Vec<u64>, left: Vec<usize> },
}

/// A stable write that has landed, but whose sender does not know yet: a real transport may still read its source.
struct Held {
    ticket: Ticket,
    table: usize,
    range: Range<usize>,
    /// The source as it was when the write landed.
    bytes: Vec<u64>,
}

/// What is under way from one process to another.
#[derive(Default)]
struct Link {
    items: VecDeque<Item>,
    /// It is in the world's list.
    queued: bool,
    held: VecDeque<Held>,
    down: bool,
    /// The receiver has been told, or does not want to know.
    reported: bool,
    /// The sender closed: down once everything has landed.
    closing: bool,
    /// The receiver lets nothing land any more.
    severed: bool,
    /// Nothing moves for now, and nobody learns of anything.
    stalled: bool,
    /// What is under way takes much longer than on other links.
    slow: bool,
    /// The connection that the sender's end is of, and that of the receiver's; 0 is the first between the two. What is under
    /// way is of the sender's: it lands once the receiver has that one too, and is lost when the receiver has a later one.
    sender: u64,
    receiver: u64,
    /// This connection, and all before it, are broken; none at first.
    broken: Option<u64>,
}

/// One process's memory.
struct Memory {
    slot: Slot,
    /// By table: its own row.
    own: Vec<Arc<Row>>,
    /// By slot: which process is attached there, and by table its copy of that one's row.
    copies: Vec<Option<(usize, Vec<Arc<Row>>)>>,
    /// Where rows are shared: new memory of a process's row, by its table and epoch, that it was given and has not asked for.
    renewed: Vec<(usize, usize, u64, Arc<Row>)>,
    /// The epoch of the memory that it uses, by process and table; what is to be given to others yet.
    used: HashMap<(usize, usize), u64>,
    owed: Vec<(usize, usize)>,
    /// The epoch of the own row's memory, by table.
    epochs: Vec<u64>,
    /// Something landed since it last polled.
    news: bool,
    next_ticket: u64,
    fetched: Vec<Event>,
    dead: bool,
    /// It dies before it has posted so many more writes.
    fuse: Option<usize>,
    /// It is in a pass.
    burns: bool,
}

/// What unwinds a pass in the middle of which its process dies.
pub(crate) struct Crash;

/// All memory and links of a simulated cluster.
pub(crate) struct World {
    specs: Vec<TableSpec>,
    shared: bool,
    memories: Vec<Memory>,
    /// From a process to another.
    links: Vec<Vec<Link>>,
    /// The links with anything on its way, and perhaps some that had it.
    queued: Vec<(usize, usize)>,
    /// Writes of anything but heartbeats.
    pub(crate) posted: u64,
    pub(crate) fetches: u64,
    /// Processes that lost the memory that others gave them, and with it the link.
    pub(crate) lost_memory: Vec<(usize, usize)>,
    rng: Rng,
}

/// A handle on the world.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<World>>);

/// Both ends of a new connection between two processes that were linked before, that of `a` first. Each takes its own by
/// `relink` when it likes; an end that never does is as one that has not done so yet.
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
        // A caller that breaks the contract panics under the lock and leaves the world as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process in `slot`: its number, its fabric and its rows.
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

    /// Whether `me` has attached that very process.
    /// Gives the present memory of a row to a peer, over the link to it if that is up.
    /// If it was made `again`, the other end may not have taken it yet.
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

    /// Lets some words of some links land. False if nothing is under way.
    pub(crate) fn step(&mut self) -> bool {
        let links = &mut self.links;
        self.queued.retain(|&(from, to)| {
            links[from][to].queued = !links[from][to].items.is_empty();
            links[from][to].queued
        });
        if self.queued.is_empty() {
            return false;
        }
        // Any of those that can move, from a random one on.
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
            // A column that guards nothing may change meanwhile; that one that guards data must not is for the protocol's
            // own checks to show.
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

    /// Whether something is there that wakes a sleeping process.
    pub(crate) fn wakes(&self, me: usize) -> bool {
        self.memories[me].news
            || self.others(me).any(|p| !self.links[me][p].held.is_empty())
            || self.others(me).any(|p| self.has_ended(p, me))
    }

    /// The link from `peer` has ended, and `me` does not know.
    fn has_ended(&self, peer: usize, me: usize) -> bool {
        let link = &self.links[peer][me];
        // An end that has yet to take the new connection says nothing about it.
        let joined = link.sender == link.receiver;
        let broken = link.broken >= Some(link.receiver);
        let ended = broken || joined && (link.down || link.closing && link.items.is_empty());
        ended && !link.reported && !link.severed && !link.stalled && self.attached(me, peer)
    }

    /// Everything under way lands, but on links that are stalled.
    pub(crate) fn drain(&mut self) {
        while self.step() {}
    }

    pub(crate) fn idle(&self) -> bool {
        let n = self.memories.len();
        (0..n).all(|from| (0..n).all(|to| !self.can_move(from, to)))
    }

    /// Tells a sender of some of its stable writes that they are complete.
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

    /// The link between two processes breaks: what is under way is lost, from any word on.
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

    /// Connection `number` between two processes breaks, and all before it; a later one does not.
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

    /// The end of `me` takes connection `number` to `peer`, and severs the one before.
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

    /// Nothing moves from one process to another any more, or again.
    pub(crate) fn stall(&mut self, from: usize, to: usize, stalled: bool) {
        self.link(from, to).stalled = stalled;
        self.memories[to].news = true;
    }

    pub(crate) fn is_stalled(&self, from: usize, to: usize) -> bool {
        self.links[from][to].stalled
    }

    /// What goes from one process to another is slow from now on, or no more.
    pub(crate) fn slow(&mut self, from: usize, to: usize, slow: bool) {
        self.link(from, to).slow = slow;
    }

    /// The process ends; what it gave to the network still lands.
    pub(crate) fn end(&mut self, process: usize) {
        for peer in self.others(process) {
            let link = self.link(process, peer);
            link.closing = true;
            if link.receiver > link.sender {
                link.broken = Some(link.receiver);
            }
        }
    }

    /// Nobody waits for these writes to complete any more, so what they carry is taken now.
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

    /// The process dies: what it posted may still land, in part.
    pub(crate) fn kill(&mut self, process: usize) {
        self.memories[process].dead = true;
        for peer in self.others(process) {
            self.cut(process, peer);
        }
    }

    /// Whether a pass is running, in which the fuse burns.
    pub(crate) fn burn(&mut self, process: usize, burns: bool) {
        self.memories[process].burns = burns;
    }

    /// The process dies before its write after `writes` more.
    pub(crate) fn light_fuse(&mut self, process: usize, writes: usize) {
        self.memories[process].fuse = Some(writes);
    }

    /// Everything under way from one process to another lands.
    pub(crate) fn drain_link(&mut self, from: usize, to: usize) {
        while self.can_move(from, to) {
            self.land(from, to, usize::MAX);
        }
    }

    /// Process `at`'s copy of the row of the process in slot `of`, for what a hostile one writes there.
    pub(crate) fn copy(&mut self, table: usize, at: usize, of: Slot) -> &Row {
        self.memories[at].news = true;
        &self.memories[at].copies[of].as_ref().unwrap().1[table]
    }

    /// A process's own row: the truth about it.
    pub(crate) fn row(&self, table: usize, process: usize) -> &Row {
        &self.memories[process].own[table]
    }

    /// Every copy of every row of a table.
    pub(crate) fn copies(&self, table: usize) -> impl Iterator<Item = &Arc<Row>> {
        let own = self.memories.iter().map(move |memory| &memory.own[table]);
        own.chain(self.memories.iter().flat_map(move |m| m.copies.iter().flatten().map(move |(_, rows)| &rows[table])))
    }
}

/// One process's end.
pub(crate) struct SimFabric {
    net: Net,
    me: usize,
    closed: bool,
}

impl SimFabric {
    /// Ends both directions with `peer`; what comes from it does not land any more.
    fn drop_incoming(&self, world: &mut World, peer: usize) {
        let link = world.link(peer, self.me);
        link.severed = true;
        // What is of a later connection waits for this end to take it.
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
            _ => return Err(Error::Misuse("a link is made again to the process that was attached")),
        };
        world.relink(self.me, process, number);
        // The own new memory is announced once more.
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
                // Without a word: the hook that prints panics is not for this.
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
        // Nobody takes anything more of a connection that the other end has given up.
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
            // A peer that has a later connection goes on with that one.
            link.down |= link.sender == link.receiver;
            link.reported = true;
            // What was queued before the own close still goes out; otherwise the end of one side ends the other.
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
            // The source of what is under way is the former memory, which does not change.
            world.links[self.me][peer].held.clear();
            if world.attached(peer, self.me) && !departed.contains(&Some(peer)) {
                // Now or later.
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
            // This process has no room for it.
            world.memories[self.me].renewed.retain(|one| one.0 != process);
            world.cut(self.me, process);
            world.lost_memory.push((self.me, process));
        }
        let memory = &mut world.memories[self.me];
        let of_row = |(of, at, ..): &(usize, usize, u64, Arc<Row>)| (*of, *at) == (process, index);
        // A fabric keeps the last two.
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
