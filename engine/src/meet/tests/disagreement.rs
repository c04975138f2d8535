//! Processes that do not belong to one group.

use super::super::check::{difference, our_hello};
use super::super::wire::{Code, Hello, Message};
use super::strangers::{connect, hello_of, read_message};
use super::*;

/// Member 10 runs with `a`, member 11 with `b`; both errors must name the key.
fn both_name(key: &str, a: Config, b: Config) {
    let (first, second) = (start(&a, 0), start(&b, 1));
    let (first, second) = (first.result().unwrap_err(), second.result().unwrap_err());
    let Error::Disagreement { member, key: k, ours, theirs } = &first else { panic!("{first}") };
    assert_eq!((k.as_str(), member.0), (key, b.members[1].id.0));
    let Error::Disagreement { member, key: k, ours: o, theirs: t } = &second else { panic!("{second}") };
    assert_eq!((k.as_str(), member.0), (key, 10));
    assert_eq!((ours, theirs), (t, o), "each other's values");
    assert_ne!(ours, theirs);
}

#[test]
fn on_a_number() {
    let a = tcp(2);
    both_name("ring_bytes", a.clone(), Config { ring_bytes: 8192, max_message_bytes: None, ..a });
}

#[test]
fn on_the_log_which_makes_messages_shorter() {
    let a = tcp(2);
    both_name("log", a.clone(), a.with_log(crate::config::LogConfig::new("logs")));
}

#[test]
fn on_the_member_count() {
    let a = tcp(2);
    let mut b = a.clone();
    b.members.push(Member { id: MemberId(12), address: "127.0.0.1:1".into() });
    both_name("number of members", a, b);
}

#[test]
fn on_the_member_list() {
    let a = tcp(2);
    let mut b = a.clone();
    b.members[1].id = MemberId(77);
    both_name("members[1]", a, b);
}

#[test]
fn on_unix() {
    let dir = Folder::new("meet");
    let a = unix(2, &dir);
    let b = Config { max_message_bytes: Some(100), ..a.clone() };
    let first = Running::<UnixStream>::start(&a, 0, 1, FAR);
    let second = Running::<UnixStream>::start(&b, 1, 2, FAR).result().unwrap_err();
    let first = first.result().unwrap_err();
    for error in [&first, &second] {
        assert!(matches!(error, Error::Disagreement { key, .. } if key == "max_message_bytes"), "{error}");
    }
    assert_eq!(files(&dir), 0);
}

#[test]
fn another_group_is_a_stranger_to_the_one_it_connects_to() {
    let a = tcp(2);
    let b = Config { group: "payments".into(), ..a.clone() };
    // Each error names both groups. The member that only accepts connections reports it after waiting for the other in
    // vain.
    let hasty = Running::<TcpStream>::start(&a, 0, 1, Duration::from_secs(3));
    assert!(matches!(start(&b, 1).result(), Err(Error::Disagreement { .. })));
    let error = hasty.result().unwrap_err().to_string();
    assert!(
        error.contains("member 11") && error.contains("disagrees on `group`: orders here, payments there"),
        "{error}"
    );
    let first = start(&a, 0);
    let error = start(&b, 1).result().unwrap_err();
    assert!(
        matches!(&error, Error::Disagreement { key, ours, theirs, .. }
        if key == "group" && ours == "payments" && theirs == "orders"),
        "{error}"
    );
    all_meet(vec![first, start(&a, 1)]);
}

#[test]
fn two_processes_with_one_id() {
    let config = tcp(3);
    let zero = start(&config, 0);
    // The other process of member 11 connects from elsewhere, where it can listen on the same address.
    let mut stream = connect(&config, 0);
    stream.write_all(&Message::Hello(hello_of(&config, 11, 555)).encode().unwrap()).unwrap();
    assert!(matches!(read_message(&mut stream), Some(Message::Hello(Hello { member: MemberId(10), .. }))));
    stream.write_all(&Message::Accept.encode().unwrap()).unwrap();
    let error = start(&config, 1).result().unwrap_err();
    assert!(
        matches!(&error, Error::Refused { member: MemberId(10), reason }
        if reason.contains("member 11 is already connected")),
        "{error}"
    );
    // When the first process is gone, another one can take its place.
    drop(stream);
    check(vec![zero, start(&config, 1), start(&config, 2)].into_iter().map(|r| r.result().unwrap()).collect());
}

#[test]
fn ids_that_should_not_connect() {
    let config = tcp(3);
    let one = start(&config, 1);
    for id in [10, 11, 99] {
        let mut stream = connect(&config, 1);
        stream.write_all(&Message::Hello(hello_of(&config, id, 1)).encode().unwrap()).unwrap();
        let Some(Message::Refuse(refuse)) = read_message(&mut stream) else { panic!("not refused") };
        assert_eq!(refuse.code, Code::Unexpected);
        assert_eq!(refuse.member, MemberId(11));
    }
    check(vec![start(&config, 0), one, start(&config, 2)].into_iter().map(|r| r.result().unwrap()).collect());
}

#[test]
fn another_member_answers() {
    let config = tcp(3);
    let listener = TcpListener::bind(&config.members[0].address).unwrap();
    let one = start(&config, 1);
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(read_message(&mut stream), Some(Message::Hello(_))));
    stream.write_all(&Message::Hello(our_hello(&config, MemberId(12), 5)).encode().unwrap()).unwrap();
    assert!(matches!(read_message(&mut stream), Some(Message::Refuse(r)) if r.code == Code::Unexpected));
    drop(stream);
    let error = one.result().unwrap_err();
    assert!(
        matches!(&error, Error::Refused { member: MemberId(10), reason }
        if reason.contains("member 12 answers")),
        "{error}"
    );
}

#[test]
fn another_version_listens() {
    let config = tcp(2);
    let listener = TcpListener::bind(&config.members[0].address).unwrap();
    let one = start(&config, 1);
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Message::Hello(hello_of(&config, 10, 5)).encode().unwrap();
    bytes[8] = 9;
    stream.write_all(&bytes).unwrap();
    read_message(&mut stream);
    drop(stream);
    let error = one.result().unwrap_err().to_string();
    assert!(error.contains("protocol version 9, this process 3"), "{error}");
}

#[test]
fn first_difference() {
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
    let a = pairs(&[("x", "1"), ("y", "2")]);
    assert_eq!(difference(&a, &a), None);
    let found = |b: &[(&str, &str)]| difference(&a, &pairs(b)).unwrap();
    assert_eq!(found(&[("x", "1")]), ("y".into(), "2".into(), "(not set)".into()));
    assert_eq!(found(&[("x", "1"), ("y", "2"), ("z", "3")]), ("z".into(), "(not set)".into(), "3".into()));
    assert_eq!(found(&[("y", "3"), ("x", "1")]), ("y".into(), "2".into(), "3".into()));
}
