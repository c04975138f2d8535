//! Compares every structure and constant of this module with the installed header.

use super::constants::CONSTANTS;
use super::types::{ibv_async_event, ibv_context, ibv_event_element, ibv_send_wr, structures};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

/// The compiler that `CC` names, or `cc`.
fn compiler() -> Command {
    Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
}

/// The expected values, by the C expression that yields each.
fn expected() -> BTreeMap<String, usize> {
    let mut facts = BTreeMap::new();
    for (name, size, fields) in structures() {
        let of = if name == "ibv_gid" { format!("union {name}") } else { format!("struct {name}") };
        // A structure with room for fields of later versions is smaller in the header.
        if fields.iter().all(|(field, ..)| *field != "room") {
            facts.insert(format!("sizeof({of})"), size);
        }
        for (field, offset, size) in fields.into_iter().filter(|(field, ..)| !["room", "padding"].contains(field)) {
            facts.insert(format!("offsetof({of}, {field})"), offset);
            // For an anonymous union, the structure here has its largest member, under that member's name.
            facts.insert(format!("sizeof((({of} *)0)->{field})"), size);
        }
    }
    facts.insert(
        "offsetof(struct ibv_send_wr, wr.rdma.remote_addr)".into(),
        offset_of!(ibv_send_wr, wr.rdma.remote_addr),
    );
    facts.insert("offsetof(struct ibv_send_wr, wr.rdma.rkey)".into(), offset_of!(ibv_send_wr, wr.rdma.rkey));
    facts.insert("sizeof(((struct ibv_send_wr *)0)->wr.atomic)".into(), size_of::<[u64; 4]>());
    facts.insert("offsetof(struct ibv_async_event, element.qp)".into(), offset_of!(ibv_async_event, element.qp));
    facts.insert("sizeof(((struct ibv_async_event *)0)->element)".into(), size_of::<ibv_event_element>());
    facts.insert("offsetof(struct ibv_context, ops.post_send)".into(), offset_of!(ibv_context, ops.post_send));
    for (name, value) in CONSTANTS {
        facts.insert((*name).into(), *value as usize);
    }
    facts
}

/// Why there is no header to compare with, if so.
fn absent() -> Option<String> {
    match compiler().args(["-E", "-x", "c", "-include", "infiniband/verbs.h", "/dev/null"]).output() {
        Err(e) => Some(format!("no C compiler: {e}")),
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr);
            Some(format!("no header: {}", why.lines().next().unwrap_or_default()))
        }
        Ok(_) => None,
    }
}

fn measure(facts: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut source =
        String::from("#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n");
    for fact in facts.keys() {
        writeln!(source, "    printf(\"%s=%llu\\n\", \"{fact}\", (unsigned long long)({fact}));").unwrap();
    }
    source.push_str("    printf(\"room=%zu\\n\", sizeof(struct ibv_port_attr));\n    return 0;\n}\n");
    let folder = crate::folder::Folder::new("verbs-layout");
    let (file, program) = (folder.0.join("probe.c"), folder.0.join("probe"));
    std::fs::write(&file, source).unwrap();
    let output = compiler().args(["-Wall", "-Werror", "-o"]).arg(&program).arg(&file).output().unwrap();
    assert!(output.status.success(), "a name is unknown to the header:\n{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| line.rsplit_once('=').map(|(fact, value)| (fact.to_owned(), value.parse().unwrap()));
    text.lines().map(|line| pair(line).unwrap()).collect()
}

/// Writes to stderr directly, since the test runner withholds the macro output of a passing test.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn every_definition_agrees_with_the_installed_header() {
    if let Some(why) = absent() {
        let text = format!("the verbs definitions are not compared with the header: {why} (install libibverbs-dev)");
        assert!(std::env::var_os("GALERNA_REQUIRE_VERBS_HEADERS").is_none_or(|v| v != "1"), "{text}");
        say(&format!("SKIPPED: {text}"));
        return;
    }
    let expected = expected();
    assert!(expected.len() > 400, "only {} facts", expected.len());
    let mut found = measure(&expected);
    let port_attr = found.remove("room").unwrap();
    assert!(port_attr <= size_of::<super::types::ibv_port_attr>(), "ibv_port_attr has {port_attr} bytes by now");
    let differ: Vec<String> = expected
        .iter()
        .filter(|(fact, value)| found.get(*fact) != Some(value))
        .map(|(fact, ours)| format!("{fact}: {ours} here, {:?} in the header", found.get(fact)))
        .collect();
    assert!(differ.is_empty() && found.len() == expected.len(), "{}", differ.join("\n"));
    say(&format!("{} sizes, offsets and values agree with the installed header", expected.len()));
}
