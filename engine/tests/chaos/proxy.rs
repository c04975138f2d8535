//! A network that can be cut without privileges. Each member's listening socket has a proxy in front of it, and the
//! configuration names the proxy's address. The proxy finds out which process opened a connection. It can hold the
//! bytes from one member to another: that has the effect of lost packets, since TCP sends those again after the outage.
//! It can also break the connections of a pair.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};

pub(crate) struct Network {
    shared: Arc<Shared>,
    /// For each member: the address of its proxy, and the address on which it listens.
    pub(crate) doors: Vec<(u32, SocketAddr, SocketAddr)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    over: bool,
    /// Pairs (from, to) for which bytes are held.
    held: HashSet<(u32, u32)>,
    pids: HashMap<u32, u32>,
    wires: Vec<Weak<Wire>>,
}

/// A connection through a proxy.
struct Wire {
    ends: (u32, u32),
    client: TcpStream,
    server: TcpStream,
    broken: AtomicBool,
}

impl Wire {
    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Network {
    /// Starts proxies for `members`. Each member listens on its own address of the loopback network. No outgoing
    /// connection comes from that address, so none can take the port of a member that is down.
    pub(crate) fn start(members: &[u32]) -> Network {
        let shared = Arc::new(Shared::default());
        let pid = std::process::id();
        let doors = members.iter().map(|&id| {
            let behind = format!("127.77.{}.{}:{}", pid >> 8 & 0xff, pid & 0xff, 7000 + id).parse().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let front = listener.local_addr().unwrap();
            let shared = shared.clone();
            std::thread::spawn(move || shared.accept(&listener, id, behind));
            (id, front, behind)
        });
        let doors = doors.collect();
        Network { shared, doors }
    }

    /// Sets the process that runs a member now.
    pub(crate) fn is_process(&self, id: u32, pid: u32) {
        self.shared.state.lock().unwrap().pids.insert(id, pid);
    }

    /// Holds the bytes that go from one member to the other.
    pub(crate) fn hold(&self, from: u32, to: u32) {
        self.shared.state.lock().unwrap().held.insert((from, to));
    }

    pub(crate) fn let_through(&self, from: u32, to: u32) {
        self.shared.state.lock().unwrap().held.remove(&(from, to));
        self.shared.changed.notify_all();
    }

    /// Breaks the connections of a pair; new ones are possible. Returns how many were broken.
    pub(crate) fn break_pair(&self, a: u32, b: u32) -> usize {
        let state = self.shared.state.lock().unwrap();
        let wires: Vec<_> = state.wires.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        let theirs = wires.iter().filter(|wire| wire.ends == (a, b) || wire.ends == (b, a));
        theirs.map(|wire| wire.break_off()).count()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.over = true;
        state.held.clear();
        state.wires.iter().filter_map(Weak::upgrade).for_each(|wire| wire.break_off());
        drop(state);
        self.shared.changed.notify_all();
        for (_, front, _) in &self.doors {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(front);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener, server: u32, behind: SocketAddr) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if self.state.lock().unwrap().over {
                return;
            }
            let shared = self.clone();
            std::thread::spawn(move || shared.carry(client, server, behind));
        }
    }

    /// Serves one connection to the member `server`. An error ends the connection, as in a real network.
    fn carry(&self, client: TcpStream, server: u32, behind: SocketAddr) -> io::Result<()> {
        let pids = self.state.lock().unwrap().pids.clone();
        // 0, the id of no member, if the process has ended already.
        let from = process_behind(&client)?.and_then(|inode| owner(inode, &pids)).unwrap_or(0);
        self.wait((from, server), || false);
        let backend = TcpStream::connect(behind)?;
        client.set_nodelay(true)?;
        backend.set_nodelay(true)?;
        let wire = Arc::new(Wire { ends: (from, server), client, server: backend, broken: AtomicBool::new(false) });
        let mut state = self.state.lock().unwrap();
        state.wires.retain(|wire| wire.strong_count() > 0);
        state.wires.push(Arc::downgrade(&wire));
        drop(state);
        std::thread::scope(|scope| {
            scope.spawn(|| self.pump(&wire, (server, from), &wire.server, &wire.client));
            self.pump(&wire, (from, server), &wire.client, &wire.server);
        });
        Ok(())
    }

    /// Copies bytes in one direction, then passes on the end of the stream.
    fn pump(&self, wire: &Wire, way: (u32, u32), mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut bytes);
            self.wait(way, || wire.broken.load(Ordering::SeqCst));
            match read {
                Ok(0) => return to.shutdown(Shutdown::Write).unwrap_or(()),
                Ok(len) if to.write_all(&bytes[..len]).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return wire.break_off(),
            }
        }
    }

    /// Waits while the direction `way` is held.
    fn wait(&self, way: (u32, u32), over: impl Fn() -> bool) {
        let mut state = self.state.lock().unwrap();
        while state.held.contains(&way) && !over() {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Returns the inode of the socket at the other end of a connection of this host.
fn process_behind(client: &TcpStream) -> io::Result<Option<String>> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => String::new(),
    };
    let ends = [hex(client.peer_addr()?), hex(client.local_addr()?)];
    let sockets = std::fs::read_to_string("/proc/net/tcp")?;
    let theirs = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut theirs = theirs.filter(|line| line.len() > 9 && line[1] == ends[0] && line[2] == ends[1]);
    Ok(theirs.next().map(|line| line[9].to_owned()))
}

fn owner(inode: String, pids: &HashMap<u32, u32>) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .any(|file| std::fs::read_link(file).is_ok_and(|to| to.as_os_str() == link.as_str()))
    };
    pids.iter().find(|(_, pid)| holds(**pid)).map(|(&id, _)| id)
}
