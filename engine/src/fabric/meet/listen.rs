//! The socket on which a member is found while it meets the others.

use crate::error::Error;
use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const BACKLOG: i32 = 256;

/// A non-blocking listening socket; on unix its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: Socket,
    _file: Option<SocketFile>,
}

/// Listens on a member's own address, `HOST:PORT` or `unix:PATH`.
pub(crate) fn listen(address: &str) -> Result<Listening, Error> {
    let (socket, file) = match address.strip_prefix("unix:") {
        Some(path) => listen_unix(Path::new(path)).map(|(socket, file)| (socket, Some(file))),
        None => listen_tcp(address).map(|socket| (socket, None)),
    }
    .map_err(|reason| Error::Listen { address: address.to_owned(), reason })?;
    Ok(Listening { socket, _file: file })
}

fn listen_tcp(address: &str) -> Result<Socket, String> {
    let candidates = address.to_socket_addrs().map_err(|e| {
        format!("the host name cannot be resolved ({e}); give this member an address of this host in `members`")
    })?;
    let mut reason = "the host name has no address; give this member an address of this host in `members`".to_owned();
    for candidate in candidates {
        match bind_tcp(candidate) {
            Ok(socket) => return Ok(socket),
            // Not the next address then: the other process has this member's place.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err("another process uses this port: is this member running already? \
                            If not, stop that process or choose another port in `members`"
                    .to_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                reason = format!("{} is no address of this host; correct it in `members`", candidate.ip());
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                reason = format!("{e}: choose a port above 1023 in `members`");
            }
            Err(e) => reason = format!("{e}; correct the address in `members`"),
        }
    }
    Err(reason)
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restarted member must not wait for the connections of its former life to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen_unix(path: &Path) -> Result<(Socket, SocketFile), String> {
    let lock = Lock::take(path)?;
    clear(path)?;
    let fail = |e: io::Error| format!("{e}; check the directory and its permissions");
    let address = SockAddr::unix(path).map_err(fail)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
    socket.bind(&address).map_err(fail)?;
    let file = SocketFile { path: path.to_owned(), _lock: lock };
    socket.listen(BACKLOG).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    Ok((socket, file))
}

const IN_USE: &str = "in use: another process listens on this socket; is this member running already?";

/// Removes a socket that a dead process left behind. The lock is held: no member comes between the look and the removal.
fn clear(path: &Path) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("cannot look at the path: {e}")),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err("a file that is no socket has this path: remove it, or choose another path in `members`".into());
    }
    let probe = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A full backlog must not make us wait; it shows a listener as well.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match probe() {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| format!("cannot remove the socket a dead process left there: {e}"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("the socket belongs to another user ({e}): remove it, or choose another path in `members`"))
        }
        Ok(()) | Err(_) => Err(IN_USE.to_owned()),
    }
}

/// The file of a unix socket; removed before its lock is given back.
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

/// `PATH.lock`, held as long as the socket is listened on: the kernel gives it back when the process dies.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    fn take(socket_path: &Path) -> Result<Lock, String> {
        let mut path = socket_path.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        // Another process may remove the file between our open and our lock; such a lock excludes nobody.
        for _ in 0..1000 {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(|e| format!("cannot create {}: {e}; check the directory", path.display()))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(IN_USE.to_owned()),
                Err((_, e)) => return Err(format!("cannot lock {}: {e}", path.display())),
            };
            let same = match (file.metadata(), fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
                _ => false,
            };
            if same {
                return Ok(Lock { path, _file: file });
            }
        }
        Err(IN_USE.to_owned())
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
