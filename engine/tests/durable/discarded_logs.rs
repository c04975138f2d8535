//! Group names with a dot, and logs that are discarded.

use super::folder::Folder;
use super::group::{List, config};
use galerna::log::{Identity, Log, LogOptions};
use galerna::{FabricKind, Group, MemberId};

#[test]
fn members_of_a_group_with_a_dot_in_its_name_discard_their_own_logs() {
    let mut errors = Vec::new();
    for round in 0..10 {
        let folder = Folder::new(&format!("dot-{round}"));
        let mut config = config(&folder, FabricKind::Tcp, 4);
        config.group = "bank.2".to_owned();
        for id in 1..=4 {
            // A log of a founding that was not completed.
            let identity = Identity::of_group(7, "bank.2", MemberId(id));
            let options = LogOptions { identity, segment_bytes: 1 << 20, ..LogOptions::default() };
            Log::open(folder.0.join(format!("logs/bank.2-{id}")), options).unwrap().close().unwrap();
        }
        let joins: Vec<_> = (1..=4)
            .map(|id| {
                let config = config.clone().with_member(MemberId(id));
                std::thread::spawn(move || Group::join(config, List::default()).map_err(|error| error.to_string()))
            })
            .collect();
        let joined: Vec<_> = joins.into_iter().map(|join| join.join().unwrap()).collect();
        errors.extend(joined.iter().filter_map(|joined| joined.as_ref().err().cloned()));
        if !errors.is_empty() {
            break;
        }
    }
    assert!(errors.is_empty(), "{errors:?}");
}
