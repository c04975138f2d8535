//! Bad input through the public API: each kind gives a clear error, never a crash or a half-finished action.
//!
//! `protocol_violations.rs` tests members that break the protocol.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/ports.rs"]
mod ports;

use folder::Folder;
use galerna::{Config, Delivery, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use noise::noise;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(30);
const RING_BYTES: usize = 64 << 10;

/// Configures members 10, 20 and so on, on free ports of this host.
fn config(n: u32) -> Config {
    let addresses = ports::free_addresses(std::iter::repeat_n("127.0.0.1", n as usize)).unwrap();
    let members = (1..).zip(addresses).map(|(rank, address)| Member { id: MemberId(10 * rank), address });
    let mut config = Config::new("bad-input", FabricKind::Tcp, members.collect());
    config.ring_bytes = RING_BYTES;
    config.join_timeout_ms = 20_000;
    config
}

fn join(config: &Config, id: u32) -> Result<Group, Error> {
    Group::join(config.clone().with_member(MemberId(id)), |_: Delivery<'_>| {})
}

fn joining(config: &Config, id: u32) -> JoinHandle<Result<Group, Error>> {
    let config = config.clone();
    std::thread::spawn(move || join(&config, id))
}

fn refused<T>(result: Result<T, Error>) -> Error {
    result.map(|_| ()).expect_err("it was to be refused")
}

/// Asserts that the text of the error contains all `parts`.
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn configurations_that_cannot_be() {
    let good = "group = 'g'\nmember = 1\nmembers = [{ id = 1, address = '127.0.0.1:7001' }, { id = 2, address = '127.0.0.1:7002' }]\n";
    Config::from_toml(good).unwrap();
    for (from, to, parts) in [
        ("group =", "color = 3\ngroup =", &["unknown field", "`color`"][..]),
        ("id = 2", "id = 2, port = 7", &["unknown field", "`port`"]),
        ("id = 2", "id = 1", &["two members have the id 1"]),
        ("7002", "7001", &["two members have the address 127.0.0.1:7001"]),
        ("7002", "70020", &["127.0.0.1:70020", "member 2", "1 to 65535"]),
        ("127.0.0.1:7002", "unix:x", &["unix:x", "member 2", "`auto`"]),
        ("group =", "listen = 'here'\ngroup =", &["`listen` is `here`", "HOST:PORT"]),
        ("127.0.0.1:7002", "0.0.0.0:7002", &["0.0.0.0:7002", "member 2", "all interfaces", "`listen`"]),
        (
            "group =",
            "contacts = ['0.0.0.0:7002']\ngroup =",
            &["contact `0.0.0.0:7002`", "all interfaces", "is reached"],
        ),
        ("127.0.0.1:7002", "[::]:7002", &["[::]:7002", "member 2", "all interfaces", "`listen`"]),
        ("127.0.0.1:7002", "[fe80::1]:7002", &["member 2", "needs an interface", "[fe80::1%eth0]:7001"]),
        ("127.0.0.1:7002", "2001:db8::2:7002", &["2001:db8::2:7002", "member 2", "brackets"]),
        ("127.0.0.1:7002", "::1:7002", &["member 2", "brackets", "[ADDRESS]:PORT"]),
        ("127.0.0.1:7002", "224.0.0.1:7002", &["member 2", "the address of many hosts"]),
        ("group = 'g'", "", &["missing field", "`group`"]),
        ("group = 'g'", "group = ''", &["`group`", "1 to 255 bytes"]),
        ("group =", "fabric = 'pigeon'\ngroup =", &["pigeon", "tcp", "shm"]),
        ("group =", "ring_bytes = 5000\ngroup =", &["`ring_bytes`", "5000", "power of two"]),
        ("group =", "max_message_bytes = 4194304\ngroup =", &["`max_message_bytes`", "4194304", "2097144"]),
        ("group =", "partition_timeout_ms = 86400001\ngroup =", &["`partition_timeout_ms`", "86400001", "a day"]),
        ("group =", "ring_bytes = -1\ngroup =", &["ring_bytes", "-1"]),
        ("group =", "group", &["TOML"]),
    ] {
        let error = refused(Config::from_toml(&good.replacen(from, to, 1)));
        assert!(matches!(error, Error::Config(_)), "{error}");
        says(&error, parts);
    }
    let error = refused(Config::from_file("no-such.toml"));
    assert!(matches!(error, Error::Io { .. }));
    says(&error, &["no-such.toml"]);
}

#[test]
fn all_interfaces_are_listened_on_but_no_address() {
    let toml = "group = 'g'\nmember = 2\nlisten = '0.0.0.0:7002'\nmembers = [{ id = 1, address = '127.0.0.1:7001' }]\n";
    Config::from_toml(&format!("address = '127.0.0.1:7002'\n{toml}")).unwrap();
    let error = refused(Config::from_toml(&format!("address = '0.0.0.0:7002'\n{toml}")));
    says(&error, &["0.0.0.0:7002", "member 2", "all interfaces", "`listen`"]);
}

/// The environment variable that selects the child process with its own network, interfaces and host names.
const NETWORK: &str = "GALERNA_BAD_INPUT_NETWORK";
const HOSTS: &str = "127.0.0.1 localhost\n127.0.1.1 host-a\n192.0.2.1 two-ways\n127.0.0.1 two-ways\n";

#[test]
fn addresses_with_interfaces_and_names() {
    let folder = Folder::new("hosts");
    let hosts = folder.0.join("hosts");
    std::fs::write(&hosts, HOSTS).unwrap();
    let set_up = format!(
        "ip link set lo up && ip addr add fe80::1/64 dev lo nodad && ip addr add fe80::2/64 dev lo nodad && mount --bind {} /etc/hosts",
        hosts.display()
    );
    let unshared = |script: &str| Command::new("unshare").args(["-Urnm", "sh", "-c", script]).output();
    if !unshared(&set_up).is_ok_and(|output| output.status.success()) {
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: addresses with interfaces: this machine lets nobody make a network");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let child = "addresses_in_a_network --exact --nocapture";
    let output = unshared(&format!("{set_up} && {NETWORK}=1 exec {} {child}", program.display())).unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("all addresses work"), "{said}{errors}");
}

/// Runs in the child process that `addresses_with_interfaces_and_names` starts; returns at once elsewhere.
#[test]
fn addresses_in_a_network() {
    if std::env::var_os(NETWORK).is_none() {
        return;
    }
    let with = |addresses: [&str; 2]| {
        let mut config = config(2);
        config.members.iter_mut().zip(addresses).for_each(|(member, address)| member.address = address.to_owned());
        config
    };
    for addresses in [
        ["[fe80::1%lo]:7001", "[fe80::2%1]:7002"],
        // No process in this network has the first address of the name.
        ["two-ways:7003", "127.0.0.1:7004"],
    ] {
        let config = with(addresses);
        let (first, second) = (joining(&config, 10), joining(&config, 20));
        let members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
        members.1.send(MAIN, Mode::Safe, b"through", LONG).unwrap();
        members.1.flush(MAIN, galerna::Copies::All, LONG).unwrap();
        // A third process can join at such an address, too.
        let address = Some("127.0.0.1:7009".to_owned());
        let third = join(&Config { address, ..config }, 30).unwrap();
        third.flush(MAIN, galerna::Copies::All, LONG).unwrap();
    }
    let lost = Config { join_timeout_ms: 1500, ..with(["host-a:7005", "192.0.2.7:7006"]) };
    let error = refused(join(&lost, 10));
    says(
        &error,
        &[
            "member 20 at 192.0.2.7:7006",
            "the other members may not reach this process",
            "`host-a` resolves to 127.0.1.1",
        ],
    );
    let lost = Config { listen: Some("127.0.0.1:7008".to_owned()), ..lost };
    let error = refused(join(&lost, 20));
    says(&error, &["member 10 at host-a:7005", "connection refused", "`host-a` resolves to 127.0.1.1 on this host"]);
    // The only port for outgoing connections is in use. A machine may not let a test change the ports.
    let lost = Config { join_timeout_ms: 700, ..with(["127.0.0.1:7010", "127.0.0.1:7011"]) };
    if std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "61000 61000").is_ok() {
        let _held = TcpListener::bind("127.0.0.1:61000").unwrap();
        let error = refused(join(&lost, 20));
        says(&error, &["member 10 at 127.0.0.1:7010", "no free port", "`net.ipv4.ip_local_port_range`"]);
    }
    println!("all addresses work");
}

#[test]
fn a_wrong_number_of_members() {
    for n in [0, 65] {
        let mut wrong = config(1);
        wrong.members =
            (0..n).map(|id| Member { id: MemberId(id), address: format!("127.0.0.1:{}", 7000 + id) }).collect();
        let error = refused(join(&wrong, 0));
        assert!(matches!(error, Error::Config(_)), "{error}");
        says(&error, &["`members`", "1 to 64", &n.to_string()]);
    }
    let error = refused(join(&config(2), 30));
    assert!(matches!(error, Error::Config(_)), "{error}");
    says(&error, &["`member` is 30", "2 listed"]);

    let two = config(2);
    let mut three = two.clone();
    three.members.extend(config(1).members.into_iter().map(|m| Member { id: MemberId(30), ..m }));
    let (first, second) = (joining(&two, 10), joining(&three, 20));
    for (member, other, result) in [(10, 20, first.join().unwrap()), (20, 10, second.join().unwrap())] {
        let error = refused(result);
        let named = matches!(&error, Error::Disagreement { member, .. } if member.0 == other);
        assert!(named, "member {member}: {error}");
        says(&error, &["`number of members`", "2", "3"]);
    }
    // The addresses are free again.
    let (first, second) = (joining(&two, 10), joining(&two, 20));
    let _members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
}

#[test]
fn two_processes_with_one_id_and_a_port_in_use() {
    let config = config(2);
    let hasty = Config { join_timeout_ms: 700, ..config.clone() };
    let taken = TcpListener::bind(&config.members[1].address).unwrap();
    let error = refused(join(&hasty, 20));
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    says(&error, &[&config.members[1].address, "uses this port"]);
    drop(taken);

    // While member 10 waits, another process with its id cannot start, and does not disturb it.
    let first = joining(&config, 10);
    while TcpStream::connect(&config.members[0].address).is_err() {}
    let error = refused(join(&hasty, 10));
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    says(&error, &[&config.members[0].address, "running already"]);
    let second = joining(&config, 20);
    let members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
    members.0.send(MAIN, Mode::Safe, b"undisturbed", LONG).unwrap();
    members.0.flush(MAIN, galerna::Copies::All, LONG).unwrap();
}

/// The environment variable that gives the two addresses to a child process with few file descriptors.
const FEW: &str = "GALERNA_BAD_INPUT_FEW";

#[test]
fn want_of_descriptors_is_named() {
    let folder = Folder::new("few");
    let unix = [1, 2].map(|n| format!("unix:{}/{n}", folder.0.display())).join(",");
    let tcp = config(2).members.into_iter().map(|member| member.address).collect::<Vec<_>>().join(",");
    // A dead process has left the first socket file behind.
    drop(std::os::unix::net::UnixListener::bind(folder.0.join("1")).unwrap());
    for addresses in [tcp, unix] {
        let first = addresses.split(',').next().unwrap().to_owned();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["few_descriptors", "--exact", "--nocapture", "--test-threads=1"]).env(FEW, addresses);
        let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Connects to the first address again and again.
        while child.try_wait().unwrap().is_none() {
            match first.strip_prefix("unix:") {
                Some(path) => drop(std::os::unix::net::UnixStream::connect(path)),
                None => drop(TcpStream::connect(&first)),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("there were enough"), "{said}");
    }
}

fn few(addresses: &str) -> Config {
    let members =
        (1..).zip(addresses.split(',')).map(|(n, at)| Member { id: MemberId(10 * n), address: at.to_owned() });
    let kind = if addresses.starts_with("unix:") { FabricKind::Shm } else { FabricKind::Tcp };
    let config = Config::new("few", kind, members.collect());
    Config { ring_bytes: RING_BYTES, ..config }
}

/// Runs in the child process that `want_of_descriptors_is_named` starts; returns at once elsewhere.
#[test]
fn few_descriptors() {
    let Ok(addresses) = std::env::var(FEW) else { return };
    let config = Config { join_timeout_ms: 500, ..few(&addresses) };
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    for free in 0.. {
        let error = refused(join(&config, 10));
        println!("{free} free: {error}");
        if error.to_string().contains("(no connection from it yet)") {
            assert!(free >= 2, "a socket that listens and one that is accepted");
            break;
        }
        says(&error, &["no file descriptor left", "`ulimit -n`"]);
        drop(taken.pop().unwrap());
    }
    println!("there were enough");
}

/// The environment variable that gives the two addresses to a child process without free descriptors.
const FULL: &str = "GALERNA_BAD_INPUT_FULL";

/// A member has no descriptor for the link with a joiner. The joiner cannot know; the member itself says so.
#[test]
fn a_member_without_descriptors_for_a_joiner_says_so() {
    let folder = Folder::new("full");
    let addresses = [1, 2].map(|n| format!("unix:{}/{n}", folder.0.display())).join(",");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["no_descriptors_for_a_joiner", "--exact", "--nocapture", "--test-threads=1"]);
    let (piped, also) = (std::process::Stdio::piped(), std::process::Stdio::piped());
    let child = child.env(FULL, &addresses).stdin(piped).stdout(also).spawn().unwrap();
    let own = format!("unix:{}/3", folder.0.display());
    let joiner = Config { join_timeout_ms: 1000, address: Some(own), ..few(&addresses) };
    let deadline = Instant::now() + LONG;
    let joined = loop {
        assert!(Instant::now() < deadline, "the joiner does not get in");
        if let Ok(group) = join(&joiner, 30) {
            break group;
        }
    };
    let output = child.wait_with_output().unwrap();
    drop(joined);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("its own fault: "), "{said}");
}

