//! The command line: every subcommand on both fabrics, and the flags that are refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use serde_json::Value;
use std::process::{Command, Output};

fn bench(flags: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galerna-bench"));
    command.args(flags.split_whitespace()).output().unwrap()
}

/// The output of `flags --json`: one object.
fn json(flags: &str) -> Value {
    let output = bench(&format!("{flags} --json"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{flags}: {err}");
    let value: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{flags}: {e}: {out}"));
    assert!(value.is_object(), "{flags}: {out}");
    value
}

fn has_numbers(value: &Value, fields: &[&str]) {
    for field in fields {
        let at = field.split('.').fold(value, |v, key| &v[key]);
        assert!(at.as_f64().is_some_and(f64::is_finite), "`{field}` is {at} in {value}");
    }
}

fn refused(flags: &str, why: &str) {
    let output = bench(flags);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{flags} is not refused");
    assert!(err.contains(why), "{flags}: expected `{why}` in: {err}");
}

const COMMON: [&str; 6] =
    ["messages", "seconds", "messages_per_second", "megabytes_per_second", "cpu_us_per_message", "cpu_cores"];

fn cluster(fabric: &str) {
    for flags in [
        "--members 3 --size 100 --messages 2000",
        "--members 2 --size 70000 --messages 100 --senders one --drive thread --mode ordered",
        "--members 3 --size 8 --messages 500 --senders half --mode fifo --burst 7 --ring-bytes 65536",
        "--members 1 --size 0 --messages 100 --warmup 0",
        "--members 2 --size 1500000 --messages 10 --busy-poll --spin-us 0",
    ] {
        let run = json(&format!("cluster --fabric {fabric} --timeout-s 60 {flags}"));
        assert_eq!(run["kind"], "cluster");
        has_numbers(&run, &COMMON);
        has_numbers(&run, &["rss_peak_mib", "counters.sleeps", "counters.passes", "counters.nulls_sent"]);
        has_numbers(&run, &["messages_per_batch_sent", "messages_per_batch_delivered"]);
        let members = run["members"].as_array().unwrap();
        for member in members {
            assert_eq!(member["delivered"], run["messages"]);
            has_numbers(member, &["seconds", "cpu_us_per_message", "rss_peak_mib"]);
        }
        if run["flags"]["size"].as_u64() >= Some(8) {
            has_numbers(&run, &["latency_us.p50", "latency_us.p99_9", "latency_us.max"]);
        }
        if members.len() > 1 {
            has_numbers(&run, &["wire_bytes_per_payload_byte"]);
        }
    }
}

#[test]
fn cluster_over_shm() {
    cluster("shm");
}

#[test]
fn cluster_over_tcp() {
    cluster("tcp");
}

#[test]
fn an_open_loop_times_every_message_at_every_member() {
    for drive in ["dispatch", "thread"] {
        let flags = format!("cluster --fabric shm --size 16 --messages 200 --rate 4000 --senders one --drive {drive}");
        let run = json(&flags);
        assert_eq!(run["latency_us"]["samples"], 600);
        assert_eq!(run["latency_from_commit_us"]["samples"], 600);
    }
}

#[test]
fn messages_outstanding_are_bounded() {
    for drive in ["dispatch", "thread"] {
        let run = json(&format!("cluster --fabric tcp --messages 500 --outstanding 1 --drive {drive}"));
        assert_eq!(run["messages_per_batch_sent"], 1.0);
        assert_eq!(run["work_requests_per_message"], Value::Null, "tcp has none");
        json(&format!("cluster --fabric shm --messages 500 --outstanding 50 --senders one --drive {drive}"));
    }
}

#[test]
fn limits_and_round_trips() {
    for fabric in ["shm", "tcp"] {
        for senders in ["all", "one"] {
            let run = json(&format!("limit --fabric {fabric} --messages 3000 --size 100 --senders {senders}"));
            assert_eq!(run["kind"], "limit");
            has_numbers(&run, &COMMON);
        }
        for flags in ["--messages 200", "--messages 200 --spin --rate 5000 --size 3000"] {
            let run = json(&format!("pingpong --fabric {fabric} {flags}"));
            assert_eq!(run["latency_us"]["samples"], 200);
            has_numbers(&run, &["latency_us.p50", "latency_us.p99", "cpu_us_per_message"]);
        }
    }
}

#[test]
fn an_idle_group() {
    for fabric in ["shm", "tcp"] {
        let run = json(&format!("idle --fabric {fabric} --seconds 1"));
        has_numbers(&run, &["cpu_percent", "rings_mib_per_member", "passes", "sleeps"]);
        assert_eq!(run["rss_mib"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn failovers() {
    for fabric in ["shm", "tcp"] {
        for (victim, flags) in [("follower", "--warmup-ms 50"), ("leader", "--members 4 --rate 2000 --size 1000")] {
            let run = json(&format!("failover --fabric {fabric} --kills 2 --victim {victim} {flags}"));
            assert_eq!((&run["kind"], run["kills"].as_u64()), (&Value::from("failover"), Some(2)));
            let survivors = 2 * (run["flags"]["members"].as_u64().unwrap() - 1);
            for figure in ["detection_us", "installation_us", "gap_us", "next_delivery_us", "back_us"] {
                has_numbers(&run[figure], &["median", "p99", "min", "max"]);
                assert_eq!(run[figure]["samples"].as_u64(), Some(survivors), "{figure}");
            }
            let notices = run["notices"].as_object().unwrap();
            assert_eq!(notices.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), survivors);
        }
    }
}

#[test]
fn a_failover_as_text() {
    let output = bench("failover --fabric shm --kills 1 --warmup-ms 20");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    for part in ["1 kills of the follower over shm, 3 members", "median", "detection", "gap", "first notices: "] {
        assert!(out.contains(part), "`{part}` is missing in: {out}");
    }
    assert!(err.contains("1 of 1 kills"), "{err}");
}

#[test]
fn joins() {
    for fabric in ["shm", "tcp"] {
        let run = json(&format!("join --fabric {fabric} --state 3000000 --joins 2 --rate 500"));
        assert_eq!((&run["kind"], run["joins"].as_u64()), (&Value::from("join"), Some(2)));
        for (figure, samples) in [
            ("join_ms", 2),
            ("delivery_pause_ms.during", 6),
            ("delivery_pause_ms.before", 6),
            ("send_wait_ms.during", 6),
            ("send_wait_ms.before", 6),
        ] {
            let spread = figure.split('.').fold(&run, |value, key| &value[key]);
            has_numbers(spread, &["median", "min", "max"]);
            assert_eq!(spread["samples"].as_u64(), Some(samples), "{figure}");
        }
        has_numbers(&run, &["megabytes_per_second"]);
        assert_eq!(run["each"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_join_as_text() {
    let output = bench("join --fabric shm --state 0 --joins 1 --members 1 --size 0");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    for part in ["1 joins with a state of 0 bytes over shm, 1 founders", "median", "longest pause", "longest wait"] {
        assert!(out.contains(part), "`{part}` is missing in: {out}");
    }
    assert!(err.contains("1 of 1 joins"), "{err}");
    let help = bench("join --help");
    assert!(String::from_utf8_lossy(&help.stdout).contains("--state <BYTES>"));
}

#[test]
fn logs() {
    for (flags, records) in [
        ("--size 4096 --records 100 --batch 10", 100),
        ("--size 70000 --records 20", 28),
        ("--size 100 --appenders 8 --records 80", 80),
    ] {
        let run = json(&format!("log {flags} --dir {}", env!("CARGO_TARGET_TMPDIR")));
        assert_eq!((&run["kind"], run["records"].as_u64()), (&Value::from("log"), Some(records)));
        has_numbers(&run, &["ratio_median", "ratio_min", "ratio_max", "records_per_sync"]);
        has_numbers(&run, &["latency_p50_ratio.median", "latency_p99_ratio.median", "raw.records_per_second.median"]);
        has_numbers(&run, &["log.records_per_second.median", "log.latency_us.p50", "raw.latency_us.p99"]);
        assert_eq!(run["pairs"].as_array().unwrap().len(), 9);
        assert_eq!(run["log"]["syncs"]["median"], run["raw"]["syncs"]["median"]);
    }
    let output = bench(&format!("log --records 64 --batch 8 --pairs 5 --dir {}", env!("CARGO_TARGET_TMPDIR")));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    for part in ["64 records of 4096 bytes", "batches of 8", "pair 5: ", "records per sync", "rate, log/raw: median"] {
        assert!(out.contains(part), "`{part}` is missing in: {out}");
    }
}

#[test]
fn groups_with_logs() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let run = json(&format!("durable --size 100 --messages 200 --probes 5 --dir {dir}"));
    assert_eq!((&run["kind"], run["messages"].as_u64()), (&Value::from("durable"), Some(600)));
    has_numbers(&run, &["ratio_median", "ratio_min", "ratio_max", "latency_ratio_median", "records_per_sync.median"]);
    has_numbers(&run, &["group.messages_per_second.median", "raw.messages_per_second.median", "group.latency_us.p50"]);
    let pairs = run["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 5);
    // Every log contains every message, and each message waited for a sync.
    assert!(
        pairs.iter().all(|pair| pair["records"].as_u64() >= Some(1800) && pair["syncs"].as_u64() >= Some(3)),
        "{run}"
    );
    let output = bench(&format!("durable --members 1 --messages 20 --probes 5 --dir {dir}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("rate, group/raw: median"), "{out}{err}");
}

#[test]
fn restarts() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let run = json(&format!("restart --bytes 1000000 --fill-size 4096 --size 100 --restarts 2 --dir {dir}"));
    assert_eq!((&run["kind"], run["bytes_per_member"].as_u64()), (&Value::from("restart"), Some(1_007_616)));
    has_numbers(&run, &["ratio_median", "ratio_min", "ratio_max", "restart_ms.median", "raw_ms.median"]);
    has_numbers(&run, &["read_bytes_per_member.median", "raw_bytes_per_member.median"]);
    let told = run["restarts"][0]["told_again_per_member"].as_f64().unwrap();
    // Only the messages sent after the checkpoint are delivered again, out of 246.
    assert!((12.0..246.0).contains(&told), "{run}");
    let output = bench(&format!("restart --bytes 8 --fill-size 8 --members 1 --restarts 1 --dir {dir}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("restart [ms]: median"), "{out}{err}");
}

#[test]
fn comparisons() {
    let exe = env!("CARGO_BIN_EXE_galerna-bench");
    for flags in [
        "--fabric shm --messages 500 --against limit".to_owned(),
        "--fabric tcp --messages 500".to_owned(),
        "--fabric shm --messages 500 --against-fabric tcp".to_owned(),
        "--fabric shm --messages 500 --with --mode=fifo".to_owned(),
        format!("--fabric shm --messages 500 --against BINARY:{exe}"),
        "--fabric tcp --messages 100 --rate 2000 --senders one --against pingpong".to_owned(),
    ] {
        let run = json(&format!("compare {flags}"));
        has_numbers(&run, &["ratio_median", "ratio_min", "ratio_max", "a.median", "b.median"]);
        has_numbers(&run, &["cpu_ratio_median"]);
        assert_eq!(run["ratios"].as_array().unwrap().len(), 5);
        assert_eq!(run["b"]["runs"].as_array().unwrap().len(), 5);
    }
}

#[test]
fn bad_flags_are_refused() {
    refused("cluster --fabric carrier-pigeon", "carrier-pigeon");
    refused("cluster", "--fabric");
    refused("cluster --fabric shm --members 0", "1..=64");
    refused("cluster --fabric shm --members 65", "1..=64");
    refused("cluster --fabric shm --size 2097145", "over the limit of 2097144 bytes");
    refused("cluster --fabric shm --ring-bytes 5000", "power of two");
    refused("cluster --fabric shm --rate 10 --size 15", "--size 16 or more");
    refused("cluster --fabric shm --outstanding 0", "1..");
    refused("cluster --fabric shm --outstanding 5 --rate 100", "--rate");
    refused("cluster --fabric tcp --device mlx5_0", "--fabric verbs");
    refused("cluster --fabric tcp --hosts here", "invalid IP address");
    refused("cluster --fabric verbs --verbs mtus=1", "unknown field `mtus`");
    refused("cluster --fabric verbs --verbs mtu=1", "`verbs.mtu`");
    refused("cluster --fabric verbs --verbs mtu", "KEY=VALUE");
    refused("limit --fabric verbs --device no-such-device", "RDMA");
    refused("limit --fabric shm --size 5000000", "--ring-bytes");
    refused("limit --fabric verbs --size 5000000", "--ring-bytes");
    refused("failover --fabric shm --members 2", "3..=64");
    refused("failover --fabric shm --kills 0", "1..=");
    refused("failover --fabric shm --victim bystander", "leader");
    refused("failover --fabric shm --size 2097145", "`max_message_bytes`");
    refused("join --members 64", "1..=63");
    refused("join --joins 0", "1..=");
    refused("join --state much", "--state <BYTES>");
    refused("join --size 2097145", "`max_message_bytes`");
    refused("log --pairs 4", "5..=");
    refused("log --size 0", "1..=");
    refused("log --batch 5 --appenders 5", "--appenders");
    refused("log --size 33554432 --batch 1000", "a batch of 33554432000 bytes");
    refused("log --dir /does/not/exist", "cannot make");
    refused("durable --pairs 4", "5..=");
    refused("durable --dir /does/not/exist", "cannot make");
    refused("restart --size 7", "8..=");
    refused("compare --fabric shm --pairs 4", "5..=");
    refused("compare --fabric shm --against nothing", "BINARY:PATH");
    refused("compare --fabric shm --against cluster", "both sides");
    refused("compare --fabric shm --against limit --metric latency", "no latency");
    refused("compare --fabric shm --against BINARY:/does/not/exist", "cannot run");
    refused("member", "");
}

#[test]
fn a_deadline_names_the_late() {
    refused("cluster --fabric shm --messages 1000000000 --timeout-s 1", "did not become ready: member 1");
}

/// On any machine the report is one object, and the exit status shows whether a device can be used.
#[test]
fn devices_are_listed_or_what_is_missing_is_said() {
    let output = bench("devices --json");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    assert_eq!(report["kind"], "devices");
    assert_eq!(report["would_use"].is_object(), output.status.success(), "{out}");
    assert_eq!(report["why_none"].is_string(), !output.status.success(), "{out}");
    if !output.status.success() {
        assert!(err.contains("RDMA") && err.contains(report["why_none"].as_str().unwrap()), "{err}");
    }
    refused("devices --port 0", "0 is not in 1..=255");
    refused("devices --device no-such-device", "RDMA");
}
