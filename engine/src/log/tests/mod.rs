//! Tests of the log on a simulated disk.

mod behaviour;
mod crashes;
mod faults;
mod fuzz;
mod layouts;
mod lookups;
mod mutations;
mod store;
mod threads;

use super::disk::Disk;
use super::store::Store;
use super::{Identity, Kind, Record};
use crate::error::Error;
use crate::simulation::disk::SimDisk;
use crate::types::{MemberId, Mode, Version};
use std::sync::Arc;

const SMALL: u64 = 16 << 10;

const OURS: Identity = Identity { group: [7; 16], subgroup: 3, member: 11 };

fn version(sequence: u64) -> Version {
    Version { view: 1 + sequence / 1000, sequence }
}

/// The bytes that only record `n` has.
fn payload(n: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (n.wrapping_mul(0x9e37_79b9).wrapping_add(i * 31) >> 3) as u8).collect()
}

fn record(n: u64, payload: &[u8]) -> Record<'_> {
    let kind = if n % 10 == 9 { Kind::Decision } else { Kind::Message };
    Record {
        version: version(n),
        time_ns: 1000 + 10 * n,
        sender: MemberId(n as u32 % 5),
        mode: Mode::Safe,
        kind,
        payload,
    }
}

fn open_sized(disk: &SimDisk, segment_bytes: u64) -> Result<Store, Error> {
    Store::open(Arc::new(disk.clone()), OURS, segment_bytes)
}

fn open(disk: &SimDisk) -> Result<Store, Error> {
    open_sized(disk, SMALL)
}

/// Appends records `numbers` of `len` bytes each, as one batch.
fn append(store: &mut Store, numbers: std::ops::Range<u64>, len: usize) -> Result<(), Error> {
    let payloads: Vec<_> = numbers.clone().map(|n| payload(n, len)).collect();
    let records: Vec<_> = numbers.zip(&payloads).map(|(n, payload)| record(n, payload)).collect();
    store.append(&records)
}

/// The numbers of all records that a reader finds. Each record is checked against the appended one.
fn numbers(store: &Store) -> Result<Vec<u64>, Error> {
    store
        .reader()
        .iter(..)
        .map(|entry| {
            let entry = entry?;
            let n = entry.version().sequence;
            assert_eq!(entry.record(), record(n, &payload(n, entry.len())), "a record that nobody appended");
            Ok(n)
        })
        .collect()
}

/// A disk with records 0..n of `len` bytes, synced one by one.
fn written(n: u64, len: usize) -> SimDisk {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    for n in 0..n {
        append(&mut store, n..n + 1, len).unwrap();
        store.sync().unwrap();
    }
    disk
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.names().unwrap().into_iter().filter(|name| name.ends_with(".segment")).collect()
}
