//! A disk in memory, drawn from a seed: a crash keeps the synced data, and an arbitrary part of the rest.

use super::rng::Rng;
use crate::log::disk::{Disk, File};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR_BYTES: usize = 512;

type NodeId = u64;

/// The content of a file, independent of its name.
#[derive(Default)]
struct Node {
    /// The content that a read returns.
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync: sector and new bytes, in order. Of the writes to one sector a crash keeps a prefix
    /// of any length.
    pending: Vec<(usize, Vec<u8>)>,
}

impl Node {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let stop = (start + SECTOR_BYTES).min(self.now.len());
            self.pending.push((sector, self.now[start..stop].to_vec()));
        }
    }

    fn keep(durable: &mut Vec<u8>, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR_BYTES;
        if durable.len() < start + bytes.len() {
            durable.resize(start + bytes.len(), 0);
        }
        durable[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes some of the unsynced writes durable; a later sync does not write the others.
    fn lose(&mut self, rng: &mut Rng) {
        let all = rng.below(5);
        let mut stopped = BTreeSet::new();
        for (sector, bytes) in std::mem::take(&mut self.pending) {
            let keeps = match all {
                0 => true,
                1 => false,
                _ => rng.chance(1, 2),
            };
            if !keeps {
                stopped.insert(sector);
            } else if !stopped.contains(&sector) {
                Node::keep(&mut self.durable, sector, &bytes);
            }
        }
        // The length of a file that was made and not synced is arbitrary.
        if self.durable.len() < self.now.len() && rng.chance(1, 2) {
            let more = self.now.len() - self.durable.len();
            let len = self.durable.len() + rng.below(more + 1);
            self.durable.resize(len, 0);
        }
    }
}

#[derive(Clone)]
enum NameOp {
    Link(String, NodeId),
    Rename(String, String, NodeId),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, NodeId>, op: &NameOp) {
    match op {
        NameOp::Link(name, node) => drop(names.insert(name.clone(), *node)),
        NameOp::Rename(from, to, node) => {
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
        NameOp::Remove(name) => drop(names.remove(name)),
    }
}

struct Inner {
    rng: Rng,
    nodes: HashMap<NodeId, Node>,
    made: NodeId,
    names: BTreeMap<String, NodeId>,
    durable_names: BTreeMap<String, NodeId>,
    name_ops: Vec<NameOp>,
    /// Handles of an earlier life do nothing.
    life: u64,
    /// After so many further syncs, one fails.
    fail_sync: Option<usize>,
    fail_writes: usize,
    /// After so many further changes, the power fails.
    power: Option<u64>,
    changes: u64,
    capacity: Option<u64>,
    /// Opening or making a file and listing a directory fail.
    lacks_descriptors: bool,
}

/// A simulated disk; see the module. A clone is the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

fn other(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Inner {
    /// Counts a change, and fails if the power is out.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.power {
            Some(0) => return Err(other("the power is out")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.change()?;
        match self.fail_sync {
            Some(0) => {
                self.fail_sync = None;
                return Err(other("the disk failed to sync"));
            }
            Some(left) => self.fail_sync = Some(left - 1),
            None => {}
        }
        Ok(())
    }

    fn room(&self, more: usize) -> io::Result<()> {
        let used: usize = self.names.values().map(|node| self.nodes[node].now.len()).sum();
        match self.capacity {
            // Only growth needs space: a file keeps the space that it has.
            Some(capacity) if more > 0 && (used + more) as u64 > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn descriptor(&self) -> io::Result<()> {
        if self.lacks_descriptors { Err(nix::errno::Errno::EMFILE.into()) } else { Ok(()) }
    }

    fn name_op(&mut self, op: NameOp) -> io::Result<()> {
        let done = self.change();
        // An operation that was in progress when the power failed may have been done.
        self.name_ops.push(op.clone());
        done?;
        apply(&mut self.names, &op);
        Ok(())
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Inner {
            rng: Rng::new(seed),
            nodes: HashMap::new(),
            made: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_ops: Vec::new(),
            life: 0,
            fail_sync: None,
            fail_writes: 0,
            power: None,
            changes: 0,
            capacity: None,
            lacks_descriptors: false,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The machine stops and starts again. Of the unsynced data an arbitrary part survives, sector by sector and name
    /// by name. This clears every fault that was set, except [`SimDisk::set_capacity`].
    pub(crate) fn crash(&self) {
        let inner = &mut *self.inner();
        let (rng, ops) = (&mut inner.rng, std::mem::take(&mut inner.name_ops));
        let prefix = rng.chance(1, 2).then(|| rng.below(ops.len() + 1));
        for (n, op) in ops.iter().enumerate() {
            let keeps = match prefix {
                Some(prefix) => n < prefix,
                None => rng.chance(1, 2),
            };
            if keeps {
                apply(&mut inner.durable_names, op);
            }
        }
        inner.names = inner.durable_names.clone();
        let named: BTreeSet<NodeId> = inner.names.values().copied().collect();
        inner.nodes.retain(|node, _| named.contains(node));
        for id in named {
            let node = inner.nodes.get_mut(&id).unwrap();
            node.lose(rng);
            node.now = node.durable.clone();
        }
        inner.life += 1;
        (inner.fail_sync, inner.fail_writes, inner.power) = (None, 0, None);
    }

    /// The process ends and the machine does not: nothing is lost, and nothing is synced. Without power this is a
    /// crash.
    pub(crate) fn restart(&self) {
        if self.inner().power == Some(0) {
            return self.crash();
        }
        let inner = &mut *self.inner();
        inner.life += 1;
        (inner.fail_sync, inner.fail_writes, inner.power) = (None, 0, None);
    }

    /// After `n` further syncs, one fails. Its data may be durable or not, and no later sync of that file writes them.
    pub(crate) fn fail_sync_after(&self, n: usize) {
        self.inner().fail_sync = Some(n);
    }

    /// The next `n` writes fail after a part of their bytes was written.
    pub(crate) fn fail_writes(&self, n: usize) {
        self.inner().fail_writes = n;
    }

    /// After `n` further changes every call fails, until [`SimDisk::crash`].
    pub(crate) fn power_off_after(&self, n: u64) {
        self.inner().power = Some(n);
    }

    /// The number of changes so far.
    pub(crate) fn changes(&self) -> u64 {
        self.inner().changes
    }

    /// Sets the number of bytes at which the disk is full; `None` means no limit.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity = bytes;
    }

    /// Sets whether the process has no descriptor left.
    pub(crate) fn set_lacks_descriptors(&self, lacks: bool) {
        self.inner().lacks_descriptors = lacks;
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.names.get(name).map(|node| inner.nodes[node].now.clone())
    }

    /// Stores a file durably, and replaces an existing one.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        let inner = &mut *self.inner();
        inner.made += 1;
        let id = inner.made;
        inner.nodes.insert(id, Node { now: bytes.clone(), durable: bytes, pending: Vec::new() });
        apply(&mut inner.names, &NameOp::Link(name.to_owned(), id));
        apply(&mut inner.durable_names, &NameOp::Link(name.to_owned(), id));
    }

    /// Removes a file durably.
    pub(crate) fn take(&self, name: &str) {
        let inner = &mut *self.inner();
        inner.names.remove(name);
        inner.durable_names.remove(name);
    }

    /// Flips bits of one byte at rest.
    pub(crate) fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut bytes = self.bytes(name).unwrap();
        bytes[offset] ^= mask;
        self.put(name, bytes);
    }

    /// Makes a copy with the same files, for a trial.
    pub(crate) fn copy(&self, seed: u64) -> SimDisk {
        let copy = SimDisk::new(seed);
        for name in self.names().unwrap() {
            copy.put(&name, self.bytes(&name).unwrap());
        }
        copy
    }

    fn file(&self, inner: &Inner, node: NodeId) -> Box<dyn File> {
        Box::new(SimFile { disk: self.clone(), node, life: inner.life })
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let inner = self.inner();
        inner.descriptor()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inner = self.inner();
        inner.descriptor()?;
        let node = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&inner, node))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn File>> {
        let mut inner = self.inner();
        inner.descriptor()?;
        inner.room(len as usize)?;
        inner.made += 1;
        let id = inner.made;
        inner.nodes.insert(id, Node { now: vec![0; len as usize], ..Node::default() });
        inner.name_op(NameOp::Link(name.to_owned(), id))?;
        Ok(self.file(&inner, id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let node = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.name_op(NameOp::Rename(from.to_owned(), to.to_owned(), node))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.name_op(NameOp::Remove(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        let inner = &mut *self.inner();
        inner.sync()?;
        for op in std::mem::take(&mut inner.name_ops) {
            apply(&mut inner.durable_names, &op);
        }
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    node: NodeId,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, run: impl FnOnce(&mut Inner, NodeId) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.inner();
        if inner.life != self.life {
            return Err(other("this handle is of an earlier life"));
        }
        run(&mut inner, self.node)
    }
}

fn node(inner: &mut Inner, id: NodeId) -> &mut Node {
    inner.nodes.get_mut(&id).unwrap()
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|inner, id| Ok(node(inner, id).now.len() as u64))
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.with(|inner, id| {
            let there = node(inner, id).now.get(offset as usize..offset as usize + bytes.len());
            bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner, id| {
            let more = (offset as usize + bytes.len()).saturating_sub(node(inner, id).now.len());
            inner.room(more)?;
            let powered = inner.change();
            if powered.is_err() || inner.fail_writes > 0 {
                inner.fail_writes = inner.fail_writes.saturating_sub(1);
                let part = inner.rng.below(bytes.len() + 1);
                node(inner, id).write(offset as usize, &bytes[..part]);
                powered?;
                return Err(other("the disk failed to write"));
            }
            node(inner, id).write(offset as usize, bytes);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|inner, id| {
            if let Err(error) = inner.sync() {
                if inner.power.is_none() {
                    let Inner { nodes, rng, .. } = inner;
                    nodes.get_mut(&id).unwrap().lose(rng);
                }
                return Err(error);
            }
            let node = node(inner, id);
            // Only the pending writes: those of a sync that failed earlier are not among them.
            for (sector, bytes) in std::mem::take(&mut node.pending) {
                Node::keep(&mut node.durable, sector, &bytes);
            }
            node.durable.resize(node.now.len(), 0);
            Ok(())
        })
    }

    fn clear_from(&self, offset: u64) -> io::Result<()> {
        self.with(|inner, id| {
            let powered = inner.change();
            let node = node(inner, id);
            let len = node.now.len().saturating_sub(offset as usize);
            node.write(offset as usize, &vec![0; len]);
            powered
        })
    }
}
