//! Link options of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The library stays in memory after `dlclose`: its threads may still run, and fork handlers refer to it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
