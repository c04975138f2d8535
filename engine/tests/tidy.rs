//! Checks of the source tree that the compiler does not make.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest source file, in lines; tests may be longer.
const LINES_MAX: usize = 500;
/// Files and folders that may contain `unsafe`. In the log only the memory map of its files may.
const UNSAFE_ROOMS: [&str; 8] = [
    "engine/src/fabric/",
    "engine/src/sst/",
    "engine/src/multicast/memories.rs",
    "engine/src/multicast/ring.rs",
    "engine/src/log/map.rs",
    "engine/src/process.rs",
    "engine/src/process/private.rs",
    "ffi/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with("target") && !name.starts_with('.') {
            sources(&path, found);
        } else if ["rs", "c", "h", "hpp", "cpp", "sh", "toml", "md"].iter().any(|e| name.ends_with(&format!(".{e}"))) {
            found.push(path);
        }
    }
}

/// Calls `check` for every source file, with its path from the root, its text and the list of complaints.
fn each(mut check: impl FnMut(&str, &str, &mut Vec<String>)) {
    let (mut found, mut complaints) = (Vec::new(), Vec::new());
    sources(&root(), &mut found);
    assert!(found.len() > 50, "the sources are not where they were");
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        check(&name, &text, &mut complaints);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn files_are_short() {
    each(|name, text, complaints| {
        let lines = text.lines().count();
        if name.ends_with(".rs") && !name.contains("/tests") && lines > LINES_MAX {
            complaints.push(format!("{name} has {lines} lines, more than {LINES_MAX}: is it still one purpose?"));
        }
    });
}

#[test]
fn unsafe_stays_in_its_rooms() {
    each(|name, text, complaints| {
        // This benchmark measures the raw limit of shared memory, which needs `unsafe`.
        let limit = name == "benches/src/limit/shm.rs";
        let allowed = limit
            || UNSAFE_ROOMS.iter().any(|room| name.starts_with(room))
            || name.contains("tests/")
            || text.contains("mod loom_tests");
        let word = ["unsafe ", "{"].concat();
        if name.ends_with(".rs") && !allowed && text.contains(&word) {
            complaints.push(format!("{name} has an unsafe block"));
        }
    });
}

/// Threads are started in one file. It blocks signals in them, and its error names the limit that prevented a start.
#[test]
fn threads_are_started_in_one_room() {
    each(|name, text, complaints| {
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let shipped = shipped.split("#[cfg(all(test").next().unwrap_or_default();
        let room = name == "engine/src/thread.rs" || name.contains("/tests");
        if !["engine/src/", "ffi/src/"].iter().any(|folder| name.starts_with(folder)) || room {
            return;
        }
        let starts = ["std::thread::spawn(", "std::thread::{self", "use std::thread;", "thread::Builder", ".spawn("];
        for (number, line) in shipped.lines().enumerate() {
            if starts.iter().any(|start| line.contains(start)) {
                complaints.push(format!("{name}:{} starts a thread: see engine/src/thread.rs", number + 1));
            }
        }
    });
}

#[test]
fn every_source_file_belongs_to_a_module() {
    each(|name, _, complaints| {
        let Some((folder, file)) = name.rsplit_once('/') else { return };
        let stem = file.trim_end_matches(".rs");
        if !name.ends_with(".rs") || !folder.contains("/src") || ["lib", "main", "mod"].contains(&stem) {
            return;
        }
        let declared = |parent: &str| {
            let text = std::fs::read_to_string(root().join(parent)).unwrap_or_default();
            text.lines().any(|line| line.trim_end().ends_with(&format!("mod {stem};")))
        };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| format!("{folder}/{parent}"));
        if !parents.iter().any(|p| declared(p)) && !declared(&format!("{folder}.rs")) {
            complaints.push(format!("{name} is declared nowhere"));
        }
    });
}

