//! A network that can fail without privileges: each member's listening socket has a proxy in front of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) struct Network {
    gate: Arc<Gate>,
    fronts: Vec<SocketAddr>,
}

#[derive(Default)]
struct Gate {
    over: AtomicBool,
    /// No bytes pass, and new connections are refused.
    cut: AtomicBool,
    /// Limit for each direction of a connection, in bytes per second; 0 means no limit.
    rate: AtomicU64,
    wires: Mutex<Vec<TcpStream>>,
}

impl Network {
    /// Starts proxies in front of members that listen on the addresses `behind`.
    pub(crate) fn start(behind: &[String]) -> Network {
        let gate = Arc::new(Gate::default());
        let fronts = behind.iter().map(|address| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // Bytes in the proxy's kernel are at neither end, so its receive buffer is small.
            socket2::SockRef::from(&listener).set_recv_buffer_size(32 << 10).unwrap();
            let front = listener.local_addr().unwrap();
            let (gate, address) = (gate.clone(), address.clone());
            std::thread::spawn(move || gate.accept(&listener, &address));
            front
        });
        let fronts = fronts.collect();
        Network { gate, fronts }
    }

    /// The addresses by which the others reach the members.
    pub(crate) fn fronts(&self) -> Vec<String> {
        self.fronts.iter().map(ToString::to_string).collect()
    }

    /// Breaks all connections; none can be made until [`Network::heal`].
    pub(crate) fn cut(&self) {
        self.gate.cut.store(true, Ordering::SeqCst);
        self.gate.break_all();
    }

    pub(crate) fn heal(&self) {
        self.gate.cut.store(false, Ordering::SeqCst);
    }

    /// Limits each direction of each connection to `rate` bytes per second from now on.
    pub(crate) fn limit(&self, rate: u64) {
        self.gate.rate.store(rate, Ordering::SeqCst);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.gate.over.store(true, Ordering::SeqCst);
        self.gate.break_all();
        for front in &self.fronts {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(front);
        }
    }
}

impl Gate {
    fn break_all(&self) {
        for wire in self.wires.lock().unwrap().drain(..) {
            let _ = wire.shutdown(Shutdown::Both);
        }
    }

    fn accept(self: &Arc<Gate>, listener: &TcpListener, behind: &str) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            if !self.cut.load(Ordering::SeqCst) {
                // An error ends the connection, as in a real network.
                let _ = self.carry(client, behind);
            }
        }
    }

    fn carry(self: &Arc<Gate>, client: TcpStream, behind: &str) -> io::Result<()> {
        let server = TcpStream::connect(behind)?;
        socket2::SockRef::from(&server).set_recv_buffer_size(32 << 10)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        {
            let mut wires = self.wires.lock().unwrap();
            wires.push(client.try_clone()?);
            wires.push(server.try_clone()?);
        }
        if self.cut.load(Ordering::SeqCst) {
            self.break_all();
        }
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let gate = self.clone();
            std::thread::spawn(move || gate.pump(&mut from, &mut to));
        }
        Ok(())
    }

    /// Copies bytes in one direction, then passes on the end of the stream.
    fn pump(&self, from: &mut TcpStream, to: &mut TcpStream) {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let rate = self.rate.load(Ordering::SeqCst);
            let most = if rate == 0 { bytes.len() } else { 4096 };
            match from.read(&mut bytes[..most]) {
                // All connections stop at the same moment. Otherwise a member that notices its cut first could decide
                // together with others that have not noticed theirs.
                Ok(len) if len > 0 && self.cut.load(Ordering::SeqCst) => {
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
                Ok(len) if len > 0 && to.write_all(&bytes[..len]).is_ok() => {
                    let pause_us = (len as u64 * 1_000_000).checked_div(rate);
                    std::thread::sleep(Duration::from_micros(pause_us.unwrap_or(0)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
    }
}
