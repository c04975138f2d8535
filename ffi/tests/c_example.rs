//! `examples/c/replicate`, built by its Makefile: three processes end with the same history.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn example() -> PathBuf {
    support::root().join("examples/c/replicate")
}

fn have_make() -> bool {
    let mut probe = Command::new("make");
    probe.arg("--version");
    support::have("make", probe)
}

/// The example's program, in a folder of the test's own.
fn replicate(folder: &Path) -> PathBuf {
    let mut make = Command::new("make");
    make.arg("-C").arg(example()).arg("--always-make");
    make.arg(format!("GALERNA_LIB={}", support::library().display()));
    make.arg(format!("OUT={}", folder.display()));
    support::succeed(make);
    folder.join("replicate")
}

/// A configuration with addresses that are free.
fn configuration(fabric: &str, members: usize, folder: &Path) -> PathBuf {
    // All listeners are open at once, so that no port is given out twice.
    let listeners: Vec<_> = (0..members).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |i: usize| match fabric {
        "tcp" => listeners[i].local_addr().unwrap().to_string(),
        _ => {
            let test = folder.file_name().unwrap().display();
            let name = format!("galerna-{test}-{}-{i}.sock", std::process::id());
            format!("unix:{}", std::env::temp_dir().join(name).display())
        }
    };
    let list = (0..members).map(|i| format!("[[members]]\nid = {}\naddress = \"{}\"\n", i + 1, address(i)));
    let text =
        format!("group = \"replicate\"\nfabric = \"{fabric}\"\nring_bytes = 16384\n{}", list.collect::<String>());
    let path = folder.join(format!("{fabric}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// What each member prints at the end.
fn run(fabric: &str, members: usize, lines: &str) -> Vec<String> {
    let folder = support::scratch(&format!("replicate-{fabric}-{members}"));
    let program = replicate(&folder);
    let config = configuration(fabric, members, &folder);
    let file = folder.join("lines");
    std::fs::write(&file, lines).unwrap();
    let started = (1..=members).map(|id| {
        let mut command = Command::new(&program);
        command.arg(&config).arg(id.to_string()).arg(&file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let started: Vec<_> = started.collect();
    let ended = started.into_iter().map(|child| child.wait_with_output().unwrap());
    ended
        .map(|output| {
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            text
        })
        .collect()
}

fn three_agree(fabric: &str) {
    if !have_make() {
        return;
    }
    let lines: String = (0..3000).map(|i| format!("{}{i}\n", "line ".repeat(i % 50))).collect();
    let printed = run(fabric, 3, &lines);
    assert!(printed[0].starts_with("3000 lines, sha256 "), "{}", printed[0]);
    assert!(printed.iter().all(|p| p == &printed[0]), "{printed:?}");
}

#[test]
fn three_members_agree_on_tcp() {
    three_agree("tcp");
}

#[test]
fn three_members_agree_on_shm() {
    three_agree("shm");
}

#[test]
fn the_digest_is_sha256_of_senders_and_lines() {
    if !have_make() {
        return;
    }
    // Of 01 00 00 00 "hello" 0a, 01 00 00 00 0a, 01 00 00 00 "no newline" 0a.
    let printed = run("shm", 1, "hello\n\nno newline");
    assert_eq!(printed, ["3 lines, sha256 27b4aacbd3672644300d0d6549a8d9124d274d3fe5eb8627ad5cdd9e801dc8ef\n"]);
}

#[test]
fn the_three_members_of_the_script_agree() {
    if !have_make() {
        return;
    }
    let folder = support::scratch("replicate-script");
    let mut script = Command::new(example().join("run.sh"));
    script.env("REPLICATE", replicate(&folder));
    script.arg(configuration("shm", 3, &folder)).arg(example().join("replicate.c"));
    let output = support::succeed(script);
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<_> = text.lines().collect();
    assert_eq!(printed.len(), 3, "{text}");
    assert!(printed.iter().all(|p| p == &printed[0]), "{text}");
}
