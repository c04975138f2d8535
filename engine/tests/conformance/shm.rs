//! The suite on shared memory.

use super::*;
use crate::fabric::shm::{Offer, Prepared, ShmFabric};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;

pub(crate) struct Shm {
    specs: Vec<TableSpec>,
    /// The offer of the newest process in each slot.
    offers: HashMap<Slot, Offer>,
}

impl Harness for Shm {
    const HAS_FD: bool = true;
    const SHARED: bool = true;

    fn new(specs: &[TableSpec]) -> Shm {
        Shm { specs: specs.to_vec(), offers: HashMap::new() }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let (fabric, own, offer) = ShmFabric::new(slot, &self.specs).unwrap();
        self.offers.insert(slot, offer);
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        let deadline = Instant::now() + WATCHDOG;
        let (of_a, of_b) = UnixStream::pair().unwrap();
        let exchange = |me: Slot, peer: Slot, stream| -> Prepared {
            let (found, prepared) = self.offers[&me].exchange(vec![(peer, stream)], deadline).unwrap().remove(0);
            assert_eq!(found, peer);
            prepared
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| exchange(b, a, of_b));
            [exchange(a, b, of_a), other.join().unwrap()].map(Connection::Shm)
        })
    }
}

conformance!(on_shm, Shm);
