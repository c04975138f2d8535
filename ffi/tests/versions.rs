//! Programs that are compiled with an older or a newer header work with this library.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;
use support::Link;

/// The structs that grow, and the number of last fields that an older header lacks.
const GROWING: [(&str, usize); 6] = [
    ("galerna_callbacks_t", 2),
    ("galerna_view_t", 2),
    ("galerna_group_stats_t", 3),
    ("galerna_group_frontiers_t", 1),
    ("galerna_log_record_t", 2),
    ("galerna_message_t", 1),
];

/// Returns the header after a change of the fields of each struct: a list of declarations with their comments.
fn header(change: impl Fn(&mut Vec<&str>, usize)) -> String {
    let mut header = std::fs::read_to_string(support::root().join("include/galerna.h")).unwrap();
    for (name, count) in GROWING {
        let (begin, end) = (format!("typedef struct {name} {{\n"), format!("}} {name};"));
        let begin = header.find(&begin).unwrap_or_else(|| panic!("the header has no {name}")) + begin.len();
        let end = begin + header[begin..].find(&end).unwrap();
        let mut fields: Vec<_> = header[begin..end].split_inclusive(";\n").collect();
        change(&mut fields, count);
        let fields = fields.concat();
        header.replace_range(begin..end, &fields);
    }
    header
}

/// Compiles the program with a header and runs it.
fn run(name: &str, header: &str, flags: &[&str]) {
    let path = support::scratch(name).join("galerna.h");
    std::fs::write(&path, header).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/versions.c");
    // The include guard makes the compiler pass over the present header.
    let path = path.display().to_string();
    let program = support::build(name, &[source], Link::Shared, &[&["-include", &path], flags].concat());
    let mut command = Command::new(program);
    command.arg(std::env::temp_dir().join(format!("galerna-{name}-{}", std::process::id())));
    support::succeed(command);
}

#[test]
fn the_present_header() {
    run("versions-present", &header(|_, _| {}), &[]);
}

#[test]
fn an_older_header() {
    run("versions-older", &header(|fields, count| fields.truncate(fields.len() - count)), &["-DOLDER"]);
}

#[test]
fn a_newer_header() {
    run("versions-newer", &header(|fields, _| fields.push("  uint64_t added;\n")), &["-DNEWER"]);
}
