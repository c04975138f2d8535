//! Sends bytes with descriptors over a unix stream, without blocking and without leaking a descriptor.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that the kernel takes in one message.
pub(super) const FDS_MAX: usize = 253;

/// Sends `bytes`; `fds` travel with the first byte.
pub(super) fn send(stream: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
}

/// Receives bytes, and appends the descriptors that came with them to `fds`.
///
/// If the process has no room for all descriptors, the error is EMFILE. Those that did arrive are in `fds` and are
/// closed with it.
pub(super) fn receive(stream: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    // SAFETY: computes a length.
    let space = unsafe { libc::CMSG_SPACE((FDS_MAX * size_of::<RawFd>()) as u32) } as usize;
    // An array of words, since control messages are aligned to words.
    let mut control = vec![0_u64; space.div_ceil(8)];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    // SAFETY: the message points to one buffer for bytes and one for control messages, alive until the call returns.
    let n = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let n = Errno::result(n)?;
    take(&message, fds);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE);
    }
    usize::try_from(n).map_err(|_| Errno::EIO)
}

/// Takes ownership of every descriptor that the kernel installed for this message.
fn take(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the message, and the macros stay inside its control buffer, which is alive. The kernel
    // installed each descriptor in it for us with this message, so nothing else owns it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(control).cast::<RawFd>();
                let bytes = control.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, control);
        }
    }
}
