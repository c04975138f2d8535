//! The suite on shared memory.

use super::*;
use crate::fabric::shm::ShmFabric;
use std::os::unix::net::UnixStream;

pub(crate) struct Shm;

impl Harness for Shm {
    const HAS_FD: bool = true;
    const SHARED: bool = true;

    fn cluster(members: usize, specs: &[TableSpec]) -> (Shm, Vec<Endpoint>) {
        let deadline = Instant::now() + WATCHDOG;
        let endpoints = thread::scope(|scope| {
            let make = |(rank, links)| {
                scope.spawn(move || {
                    let (fabric, tables) = ShmFabric::new(rank, links, specs, deadline).unwrap();
                    Endpoint::new(rank, Box::new(fabric), tables)
                })
            };
            let threads: Vec<_> = mesh(members).into_iter().enumerate().map(make).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        (Shm, endpoints)
    }
}

/// `mesh[a][b]` is a's end of the stream to b.
fn mesh(members: usize) -> Vec<Vec<Option<UnixStream>>> {
    let mut mesh: Vec<Vec<_>> = (0..members).map(|_| (0..members).map(|_| None).collect()).collect();
    for (a, b) in pairs(members) {
        let (of_a, of_b) = UnixStream::pair().unwrap();
        mesh[a][b] = Some(of_a);
        mesh[b][a] = Some(of_b);
    }
    mesh
}

conformance!(on_shm, Shm);
