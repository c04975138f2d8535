//! A source that needs more than five seconds to answer. Either it first verifies a checkpoint of several gigabytes
//! (`Sent::new` comes before `Reply::Log`), or its application needs that long to produce a piece of its state.

use super::common;
use super::folder::Folder;
use super::group::config;
use galerna::{Config, Delivery, FabricKind, Group, Handler, MemberId};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Clone, Default)]
struct Slow(Arc<AtomicUsize>);

struct State(bool);

impl Read for State {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if std::mem::replace(&mut self.0, true) {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(6));
        into[0] = 7;
        Ok(1)
    }
}

impl Handler for Slow {
    fn deliver(&mut self, _: Delivery<'_>) {}

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(State(false)))
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        std::io::copy(state, &mut std::io::sink()).map(drop)
    }
}

#[test]
fn a_source_that_is_silent_for_six_seconds_is_waited_for() {
    let folder = Folder::new("slow-source");
    let config = Config { log: None, join_timeout_ms: 25_000, ..config(&folder, FabricKind::Tcp, 1) };
    let source = Slow::default();
    let _first = Group::join(config.clone().with_member(MemberId(1)), source.clone()).unwrap();
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let joined = Group::join(Config { address, ..config }.with_member(MemberId(2)), Slow::default());
    println!("{:?} after {} calls of `snapshot`", joined.as_ref().map(|_| ()), source.0.load(Ordering::SeqCst));
    assert!(joined.is_ok());
}
