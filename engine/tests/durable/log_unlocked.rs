//! A join that failed, and the next one in the same process.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, send};
use galerna::{Config, Error, FabricKind, Group, MemberId};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Forwards connections. Once `hangs` is set, accepts connections and sends nothing.
fn proxy(listener: TcpListener, to: String, hangs: Arc<AtomicBool>) {
    let mut kept = Vec::new();
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        if hangs.load(Ordering::SeqCst) {
            kept.push(stream);
            continue;
        }
        let Ok(other) = TcpStream::connect(&to) else { continue };
        for (mut from, mut into) in [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)] {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut into);
                let _ = into.shutdown(std::net::Shutdown::Write);
            });
        }
    }
}

#[test]
fn a_join_that_failed_leaves_the_log_unlocked() {
    let folder = Folder::new("locked");
    let config = config(&folder, FabricKind::Tcp, 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shown = config.clone();
    let real = std::mem::replace(&mut shown.members[1].address, listener.local_addr().unwrap().to_string());
    let hangs = Arc::new(AtomicBool::new(false));
    let (to, seen) = (real.clone(), hangs.clone());
    std::thread::spawn(move || proxy(listener, to, seen));
    let second = Config { listen: Some(real), ..shown.clone() };
    let second = std::thread::spawn(move || join_all(&second, &[2]).pop().unwrap());
    let first = join_all(&shown, &[1]).pop().unwrap();
    let _second = second.join().unwrap();
    send(&first.0, "kept");
    first.0.persist(MAIN, PATIENCE).unwrap();
    hangs.store(true, Ordering::SeqCst);
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, join_timeout_ms: 1500, ..shown.clone() }.with_member(MemberId(3));
    let failed = Group::join(newcomer.clone(), List::default()).err().unwrap();
    let again = Group::join(newcomer, List::default()).err().unwrap();
    println!("first: {failed}; then: {again}");
    assert!(!matches!(again, Error::LogLocked { .. }), "{again}");
}
