//! A newcomer takes its state from a member that dies with a message that no other member has: the member sent it in
//! mode `fifo` and was delivered it, but the network brought it to no other member.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, wait};
use galerna::{Config, FabricKind, Group, MemberId, Mode};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Default)]
struct Network {
    /// Connections that are made now belong to member 3.
    of_third: AtomicBool,
    /// No bytes pass between member 3 and others, except state transfers.
    stalls: AtomicBool,
    /// The connections of member 3 end for good.
    gone: AtomicBool,
    /// Requests for a state that have come.
    states: AtomicUsize,
}

fn pass(network: &Network, third: bool, state: bool, mut from: TcpStream, mut into: TcpStream) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        while third && !state && network.stalls.load(Ordering::SeqCst) {
            if network.gone.load(Ordering::SeqCst) {
                let _ = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            // Bytes that arrive while the network stalls are lost.
            Ok(_) if third && !state && network.stalls.load(Ordering::SeqCst) => {}
            Ok(n) => {
                if into.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
}

fn proxy(listener: TcpListener, to: String, always_third: bool, network: Arc<Network>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let (to, network) = (to.clone(), network.clone());
        let third = always_third || network.of_third.load(Ordering::SeqCst);
        std::thread::spawn(move || {
            let Ok(mut other) = TcpStream::connect(&to) else { return };
            let mut first = [0; 4096];
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let Ok(n) = stream.read(&mut first) else { return };
            // The request comes in the first read, together with the preamble.
            let state = always_third && String::from_utf8_lossy(&first[..n]).contains("[State]");
            if state {
                network.states.fetch_add(1, Ordering::SeqCst);
                while !network.stalls.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_millis(1500));
            }
            if other.write_all(&first[..n]).is_err() {
                return;
            }
            let (from, into, seen) = (stream.try_clone().unwrap(), other.try_clone().unwrap(), network.clone());
            std::thread::spawn(move || pass(&seen, third, state, from, into));
            pass(&network, third, state, other, stream);
        });
    }
}

#[test]
fn a_newcomer_is_told_nothing_that_the_others_are_not() {
    let folder = Folder::new("dead");
    let mut plain = Config { log: None, ..config(&folder, FabricKind::Tcp, 3) };
    plain.failure_timeout_ms = 8000;
    plain.partition_timeout_ms = 10_000;
    let network = Arc::new(Network::default());
    let mut real = Vec::new();
    for (n, member) in plain.members.iter_mut().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shown = listener.local_addr().unwrap().to_string();
        let to = std::mem::replace(&mut member.address, shown);
        real.push(to.clone());
        let network = network.clone();
        std::thread::spawn(move || proxy(listener, to, n == 2, network));
    }
    let start = |id: u32| {
        let config = Config { listen: Some(real[id as usize - 1].clone()), ..plain.clone() };
        std::thread::spawn(move || join_all(&config, &[id]).pop().unwrap())
    };
    let two = [start(1), start(2)];
    std::thread::sleep(Duration::from_millis(700));
    network.of_third.store(true, Ordering::SeqCst);
    let third = start(3).join().unwrap();
    network.of_third.store(false, Ordering::SeqCst);
    let two = two.map(|joined| joined.join().unwrap());
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, ..plain.clone() }.with_member(MemberId(4));
    let list = List::default();
    let told = list.clone();
    let newcomer = std::thread::spawn(move || Group::join(newcomer, told));
    wait("the request", || network.states.load(Ordering::SeqCst) == 1);
    wait("the view", || third.0.view().members.len() == 4 && two[0].0.view().members.len() == 4);
    network.stalls.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(100));
    third.0.send(MAIN, Mode::Fifo, b"only here", PATIENCE).unwrap();
    wait("its own delivery", || third.1.all() == ["only here"]);
    // Longer than a state transfer takes: the state must not cover a message that only its source has.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(list.all(), Vec::<String>::new());
    network.gone.store(true, Ordering::SeqCst);
    drop(third);
    let newcomer = newcomer.join().unwrap().unwrap();
    wait("the end of the third", || {
        two[0].0.view().members.len() == 3 && !two[0].0.view().members.contains(&MemberId(3))
    });
    two[0].0.send(MAIN, Mode::Safe, b"after", PATIENCE).unwrap();
    for list in [&two[0].1, &two[1].1, &list] {
        wait("delivery", || list.all().contains(&"after".to_owned()));
        assert_eq!(list.all(), ["after"]);
    }
    drop(newcomer);
}
