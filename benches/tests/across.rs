//! Runs across machines: one command per member, here all on one machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../../engine/tests/common/ports.rs"]
mod ports;

use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn start(flags: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galerna-bench"));
    command.args(flags.split_whitespace()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The flag `--across` with free ports of the loopback interface.
fn across(members: usize) -> String {
    let addresses = ports::free_addresses(std::iter::repeat_n("127.0.0.1", members)).unwrap();
    format!("--across {}", addresses.join(","))
}

/// Runs `flags` as every member, and starts the first member last. Returns the outputs by member.
fn run(flags: &str, members: usize) -> Vec<Output> {
    let across = across(members);
    let mut commands: Vec<_> =
        (1..=members).rev().map(|index| start(&format!("{flags} {across} --index {index}"))).collect();
    commands.reverse();
    commands.into_iter().map(|command| command.wait_with_output().unwrap()).collect()
}

fn json(output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"))
}

fn failed(output: &Output, why: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && err.contains(why), "expected `{why}` in: {err}");
}

#[test]
fn a_cluster_of_three_commands() {
    for flags in ["", "--senders one --rate 5000 --size 16", "--outstanding 10 --drive thread"] {
        let outputs = run(&format!("cluster --fabric tcp --messages 1000 --timeout-s 60 --json {flags}"), 3);
        let whole = json(&outputs[0]);
        assert_eq!((&whole["kind"], whole["members"].as_array().unwrap().len()), (&Value::from("cluster"), 3));
        for (output, member) in outputs[1..].iter().zip(2..) {
            let own = json(output);
            assert_eq!(own["member"], member);
            assert_eq!(own["delivered"], whole["messages"]);
        }
        if flags.contains("--rate") {
            assert_eq!(whole["latency_us"]["samples"], 1000, "of other machines the clocks differ");
        }
    }
}

#[test]
fn a_limit_a_ping_pong_and_an_idle_group() {
    let outputs = run("limit --fabric tcp --messages 1000 --timeout-s 60 --json", 2);
    assert_eq!(json(&outputs[0])["members"].as_array().unwrap().len(), 2);
    assert_eq!(json(&outputs[1])["member"], 2);
    let outputs = run("pingpong --fabric tcp --messages 100 --timeout-s 60 --json", 2);
    assert_eq!(json(&outputs[0])["latency_us"]["samples"], 100);
    let outputs = run("idle --fabric tcp --seconds 1 --json", 2);
    assert_eq!(json(&outputs[0])["rss_mib"].as_array().unwrap().len(), 2);
    assert_eq!(json(&outputs[1])["member"], 2);
}

#[test]
fn as_text_the_others_say_where_the_result_is() {
    let outputs = run("cluster --fabric tcp --messages 100 --timeout-s 60", 2);
    let text = |n: usize| String::from_utf8_lossy(&outputs[n].stdout).into_owned();
    assert!(text(0).contains("safe over tcp, 2 members"), "{}", text(0));
    assert!(text(1).contains("member 2: 200 messages") && text(1).contains("member 1 shows"), "{}", text(1));
}

#[test]
fn commands_that_differ_are_told() {
    let across = across(2);
    let first = start(&format!("cluster --fabric tcp --messages 100 --timeout-s 60 {across} --index 1"));
    let second = start(&format!("cluster --fabric tcp --messages 200 --timeout-s 60 {across} --index 2"));
    failed(&second.wait_with_output().unwrap(), "its --messages is 200, but that of member 1 is 100");
    failed(&first.wait_with_output().unwrap(), "its --messages is 200, but that of member 1 is 100");
}

#[test]
fn a_command_that_does_not_come_is_named() {
    let across = across(3);
    let first = start(&format!("limit --fabric tcp --messages 100 --timeout-s 2 {across} --index 1"));
    let third = start(&format!("limit --fabric tcp --messages 100 --timeout-s 20 {across} --index 3"));
    failed(&first.wait_with_output().unwrap(), "these members are missing: member 2 at 127.0.0.1:");
    failed(&third.wait_with_output().unwrap(), "the command of member 1 has ended the run");
}

#[test]
fn when_one_command_dies_all_end() {
    let across = across(3);
    let flags = "cluster --fabric tcp --messages 100000000 --timeout-s 120";
    let mut commands: Vec<_> = (1..=3).map(|index| start(&format!("{flags} {across} --index {index}"))).collect();
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    commands[2].kill().unwrap();
    for command in commands {
        assert!(!command.wait_with_output().unwrap().status.success());
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |flags: &str, why: &str| failed(&start(flags).wait_with_output().unwrap(), why);
    refused("cluster --fabric tcp --across 127.0.0.1:7001,127.0.0.1:7002", "give --index");
    refused("cluster --fabric tcp --across 240.0.0.1,240.0.0.2", "no --across address belongs to this machine");
    refused(
        "cluster --fabric tcp --across 240.0.0.1,240.0.0.2 --index 3",
        "exceeds the number of --across addresses, 2",
    );
    refused("cluster --fabric tcp --across 240.0.0.1,240.0.0.1:7700 --index 1", "names 240.0.0.1:7700 twice");
    refused("cluster --fabric tcp --across 240.0.0.1 --index 1", "2 to 64 addresses");
    refused("cluster --fabric shm --across 240.0.0.1,240.0.0.2", "on one machine");
    refused("pingpong --fabric tcp --across 240.0.0.1,240.0.0.2,240.0.0.3 --index 1", "two addresses");
    refused("compare --fabric tcp --across 240.0.0.1,240.0.0.2", "one machine");
    refused("failover --fabric tcp --across 240.0.0.1,240.0.0.2", "--across");
}
