//! Sends bytes with descriptors over a unix stream, without blocking and without leaking a descriptor.

use nix::errno::Errno;
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The most descriptors that the kernel takes in one message.
pub(super) const FDS_MAX: usize = 253;
const CONTROL_BYTES: usize = cmsg_space!(ScmRights(FDS_MAX));

/// Sends `bytes`; `fds`, at most [`FDS_MAX`], travel with the first byte.
pub(super) fn send(stream: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::EINVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags).map_err(of_nix)
}

/// Receives bytes, and appends the descriptors that came with them to `fds`.
///
/// If the process has no room for all descriptors, the error is EMFILE. Those that did arrive are in `fds` and are
/// closed with it.
pub(super) fn receive(stream: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    // It owns the received descriptors, and closes those that are not taken out.
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags).map_err(of_nix)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) { Err(Errno::EMFILE) } else { Ok(received.bytes) }
}

fn of_nix(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
