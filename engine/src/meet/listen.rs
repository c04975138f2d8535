//! The socket on which a member listens while it meets the others.

use super::names::Names;
use crate::config::address::{self, ListenAt};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::interrupt::{Locked, repeat};
use crate::process::Private;
use crate::shortage;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

const BACKLOG: i32 = 256;
/// The time limit for resolving the own address in a call of [`listen`], which has no deadline.
const LOOKUP_TIME: Duration = Duration::from_secs(30);
/// Pause between two attempts to listen.
const AGAIN_TIME: Duration = Duration::from_millis(100);

/// A non-blocking listening socket. Dropping it removes the file of a unix socket.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: Private<Socket>,
    _file: Option<SocketFile>,
}

/// Why listening on an address failed.
struct Obstacle {
    reason: String,
    /// Whether it may pass: the address or its name does not exist yet, or another process uses the port.
    passes: bool,
}

fn passing(reason: impl Into<String>) -> Obstacle {
    Obstacle { reason: reason.into(), passes: true }
}

fn lasting(reason: impl Into<String>) -> Obstacle {
    Obstacle { reason: reason.into(), passes: false }
}

/// Listens on an address of this host, `HOST:PORT` or `unix:PATH`: the member's own, or its `listen`.
pub(crate) fn listen(at: ListenAt<'_>) -> Result<Listening, Error> {
    try_to_listen(at, &Names::default(), &(Instant::now() + LOOKUP_TIME).into()).map_err(|o| refused(at, o.reason))
}

/// As [`listen`], but tries again until the deadline when the obstacle may pass.
///
/// That is so while the address or its name does not exist yet, or another process uses the port.
pub(crate) fn in_time(at: ListenAt<'_>, deadline: &Deadline) -> Result<Listening, Error> {
    let (names, begun, mut warned) = (Names::default(), Instant::now(), String::new());
    loop {
        let Obstacle { reason, passes } = match try_to_listen(at, &names, deadline) {
            Ok(listening) => return Ok(listening),
            Err(obstacle) => obstacle,
        };
        let left = deadline.left();
        if !passes {
            return Err(refused(at, reason));
        }
        if left.is_zero() {
            let tried = begun.elapsed().as_millis();
            return Err(refused(at, format!("after trying for {tried} ms: {reason}")));
        }
        if warned != reason {
            tracing::warn!(address = at.address, reason, "cannot listen yet; trying again until the join timeout");
            warned = reason;
        }
        std::thread::sleep(AGAIN_TIME.min(left));
    }
}

fn refused(at: ListenAt<'_>, reason: String) -> Error {
    Error::Listen { address: at.address.to_owned(), reason }
}

fn try_to_listen(at: ListenAt<'_>, names: &Names, deadline: &Deadline) -> Result<Listening, Obstacle> {
    let (socket, file) = match at.address.strip_prefix("unix:") {
        Some(path) => listen_unix(Path::new(path), at.key).map(|(socket, file)| (socket, Some(file)))?,
        None => (listen_tcp(at, names, deadline)?, None),
    };
    Ok(Listening { socket: Private::new(socket), _file: file })
}

/// Resolves a host name. If the name service does not answer, gives up at the deadline.
fn resolve(at: ListenAt<'_>, names: &Names, deadline: &Deadline) -> Result<Vec<SocketAddr>, Obstacle> {
    let ListenAt { address, key } = at;
    if !address::is_name(address)
        && let Ok(found) = address::resolve(address)
    {
        return Ok(found);
    }
    let correct = format!("give an address of this host in {key}");
    let asked = names.look_up(address).map_err(|error| lasting(error.to_string()))?;
    loop {
        return match asked.recv_timeout(deadline.slice().max(AGAIN_TIME)) {
            Ok(Ok(found)) if found.is_empty() => Err(passing(format!("the host name has no address; {correct}"))),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(passing(format!("the host name cannot be resolved ({error}); {correct}"))),
            Err(RecvTimeoutError::Timeout) if !deadline.is_over() => continue,
            Err(_) => Err(passing(format!("the name service does not answer; {correct}"))),
        };
    }
}

