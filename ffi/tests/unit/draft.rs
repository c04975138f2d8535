//! Tests of configurations that a program makes key by key.

use crate::draft::Draft;
use engine::{Config, FabricKind, Found, LogConfig, Member, MemberId, Verbs};
use std::path::PathBuf;

fn draft() -> Draft {
    let mut draft = Draft::new("demo").unwrap();
    draft.add_member(1, "host-a:7001").unwrap();
    draft.add_member(2, "host-b:7001").unwrap();
    draft
}

/// Returns the error of a key, which must leave the configuration as it is.
fn refused(key: &str, value: &str) -> String {
    let mut draft = draft();
    let before = format!("{draft:?}");
    let error = draft.set(key, value).unwrap_err();
    assert!(matches!(error, engine::Error::Config(_)), "{error:?}");
    assert_eq!(format!("{draft:?}"), before);
    error.to_string()
}

/// Every key except `members` and `address`, with a value other than its default.
const KEYS: [(&str, &str); 34] = [
    ("group", "42"),
    ("member", "2"),
    ("fabric", "tcp"),
    ("listen", "0.0.0.0:7001"),
    ("contacts", "[\"host-c:7001\", 'host-d:7001']"),
    ("found", "never"),
    ("ring_bytes", "1048576"),
    ("max_message_bytes", " 1_000 "),
    ("join_timeout_ms", "1"),
    ("failure_timeout_ms", "3000"),
    ("partition_timeout_ms", "4000"),
    ("lone_survivor", "true"),
    ("join_backlog_bytes", "5"),
    ("log.segment_bytes", "8192"),
    ("log.directory", "/var/lib/x"),
    ("log.durable_members", "2"),
    ("log.restart_wait_ms", "6"),
    ("log.clock_skew_max_ms", "7"),
    ("verbs.device", "mlx5_0"),
    ("verbs.port", "1"),
    ("verbs.gid_index", "3"),
    ("verbs.mtu", "1024"),
    ("verbs.timeout", "15"),
    ("verbs.retry_count", "7"),
    ("verbs.min_rnr_timer", "0"),
    ("verbs.pkey_index", "65535"),
    ("verbs.service_level", "1"),
    ("verbs.traffic_class", "104"),
    ("verbs.hop_limit", "1"),
    ("verbs.send_queue_depth", "16"),
    ("verbs.inline_bytes", "0"),
    ("spin_us", "0"),
    ("busy_poll", "false"),
    ("stack_bytes", "0x80000"),
];

#[test]
fn every_key_of_a_file_can_be_set() {
    let mut draft = draft();
    for (key, value) in KEYS {
        draft.set(key, value).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }
    draft.add_contact("host-e:7001").unwrap();
    let members = [(1, "host-a:7001"), (2, "host-b:7001")];
    let members = members.map(|(id, address)| Member { id: MemberId(id), address: address.to_owned() });
    let expected = Config {
        member: Some(MemberId(2)),
        listen: Some("0.0.0.0:7001".to_owned()),
        contacts: ["host-c:7001", "host-d:7001", "host-e:7001"].map(str::to_owned).to_vec(),
        found: Found::Never,
        ring_bytes: 1 << 20,
        max_message_bytes: Some(1000),
        join_timeout_ms: 1,
        failure_timeout_ms: 3000,
        partition_timeout_ms: 4000,
        lone_survivor: true,
        join_backlog_bytes: 5,
        log: Some(LogConfig {
            directory: PathBuf::from("/var/lib/x"),
            segment_bytes: 8192,
            durable_members: 2,
            restart_wait_ms: 6,
            clock_skew_max_ms: 7,
        }),
        verbs: Verbs {
            device: Some("mlx5_0".to_owned()),
            port: Some(1),
            gid_index: Some(3),
            mtu: Some(1024),
            timeout: 15,
            retry_count: 7,
            min_rnr_timer: 0,
            pkey_index: 65535,
            service_level: 1,
            traffic_class: 104,
            hop_limit: 1,
            send_queue_depth: 16,
            inline_bytes: 0,
        },
        spin_us: 0,
        busy_poll: false,
        stack_bytes: 1 << 19,
        ..Config::new("42", FabricKind::Tcp, members.to_vec())
    };
    assert_eq!(draft.config().unwrap(), expected);
}

#[test]
fn an_unknown_key_is_named_with_the_known_ones() {
    for (key, known) in [
        ("ring_byte", "`ring_bytes`"),
        ("log.size", "`segment_bytes`"),
        ("verbs.mtus", "`mtu`"),
        ("logs.directory", "`log`"),
        ("", "`group`"),
        ("log.directory.x", ""),
        ("ring_bytes.x", ""),
        ("log.", "`directory`"),
    ] {
        let text = refused(key, "12345");
        assert!(text.contains(&format!("`{key}`")) && text.contains(known), "{text}");
    }
    let text = refused("ring_byte", "12345");
    assert!(text.contains("no key `ring_byte`") && text.contains("12345"), "{text}");
}

