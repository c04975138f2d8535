//! Builds `examples/c` with their Makefiles and runs them: all processes must end with the same history or value.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "../../engine/tests/common/ports.rs"]
mod ports;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn example(name: &str) -> PathBuf {
    support::root().join("examples/c").join(name)
}

fn have_make() -> bool {
    let mut probe = Command::new("make");
    probe.arg("--version");
    support::have("make", probe)
}

/// Builds the program of an example in a directory of the test.
fn build(name: &str, folder: &Path) -> PathBuf {
    let mut make = Command::new("make");
    make.arg("-C").arg(example(name)).arg("--always-make");
    make.arg(format!("GALERNA_LIB={}", support::library().display()));
    make.arg(format!("OUT={}", folder.display()));
    support::succeed(make);
    folder.join(name)
}

/// Writes a configuration with free addresses.
fn configuration(fabric: &str, members: usize, folder: &Path) -> PathBuf {
    let free = ports::free_addresses(std::iter::repeat_n("127.0.0.1", members)).unwrap();
    let address = |i: usize| match fabric {
        "tcp" => free[i].clone(),
        _ => {
            let test = folder.file_name().unwrap().display();
            let name = format!("galerna-{test}-{}-{i}.sock", std::process::id());
            format!("unix:{}", std::env::temp_dir().join(name).display())
        }
    };
    let list = (0..members).map(|i| format!("[[members]]\nid = {}\naddress = \"{}\"\n", i + 1, address(i)));
    // With these timeouts no member is suspected because the machine is busy. A process that ends is noticed anyway.
    let timeouts = "failure_timeout_ms = 30000\npartition_timeout_ms = 30000";
    let list: String = list.collect();
    let text = format!("group = \"example\"\nfabric = \"{fabric}\"\nring_bytes = 16384\n{timeouts}\n{list}");
    let path = folder.join(format!("{fabric}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns the output of a member, which must succeed.
fn printed(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Returns the history that each member of the line store writes.
fn replicate(fabric: &str, members: usize, lines: &str) -> Vec<String> {
    let folder = support::scratch(&format!("replicate-{fabric}-{members}"));
    let program = build("replicate", &folder);
    let config = configuration(fabric, members, &folder);
    let file = folder.join("lines");
    std::fs::write(&file, lines).unwrap();
    let started: Vec<_> =
        (1..=members).map(|id| start(Command::new(&program).arg(&config).arg(id.to_string()).arg(&file))).collect();
    started.into_iter().map(|child| printed(&child.wait_with_output().unwrap())).collect()
}

/// Runs an example's script, which starts three members, and checks that they print the same.
fn script(name: &str, arguments: &[&str]) -> String {
    let folder = support::scratch(&format!("{name}-script"));
    let mut script = Command::new(example(name).join("run.sh"));
    script.env(name.to_uppercase(), build(name, &folder)).current_dir(example(name));
    script.arg(configuration("shm", 3, &folder)).args(arguments);
    let text = String::from_utf8(support::succeed(script).stdout).unwrap();
    let printed: Vec<_> = text.lines().collect();
    assert_eq!(printed.len(), 3, "{text}");
    assert!(printed.iter().all(|p| p == &printed[0]), "{text}");
    printed[0].to_owned()
}

fn three_agree(fabric: &str) {
    if !have_make() {
        return;
    }
    let lines: String = (0..3000).map(|i| format!("{}{i}\n", "line ".repeat(i % 50))).collect();
    let printed = replicate(fabric, 3, &lines);
    assert_eq!(printed[0].lines().count(), 3000);
    assert!(printed.iter().all(|p| p == &printed[0]), "the histories differ");
}

#[test]
fn three_line_stores_agree_on_tcp() {
    three_agree("tcp");
}

#[test]
fn three_line_stores_agree_on_shm() {
    three_agree("shm");
}

#[test]
fn the_history_is_senders_and_lines() {
    if !have_make() {
        return;
    }
    let history = replicate("shm", 1, "hello\n\nno newline");
    assert_eq!(history, ["\x01\0\0\0hello\n\x01\0\0\0\n\x01\0\0\0no newline\n"]);
}

#[test]
fn the_three_line_stores_of_the_script_agree() {
    if have_make() {
        script("replicate", &["replicate.c"]);
    }
}

/// Starts three counters.
fn counters(test: &str, fabric: &str, options: &[&str]) -> Vec<Child> {
    let folder = support::scratch(&format!("counter-{test}-{fabric}"));
    let program = build("counter", &folder);
    let config = configuration(fabric, 3, &folder);
    (1..=3).map(|id| start(Command::new(&program).args(options).arg(&config).arg(id.to_string()))).collect()
}

#[test]
fn three_counters_agree() {
    if !have_make() {
        return;
    }
    for fabric in ["tcp", "shm"] {
        let started = counters("agree", fabric, &[]);
        let values: Vec<_> = started.into_iter().map(|child| printed(&child.wait_with_output().unwrap())).collect();
        assert_eq!(values, ["3000\n"; 3]);
    }
    assert_eq!(script("counter", &["--increments", "7"]), "21");
}

#[test]
fn the_counters_that_are_left_agree_when_one_is_killed() {
    if !have_make() {
        return;
    }
    for fabric in ["tcp", "shm"] {
        let mut started = counters("killed", fabric, &["--increments", "300", "--pause", "5"]);
        let mut victim = started.remove(1);
        let first = BufReader::new(victim.stderr.take().unwrap()).lines().next().unwrap().unwrap();
        assert_eq!(first, "view 0; members 1 2 3; joined 1 2 3");
        std::thread::sleep(Duration::from_millis(300));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let outputs: Vec<_> = started.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let values: Vec<u64> = outputs.iter().map(|output| printed(output).trim().parse().unwrap()).collect();
        assert_eq!(values[0], values[1]);
        assert!((600..900).contains(&values[0]), "{values:?}");
        for output in outputs {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("view 1; members 1 3; failed 2\nmember 2: "), "{said}");
        }
    }
}

#[test]
fn a_counter_that_joins_late_has_the_value_of_the_others() {
    if !have_make() {
        return;
    }
    for fabric in ["tcp", "shm"] {
        let mut started = counters("late", fabric, &["--increments", "400", "--pause", "10"]);
        let mut said = BufReader::new(started[0].stderr.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "view 0; members 1 2 3; joined 1 2 3");
        std::thread::sleep(Duration::from_millis(300));
        let folder = support::scratch(&format!("counter-joiner-{fabric}"));
        let address = match fabric {
            "tcp" => ports::free_addresses(["127.0.0.1"].into_iter()).unwrap().remove(0),
            _ => {
                let name = format!("galerna-counter-four-{}.sock", std::process::id());
                format!("unix:{}", std::env::temp_dir().join(name).display())
            }
        };
        let program = build("counter", &folder);
        let config = support::scratch(&format!("counter-late-{fabric}")).join(format!("{fabric}.toml"));
        let mut joiner = Command::new(&program);
        joiner.args(["--increments", "5", "--join", &address]).arg(config).arg("4");
        started.push(start(&mut joiner));
        let joined = said.next().unwrap().unwrap();
        assert_eq!(joined, "view 1; members 1 2 3 4; joined 4");
        // Read the rest of its output; otherwise the process would block when it writes.
        let reader = std::thread::spawn(move || said.map_while(Result::ok).count());
        let values: Vec<_> = started.into_iter().map(|child| printed(&child.wait_with_output().unwrap())).collect();
        assert_eq!(values, ["1205\n"; 4]);
        reader.join().unwrap();
    }
}

#[test]
fn the_counter_says_what_is_wrong() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("counter-wrong");
    let program = build("counter", &folder);
    let config = configuration("shm", 1, &folder);
    let config = config.to_str().unwrap();
    let said = |arguments: &[&str], status: i32| {
        let output = Command::new(&program).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(said(&["--help"], 0).contains("--join ADDRESS"));
    for (arguments, status, part) in [
        (&[][..], 2, "CONFIG.toml MEMBER"),
        (&[config], 2, "--help"),
        (&["--increment=x", config, "1"], 2, "x: not a number of increments"),
        (&["--pause", "-1", config, "1"], 2, "-1: not a number of milliseconds"),
        (&["--nonsense", config, "1"], 2, "--nonsense"),
        (&["--join", "a\"b", config, "1"], 2, "not an address"),
        (&[config, "one"], 2, "one: not the id of a member"),
        (&[config, "4294967296"], 2, "not the id of a member"),
        (&["nowhere.toml", "1"], 1, "nowhere.toml"),
        (&["--join", "unix:/tmp/x.sock", "nowhere.toml", "4"], 1, "nowhere.toml"),
        (&[config, "9"], 1, "`member` is 9"),
    ] {
        let text = said(arguments, status);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    assert_eq!(said(&["--increments", "0", config, "1"], 0), "0\nview 0; members 1; joined 1\n");
}

/// Runs the line log with this standard input. Returns its output, or its error text if it fails with status 1.
fn line_log(program: &Path, directory: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    let mut child = start(command.arg(directory).args(arguments).stdin(Stdio::piped()));
    // A program that fails does not read its input, so an error is ignored here.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        code => {
            assert_eq!(code, Some(1), "{output:?}");
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }
}

/// Returns the path of a directory that does not exist.
fn no_directory(folder: &Path) -> PathBuf {
    let directory = folder.join("lines.log");
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

#[test]
fn the_line_log_finds_its_lines_again() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("log-lines");
    let (program, directory) = (build("log", &folder), no_directory(&folder));
    let run = |arguments: &[&str], input: &str| line_log(&program, &directory, arguments, input);
    assert!(run(&["list"], "").unwrap_err().contains("lines.log"));
    assert_eq!(run(&["append"], "deposit 100\n\nwithdraw 30").unwrap(), "3\n");
    let before = run(&["list"], "").unwrap();
    // After a restart the earlier lines are still there.
    assert_eq!(run(&["append"], "deposit 5\n").unwrap(), "4\n");
    let all = run(&["list"], "").unwrap();
    assert!(all.starts_with(&before), "{all}");
    let lines: Vec<Vec<&str>> = all.lines().map(|line| line.splitn(3, ' ').collect()).collect();
    let texts: Vec<_> = lines.iter().map(|line| (line[0], line[2])).collect();
    assert_eq!(texts, [("1", "deposit 100"), ("2", ""), ("3", "withdraw 30"), ("4", "deposit 5")]);
    let third = all.lines().nth(2).unwrap();
    assert_eq!(run(&["get", "3"], "").unwrap().trim_end(), third);
    let times: Vec<u64> = lines.iter().map(|line| line[1].parse().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    for time in [times[2], times[3] - 1] {
        assert_eq!(run(&["at", &time.to_string()], "").unwrap().trim_end(), third);
    }
    assert_eq!(run(&["list", "4"], "").unwrap().trim_end(), all.lines().nth(3).unwrap());
    for (arguments, part) in [
        (["get", "5"], "no line"),
        (["at", "1"], "no line"),
        (["get", "one"], "not a version"),
        (["at", "-1"], "not a time"),
    ] {
        let text = run(&arguments, "").unwrap_err();
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    // Only whole segments are trimmed, and this log has one segment.
    assert_eq!(run(&["trim", "4"], "").unwrap(), "");
    assert_eq!(run(&["list"], "").unwrap(), all);
}

#[test]
fn the_line_log_has_one_writer_and_any_number_of_readers() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("log-locked");
    let (program, directory) = (build("log", &folder), no_directory(&folder));
    let run = |arguments: &[&str], input: &str| line_log(&program, &directory, arguments, input);
    run(&["append"], "first\n").unwrap();
    let mut writer = start(Command::new(&program).arg(&directory).arg("append").stdin(Stdio::piped()));
    // The writer holds the lock as soon as an append by another process is refused.
    let refused = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        run(&["append"], "").err()
    });
    assert!(refused.unwrap().contains("open for writing already"));
    assert!(run(&["list"], "").unwrap().ends_with(" first\n"));
    writer.stdin.take().unwrap().write_all(b"second\n").unwrap();
    assert_eq!(printed(&writer.wait_with_output().unwrap()), "2\n");
    assert!(run(&["get", "2"], "").unwrap().ends_with(" second\n"));
}

#[test]
fn the_line_log_of_the_script_holds_the_file() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("log-script");
    let file = folder.join("lines");
    let lines: Vec<String> = (0..30_000).map(|i| format!("{}{i}", "line ".repeat(i % 20))).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (program, directory) = (build("log", &folder), no_directory(&folder));
    let mut script = Command::new(example("log").join("run.sh"));
    script.env("LOG", &program).arg(&directory).arg(&file);
    let text = String::from_utf8(support::succeed(script).stdout).unwrap();
    let kept: Vec<_> = text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    assert!(kept == lines, "{} of {} lines", kept.len(), lines.len());
    // The first segments are full, so they can be trimmed.
    let run = |arguments: &[&str]| line_log(&program, &directory, arguments, "");
    assert_eq!(run(&["trim", "29999"]).unwrap(), "");
    assert!(run(&["get", "1"]).unwrap_err().contains("trimmed"));
    assert!(run(&["get", "30000"]).unwrap().ends_with(&format!(" {}\n", lines[29_999])));
}

/// Adds a log to a configuration. The log is in the directory in which a member is started.
fn with_log(config: &Path) {
    let mut text = std::fs::read_to_string(config).unwrap();
    text += "[log]\ndirectory = \"logs\"\nsegment_bytes = 4194304\nrestart_wait_ms = 60000\n";
    std::fs::write(config, text.replace("group =", "join_timeout_ms = 60000\ngroup =")).unwrap();
}

#[test]
fn the_durable_maps_of_the_script_outlive_their_members() {
    if !have_make() {
        return;
    }
    for fabric in ["shm", "tcp"] {
        let folder = support::scratch(&format!("durable_map-script-{fabric}"));
        let config = configuration(fabric, 3, &folder);
        with_log(&config);
        let mut script = Command::new(example("durable_map").join("run.sh"));
        script.env("DURABLE_MAP", build("durable_map", &folder)).env("TMPDIR", &folder).arg(config).arg("4");
        let text = String::from_utf8(support::succeed(script).stdout).unwrap();
        assert_eq!(text.matches("survived the kill of all members; the 3 maps of").count(), 4, "{text}");
        let left = std::fs::read_dir(&folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(left.count(), 0);
    }
}

/// Starts the only member of a durable map, in the directory of its configuration.
fn durable_map(program: &Path, config: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(program);
    command.arg(config).arg("1").current_dir(config.parent().unwrap());
    let mut child = start(command.stdin(Stdio::piped()));
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

#[test]
fn a_durable_map_answers_and_outlives_a_kill() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("durable_map-alone");
    let _ = std::fs::remove_dir_all(folder.join("logs"));
    let program = build("durable_map", &folder);
    let config = configuration("shm", 1, &folder);
    let usage = Command::new(&program).arg(&config).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let (mut child, _) = durable_map(&program, &config);
    child.stdin.take().unwrap().write_all(b"put a b\n").unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(text.contains("without a log"), "{text}");
    with_log(&config);
    for life in 0..3 {
        let (mut child, mut said) = durable_map(&program, &config);
        let mut ask = |command: &str, lines: usize| {
            writeln!(child.stdin.as_mut().unwrap(), "{command}").unwrap();
            let mut text = String::new();
            (0..lines).for_each(|_| assert!(said.read_line(&mut text).unwrap() > 0));
            text
        };
        let before = ask("get life", 1);
        assert_eq!(before, if life == 0 { "none life\n".to_owned() } else { format!("life number {}\n", life - 1) });
        assert_eq!(ask(&format!("put life number {life}"), 1), "ok life\n");
        assert_eq!(ask("put fixed star", 1), "ok fixed\n");
        if life == 1 {
            assert!(ask("checkpoint", 1).starts_with("checkpoint "));
        }
        assert_eq!(ask("put empty ", 1), "ok empty\n");
        assert_eq!(ask("dump", 4), format!("empty \nfixed star\nlife number {life}\nend 3\n"));
        assert!(ask("put nothing", 1).starts_with("error: "));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (mut child, _said) = durable_map(&program, &config);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
