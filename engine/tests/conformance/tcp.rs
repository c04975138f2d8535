//! The suite on TCP, over IPv4 and over IPv6.

use super::*;
use crate::fabric::tcp::TcpFabric;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

pub(crate) struct V4;
pub(crate) struct V6;

impl Harness for V4 {
    const HAS_FD: bool = true;
    const SHARED: bool = false;

    fn cluster(members: usize, specs: &[TableSpec]) -> (V4, Vec<Endpoint>) {
        (V4, connect(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), members, specs))
    }
}

impl Harness for V6 {
    const HAS_FD: bool = true;
    const SHARED: bool = false;

    fn cluster(members: usize, specs: &[TableSpec]) -> (V6, Vec<Endpoint>) {
        (V6, connect(&TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(), members, specs))
    }
}

fn connect(listener: &TcpListener, members: usize, specs: &[TableSpec]) -> Vec<Endpoint> {
    let address = listener.local_addr().unwrap();
    let mut mesh: Vec<Vec<_>> = (0..members).map(|_| (0..members).map(|_| None).collect()).collect();
    for (a, b) in pairs(members) {
        // One at a time, so that the stream accepted is the one that was connected.
        mesh[a][b] = Some(TcpStream::connect(address).unwrap());
        mesh[b][a] = Some(listener.accept().unwrap().0);
    }
    let make = |(rank, links)| {
        let (fabric, tables) = TcpFabric::new(rank, links, specs).unwrap();
        Endpoint::new(rank, Box::new(fabric), tables)
    };
    mesh.into_iter().enumerate().map(make).collect()
}

conformance!(on_ipv4, V4);
conformance!(on_ipv6, V6);
