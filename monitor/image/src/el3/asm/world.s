    .arch_extension sb

// Exceptions from the worlds below, and the switch between them.
//
// While a world runs, SP_EL3 points at its Context. What is saved is what the RMM-EL3 contract asks of EL3: X0 to X30,
// SP_EL0, the EL2 registers of the features there are (not the EL2 timers, not ZCR_EL2) and the PAuth keys. EL1
// registers, SIMD and SVE are the RMM's to preserve.

// Applies \op to each pair of registers EL3 switches; x17 holds the features. x16 is the base of their memory.
.macro  each_pair op
    \op     sctlr_el2, hcr_el2, 0x00
    \op     elr_el2, spsr_el2, 0x10
    \op     esr_el2, far_el2, 0x20
    \op     hpfar_el2, sp_el2, 0x30
    \op     sp_el0, tpidr_el2, 0x40
    \op     ttbr0_el2, S3_4_C2_C0_1, 0x50
    \op     tcr_el2, mair_el2, 0x60
    \op     vbar_el2, S3_4_C13_C0_1, 0x70
    \op     vtcr_el2, vttbr_el2, 0x80
    \op     vmpidr_el2, vpidr_el2, 0x90
    \op     cptr_el2, mdcr_el2, 0xa0
    \op     cnthctl_el2, cntvoff_el2, 0xb0
    \op     hstr_el2, S3_4_C12_C9_5, 0xc0
    \op     S3_4_C12_C11_0, S3_4_C12_C11_7, 0xd0
    // Implementation-defined: what is not there reads as zero.
    \op     actlr_el2, hacr_el2, 0xe0
    \op     afsr0_el2, afsr1_el2, 0xf0
    // FGT, ECV, HCX, RAS and PAuth: RME requires Armv9.1, which requires them.
    \op     S3_4_C1_C1_4, S3_4_C1_C1_5, 0x110
    \op     S3_4_C1_C1_6, S3_4_C3_C1_4, 0x120
    \op     S3_4_C3_C1_5, S3_4_C14_C0_6, 0x130
    \op     S3_4_C1_C2_2, S3_4_C12_C1_1, 0x140
    \op     S3_4_C5_C2_3, S3_0_C2_C1_0, 0x150
    \op     S3_0_C2_C1_1, S3_0_C2_C1_2, 0x160
    \op     S3_0_C2_C1_3, S3_0_C2_C2_0, 0x170
    \op     S3_0_C2_C2_1, S3_0_C2_C2_2, 0x180
    \op     S3_0_C2_C2_3, S3_0_C2_C3_0, 0x190
    \op     S3_0_C2_C3_1, amair_el2, 0x1a0
    tbz     x17, #{f_amu}, 1f
    \op     S3_4_C3_C1_6, S3_4_C3_C1_6, 0x1b0
1:  tbz     x17, #{f_csv2}, 1f
    \op     S3_4_C13_C0_7, S3_4_C13_C0_7, 0x1c0
1:  tbz     x17, #{f_nv2}, 1f
    \op     S3_4_C2_C2_0, S3_4_C2_C2_0, 0x1d0
1:  tbz     x17, #{f_mte2}, 1f
    \op     S3_4_C5_C6_0, S3_4_C5_C6_0, 0x1e0
1:  tbz     x17, #{f_mpam}, 1f
    \op     S3_4_C10_C5_0, S3_4_C10_C5_0, 0x1f0
    tbz     x17, #{f_mpam_virtual}, 1f
    \op     S3_4_C10_C5_0, S3_4_C10_C4_0, 0x1f0
1:
.endm

