//! A join that failed, and the callbacks of the application after it.

use super::common;
use super::folder::Folder;
use super::group::{MAIN, PATIENCE, config, join_all, send};
use super::pace::paced;
use super::stops::Stops;
use galerna::{Config, Delivery, FabricKind, Group, Mode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn nothing_is_delivered_after_the_join_has_failed() {
    let folder = Folder::new("failed-join");
    let config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    for i in 0..2000 {
        send(&members[0].0, &format!("{i}"));
    }
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stops = Stops(&stop);
        scope.spawn(|| {
            for _ in paced().take_while(|_| !stop.load(Ordering::SeqCst)) {
                members[0].0.send(MAIN, Mode::Safe, &[7; 1000], PATIENCE).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let address = common::addresses(FabricKind::Tcp, 1).pop();
        let newcomer = Config { address, join_backlog_bytes: 200_000, ..config.clone() };
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let joined = Group::join(newcomer.with_member(galerna::MemberId(3)), move |_: Delivery<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
        });
        let then = calls.load(Ordering::SeqCst);
        println!("{:?} after {then} calls", joined.as_ref().map(|_| ()));
        assert!(joined.is_err());
        std::thread::sleep(Duration::from_secs(2));
        let now = calls.load(Ordering::SeqCst);
        drop(stops);
        assert_eq!(now, then, "the application is called although its join has failed");
    });
}
