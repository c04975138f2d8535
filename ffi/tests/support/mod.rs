//! Builds and runs C and C++ programs that use libgalerna.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A language that the header supports.
#[derive(Clone, Copy)]
pub enum Language {
    C11,
    Cpp17,
}

impl Language {
    pub fn of(source: &Path) -> Language {
        match source.extension().is_some_and(|e| e == "cpp") {
            true => Language::Cpp17,
            false => Language::C11,
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            Language::C11 => "c",
            Language::Cpp17 => "cpp",
        }
    }
}

/// How a program is linked with the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Shared,
    Static,
}

/// Returns the root directory of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Makes a separate directory for the files of a test.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the system's compiler.
fn bare_compiler(language: Language) -> Command {
    let (variable, default) = match language {
        Language::C11 => ("CC", "cc"),
        Language::Cpp17 => ("CXX", "c++"),
    };
    Command::new(std::env::var_os(variable).unwrap_or(default.into()))
}

/// Returns the system's compiler with strict options and the header in its include path.
pub fn compiler(language: Language) -> Command {
    let mut command = bare_compiler(language);
    command.arg(match language {
        Language::C11 => "-std=c11",
        Language::Cpp17 => "-std=c++17",
    });
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"]);
    command.arg("-I").arg(root().join("include"));
    command
}

/// Whether a compiler for the language is installed. A C compiler is required.
pub fn speaks(language: Language) -> bool {
    let mut probe = bare_compiler(language);
    probe.arg("--version");
    matches!(language, Language::C11) || have("a C++ compiler", probe)
}

/// Runs a command, which must succeed.
pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Returns the directory of libgalerna.so and libgalerna.a. The cargo that runs this test builds them once.
pub fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut command = Command::new(env!("CARGO"));
        // With the features of `cargo test --workspace`, which a build of the package alone would not have: it would build
        // the engine and its dependencies once more. Cargo takes those of tests only if it builds a test.
        command.args(["build", "--offline", "--message-format=json", "--workspace", "--lib", "--test=versions"]);
        command.arg("--target-dir").arg(target).current_dir(root());
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = succeed(command);
        let messages = String::from_utf8(output.stdout).unwrap();
        let files = messages.lines().flat_map(built_files);
        let shared = files.into_iter().find(|f| f.ends_with("libgalerna.so"));
        shared.expect("cargo names libgalerna.so").parent().unwrap().to_path_buf()
    })
}

/// Returns the files that one of cargo's messages names.
fn built_files(message: &str) -> Vec<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).unwrap();
    let files = message["filenames"].as_array().cloned().unwrap_or_default();
    files.iter().filter_map(|f| f.as_str()).map(PathBuf::from).collect()
}

/// Compiles a program and links it with the library.
pub fn build(name: &str, sources: &[PathBuf], link: Link, flags: &[&str]) -> PathBuf {
    let program = scratch("programs").join(name);
    let mut command = compiler(Language::of(&sources[0]));
    command.args(flags).args(sources).arg("-pthread").arg("-o").arg(&program);
    let folder = library();
    match link {
        Link::Shared => {
            command.arg("-L").arg(folder).arg("-lgalerna");
            command.arg(format!("-Wl,-rpath,{}", folder.display()));
        }
        Link::Static => {
            // System libraries that the Rust standard library needs.
            command.arg(folder.join("libgalerna.a"));
            command.args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
        }
    }
    succeed(command);
    program
}

/// Whether a tool is installed. If it is not, the test is skipped, or fails if `CI` is set.
pub fn have(tool: &str, mut probe: Command) -> bool {
    let works = probe.output().is_ok_and(|output| output.status.success());
    if !works {
        assert!(std::env::var_os("CI").is_none(), "{tool} not found, and CI is set");
        eprintln!("SKIPPED: {tool} not found");
    }
    works
}
