//! Checks that the checked-in header equals the output of cbindgen for `ffi/src`, that it compiles on its own as C11 and
//! as C++17, and that the program in its first comment works.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{Language, Link};

fn header() -> PathBuf {
    support::root().join("include/galerna.h")
}

/// Makes the macros with the version, which comes from `Cargo.toml`.
fn versions() -> String {
    let numbers = [
        ("_MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("_MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("_PATCH", env!("CARGO_PKG_VERSION_PATCH")),
        ("", concat!("\"", env!("CARGO_PKG_VERSION"), "\"")),
    ];
    let lines = numbers.map(|(part, value)| format!("#define GALERNA_VERSION{part} {value}\n"));
    format!("\n\n/* The version of this header. galerna_version() returns that of the library. */\n{}", lines.concat())
}

#[test]
fn the_header_is_up_to_date() {
    let package = env!("CARGO_MANIFEST_DIR");
    let mut config = cbindgen::Config::from_root_or_default(package);
    config.after_includes.get_or_insert_default().push_str(&versions());
    let bindings = cbindgen::Builder::new().with_crate(package).with_config(config).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).unwrap();
    if std::env::var_os("GALERNA_BLESS").is_some() {
        // Replaced atomically, because the other test may read it at the same time.
        let new = header().with_extension("h.new");
        std::fs::write(&new, &made).unwrap();
        std::fs::rename(&new, header()).unwrap();
    }
    let kept = std::fs::read_to_string(header()).unwrap_or_default();
    assert!(
        made == kept,
        "include/galerna.h is not what ffi/src says; run: GALERNA_BLESS=1 cargo test -p galerna-ffi --test header"
    );
}

#[test]
fn the_header_compiles_alone() {
    let folder = support::scratch("header");
    for language in [Language::C11, Language::Cpp17].into_iter().filter(|&l| support::speaks(l)) {
        let source = folder.join(format!("alone.{}", language.extension()));
        // Included twice to test the include guard.
        std::fs::write(&source, "#include <galerna.h>\n#include <galerna.h>\nextern int nothing;\n").unwrap();
        let mut command = support::compiler(language);
        command.arg("-fsyntax-only").arg(source);
        support::succeed(command);
    }
}

/// Returns the program in the header's first comment: its lines are indented by five spaces.
fn program() -> String {
    let header = std::fs::read_to_string(header()).unwrap();
    let comment = header.split("*/").next().unwrap();
    let code = comment.lines().skip_while(|line| !line.contains("#include"));
    let code = code.take_while(|line| line.starts_with(" *     ") || *line == " *");
    code.map(|line| line.strip_prefix(" *     ").unwrap_or_default().to_owned() + "\n").collect()
}

#[test]
fn the_program_in_the_header_works() {
    let folder = support::scratch("header-program");
    let languages = [Language::Cpp17, Language::C11].into_iter().filter(|&l| support::speaks(l));
    let programs = languages.map(|language| {
        let source = folder.join(format!("hello.{}", language.extension()));
        std::fs::write(&source, program()).unwrap();
        support::build(&format!("hello-{}", language.extension()), &[source], Link::Shared, &[])
    });
    for program in programs {
        let mut members = ["1", "2"].map(|member| {
            let mut command = Command::new(&program);
            command.arg(member).current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            (child, output)
        });
        for (_, output) in &mut members {
            // In the order of the group, which is the same for both. Its first message may be that of either.
            let (mut first, mut second) = (String::new(), String::new());
            output.read_line(&mut first).unwrap();
            output.read_line(&mut second).unwrap();
            let mut lines = [first, second];
            lines.sort();
            assert_eq!(lines, ["hello from member 1\n", "hello from member 2\n"]);
        }
        for (mut child, _) in members {
            // Closes its input, which ends the program.
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
        }
    }
}
