//! The suite on the simulated fabric: one thread, which alternates between members and the world's scheduler.

use super::*;
use crate::simulation::Net;

pub(crate) struct Sim {
    net: Net,
    /// By slot: its newest process.
    newest: Vec<usize>,
    specs: Vec<TableSpec>,
}

impl Harness for Sim {
    const HAS_FD: bool = false;
    const SHARED: bool = false;

    fn new(specs: &[TableSpec]) -> Sim {
        Sim { net: Net::new(specs, false, 7), newest: vec![usize::MAX; SLOTS], specs: specs.to_vec() }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let (process, fabric, own) = self.net.process(slot);
        self.newest[slot] = process;
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        [Connection::Simulated(self.newest[b]), Connection::Simulated(self.newest[a])]
    }

    fn step(&mut self) {
        for _ in 0..4 {
            self.net.world().step();
        }
    }

    fn kill(&mut self, endpoint: Endpoint) {
        let process = self.newest[endpoint.slot];
        self.net.world().end(process);
    }
}

conformance!(on_sim, Sim);
