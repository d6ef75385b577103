    .arch_extension sb
// The realm's program, at IPA 0. It has memory up to 0x4000; the page at 0x1000 becomes its table, 0x2000 is for host calls.
// IPA 1 << 32 is the Host's: a page it can only read, then one it can write.
    .balign 0x1000
    .global realm_start
realm_start:
    cbnz    x0, probe
    mov     x20, #1
    lsl     x20, x20, #32
    // No realm sees what another left in DISR_EL1.
    mrs     x23, S3_0_C12_C1_1
    ldr     x1, =0x80000411
    msr     S3_0_C12_C1_1, x1
    // Stage 1 off: a write to what can only be read.
    mov     w1, #0x11
    strb    w1, [x20, #0x123]
    // The first GiB where it is, the GiB with the Host's pages at 0x40000000, not executable.
    mov     x0, #0x1000
    mov     x1, #0x701
    str     x1, [x0]
    mov     x1, #0x701
    orr     x1, x1, x20
    movk    x1, #0x60, lsl #48
    str     x1, [x0, #8]
    dsb     sy
    msr     ttbr0_el1, x0
    mov     x1, #0xff
    msr     mair_el1, x1
    // 39 bits, write-back and inner shareable walks of TTBR0, none of TTBR1; 40 bits of IPA.
    ldr     x1, =0x200803519
    msr     tcr_el1, x1
    isb
    ldr     x1, =0x30d01985
    msr     sctlr_el1, x1
    isb
    ldr     x1, =0x0123456789abc000
    msr     par_el1, x1
    mov     x21, #0x40000000
    ldr     x2, =0x2222222222222222
    str     x2, [x21, #0x450]
    // Nobody but this program may have changed it.
    mrs     x4, par_el1
    ldr     x5, [x21, #0x10]
    mov     x0, #0x2000
    mov     x1, #0x77
    strh    w1, [x0]
    str     x4, [x0, #8]
    str     x5, [x0, #16]
    mrs     x6, S3_0_C12_C1_1
    stp     x23, x6, [x0, #24]
    mov     x1, #0x2000
    ldr     x0, =0xc4000199
    smc     #0
    cbnz    x0, 9f
    // Until the Host has seen an interrupt end the run.
    mov     x22, #0x1000
    add     x22, x22, x21
1:  ldr     x1, [x22]
    cbz     x1, 1b
    ldr     x0, =0x84000008
    smc     #0
9:  b       9b

// Executes every MRS, MSR, SYS and SYSL there can be, but for the MSR that would move the vectors. What is undefined is skipped.
probe:
    adr     x1, realm_vectors
    msr     vbar_el1, x1
    isb
    // One instruction and a return are executed at 0x3000.
    mov     x20, #0x3000
    ldr     w21, =0xd65f03c0
    str     w21, [x20, #4]
    ldr     w22, =0xd518c009
    adr     x23, probe_kinds
2:  ldp     w24, w25, [x23], #8
    cbz     w24, 5f
3:  cmp     w24, w22
    b.eq    4f
    str     w24, [x20]
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    mov     x9, #0x2000
    blr     x20
4:  add     w24, w24, #32
    subs    w25, w25, #1
    b.ne    3b
    b       2b
5:  msr     spsel, #1
    ldr     x0, =0x84000008
    smc     #0
    b       .

    .ltorg
// The first of a kind, with X10 to read into and X9 to write from, and how many there are.
    .balign 8
probe_kinds:
    .word   0xd530000a, 0x8000
    .word   0xd5100009, 0x8000
    .word   0xd5080009, 0x4000
    .word   0xd528000a, 0x4000
    .word   0, 0

    .balign 0x800
realm_vectors:
    .rept   16
    mrs     x28, elr_el1
    add     x28, x28, #4
    msr     elr_el1, x28
    eret
    sb
    .balign 0x80
    .endr
    .balign 0x1000
