//! The suite on TCP, over IPv4 and over IPv6.

use super::*;
use crate::fabric::tcp::TcpFabric;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

/// Makes processes and connects them through a listener of its own.
pub(crate) struct Tcp {
    specs: Vec<TableSpec>,
    listener: TcpListener,
}

impl Tcp {
    fn at(address: impl Into<IpAddr>, specs: &[TableSpec]) -> Tcp {
        Tcp { specs: specs.to_vec(), listener: TcpListener::bind((address.into(), 0)).unwrap() }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let (fabric, own) = TcpFabric::new(slot, &self.specs).unwrap();
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self) -> [Connection; 2] {
        // One at a time, so that the accepted stream is the one that was connected.
        let near = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        [near, self.listener.accept().unwrap().0].map(|stream| Connection::Tcp(stream.into()))
    }
}

macro_rules! harness {
    ($name:ident, $address:expr) => {
        pub(crate) struct $name(Tcp);

        impl Harness for $name {
            const HAS_FD: bool = true;
            const SHARED: bool = false;

            fn new(specs: &[TableSpec]) -> $name {
                $name(Tcp::at($address, specs))
            }

            fn process(&mut self, slot: Slot) -> Endpoint {
                self.0.process(slot)
            }

            fn link(&mut self, _: Slot, _: Slot) -> [Connection; 2] {
                self.0.link()
            }
        }
    };
}

harness!(V4, Ipv4Addr::LOCALHOST);
harness!(V6, Ipv6Addr::LOCALHOST);

conformance!(on_ipv4, V4);
conformance!(on_ipv6, V6);
