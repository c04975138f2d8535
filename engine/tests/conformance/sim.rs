//! The suite on the simulated fabric: one thread alternates between the members and the world's scheduler.

use super::*;
use crate::simulation::{Net, again};

pub(crate) struct Sim<const SHARED: bool> {
    net: Net,
    /// By slot: its newest process.
    newest: Vec<usize>,
    /// The number of connections made so far for relinks.
    again: u64,
    specs: Vec<TableSpec>,
}

impl<const SHARED: bool> Harness for Sim<SHARED> {
    const HAS_FD: bool = false;
    const SHARED: bool = SHARED;

    fn new(specs: &[TableSpec]) -> Sim<SHARED> {
        Sim { net: Net::new(specs, SHARED, 7), newest: vec![usize::MAX; SLOTS], again: 0, specs: specs.to_vec() }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let (process, fabric, own) = self.net.process(slot);
        self.newest[slot] = process;
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        [Connection::Simulated(self.newest[b]), Connection::Simulated(self.newest[a])]
    }

    fn link_again(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        self.again += 1;
        again(self.newest[a], self.newest[b], self.again)
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

conformance!(on_sim, Sim<false>);

/// Tests the features that only the simulated fabric with shared rows has. There a severed row still changes.
#[test]
fn on_shared_sim() {
    renew::a_row_gets_new_memory::<Sim<true>>();
    renew::who_comes_later_has_the_new_memory::<Sim<true>>();
    renew::new_memory_that_was_missed_is_awaited::<Sim<true>>();
}