/// Runs in the child process that the test above starts; returns at once elsewhere.
#[test]
fn no_descriptors_for_a_joiner() {
    let Ok(addresses) = std::env::var(FULL) else { return };
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 128, 128).unwrap();
    let config = few(&addresses);
    let members = [10, 20].map(|id| joining(&config, id)).map(|thread| thread.join().unwrap().unwrap());
    let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let deadline = Instant::now() + LONG;
    let mut fault = None;
    for step in 1.. {
        assert!(Instant::now() < deadline, "nothing is said");
        fault = fault.or_else(|| members.iter().find_map(|group| group.fault(group.member())));
        if fault.is_some() {
            break;
        }
        // The question needs one descriptor, the call back to the joiner another one, and the link six.
        if step % 150 == 0 {
            drop(taken.pop());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let fault = fault.unwrap();
    assert!(
        fault.contains("this process cannot ") && fault.contains("join") && fault.contains("`ulimit -n`"),
        "{fault}"
    );
    println!("its own fault: {fault}");
    drop(taken);
    // The members stay until the test has joined, or has failed.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn where_to_listen_is_corrected_in_its_own_key() {
    let hasty = Config { join_timeout_ms: 200, ..config(1) };
    for (listen, why) in
        [("192.0.2.1:7001", "not an address of this host"), ("no-such-host.invalid:7001", "cannot be resolved")]
    {
        let error = refused(join(&Config { listen: Some(listen.to_owned()), ..hasty.clone() }, 10));
        says(&error, &[listen, why, "in `listen`"]);
        assert!(!error.to_string().contains("`members`"), "{error}");
        let mut wrong = hasty.clone();
        wrong.members[0].address = listen.to_owned();
        says(&refused(join(&wrong, 10)), &[why, "in `members`"]);
    }
}

#[test]
fn a_message_over_the_limit() {
    let group = join(&config(1), 10).unwrap();
    let limit = group.max_message(MAIN).unwrap();
    assert_eq!(limit, RING_BYTES / 2 - 8);
    let large = vec![7; limit + 1];
    let calls = [
        refused(group.send(MAIN, Mode::Safe, &large, LONG)),
        refused(group.try_send(MAIN, Mode::Safe, &large)),
        refused(group.reserve(MAIN, limit + 1, LONG)),
        refused(group.try_reserve(MAIN, usize::MAX)),
    ];
    for error in &calls {
        assert!(matches!(error, Error::MessageTooLarge { limit: l, .. } if *l == limit), "{error}");
        says(error, &["32760 bytes", "`max_message_bytes`"]);
    }
    says(&calls[0], &["32761 bytes"]);
    let error = refused(group.try_send(SubgroupId(7), Mode::Safe, b"x"));
    assert!(matches!(error, Error::UnknownSubgroup(SubgroupId(7))));
    // No part of the refused messages was sent. A message of exactly the largest size still is.
    group.send(MAIN, Mode::Safe, &large[1..], LONG).unwrap();
    group.leave(LONG).unwrap();
    assert_eq!(group.stats(MAIN).unwrap().messages_sent, 1);
}

/// Returns byte strings that are no handshake, or only a part of one.
fn not_a_handshake() -> [Vec<u8>; 5] {
    [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 5000], noise(777, 4000), vec![0; 64], Vec::new()]
}

