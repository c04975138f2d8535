//! Every subcommand on RDMA.
//!
//! `soft-roce/run` sets `GALERNA_RDMA_HOSTS`, the addresses of the devices. Without it the tests report that they are
//! skipped, or fail if `GALERNA_REQUIRE_RDMA` is set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use serde_json::Value;
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

fn hosts() -> Option<Vec<String>> {
    let Ok(hosts) = std::env::var("GALERNA_RDMA_HOSTS") else {
        assert!(std::env::var_os("GALERNA_REQUIRE_RDMA").is_none(), "GALERNA_RDMA_HOSTS names no address");
        let text = b"SKIPPED: the benchmarks on RDMA: set GALERNA_RDMA_HOSTS, or run them by soft-roce/run\n";
        std::io::stderr().write_all(text).unwrap();
        return None;
    };
    Some(hosts.split_whitespace().map(str::to_owned).collect())
}

fn start(flags: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galerna-bench"));
    command.args(flags.split_whitespace()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn json(flags: &str, output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{flags}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{flags}: {e}: {out}{err}"))
}

/// Runs one benchmark, on all devices in turn.
///
/// A software device is slow on few processors, so the timeout is long: no packet may be sent again while none is lost.
fn run(command: &str, hosts: &[String], flags: &str) -> Value {
    let hosts = hosts.join(",");
    let flags = format!("{command} --fabric verbs --hosts {hosts} --verbs timeout=18 --json {flags}");
    json(&flags, &start(&flags).wait_with_output().unwrap())
}

#[test]
fn every_command_runs_on_rdma() {
    let Some(hosts) = hosts() else { return };
    for flags in ["--size 100 --messages 1000", "--size 70000 --messages 50 --senders one --drive thread"] {
        let found = run("cluster", &hosts, flags);
        for figure in ["work_requests_per_message", "doorbells_per_message_and_peer"] {
            assert!(found[figure].as_f64().is_some_and(|count| count > 0.0), "{figure} in {found}");
        }
    }
    for flags in ["--members 2 --senders one --size 1500000 --messages 10", "--size 100 --messages 1000"] {
        let found = run("limit", &hosts, flags);
        assert!(found["doorbells_per_message"].as_f64().is_some_and(|count| count > 0.0), "{found}");
    }
    for size in [8, 100, 5000] {
        let found = run("pingpong", &hosts, &format!("--messages 100 --size {size}"));
        assert_eq!(found["latency_us"]["samples"], 100);
    }
    run("idle", &hosts, "--seconds 1");
    run("failover", &hosts, "--kills 1 --rate 200");
    run("join", &hosts, "--joins 1 --state 100000 --rate 100");
}

/// With 1000 messages outstanding, the requests of many messages are posted together.
#[test]
fn many_messages_share_a_doorbell() {
    let Some(hosts) = hosts() else { return };
    let found = run("cluster", &hosts, "--size 100 --messages 10000 --outstanding 1000");
    for figure in ["work_requests_per_message_and_peer", "doorbells_per_message_and_peer"] {
        assert!(found[figure].as_f64().is_some_and(|count| count <= 0.2), "{figure} in {found}");
    }
}

#[test]
fn a_command_on_each_host() {
    let Some(hosts) = hosts() else { return };
    let flags = format!("cluster --fabric verbs --across {} --messages 500 --timeout-s 60 --json", hosts.join(","));
    let commands: Vec<_> = (1..=hosts.len()).map(|index| start(&format!("{flags} --index {index}"))).collect();
    let outputs: Vec<_> = commands.into_iter().map(|command| command.wait_with_output().unwrap()).collect();
    assert_eq!(json(&flags, &outputs[0])["members"].as_array().unwrap().len(), hosts.len());
    for (output, member) in outputs[1..].iter().zip(2..) {
        assert_eq!(json(&flags, output)["member"], member);
    }
}
