//! How a stub payload starts of which each CPU knows its number: a stack for each. Each includes it.

/// Entry points of the first CPU (`_start`) and of one that CPU_ON starts (`second`). That one's context id is its number, which
/// says which stack it has: 64 KiB each, from 2 MiB behind the image's base on.
macro_rules! start {
    ($main:path, $second_main:path) => {
        core::arch::global_asm!(
            r#"
    .section .text.start, "ax"
    .global _start
_start:
    adrp    x1, _start
    add     sp, x1, #0x200000
    b       {main}
    .global second
second:
    adrp    x1, _start
    add     x1, x1, #0x200000
    add     x1, x1, x0, lsl #16
    mov     sp, x1
    b       {second_main}
"#,
            main = sym $main,
            second_main = sym $second_main
        );
    };
}

pub(crate) use start;
