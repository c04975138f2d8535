//! The suite on RDMA. It needs devices: `GALERNA_RDMA_DEVICES` names them (`soft-roce/run` sets it), and members take them
//! in turn, so that what they write really travels. Without it every test says that it is skipped; where
//! `GALERNA_REQUIRE_RDMA` is set it fails instead.

use super::*;
use crate::config::Verbs;
use crate::fabric::verbs::{Offer, VerbsFabric};
use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

pub(crate) struct Rdma {
    specs: Vec<TableSpec>,
    devices: Vec<String>,
    /// Of the newest process in each slot.
    offers: HashMap<Slot, Offer>,
    listener: TcpListener,
}

/// Software devices take their time, on a processor that is software too.
const PATIENCE: Duration = Duration::from_secs(10);

/// The devices to test on.
pub(crate) fn devices() -> Vec<String> {
    let names = std::env::var("GALERNA_RDMA_DEVICES").unwrap_or_default();
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        assert!(std::env::var_os("GALERNA_REQUIRE_RDMA").is_none(), "GALERNA_RDMA_DEVICES names no device");
        println!("SKIPPED: GALERNA_RDMA_DEVICES names no device (soft-roce/run -- COMMAND makes some)");
    }
    names
}

impl Harness for Rdma {
    const HAS_FD: bool = true;
    const SHARED: bool = false;

    fn new(specs: &[TableSpec]) -> Rdma {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Rdma { specs: specs.to_vec(), devices: devices(), offers: HashMap::new(), listener }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let place = SLOT_OF.iter().position(|s| *s == slot).unwrap_or(0);
        let device = Some(self.devices[place % self.devices.len()].clone());
        let settings = Verbs { device, ..Verbs::default() };
        let (fabric, own, offer) = VerbsFabric::new(slot, &self.specs, &settings, None, PATIENCE).unwrap();
        self.offers.insert(slot, offer);
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        let deadline = Instant::now() + WATCHDOG;
        let near = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let far = self.listener.accept().unwrap().0;
        let exchange = |me: Slot, peer: Slot, stream| {
            let (found, prepared) = self.offers[&me].exchange(vec![(peer, stream)], deadline).unwrap().remove(0);
            assert_eq!(found, peer);
            Connection::Verbs(Box::new(prepared))
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| exchange(b, a, far));
            [exchange(a, b, near), other.join().unwrap()]
        })
    }
}

conformance!(on_verbs, Rdma, if !devices().is_empty());
