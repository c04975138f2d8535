//! The suite on the simulated fabric: one thread, which alternates between members and the world's scheduler.

use super::*;
use crate::simulation::Net;

pub(crate) struct Sim(Net);

impl Harness for Sim {
    const HAS_FD: bool = false;
    const SHARED: bool = false;

    fn cluster(members: usize, specs: &[TableSpec]) -> (Sim, Vec<Endpoint>) {
        let net = Net::new(members, specs, 7);
        let endpoints = (0..members).map(|rank| {
            let (fabric, tables) = net.endpoint(rank);
            Endpoint::new(rank, Box::new(fabric), tables)
        });
        let endpoints = endpoints.collect();
        (Sim(net), endpoints)
    }

    fn step(&mut self) {
        for _ in 0..4 {
            self.0.world().step();
        }
    }

    fn kill(&mut self, endpoint: Endpoint) {
        self.0.world().end(endpoint.slot);
    }
}

conformance!(on_sim, Sim);