fn listen_tcp(at: ListenAt<'_>, names: &Names, deadline: &Deadline) -> Result<Socket, Obstacle> {
    let key = at.key;
    let mut last = lasting("the host name has no address");
    for candidate in resolve(at, names, deadline)? {
        match bind_tcp(candidate) {
            Ok(socket) => return Ok(socket),
            // Do not try the next address: the other process may be this member, running already.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(passing(format!(
                    "another process uses this port: is this member running already? \
                     If not, stop that process or choose another port in {key}"
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                let or = if key == "`listen`" { "" } else { ", or set `listen` to an address of this host" };
                last = passing(format!("{} is not an address of this host; correct it in {key}{or}", candidate.ip()));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                last = lasting(format!("{e}: choose a port above 1023 in {key}"));
            }
            Err(e) => last = lasting(because(&e, &format!("correct the address in {key}"))),
        }
    }
    Err(last)
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restarted member must not wait until the kernel has forgotten the connections of its previous incarnation.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The text of the error with advice: `otherwise`, unless the cause is a lack of descriptors or memory.
fn because(error: &io::Error, otherwise: &str) -> String {
    match shortage::advice(error) {
        Some(advice) => format!("{error}: {advice}"),
        None => format!("{error}; {otherwise}"),
    }
}

fn listen_unix(path: &Path, key: &str) -> Result<(Socket, SocketFile), Obstacle> {
    let lock = Lock::take(path)?;
    clear(path, key)?;
    let fail = |e: io::Error| lasting(because(&e, "check the directory and its permissions"));
    let address = SockAddr::unix(path).map_err(fail)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
    socket.bind(&address).map_err(fail)?;
    let file = SocketFile { path: path.to_owned(), _lock: lock };
    socket.listen(BACKLOG).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    Ok((socket, file))
}

const IN_USE: &str = "in use: another process listens on this socket; is this member running already?";

/// Removes the socket of a dead process. The caller holds the lock, so no other member intervenes between check and
/// removal.
fn clear(path: &Path, key: &str) -> Result<(), Obstacle> {
    let kind = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(lasting(format!("cannot examine the path: {e}"))),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        let what = "the file at this path is not a socket";
        return Err(lasting(format!("{what}: remove it, or choose another path in {key}")));
    }
    let probe = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Do not wait for a full backlog: it, too, shows that a process listens.
        socket.set_nonblocking(true)?;
        let address = SockAddr::unix(path)?;
        repeat(|| socket.connect(&address))
    };
    match probe() {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|e| lasting(format!("cannot remove the socket that a dead process left: {e}"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(lasting(format!(
            "the socket belongs to another user ({e}): remove it, or choose another path in {key}"
        ))),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
            let why = because(&e, &format!("remove it, or choose another path in {key}"));
            Err(lasting(format!("cannot check whether a process listens on the existing socket: {why}")))
        }
        Ok(()) | Err(_) => Err(passing(IN_USE)),
    }
}

/// The file of a unix socket. It is removed before its lock is released.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// `PATH.lock`, held while the socket listens. The kernel releases it when the process dies.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: Locked,
}

impl Lock {
    fn take(socket_path: &Path) -> Result<Lock, Obstacle> {
        let mut path = socket_path.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        // Another process may remove the file between our open and our lock. A lock on a removed file excludes nobody.
        for _ in 0..1000 {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| {
                lasting(format!("cannot create {}: {}", path.display(), because(&e, "check the directory")))
            })?;
            let ours = file.metadata();
            let file = match Locked::new(file) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(passing(IN_USE)),
                Err(e) => return Err(lasting(format!("cannot lock {}: {e}", path.display()))),
            };
            let same = match (ours, fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
                _ => false,
            };
            if same {
                return Ok(Lock { path, _file: file });
            }
        }
        Err(passing(IN_USE))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {e}", path.display());
    }
}
