//! Members as threads of one process. The deadlines are far away, so only the watchdog would notice a member that
//! hangs.

mod disagreement;
mod fuzz;
mod strangers;
mod wire;

use super::*;
use crate::config::{FabricKind, Member};
use crate::folder::Folder;
use crate::process::Private;
use crate::types::MemberId;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

const FAR: Duration = Duration::from_secs(60);
const WATCHDOG: Duration = Duration::from_secs(120);

/// An unused port, below the range from which the system takes ports for outgoing connections at any time.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 199).unwrap() * 100;
    loop {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let v6 = TcpListener::bind(("::1", port));
        if let (Ok(_), Ok(_)) = (TcpListener::bind(("127.0.0.1", port)), v6) {
            return port;
        }
    }
}

/// The number of files in a folder.
fn files(folder: &Folder) -> usize {
    std::fs::read_dir(&folder.0).unwrap().count()
}

/// Members 10, 11, ... at these addresses.
fn config(addresses: Vec<String>) -> Config {
    let kind = if addresses[0].starts_with("unix:") { FabricKind::Shm } else { FabricKind::Tcp };
    let members = (10..).zip(addresses).map(|(id, address)| Member { id: MemberId(id), address }).collect::<Vec<_>>();
    Config::new("orders", kind, members)
}

fn tcp(members: usize) -> Config {
    config((0..members).map(|_| format!("127.0.0.1:{}", free_port())).collect())
}

fn unix(members: usize, dir: &Folder) -> Config {
    config((0..members).map(|r| format!("unix:{}/{r}", dir.0.display())).collect())
}

/// A member in a separate thread.
struct Running<S>(Receiver<Result<Met<S>, Error>>);

impl<S: From<Private<Socket>> + Send + 'static> Running<S> {
    fn start(config: &Config, rank: usize, incarnation: u64, time: Duration) -> Running<S> {
        let (sender, receiver) = mpsc::channel();
        let config = config.clone();
        std::thread::spawn(move || {
            let deadline = Instant::now() + time;
            let met = listen(&config, rank).and_then(|listening| {
                meet(&config, rank, incarnation, deadline.into(), listening, Surroundings::default())
            });
            // A test that has failed does not take the result.
            let _ = sender.send(met);
        });
        Running(receiver)
    }

    fn result(self) -> Result<Met<S>, Error> {
        self.0.recv_timeout(WATCHDOG).expect("the member hangs")
    }
}

fn start(config: &Config, rank: usize) -> Running<TcpStream> {
    Running::start(config, rank, incarnation(rank), FAR)
}

fn incarnation(rank: usize) -> u64 {
    1000 + rank as u64
}

/// Checks that one stream joins every pair, and that it blocks and is at its first byte.
fn check<S: Read + Write>(mut met: Vec<Met<S>>) {
    let count = met.len();
    let expected: Vec<u64> = (0..count).map(incarnation).collect();
    for (rank, met) in met.iter_mut().enumerate() {
        assert_eq!(met.incarnations, expected);
        for (peer, stream) in met.streams.iter_mut().enumerate() {
            assert_eq!(stream.is_none(), peer == rank);
            if let Some(stream) = stream {
                stream.write_all(&[rank as u8, peer as u8]).unwrap();
            }
        }
    }
    for (rank, met) in met.iter_mut().enumerate() {
        for (peer, stream) in met.streams.iter_mut().enumerate() {
            if let Some(stream) = stream {
                let mut bytes = [0; 2];
                stream.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes, [peer as u8, rank as u8]);
            }
        }
    }
}

/// Checks that these members, in the order of their ranks, meet each other.
fn all_meet<S: From<Private<Socket>> + Send + Read + Write + 'static>(running: Vec<Running<S>>) {
    let results: Vec<_> = running.into_iter().map(Running::result).collect();
    let errors: Vec<String> = results.iter().filter_map(|r| Some(r.as_ref().err()?.to_string())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    check(results.into_iter().flatten().collect());
}

fn join_in_order<S: From<Private<Socket>> + Send + Read + Write + 'static>(config: &Config, order: &[usize]) {
    let mut running: Vec<Option<Running<S>>> = order.iter().map(|_| None).collect();
    for &rank in order {
        running[rank] = Some(Running::start(config, rank, incarnation(rank), FAR));
        std::thread::sleep(Duration::from_millis(30));
    }
    all_meet(running.into_iter().flatten().collect());
}

const ORDERS_OF_3: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const ORDERS_OF_5: [[usize; 5]; 3] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]];

#[test]
fn tcp_v4_in_any_order() {
    ORDERS_OF_3.iter().for_each(|order| join_in_order::<TcpStream>(&tcp(3), order));
    ORDERS_OF_5.iter().for_each(|order| join_in_order::<TcpStream>(&tcp(5), order));
}

#[test]
fn tcp_v6_in_any_order() {
    let v6 = |n: usize| config((0..n).map(|_| format!("[::1]:{}", free_port())).collect());
    ORDERS_OF_3.iter().for_each(|order| join_in_order::<TcpStream>(&v6(3), order));
    ORDERS_OF_5.iter().for_each(|order| join_in_order::<TcpStream>(&v6(5), order));
}

#[test]
fn unix_in_any_order() {
    let dir = Folder::new("meet");
    ORDERS_OF_3.iter().for_each(|order| join_in_order::<UnixStream>(&unix(3, &dir), order));
    ORDERS_OF_5.iter().for_each(|order| join_in_order::<UnixStream>(&unix(5, &dir), order));
    assert_eq!(files(&dir), 0, "sockets and locks are removed");
}

