//! Tests of the bindings on a real device: they register memory, connect two queue pairs and transfer data.
//!
//! `GALERNA_RDMA_DEVICES` names the devices (`soft-roce/run` sets it). Without it the tests report that they are
//! skipped.

use super::device::{self, Choice, Wanted};
use super::sys::*;
use crate::fabric::Row;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LEN: usize = 8192;
const ENTRIES: u32 = 64;

/// One end of a connection, with its own memory.
struct End {
    context: Arc<Context>,
    memory: Arc<Row>,
    region: MemoryRegion,
    channel: Arc<CompletionChannel>,
    sends: Arc<CompletionQueue>,
    receives: Arc<CompletionQueue>,
    pair: QueuePair,
    attributes: Attributes,
}

impl End {
    fn new(choice: &Choice) -> End {
        let library = Library::get().unwrap();
        let list = DeviceList::get(library).unwrap();
        let context = Context::open(&list, library, &choice.device).unwrap().unwrap();
        let domain = ProtectionDomain::new(&context).unwrap();
        let memory = Arc::new(Row::anonymous(LEN, LEN).unwrap());
        let access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
        // SAFETY: whole pages that the row owns and that are used only through its atomics.
        let region =
            unsafe { MemoryRegion::register(&domain, memory.ptr(0..LEN), LEN, access, memory.clone()) }.unwrap();
        let channel = CompletionChannel::new(&context).unwrap();
        let sends = CompletionQueue::new(&context, ENTRIES, None).unwrap();
        let receives = CompletionQueue::new(&context, ENTRIES, Some(&channel)).unwrap();
        let capacity =
            Capacity { send_requests: 16, receive_requests: 16, send_pieces: 1, receive_pieces: 1, inline_bytes: 64 };
        let pair = QueuePair::new(&domain, &sends, &receives, capacity).unwrap();
        let granted = pair.capacity().unwrap();
        assert!(granted.inline_bytes >= 64 && granted.send_requests >= 16, "{granted:?}");
        let attributes = Attributes {
            port: choice.port,
            gid_index: choice.gid.as_ref().map(|gid| gid.index),
            pkey_index: 0,
            access: IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
            mtu: mtu_code(choice.active_mtu),
            service_level: 0,
            traffic_class: 0,
            hop_limit: 64,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 6,
            min_rnr_timer: 12,
            reads: 1,
            reads_served: 1,
        };
        pair.to_init(&attributes).unwrap();
        End { context, memory, region, channel, sends, receives, pair, attributes }
    }

    fn as_remote(&self, choice: &Choice) -> Remote {
        let gid = choice.gid.as_ref().map_or([0; 16], |gid| gid.bytes());
        Remote { qp_number: self.pair.number(), psn: 0x00ab_cdef, lid: choice.lid, gid }
    }

    fn connect(&self, peer: &End, choice: &Choice) {
        self.pair.to_ready_to_receive(&self.attributes, &peer.as_remote(choice)).unwrap();
        self.pair.to_ready_to_send(&self.attributes, 0x00ab_cdef).unwrap();
        assert_eq!(self.pair.query(IBV_QP_STATE).unwrap().qp_state, IBV_QPS_RTS);
    }

    fn piece(&self, offset: usize, length: u32) -> ibv_sge {
        ibv_sge { addr: self.memory.ptr(offset..LEN) as u64, length, lkey: self.region.local_key() }
    }

    fn target(&self, offset: usize) -> ibv_wr {
        let remote_addr = self.memory.ptr(offset..LEN) as u64;
        ibv_wr { rdma: ibv_wr_rdma { remote_addr, rkey: self.region.remote_key() } }
    }

    /// Posts requests with pieces of this end's memory.
    fn post(&self, requests: &mut [ibv_send_wr]) -> Result<(), PostFailed> {
        // SAFETY: made by `request`, with pieces that are alive and memory that stays registered.
        unsafe { self.pair.post_send(requests) }
    }

