//! Checks that the checked-in header equals the output of cbindgen for `ffi/src`, and that it compiles on its own as C11
//! and as C++17.

mod support;

use std::path::PathBuf;
use support::Language;

fn header() -> PathBuf {
    support::root().join("include/galerna.h")
}

#[test]
fn the_header_is_up_to_date() {
    let package = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_root_or_default(package);
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
