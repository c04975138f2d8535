//! Runs the programs in `tests/c` with the shared and the static library: plain, with the address and undefined
//! behaviour sanitizers, and under valgrind.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Language, Link};

/// The source files and the arguments of a run.
type Run = (&'static [&'static str], &'static [&'static str]);

const RUNS: [Run; 22] = [
    (&["arguments.c", "cluster.c"], &[]),
    (&["config.c", "cluster.c"], &[]),
    (&["log_callback.c", "cluster.c"], &[]),
    (&["forever.c", "log_files.c", "cluster.c"], &[]),
    (&["tickets.c", "cluster.c"], &[]),
    (&["starting.c", "cluster.c"], &["tcp"]),
    (&["starting.c", "cluster.c"], &["shm"]),
    (&["exchange.c", "cluster.c"], &["tcp"]),
    (&["exchange.c", "cluster.c"], &["shm"]),
    (&["failures.c", "cluster.c"], &["tcp"]),
    (&["failures.c", "cluster.c"], &["shm"]),
    (&["durable.c", "log_files.c", "cluster.c"], &["tcp"]),
    (&["durable.c", "log_files.c", "cluster.c"], &["shm"]),
    (&["handles.c", "cluster.c"], &[]),
    (&["log.c", "log_files.c", "cluster.c"], &[]),
    (&["log_threads.c", "log_files.c", "cluster.c"], &[]),
    (&["threads.c", "cluster.c"], &["tcp"]),
    (&["threads.c", "cluster.c"], &["shm"]),
    (&["forks.c", "log_files.c", "cluster.c"], &["tcp"]),
    (&["forks.c", "log_files.c", "cluster.c"], &["shm"]),
    (&["alone.cpp"], &[]),
    (&["throws.cpp"], &[]),
];

const SANITIZE: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// The programs that run in every variant. The others mostly wait for timeouts, or start many threads.
const BRIEF: [&str; 7] = ["config.c", "tickets.c", "exchange.c", "durable.c", "log.c", "alone.cpp", "throws.cpp"];

/// Builds every program once and does all runs. `wrap` makes the command that runs a program.
///
/// Unless `GALERNA_LONG` is set, all of them run only in the plain variant with the shared library. The other variants
/// test how the library is linked and how it uses memory. They do the brief runs, over shared memory.
fn run_all(name: &str, link: Link, flags: &[&str], wrap: impl Fn(&Path) -> Command) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    let mut built: Option<(&[&str], PathBuf)> = None;
    let all = name == "shared" || std::env::var_os("GALERNA_LONG").is_some();
    for (sources, arguments) in RUNS {
        if !all && (arguments.contains(&"tcp") || !BRIEF.contains(&sources[0])) {
            continue;
        }
        if !support::speaks(Language::of(Path::new(sources[0]))) {
            continue;
        }
        let program = match built.take() {
            Some((of, program)) if of == sources => program,
            _ => {
                let paths: Vec<_> = sources.iter().map(|s| folder.join(s)).collect();
                support::build(&format!("{name}-{}", sources[0]), &paths, link, flags)
            }
        };
        let mut command = wrap(&program);
        command.args(arguments);
        support::succeed(command);
        built = Some((sources, program));
    }
}

#[test]
fn with_the_shared_library() {
    run_all("shared", Link::Shared, &[], |program| Command::new(program));
}

#[test]
fn with_the_static_library() {
    run_all("static", Link::Static, &[], |program| Command::new(program));
}

#[test]
fn an_unloaded_library_stays_in_memory() {
    let folder = support::scratch("unloaded");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/unloaded.c");
    let mut compiler = support::compiler(support::Language::C11);
    compiler.arg(source).arg("-o").arg(folder.join("unloaded")).arg("-ldl");
    support::succeed(compiler);
    let mut program = Command::new(folder.join("unloaded"));
    program.arg(support::library().join("libgalerna.so"));
    support::succeed(program);
}

#[test]
fn with_sanitizers() {
    let source = support::scratch("sanitizers").join("empty.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let mut probe = support::compiler(Language::C11);
    probe.args(SANITIZE).arg(&source).arg("-o").arg(source.with_extension("out"));
    if support::have("the sanitizers' runtime", probe) {
        run_all("sanitized", Link::Static, &SANITIZE, |program| Command::new(program));
    }
}

#[test]
fn under_valgrind() {
    let mut probe = Command::new("valgrind");
    probe.arg("--version");
    if support::have("valgrind", probe) {
        run_all("valgrind", Link::Shared, &[], |program| {
            let mut command = Command::new("valgrind");
            command.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
            command.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]);
            command.arg(format!("--suppressions={}/tests/valgrind.supp", env!("CARGO_MANIFEST_DIR")));
            // Threads that spin must not starve the thread that they wait for.
            command.arg("--fair-sched=yes").arg(program);
            command
        });
    }
}
