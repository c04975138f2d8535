//! An application that panics while it catches up.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all};
use galerna::{Config, Delivery, FabricKind, Group, Handler, MemberId, Mode};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Default)]
struct Panics(Arc<Mutex<Vec<String>>>);

impl Handler for Panics {
    fn deliver(&mut self, message: Delivery<'_>) {
        let text = String::from_utf8_lossy(message.payload).into_owned();
        let mut told = self.0.lock().unwrap_or_else(|e| e.into_inner());
        told.push(text);
        if told.len() == 3 {
            drop(told);
            panic!("as the test wants it");
        }
    }

    fn stopped(&mut self, _: &galerna::Error) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push("stopped".to_owned());
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        let mut text = String::new();
        state.read_to_string(&mut text)?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }
}

#[test]
fn nothing_is_delivered_after_a_panic() {
    let folder = Folder::new("panic");
    let config = Config { log: None, ..config(&folder, FabricKind::Tcp, 2) };
    let members: Vec<(Group, List)> = join_all(&config, &[1, 2]);
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, ..config.clone() }.with_member(MemberId(3));
    let panics = Panics::default();
    let told = panics.0.clone();
    let joins = std::thread::spawn(move || Group::join(newcomer, panics).map(|_| ()));
    super::group::wait("the newcomer", || members[0].0.view().members.len() == 3);
    std::thread::sleep(Duration::from_millis(500));
    for i in 0..20 {
        members[0].0.send(MAIN, Mode::Safe, format!("{i}").as_bytes(), PATIENCE).unwrap();
    }
    println!("{:?}", joins.join().unwrap());
    let told = told.lock().unwrap_or_else(|e| e.into_inner()).clone();
    println!("{told:?}");
    let deliveries = told.iter().filter(|text| *text != "stopped").count();
    assert_eq!(deliveries, 3, "delivery goes on behind the message at which the application panicked");
}
