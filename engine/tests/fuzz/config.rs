//! The text of the configuration.

use super::{Parser, TOML_HEAP_MAX, as_it_is, run};
use crate::config::Config;
use crate::config::address;
use crate::types::MemberId;

const SMALL: &str = r#"
group = "demo"
member = 1
fabric = "tcp"
members = [{ id = 1, address = "10.0.0.1:7001" }, { id = 2, address = "[2001:db8::2]:7001" }]
"#;

const LARGE: &str = r#"
group = "demo"
member = 9
address = "[fe80::1%lo]:7009"
listen = "0.0.0.0:7009"
contacts = ["host-c:7001"]
found = "never"
ring_bytes = 65536
max_message_bytes = 4000
join_timeout_ms = 1
failure_timeout_ms = 10
partition_timeout_ms = 10000
lone_survivor = true
join_backlog_bytes = 0
spin_us = 5
busy_poll = true
stack_bytes = 262144

[log]
directory = "logs"
segment_bytes = 16384
durable_members = 2

[verbs]
device = "rxe0"
mtu = 1024
timeout = 18

[[members]]
id = 1
address = "host-a:7001"
"#;

const SHM: &str = "group = 'g'\nfabric = \"shm\"\n[[members]]\nid = 4294967295\naddress = \"unix:/tmp/a\"\n";

#[test]
fn fuzz_configuration() {
    let seeds = [SMALL, LARGE, SHM].map(|text| text.as_bytes().to_vec()).to_vec();
    let parser = Parser { name: "configuration", seeds, repair: &as_it_is, heap_max: TOML_HEAP_MAX };
    run(&parser, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(config) = Config::from_toml(&text) else { return false };
        config.check().unwrap();
        assert!(config.max_message() < config.ring_bytes);
        assert!(config.agreed_by_founders().len() > config.members.len());
        if let Ok((_, own, _)) = config.own() {
            let listen = config.listens_at(own);
            // What is not a name is resolved without a name service.
            let _ = address::is_name(listen.address) || address::resolve(listen.address).is_ok();
        }
        if let Some(log) = &config.log {
            assert!(log.directory_of(&config.group, MemberId(1)).starts_with(&log.directory));
        }
        // There is no encoder: the same text again.
        assert_eq!(Config::from_toml(&text).unwrap(), config);
        true
    });
}
