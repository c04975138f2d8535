//! Hosts of a run: network namespaces with one tap device each. The switch reads and writes the other end of the
//! device. They have no names: a namespace, its device and its mounts vanish with the last process and descriptor,
//! however the run ends.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const DEVICE: &str = "galerna0";

/// One host.
pub(crate) struct Host {
    /// Counts from 1; the last byte of the host's addresses.
    pub(crate) number: u8,
    pub(crate) ip: String,
    namespace: File,
    pub(crate) tap: OwnedFd,
}

/// The MAC address of a host; its last byte is the host's number.
pub(crate) fn mac(number: u8) -> [u8; 6] {
    [0x02, 0x47, 0x41, 0x4c, 0, number]
}

impl Host {
    /// Makes a namespace with a device of the given MTU. Needs root privileges.
    pub(crate) fn new(number: u8, mtu: i32) -> io::Result<Host> {
        // A separate thread, because `unshare` changes the namespace of the thread that calls it.
        let made = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            let tap = open_tap()?;
            // IPv6 neighbour discovery would add unwanted frames. IPv6 may be off already, so an error is ignored.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            set_up("lo", None)?;
            set_up(DEVICE, Some((number, mtu)))?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            Ok(Host { number, ip: format!("10.77.0.{number}"), namespace, tap })
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace panicked")))
    }

    /// Moves the calling thread to this host. Sockets that it makes from now on belong to that host.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(nix::sched::setns(&self.namespace, nix::sched::CloneFlags::CLONE_NEWNET)?)
    }

    /// Makes the process that `command` starts run on this host.
    pub(crate) fn home(&self, command: &mut Command) {
        let namespace = self.namespace.as_raw_fd();
        // SAFETY: no memory is passed.
        let enter = move || check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) });
        // SAFETY: between fork and exec the closure makes one system call, with a descriptor that is open as long as
        // `self` is.
        unsafe { command.pre_exec(enter) };
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request(device: &str) -> libc::ifreq {
    // SAFETY: all of its fields are numbers, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn open_tap() -> io::Result<OwnedFd> {
    let path = CString::new("/dev/net/tun").map_err(io::Error::other)?;
    // SAFETY: the path is a string that ends with a zero.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: it was just opened, and nothing else owns it.
    let tap = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut request = request(DEVICE);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: this call reads and writes an `ifreq`.
    check(unsafe { libc::ioctl(fd, TUNSETIFF as _, &raw mut request) })?;
    Ok(tap)
}

fn ipv4(bytes: [u8; 4]) -> libc::sockaddr {
    // SAFETY: all of its fields are numbers, for which zeros are values.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in address.sa_data[2..6].iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    address
}

/// Gives a device of this thread's namespace its addresses, and switches it on.
fn set_up(device: &str, host: Option<(u8, i32)>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: it was just opened, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let call = |call: libc::c_ulong, request: &mut libc::ifreq| {
        // SAFETY: these calls read and write an `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw mut *request) })
    };
    if let Some((number, mtu)) = host {
        let mut hardware = request(device);
        // SAFETY: all of its fields are numbers, for which zeros are values.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac(number)) {
            *to = from as libc::c_char;
        }
        hardware.ifr_ifru.ifru_hwaddr = address;
        call(libc::SIOCSIFHWADDR as _, &mut hardware)?;
        let mut size = request(device);
        size.ifr_ifru.ifru_mtu = mtu;
        call(libc::SIOCSIFMTU as _, &mut size)?;
        let mut address = request(device);
        address.ifr_ifru.ifru_addr = ipv4([10, 77, 0, number]);
        call(libc::SIOCSIFADDR as _, &mut address)?;
        let mut mask = request(device);
        mask.ifr_ifru.ifru_netmask = ipv4([255, 255, 255, 0]);
        call(libc::SIOCSIFNETMASK as _, &mut mask)?;
    }
    let mut flags = request(device);
    flags.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    call(libc::SIOCSIFFLAGS as _, &mut flags)
}

/// Gives the calling thread, and the processes that it starts, a separate mount namespace.
pub(crate) fn own_mounts() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let root = CString::new("/").map_err(io::Error::other)?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path ends with a zero, and null is allowed for the other pointers.
    check(unsafe { libc::mount(std::ptr::null(), root.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
}

/// Mounts a file system of `mib` MiB in memory, visible to the calling thread and the processes that it starts.
pub(crate) fn mount_small(folder: &Path, mib: u32) -> io::Result<()> {
    let kind = CString::new("tmpfs").map_err(io::Error::other)?;
    let target = CString::new(folder.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    let options = CString::new(format!("size={mib}m")).map_err(io::Error::other)?;
    // SAFETY: all are strings that end with a zero.
    check(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) })
}