#[test]
fn strangers_do_not_hold_up_the_meeting() {
    let config = config(2);
    let first = joining(&config, 10);
    let mut strangers = Vec::new();
    for bytes in not_a_handshake() {
        let mut stranger = loop {
            if let Ok(stream) = TcpStream::connect(&config.members[0].address) {
                break stream;
            }
        };
        // The peer may refuse part of it already.
        let _ = stranger.write_all(&bytes);
        strangers.push(stranger);
    }
    let second = joining(&config, 20);
    let members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
    members.1.send(MAIN, Mode::Safe, b"met", LONG).unwrap();
    members.1.flush(MAIN, galerna::Copies::All, LONG).unwrap();
}

#[test]
fn an_impostor_at_a_members_address() {
    for bytes in not_a_handshake() {
        let mut config = config(2);
        config.join_timeout_ms = 700;
        let impostor = TcpListener::bind(&config.members[0].address).unwrap();
        let answer = bytes.clone();
        let accepting = impostor.try_clone().unwrap();
        // The thread ends when the test's process ends and the listener is shut down.
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(&answer);
            }
        });
        let error = refused(join(&config, 20));
        assert!(matches!(error, Error::Missing { .. } | Error::Refused { .. }), "{error}");
        says(&error, &["member 10", &config.members[0].address]);
    }
}
