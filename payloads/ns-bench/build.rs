//! Hands the linker script to the linker when the program is built for the machine.

fn main() {
    println!("cargo::rerun-if-changed=image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}/image.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
