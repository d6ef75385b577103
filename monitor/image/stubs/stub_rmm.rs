//! The smallest RMM: it starts, fetches key and platform token, answers RMI_VERSION with 1.0, hands granules
//! to EL3, at 0xC4000160 waits for an interrupt, at 0xC4000164 makes an access that EL3 refuses, and at
//! 0xC4000163 does what it may not. For trying the monitor without
//! the RMM; built by `cargo xtask boot --rmm stub`.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.start, "ax"
    .global _start
_start:
    adr     x10, vectors
    msr     vbar_el2, x10
    // X3 is the shared buffer at the cold boot, 0 later. Fetch the key, and the platform token in pieces.
    mov     x10, x3
    cbz     x10, 8f
    ldr     x0, =0xc40001b2
    mov     x1, x10
    mov     x2, #4096
    mov     x3, #0
    smc     #0
    cbnz    x0, 9f
    mov     x3, #32
7:  ldr     x0, =0xc40001b3
    mov     x1, x10
    mov     x2, #512
    smc     #0
    cbnz    x0, 9f
    mov     x3, #0
    cbnz    x2, 7b
8:  mov     x0, #0
9:  mov     x1, x0
    ldr     x0, =0xc40001cf
0:  smc     #0
    // A command is in X0 to X7.
    mov     w8, w0
    ldr     w9, =0xc4000150
    cmp     w8, w9
    b.eq    1f
    ldr     w9, =0xc4000151
    cmp     w8, w9
    b.eq    2f
    ldr     w9, =0xc4000152
    cmp     w8, w9
    b.eq    3f
    ldr     w9, =0xc4000160
    cmp     w8, w9
    b.eq    6f
    ldr     w9, =0xc4000164
    cmp     w8, w9
    b.eq    10f
    ldr     w9, =0xc4000163
    cmp     w8, w9
    b.eq    5f
    mov     x1, #-1
    b       4f
    // Leave something in registers that a realm has, and end the start a second time.
5:  mov     x2, #0x5ec2
    msr     tpidr_el1, x2
    msr     vbar_el1, x2
    msr     cptr_el2, xzr
    isb
    .arch_extension fp
    fmov    d8, x2
    mov     x1, #0
    ldr     x0, =0xc40001cf
    smc     #0
    b       5b
    // Read what is EL3's alone; the vector says which exception that was.
10: mrs     x0, S3_0_C12_C8_0
    mov     x1, #-1
    b       4f
    // Wait until an interrupt is pending here; ISR_EL1 says which kind.
6:  mrs     x2, isr_el1
    cbz     x2, 6b
    mov     x1, #0
    mov     x3, #0
    b       4f
1:  mov     x1, #0
    mov     x2, #0x10000
    mov     x3, #0x10000
    b       4f
2:  ldr     x0, =0xc40001b0
    smc     #0
    mov     x1, x0
    b       4f
3:  ldr     x0, =0xc40001b1
    smc     #0
    mov     x1, x0
4:  mov     x4, #0
    mov     x5, #0
    ldr     x0, =0xc400018f
    b       0b
    .ltorg
    .balign 0x800
vectors:
    .balign 0x200
    b       .
    .balign 0x200
    // Of this level, with its own stack pointer.
    mov     x1, #0
    mrs     x2, esr_el2
    mrs     x3, spsr_el2
    b       4b
"#
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