#[test]
fn host_names() {
    let config = config((0..3).map(|_| format!("localhost:{}", free_port())).collect());
    join_in_order::<TcpStream>(&config, &[2, 0, 1]);
}

#[test]
fn alone() {
    let met = start(&tcp(1), 0).result().unwrap();
    assert!(met.streams.len() == 1 && met.streams[0].is_none());
}

#[test]
fn missing_members_are_named() {
    let config = Config { join_timeout_ms: 300, ..tcp(3) };
    let error = Running::<TcpStream>::start(&config, 1, 7, Duration::from_millis(300)).result().unwrap_err();
    let address = |rank: usize| &config.members[rank].address;
    let expected = format!(
        "join: after 300 ms still missing: member 10 at {} (connection refused), \
         member 12 at {} (no connection from it yet); start them, or check their addresses",
        address(0),
        address(2)
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn missing_on_unix() {
    let dir = Folder::new("meet");
    let config = unix(2, &dir);
    let error = Running::<UnixStream>::start(&config, 1, 7, Duration::from_millis(100)).result().unwrap_err();
    assert!(matches!(&error, Error::Missing { missing, .. } if missing.starts_with("member 10 at unix:")), "{error}");
    assert_eq!(files(&dir), 0, "removed on errors as well");
}

#[test]
fn unresolvable_names() {
    let mut config = tcp(2);
    config.members[0].address = "no-such-host.invalid:7000".into();
    let error = start(&config, 0).result().unwrap_err();
    assert!(matches!(&error, Error::Listen { reason, .. } if reason.contains("cannot be resolved")), "{error}");
    let error = Running::<TcpStream>::start(&config, 1, 7, Duration::from_millis(500)).result().unwrap_err();
    assert!(matches!(&error, Error::Missing { missing, .. } if missing.contains("no-such-host")), "{error}");
    // Member 11 connects to member 10, which still names the reason.
    let mut config = tcp(2);
    config.members[1].address = "no such host:7000".into();
    let error = Running::<TcpStream>::start(&config, 0, 7, Duration::from_millis(1500)).result().unwrap_err();
    let text = "no connection from it yet; its host name cannot be resolved";
    assert!(matches!(&error, Error::Missing { missing, .. } if missing.contains(text)), "{error}");
}

#[test]
fn port_in_use() {
    let config = tcp(2);
    let _other = TcpListener::bind(&config.members[0].address).unwrap();
    let error = start(&config, 0).result().unwrap_err();
    assert!(
        matches!(&error, Error::Listen { address, reason }
        if *address == config.members[0].address && reason.contains("another process")),
        "{error}"
    );
}

#[test]
fn address_of_another_host() {
    let mut config = tcp(2);
    config.members[0].address = "192.0.2.1:7000".into();
    let error = start(&config, 0).result().unwrap_err();
    assert!(
        matches!(&error, Error::Listen { reason, .. } if reason.contains("not an address of this host")),
        "{error}"
    );
}

#[test]
fn socket_files() {
    let dir = Folder::new("meet");
    let config = unix(2, &dir);
    let path = dir.0.join("0");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let in_use = |config: &Config| {
        let error = Running::<UnixStream>::start(config, 0, 7, FAR).result().unwrap_err();
        assert!(matches!(&error, Error::Listen { reason, .. } if reason.contains("in use")), "{error}");
    };
    in_use(&config);
    drop(listener);
    assert!(path.exists(), "stale from here on");
    let first = Running::<UnixStream>::start(&config, 0, incarnation(0), FAR);
    while UnixStream::connect(&path).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    in_use(&config);
    let second = Running::<UnixStream>::start(&config, 1, incarnation(1), FAR);
    check(vec![first.result().unwrap(), second.result().unwrap()]);
    std::fs::write(&path, "precious").unwrap();
    let error = Running::<UnixStream>::start(&config, 0, 7, FAR).result().unwrap_err();
    assert!(matches!(&error, Error::Listen { reason, .. } if reason.contains("not a socket")), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn many_start_with_one_socket_path() {
    let dir = Folder::new("meet");
    let config = unix(2, &dir);
    for _ in 0..20 {
        std::fs::File::create(dir.0.join("0.lock")).unwrap();
        let (sender, results) = mpsc::channel();
        for i in 0..4 {
            let (config, sender) = (config.clone(), sender.clone());
            std::thread::spawn(move || {
                let _ = sender.send(meet_unix(&config, 0, i, Instant::now() + FAR));
            });
        }
        // The fourth process holds the place, and waits for the other member.
        for _ in 0..3 {
            let error = results.recv_timeout(WATCHDOG).unwrap().unwrap_err();
            assert!(matches!(&error, Error::Listen { reason, .. } if reason.contains("in use")), "{error}");
        }
        let other = Running::<UnixStream>::start(&config, 1, 99, FAR).result().unwrap();
        let met = results.recv_timeout(WATCHDOG).unwrap().unwrap();
        assert_eq!(met.incarnations, other.incarnations);
    }
    assert_eq!(files(&dir), 0);
}

#[test]
fn self_connection_is_seen() {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.connect(&socket.local_addr().unwrap()).unwrap();
    assert!(talk::is_self_connected(&socket));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(!talk::is_self_connected(&stream.into()));
}
