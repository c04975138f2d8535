//! Calls on handles in every state of the driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use galerna::{Config, Delivery, Driver, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use std::time::Duration;

const MAIN: SubgroupId = SubgroupId(0);

fn alone(name: &str) -> (Group, Driver) {
    let path = std::env::temp_dir().join(format!("galerna-handles-{}-{name}.sock", std::process::id()));
    let member = Member { id: MemberId(1), address: format!("unix:{}", path.display()) };
    let mut config = Config::new("handles", FabricKind::Shm, vec![member]).with_member(MemberId(1));
    config.ring_bytes = 4096;
    Group::join_driven(config, |_: Delivery<'_>| {}).unwrap()
}

#[test]
fn nothing_is_accepted_when_the_driver_is_gone() {
    let (group, driver) = alone("gone");
    drop(driver);
    assert!(matches!(group.try_send(MAIN, Mode::Safe, &[0; 100]), Err(Error::Left)));
    assert!(matches!(group.send(MAIN, Mode::Safe, &[0; 100], Duration::MAX), Err(Error::Left)));
    assert!(matches!(group.flush(MAIN, galerna::Copies::All, Duration::MAX), Err(Error::Left)));
}

#[test]
fn a_sender_that_waits_hears_that_the_driver_went() {
    let (group, driver) = alone("waits");
    while group.try_send(MAIN, Mode::Safe, &[0; 100]).is_ok() {}
    let waiter = std::thread::spawn(move || group.send(MAIN, Mode::Safe, &[0; 100], Duration::MAX));
    std::thread::sleep(Duration::from_millis(20));
    drop(driver);
    assert!(matches!(waiter.join().unwrap(), Err(Error::Left)));
}

#[test]
fn for_ever_is_a_timeout_like_any_other() {
    let (group, mut driver) = alone("ever");
    group.send(MAIN, Mode::Safe, b"x", Duration::MAX).unwrap();
    let flush = group.start_flush(MAIN, galerna::Copies::All).unwrap();
    assert!(driver.wait(Duration::MAX, || flush.is_done()).unwrap());
    flush.wait(Duration::MAX).unwrap();
    driver.leave(Duration::MAX).unwrap();
}