.macro  save_pair first, second, offset
    mrs     x8, \first
    mrs     x9, \second
    stp     x8, x9, [x16, #\offset]
.endm

.macro  load_pair first, second, offset
    ldp     x8, x9, [x16, #\offset]
    msr     \first, x8
    msr     \second, x9
.endm

// X0 to X19 and X30; the others are those a function preserves.
.macro  save_low_gprs
    stp     x0, x1, [sp, #0x00]
    stp     x2, x3, [sp, #0x10]
    stp     x4, x5, [sp, #0x20]
    stp     x6, x7, [sp, #0x30]
    stp     x8, x9, [sp, #0x40]
    stp     x10, x11, [sp, #0x50]
    stp     x12, x13, [sp, #0x60]
    stp     x14, x15, [sp, #0x70]
    stp     x16, x17, [sp, #0x80]
    stp     x18, x19, [sp, #0x90]
    str     x30, [sp, #0xf0]
.endm

.macro  save_high_gprs
    stp     x20, x21, [sp, #0xa0]
    stp     x22, x23, [sp, #0xb0]
    stp     x24, x25, [sp, #0xc0]
    stp     x26, x27, [sp, #0xd0]
    stp     x28, x29, [sp, #0xe0]
.endm

.macro  save_gprs
    save_low_gprs
    save_high_gprs
.endm

// All but X0 to X7.
.macro  load_high_gprs
    ldp     x8, x9, [sp, #0x40]
    ldp     x10, x11, [sp, #0x50]
    ldp     x12, x13, [sp, #0x60]
    ldp     x14, x15, [sp, #0x70]
    ldp     x16, x17, [sp, #0x80]
    ldp     x18, x19, [sp, #0x90]
    ldp     x20, x21, [sp, #0xa0]
    ldp     x22, x23, [sp, #0xb0]
    ldp     x24, x25, [sp, #0xc0]
    ldp     x26, x27, [sp, #0xd0]
    ldp     x28, x29, [sp, #0xe0]
    ldr     x30, [sp, #0xf0]
.endm

// An exception that Rust handles: enter_world returns with X0 = the world's context, X1 = \kind.
.macro  leave kind
    mrs     x16, elr_el3
    mrs     x17, spsr_el3
    stp     x16, x17, [sp, #{ctx_elr}]
    mov     x0, sp
    mov     x1, #\kind
    mrs     x9, tpidr_el3
    mov     sp, x9
    b       leave_world
.endm

.macro  vector
    .balign 0x80
.endm

    .section .text, "ax"
    .balign 0x800
    .global vectors
vectors:
    // From EL3 itself: never in order.
    .rept 8
    vector
    b       own_fault
    .endr

    // From a lower level in AArch64: synchronous.
    vector
    save_low_gprs
    mrs     x8, esr_el3
    mov     w9, #0x5e000000
    cmp     w8, w9
    b.ne    leave_sync
    // An RMI command of the Non-secure world, or its end in the Realm world?
    ldp     w9, w10, [sp, #{ctx_fast}]
    and     w12, w0, w10
    sub     w12, w12, w9
    ldr     x11, [sp, #{ctx_fast_count}]
    ldr     w11, [x11]
    cmp     w12, w11
    b.lo    switch_world
    b       other_call

    vector
    save_gprs
    leave   {kind_irq}
    vector
    save_gprs
    leave   {kind_fiq}
    vector
    save_gprs
    leave   {kind_serror}

    // From a lower level in AArch32: a program or guest of the Non-secure world.
    vector
    save_gprs
    leave   {kind_sync}
    vector
    save_gprs
    leave   {kind_irq}
    vector
    save_gprs
    leave   {kind_fiq}
    vector
    save_gprs
    leave   {kind_serror}

    .balign 0x80
// A granule changes hands: every page a realm gets comes here, so only what Rust may change is restored.
other_call:
    ldr     x8, [sp, #{ctx_scr}]
    tbz     x8, #{scr_nse}, leave_sync
    mov     w9, #{gtsi} & 0xffff
    movk    w9, #{gtsi} >> 16, lsl #16
    and     w8, w0, #0xfffffffe
    cmp     w8, w9
    b.ne    leave_sync
    mrs     x9, tpidr_el3
    mov     x19, sp
    mov     sp, x9
    bl      {granule_call}
    mov     sp, x19
    ldr     x1, [sp, #0x08]
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    ldp     x8, x9, [sp, #0x40]
    ldp     x10, x11, [sp, #0x50]
    ldp     x12, x13, [sp, #0x60]
    ldp     x14, x15, [sp, #0x70]
    ldp     x16, x17, [sp, #0x80]
    ldp     x18, x19, [sp, #0x90]
    ldr     x30, [sp, #0xf0]
    eret
    sb

leave_sync:
    save_high_gprs
    leave   {kind_sync}

switch_world:
    save_high_gprs
    mrs     x8, elr_el3
    mrs     x9, spsr_el3
    stp     x8, x9, [sp, #{ctx_elr}]
    add     x16, sp, #{ctx_sysregs}
    ldp     x10, x17, [sp, #{ctx_other}]
    each_pair save_pair
    mov     sp, x10
    add     x16, sp, #{ctx_sysregs}
    each_pair load_pair
    ldp     x8, x9, [sp, #{ctx_elr}]
    msr     elr_el3, x8
    msr     spsr_el3, x9
    ldp     x8, x9, [sp, #{ctx_scr}]
    msr     scr_el3, x8
    msr     mdcr_el3, x9
    tbz     x8, #{scr_nse}, 8f
    // To the Realm world: X0 to X7 as the Non-secure world set them.
    load_high_gprs
    eret
    sb
    // To the Non-secure world: its X0 to X4 are the RMM's X1 to X5.
8:  mov     x0, x1
    mov     x1, x2
    mov     x2, x3
    mov     x3, x4
    mov     x4, x5
    ldr     x5, [sp, #0x28]
    ldp     x6, x7, [sp, #0x30]
    load_high_gprs
    eret
    sb

// enter_world(context) -> (context, kind): runs the world until it needs EL3.
    .global enter_world
enter_world:
    sub     sp, sp, #96
    stp     x19, x20, [sp, #0x00]
    stp     x21, x22, [sp, #0x10]
    stp     x23, x24, [sp, #0x20]
    stp     x25, x26, [sp, #0x30]
    stp     x27, x28, [sp, #0x40]
    stp     x29, x30, [sp, #0x50]
    mov     x9, sp
    msr     tpidr_el3, x9
    mov     sp, x0
    ldp     x8, x9, [sp, #{ctx_elr}]
    msr     elr_el3, x8
    msr     spsr_el3, x9
    ldp     x8, x9, [sp, #{ctx_scr}]
    msr     scr_el3, x8
    msr     mdcr_el3, x9
    ldp     x0, x1, [sp, #0x00]
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    load_high_gprs
    eret
    sb

leave_world:
    ldp     x19, x20, [sp, #0x00]
    ldp     x21, x22, [sp, #0x10]
    ldp     x23, x24, [sp, #0x20]
    ldp     x25, x26, [sp, #0x30]
    ldp     x27, x28, [sp, #0x40]
    ldp     x29, x30, [sp, #0x50]
    add     sp, sp, #96
    ret

// save_world(context): the registers of each_pair go to the context.
    .global save_world
save_world:
    add     x16, x0, #{ctx_sysregs}
    ldr     x17, [x0, #{ctx_features}]
    each_pair save_pair
    ret

// load_world(context): the registers of each_pair come from the context.
    .global load_world
load_world:
    add     x16, x0, #{ctx_sysregs}
    ldr     x17, [x0, #{ctx_features}]
    each_pair load_pair
    isb
    ret

// wipe_stack(end): what calls have left of their frames, from the stack pointer down to the end.
    .global wipe_stack
wipe_stack:
    mov     x1, sp
1:  cmp     x1, x0
    b.ls    2f
    stp     xzr, xzr, [x1, #-16]!
    b       1b
2:  ret

// A fault of the monitor itself. Its stack may be what is broken: take the top of the last good one.
own_fault:
    mrs     x0, esr_el3
    mrs     x1, elr_el3
    mrs     x2, far_el3
    mrs     x3, mpidr_el1
    and     x5, x3, #0xf
    ubfx    x3, x3, #8, #8
    add     x3, x5, x3, lsl #{cluster_shift}
    ldr     x4, =stacks
    mov     x5, #{stack_size}
    add     x3, x3, #1
    madd    x4, x5, x3, x4
    mov     sp, x4
    b       {own_fault}
    .ltorg
