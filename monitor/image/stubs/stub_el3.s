    .arch_extension sb
    .section .text.start, "ax"
    .global _start
_start:
    mrs     x0, mpidr_el1
    and     x0, x0, #0xff
    cmp     x0, #2
    b.hs    2f
    ldr     x1, =0x30c51830
    msr     sctlr_el3, x1
    mov     x1, #0x401
    msr     scr_el3, x1
    adr     x1, vectors
    msr     vbar_el3, x1
    isb
    ldr     x1, ={stacks}
    add     x1, x1, x0, lsl #16
    mov     sp, x1
    b       {main}
2:  wfi
    b       2b
    .ltorg

    .macro other
    .balign 0x80
    mrs     x0, esr_el3
    mrs     x1, elr_el3
    mrs     x2, far_el3
    b       {fault}
    .endm

    .balign 0x800
vectors:
    .rept 8
    other
    .endr
    .balign 0x80
    // X0 to X30, ELR, SPSR.
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x0, elr_el3
    mrs     x1, spsr_el3
    stp     x30, x0, [sp, #240]
    b       1f
    .rept 7
    other
    .endr
1:  str     x1, [sp, #256]
    mov     x0, sp
    bl      {call}
    mov     x0, sp
    add     x1, sp, #272
    .global enter
enter:
    mov     sp, x1
    ldp     x30, x2, [x0, #240]
    ldr     x3, [x0, #256]
    msr     elr_el3, x2
    msr     spsr_el3, x3
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldp     x0, x1, [x0]
    eret
    sb

// X0 = root table, X1 = root of the Granule Protection Table.
    .global protect
protect:
    msr     ttbr0_el3, x0
    ldr     x2, =0x80823519
    msr     tcr_el3, x2
    mov     x2, #0x04ff
    msr     mair_el3, x2
    lsr     x1, x1, #12
    msr     S3_6_C2_C1_4, x1
    ldr     x2, =0x13502
    msr     S3_6_C2_C1_6, x2
    dsb     sy
    isb
    sys     #6, c8, c1, #4
    tlbi    alle3
    dsb     sy
    isb
    ldr     x2, =0x30c51835
    msr     sctlr_el3, x2
    isb
    ret
    .ltorg