/// A renamed test program must not fail first in the VM, at the end of a CI run.
#[test]
fn the_rdma_suite_names_test_programs_that_exist() {
    let script = std::fs::read_to_string(root().join("soft-roce/test")).unwrap();
    let list = script.lines().find_map(|line| line.strip_prefix("programs=(")?.strip_suffix(')')).unwrap();
    let names: Vec<&str> = list.split(' ').collect();
    let tests = root().join("engine/tests");
    let exists = |name: &&str| tests.join(format!("{name}.rs")).exists() || tests.join(name).join("main.rs").exists();
    let missing: Vec<_> = names.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "soft-roce/test names {missing:?}");
    // The suite in the VM gets them in this order.
    let suite = std::fs::read_to_string(root().join("soft-roce/lib/suite")).unwrap();
    assert!(suite.contains(&names.join(", ")), "soft-roce/lib/suite does not name {}", names.join(", "));
}

#[test]
fn no_unfinished_business() {
    each(|name, text, complaints| {
        for (number, line) in text.lines().enumerate() {
            let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["dbg", "!("]].map(|m| m.concat());
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                complaints.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    });
}

/// Whether `allowed` permits a licence expression. `OR` needs one of its sides, `AND` needs both.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    // Without parentheses, AND binds closer than OR. The one group in use stands at the beginning of an AND.
    if let Some((group, rest)) = expression.strip_prefix('(').and_then(|rest| rest.split_once(") AND ")) {
        return permits(group, allowed) && permits(rest, allowed);
    }
    let expression = expression.replace('/', " OR ");
    expression.split(" OR ").any(|all| all.split(" AND ").all(|licence| allowed.contains(&licence)))
}

#[test]
fn licences_are_read() {
    let permits = |expression| permits(expression, &["MIT", "Unicode-3.0"]);
    assert!(permits("MIT") && permits("GPL-3.0 OR MIT") && permits("Unlicense/MIT"));
    assert!(permits("(MIT OR Apache-2.0) AND Unicode-3.0") && permits("MIT AND Unicode-3.0"));
    assert!(!permits("GPL-3.0") && !permits("MIT AND GPL-3.0") && !permits("(MIT OR GPL-3.0) AND GPL-3.0"));
    assert!(!permits("MIT WITH exception") && !permits("") && !permits("((MIT))"));
}

/// The packages of the workspace and all their dependencies, as cargo describes them.
fn packages() -> Vec<serde_json::Value> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", &target]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used = |package: &&serde_json::Value| nodes.iter().any(|node| node["id"] == package["id"]);
    let packages: Vec<_> = metadata["packages"].as_array().unwrap().iter().filter(used).cloned().collect();
    assert!(packages.len() > 50, "cargo names no dependencies");
    packages
}

/// `deny.toml` says which licences, double versions and sources a dependency may have.
#[test]
fn dependencies_keep_the_policy() {
    let policy: toml::Value = toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let list = |table: &str, key: &str| policy[table][key].as_array().unwrap();
    let (general, exceptions, skipped) =
        (list("licenses", "allow"), list("licenses", "exceptions"), list("bans", "skip"));
    let (mut versions, mut registries) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
    let mut complaints = Vec::new();
    for package in &packages() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let (name, version) = (text("name"), text("version"));
        let exception = exceptions.iter().find(|exception| exception["crate"].as_str() == Some(&name));
        let own = exception.map_or(&[][..], |exception| exception["allow"].as_array().unwrap());
        let allowed: Vec<_> = general.iter().chain(own).filter_map(toml::Value::as_str).collect();
        if !permits(&text("license"), &allowed) {
            complaints.push(format!("{name} {version} has the licence `{}`", text("license")));
        }
        // A package of this repository has no source.
        let source = text("source");
        if source.starts_with("registry+") {
            registries.insert(source);
        } else if !source.is_empty() || !Path::new(&text("manifest_path")).starts_with(root()) {
            complaints.push(format!("{name} {version} comes from `{source}`, which is no registry"));
        }
        let skips = |one: &toml::Value| {
            one["crate"].as_str().is_some_and(|one| format!("{name}@{version}.").starts_with(&format!("{one}.")))
        };
        if !skipped.iter().any(skips) {
            versions.entry(name).or_default().push(version);
        }
    }
    let twice = versions.iter().filter(|(_, all)| all.len() > 1);
    complaints.extend(twice.map(|(name, all)| format!("{name} has the versions {all:?}")));
    assert!(registries.len() <= 1, "more than one registry: {registries:?}");
    assert!(complaints.is_empty(), "see deny.toml: {complaints:#?}");
}