#[test]
fn an_invalid_value_is_named_with_its_key_and_the_allowed_ones() {
    for (key, value, allowed) in [
        ("fabric", "udp", "`auto`, `verbs`, `tcp`, `shm`"),
        ("fabric", "5", "`auto`"),
        ("found", "", "`if_new`"),
        ("ring_bytes", "1000", "power of two from 4096 to 2^30"),
        ("ring_bytes", "many", "a whole number from 0"),
        ("ring_bytes", "-1", "a whole number from 0"),
        ("ring_bytes", "1048576.5", "a whole number from 0"),
        ("ring_bytes", "", "a whole number from 0"),
        ("max_message_bytes", "268435456", "268435455"),
        ("failure_timeout_ms", "9", "10 to 3600000"),
        ("partition_timeout_ms", "86400001", "86400000"),
        ("lone_survivor", "yes", "`true` or `false`"),
        ("lone_survivor", "1", "`true` or `false`"),
        ("member", "4294967296", "4294967295"),
        ("verbs.port", "0", "1 to 255"),
        ("verbs.port", "256", "0 to 255"),
        ("verbs.pkey_index", "65536", "0 to 65535"),
        ("verbs.mtu", "1000", "256, 512"),
        ("log.segment_bytes", "4096", "8192"),
        ("log.clock_skew_max_ms", "0", "86400000"),
        ("contacts", "host-a:7001", "a list"),
        ("contacts", "[\"host-a\"]", "HOST:PORT"),
        ("listen", "7001", "HOST:PORT"),
        ("stack_bytes", "1", "262144"),
        ("log", "/var/lib/x", "log.directory"),
    ] {
        let text = refused(key, value);
        let value = value.trim_matches(['[', ']', '"']);
        assert!(text.contains(key.trim_end_matches('s')) && text.contains(value) && text.contains(allowed), "{text}");
    }
    assert!(refused("log.directory", "").contains("`log.directory` is empty"));
    assert!(refused("group", "").contains("1 to 255"));
    assert!(Draft::new(&"x".repeat(256)).is_err());
}

#[test]
fn members_and_contacts_are_checked_one_by_one() {
    let mut draft = draft();
    for (id, address, named) in [
        (1, "host-c:7001", "id 1"),
        (3, "host-a:7001", "host-a:7001"),
        (3, "host-c", "`host-c`"),
        (3, "0.0.0.0:7001", "0.0.0.0:7001"),
        (3, "unix:", "unix:"),
    ] {
        let text = draft.add_member(id, address).unwrap_err().to_string();
        assert!(text.contains(named), "{text}");
    }
    assert!(draft.add_contact("nowhere").unwrap_err().to_string().contains("`nowhere`"));
    for id in 3..=64 {
        draft.add_member(id, &format!("host-{id}:7001")).unwrap();
    }
    assert!(draft.add_member(65, "host-65:7001").unwrap_err().to_string().contains("64"));
    draft.set_member(MemberId(64)).unwrap();
    assert_eq!(draft.config().unwrap().member, Some(MemberId(64)));
    assert!(draft.set_member(MemberId(65)).unwrap_err().to_string().contains("65"));
    draft.set("address", "host-65:7001").unwrap();
    draft.set_member(MemberId(65)).unwrap();
    assert_eq!(draft.config().unwrap().own().unwrap(), (MemberId(65), "host-65:7001", None));
}

/// Keys that restrict each other can be set in any order. The whole configuration is checked at the end.
#[test]
fn the_whole_is_checked_at_the_end() {
    let whole = |keys: &[(&str, &str)]| {
        let mut draft = draft();
        keys.iter().for_each(|(key, value)| draft.set(key, value).unwrap());
        draft.config().map_err(|error| error.to_string())
    };
    whole(&[("partition_timeout_ms", "500"), ("failure_timeout_ms", "400")]).unwrap();
    let text = whole(&[("partition_timeout_ms", "500")]).unwrap_err();
    assert!(text.contains("`partition_timeout_ms` is 500") && text.contains("2000"), "{text}");
    whole(&[("max_message_bytes", "8000000"), ("ring_bytes", "33554432")]).unwrap();
    let text = whole(&[("max_message_bytes", "8000000")]).unwrap_err();
    assert!(text.contains("8000000"), "{text}");
    let text = whole(&[("log.segment_bytes", "8192")]).unwrap_err();
    assert!(text.contains("`log.directory` is missing"), "{text}");
    let text = whole(&[("fabric", "shm")]).unwrap_err();
    assert!(text.contains("host-a:7001") && text.contains("unix:PATH"), "{text}");
    let text = Draft::new("demo").unwrap().config().unwrap_err().to_string();
    assert!(text.contains("`members`"), "{text}");
    let mut local = Draft::new("demo").unwrap();
    local.add_member(1, "unix:/tmp/one").unwrap();
    local.set("fabric", "shm").unwrap();
    local.config().unwrap();
}

#[test]
fn a_key_replaces_that_of_a_text() {
    let text =
        "group = 'demo'\nfabric = 'tcp'\nmembers = [{ id = 1, address = 'host-a:7001' }]\n[log]\ndirectory = 'logs'\n";
    let mut draft = Draft::from_toml(text).unwrap();
    draft.set("log.directory", "other").unwrap();
    let config = draft.config().unwrap();
    let expected = Config::from_toml(&text.replace("logs", "other")).unwrap();
    assert_eq!(config, expected);
    let error = Draft::from_toml(&text.replace("tcp", "udp")).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}