    /// Waits for the next completion, which must be the only one.
    fn wait(&self, queue: &CompletionQueue) -> ibv_wc {
        let (start, mut found) = (Instant::now(), [ibv_wc::default(); 4]);
        loop {
            match queue.poll(&mut found).unwrap() {
                0 => assert!(start.elapsed() < Duration::from_secs(30), "no completion"),
                1 => return found[0],
                many => panic!("{many} completions: {found:?}"),
            }
        }
    }

    fn word(&self, offset: usize) -> u64 {
        self.memory.word(offset).load(Ordering::Acquire)
    }
}

fn request(id: u64, opcode: u32, flags: u32, piece: &mut ibv_sge, target: ibv_wr) -> ibv_send_wr {
    ibv_send_wr {
        wr_id: id,
        sg_list: &raw mut *piece,
        num_sge: 1,
        opcode,
        send_flags: flags,
        wr: target,
        ..ibv_send_wr::default()
    }
}

/// The port to use, or `None` without a device to test on.
fn choice() -> Option<Choice> {
    let Some(names) = std::env::var_os("GALERNA_RDMA_DEVICES") else {
        let text = b"SKIPPED: the bindings on a device: set GALERNA_RDMA_DEVICES, or run it by soft-roce/run\n";
        std::io::stderr().write_all(text).unwrap();
        return None;
    };
    let names = names.into_string().unwrap();
    let wanted = Wanted { device: names.split_whitespace().next().map(str::to_owned), ..Wanted::default() };
    Some(device::choose(&device::devices().unwrap(), &wanted).unwrap())
}

fn connected() -> Option<(End, End)> {
    let choice = choice()?;
    let (one, other) = (End::new(&choice), End::new(&choice));
    one.connect(&other, &choice);
    other.connect(&one, &choice);
    Some((one, other))
}

#[test]
fn writes_and_reads_arrive() {
    let Some((one, other)) = connected() else { return };
    for (offset, value) in [(0, 7), (8, 8), (64, 9)] {
        one.memory.word(offset).store(value, Ordering::Relaxed);
    }
    let (mut inlined, mut plain, mut back) = (one.piece(0, 16), one.piece(64, 4096), one.piece(4096 + 64, 8));
    let mut list = [
        request(1, IBV_WR_RDMA_WRITE, IBV_SEND_INLINE, &mut inlined, other.target(0)),
        request(2, IBV_WR_RDMA_WRITE, 0, &mut plain, other.target(64)),
        request(3, IBV_WR_RDMA_READ, IBV_SEND_SIGNALED | IBV_SEND_FENCE, &mut back, other.target(64)),
    ];
    one.post(&mut list).unwrap();
    one.memory.word(0).store(0, Ordering::Relaxed);
    let done = one.wait(&one.sends);
    assert_eq!((done.wr_id, wc_status(done.status), done.opcode), (3, "success", IBV_WC_RDMA_READ));
    assert_eq!([0, 8, 64].map(|offset| other.word(offset)), [7, 8, 9]);
    assert_eq!(one.word(4096 + 64), 9, "what was read");
    let too_many: Vec<ibv_send_wr> = list.iter().cycle().take(3000).copied().collect();
    let failed = one.post(&mut { too_many }).unwrap_err();
    assert!(failed.posted >= 8 && failed.error.errno == libc::ENOMEM, "{failed:?}");
    let none = one.context.next_event().unwrap();
    assert_eq!(none, None, "{}", event_type(none.map_or(0, |event| event.event_type)));
}

