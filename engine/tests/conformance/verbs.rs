//! The suite on RDMA. It needs the devices that `GALERNA_RDMA_DEVICES` names (`soft-roce/run` sets it). Members use the
//! devices in turn, so that their writes cross between devices. Without the variable the suite reports that it is
//! skipped, or fails if `GALERNA_REQUIRE_RDMA` is set.

use super::*;
use crate::config::Verbs;
use crate::fabric::verbs::{Offer, VerbsFabric};
use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Once;

pub(crate) struct Rdma {
    specs: Vec<TableSpec>,
    devices: Vec<String>,
    /// The offer of the newest process in each slot.
    offers: HashMap<Slot, Offer>,
    listener: TcpListener,
}

/// Software devices on an emulated processor are slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// The devices to test on.
pub(crate) fn devices() -> Vec<String> {
    let names = std::env::var("GALERNA_RDMA_DEVICES").unwrap_or_default();
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        assert!(std::env::var_os("GALERNA_REQUIRE_RDMA").is_none(), "GALERNA_RDMA_DEVICES names no device");
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            // Written to standard error directly: the test runner hides the output of tests that pass.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: verbs, as GALERNA_RDMA_DEVICES names no device; soft-roce/test runs it"
            );
        });
    }
    names
}

impl Harness for Rdma {
    const HAS_FD: bool = true;
    const SHARED: bool = false;

    fn new(specs: &[TableSpec]) -> Rdma {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Rdma { specs: specs.to_vec(), devices: devices(), offers: HashMap::new(), listener }
    }

    fn process(&mut self, slot: Slot) -> Endpoint {
        let place = SLOT_OF.iter().position(|s| *s == slot).unwrap_or(0);
        let device = Some(self.devices[place % self.devices.len()].clone());
        // An answer may take long on these devices, and some of them cannot cope with needless retransmissions.
        let settings = Verbs { device, timeout: 18, ..Verbs::default() };
        let (fabric, own, offer) = VerbsFabric::new(slot, &self.specs, &settings, None, PATIENCE).unwrap();
        self.offers.insert(slot, offer);
        Endpoint::new(slot, Box::new(fabric), own, &self.specs)
    }

    fn link(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        self.connect(a, b, false)
    }

    fn link_again(&mut self, a: Slot, b: Slot) -> [Connection; 2] {
        self.connect(a, b, true)
    }
}

impl Rdma {
    fn connect(&mut self, a: Slot, b: Slot, again: bool) -> [Connection; 2] {
        let deadline = Instant::now() + WATCHDOG;
        let near = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let far = self.listener.accept().unwrap().0;
        let exchange = |me: Slot, peer: Slot, stream| {
            let (offer, links) = (&self.offers[&me], vec![(peer, stream)]);
            let met = if again { offer.exchange_again(links, deadline) } else { offer.exchange(links, deadline) };
            let (found, prepared) = met.unwrap().remove(0);
            assert_eq!(found, peer);
            Connection::Verbs(Box::new(prepared))
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| exchange(b, a, far));
            [exchange(a, b, near), other.join().unwrap()]
        })
    }
}

conformance!(on_verbs, Rdma, if !devices().is_empty());

/// Severs a peer that writes as fast as it can, again and again. Nothing lands after `sever` has returned, however many
/// writes are on their way. `GALERNA_SEVERS` is the number of repetitions (default 100).
#[test]
fn no_late_write_of_a_severed_peer_lands() {
    if devices().is_empty() {
        return;
    }
    const DATA: usize = 64 << 10;
    let times = std::env::var("GALERNA_SEVERS").map_or(100, |times| times.parse::<u64>().unwrap());
    let mut harness = Rdma::new(&[table(1, DATA)]);
    let (mut writer, mut reader) = (harness.process(SLOT_OF[0]), harness.process(SLOT_OF[1]));
    let (mut random, mut severed_in_mid_stream) = (Random(61), 0);
    for time in 1..=times {
        let [of_writer, of_reader] = harness.link(SLOT_OF[0], SLOT_OF[1]);
        writer.attach(1, of_writer);
        reader.attach(0, of_reader);
        writer.events.clear();
        let delay = Duration::from_micros(random.below(4000) as u64);
        let (kept, written) = thread::scope(|scope| {
            let flood = scope.spawn(|| {
                // Writes data without end, until the other end of the link is gone.
                let mut round = 0;
                while writer.links_down(1) == 0 {
                    round += 1;
                    fill(writer.own(), COLUMNS..COLUMNS + 64, time << 32 | round);
                    writer.write(1, COLUMNS..COLUMNS + DATA, Source::Stable);
                    writer.announce(&[1], 0, round);
                    writer.fabric.submit();
                    writer.poll();
                }
                round
            });
            // On a busy machine the first write may take longer than the delay.
            let started = Instant::now();
            while reader.sees(0, 0) == 0 && started.elapsed() < Duration::from_secs(1) {
                thread::yield_now();
            }
            thread::sleep(delay);
            reader.sever(0);
            let kept = links::image(reader.row(0));
            let written = flood.join().unwrap();
            // Gives every write that was on its way the time to land.
            thread::sleep(Duration::from_millis(2));
            (kept, written)
        });
        assert!(kept == links::image(reader.row(0)), "a write landed after sever, at time {time}");
        severed_in_mid_stream += u64::from(reader.sees(0, 0) > 0 && reader.sees(0, 0) < written);
    }
    println!("severed {times} times, {severed_in_mid_stream} of them with writes on their way; none landed");
    assert!(severed_in_mid_stream > times / 4, "{severed_in_mid_stream} of {times}");
}
