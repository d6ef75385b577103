//! Hands the linker script of Non-secure payloads to the linker when the image is built for the machine.

fn main() {
    println!("cargo::rerun-if-changed=../el2/payload.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}/../el2/payload.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