#[test]
fn a_write_with_immediate_wakes_a_sleeper() {
    let Some((one, other)) = connected() else { return };
    let mut receive = ibv_recv_wr { wr_id: 5, next: std::ptr::null_mut(), sg_list: std::ptr::null_mut(), num_sge: 0 };
    // SAFETY: without a piece, and so without memory.
    unsafe { other.pair.post_receive(std::slice::from_mut(&mut receive)) }.unwrap();
    other.receives.request_notification(true).unwrap();
    assert_eq!(other.receives.poll(&mut [ibv_wc::default()]).unwrap(), 0);
    let readable = |timeout: PollTimeout| {
        let mut fds = [PollFd::new(other.channel.fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).unwrap() == 1
    };
    assert!(!readable(PollTimeout::ZERO));
    one.memory.word(0).store(42, Ordering::Relaxed);
    let mut piece = one.piece(0, 8);
    let flags = IBV_SEND_SIGNALED | IBV_SEND_SOLICITED | IBV_SEND_INLINE;
    let mut list = [request(6, IBV_WR_RDMA_WRITE_WITH_IMM, flags, &mut piece, other.target(0))];
    list[0].imm_data = 0x0102_0304_u32.to_be();
    one.post(&mut list).unwrap();
    assert!(readable(PollTimeout::from(20_000_u16)), "nobody was woken");
    assert_eq!(other.channel.drain().unwrap(), 1);
    assert!(!readable(PollTimeout::ZERO));
    let woken = other.wait(&other.receives);
    assert_eq!((woken.wr_id, woken.opcode, wc_status(woken.status)), (5, IBV_WC_RECV_RDMA_WITH_IMM, "success"));
    assert!(woken.wc_flags & IBV_WC_WITH_IMM != 0 && u32::from_be(woken.imm_data) == 0x0102_0304);
    assert_eq!(other.word(0), 42, "the write is there when its completion is");
    assert_eq!(one.wait(&one.sends).opcode, IBV_WC_RDMA_WRITE);
}

#[test]
fn what_a_peer_must_not_do_ends_the_connection() {
    let Some((one, other)) = connected() else { return };
    let (mut piece, mut second) = (one.piece(0, 8), one.piece(0, 8));
    let remote_addr = other.memory.ptr(0..LEN) as u64;
    let forbidden = ibv_wr { rdma: ibv_wr_rdma { remote_addr, rkey: other.region.remote_key() ^ 0xff00 } };
    let mut list = [
        request(1, IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED, &mut piece, forbidden),
        request(2, IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED, &mut second, other.target(0)),
    ];
    one.post(&mut list[..1]).unwrap();
    let failed = one.wait(&one.sends);
    assert_eq!((failed.wr_id, failed.status), (1, IBV_WC_REM_ACCESS_ERR), "{}", wc_status(failed.status));
    assert_eq!(one.pair.query(IBV_QP_STATE).unwrap().qp_state, IBV_QPS_ERR);
    one.post(&mut list[1..]).unwrap();
    assert_eq!(one.wait(&one.sends).status, IBV_WC_WR_FLUSH_ERR);
    assert_eq!(other.word(0), 0);
}

#[test]
fn an_overrun_completion_queue_is_reported() {
    let Some((one, other)) = connected() else { return };
    let mut piece = one.piece(0, 8);
    let mut list = [request(1, IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED, &mut piece, other.target(0))];
    let start = Instant::now();
    let event = loop {
        match one.post(&mut list) {
            Ok(()) => {}
            Err(full) => assert_eq!(full.error.errno, libc::ENOMEM, "{full:?}"),
        }
        if let Some(event) = one.context.next_event().unwrap() {
            break event;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no event");
    };
    assert_eq!((event.event_type, event.qp_number), (IBV_EVENT_CQ_ERR, None), "{}", event_type(event.event_type));
}

#[test]
fn out_of_service_and_anew() {
    let Some((one, other)) = connected() else { return };
    other.pair.to_error().unwrap();
    assert_eq!(other.pair.query(IBV_QP_STATE).unwrap().qp_state, IBV_QPS_ERR);
    other.pair.to_reset().unwrap();
    other.pair.to_init(&other.attributes).unwrap();
    // In any order of drops, nothing is destroyed before the objects that depend on it.
    let End { context, memory, region, channel, sends, receives, pair, .. } = one;
    drop((context, memory, channel, sends, receives));
    assert!(pair.number() > 0);
    drop((region, pair));
}
