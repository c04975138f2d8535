//! Half of a group fails and comes back at once, before the other half has given up.

use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, send, wait};
use super::stop_together::StopTogether;
use galerna::{FabricKind, Group, MemberId};
use std::time::{Duration, Instant};

#[test]
fn who_came_back_while_the_rest_still_waited_restarts_with_it() {
    let folder = Folder::new("enter");
    let mut config = config(&folder, FabricKind::Tcp, 4);
    (config.failure_timeout_ms, config.partition_timeout_ms, config.join_timeout_ms) = (1000, 4000, 25_000);
    let one = config.clone();
    let one = std::thread::spawn(move || StopTogether::join(&one, &[1, 2]));
    let other = join_all(&config, &[3, 4]);
    let one = one.join().unwrap();
    send(&other[0].0, "kept");
    other[0].0.persist(MAIN, PATIENCE).unwrap();
    one.end();
    let began = Instant::now();
    let start = |ids: [u32; 2]| {
        ids.map(|id| {
            let (config, list) = (config.clone().with_member(MemberId(id)), List::default());
            std::thread::spawn(move || {
                let joined = Group::join(config, list.clone()).map_err(|error| error.to_string());
                (id, began.elapsed(), joined, list)
            })
        })
    };
    let early = start([1, 2]);
    wait("the end of the other half", || other.iter().all(|(group, _)| group.stopped().is_some()));
    println!("{:?} after {:?}", other[0].0.stopped(), began.elapsed());
    drop(other);
    let late = start([3, 4]);
    let all: Vec<_> = early.into_iter().chain(late).map(|thread| thread.join().unwrap()).collect();
    for (id, after, joined, list) in &all {
        println!("member {id} after {after:?}: {:?} {:?}", joined.as_ref().map(|_| ()), list.all());
    }
    assert!(all.iter().all(|(.., list)| list.all() == ["kept"]), "each is delivered the message of its log once");
    assert!(all.iter().all(|(_, after, joined, _)| joined.is_ok() && *after < Duration::from_secs(24)));
}
