// What EL3 makes of accesses it refuses, at EL2, EL1 and EL0 of this world.
    .arch_extension sb

// Of the page of results X29 points to.
    .equ    seen_undefined, 0x00
    .equ    seen_other, 0x08
    .equ    seen_syndrome, 0x10
    .equ    took_vector, 0x40
    .equ    took_syndrome, 0x48
    .equ    took_link, 0x50
    .equ    took_saved, 0x58
    .equ    took_masks, 0x60
    .equ    took_call, 0x68
    .equ    kept, 0x100

    .macro  begin
    stp     x19, x20, [x0, #kept]
    stp     x21, x22, [x0, #kept + 0x10]
    stp     x23, x24, [x0, #kept + 0x20]
    stp     x25, x26, [x0, #kept + 0x30]
    stp     x27, x28, [x0, #kept + 0x40]
    stp     x29, x30, [x0, #kept + 0x50]
    mov     x2, sp
    str     x2, [x0, #kept + 0x60]
    mov     x29, x0
    .endm

done:
    msr     spsel, #1
    ldr     x2, [x29, #kept + 0x60]
    mov     sp, x2
    ldp     x19, x20, [x29, #kept]
    ldp     x21, x22, [x29, #kept + 0x10]
    ldp     x23, x24, [x29, #kept + 0x20]
    ldp     x25, x26, [x29, #kept + 0x30]
    ldp     x27, x28, [x29, #kept + 0x40]
    ldp     x29, x30, [x29, #kept + 0x50]
    ret

    .macro  vectors_to handler
    .set    offset, 0
    .rept   16
    .balign 0x80
    mov     x12, #offset
    b       \handler
    .set    offset, offset + 0x80
    .endr
    .endm

// trap(results, pstate): one access to a register of Group 0 interrupts, which are EL3's, in this state.
    .global trap
trap:
    begin
    adr     x2, trap_vectors_el2
    msr     vbar_el2, x2
    adr     x2, trap_vectors_el1
    msr     vbar_el1, x2
    mov     x2, #1 << 31
    msr     hcr_el2, x2
    msr     spsr_el2, x1
    adr     x2, trapped
    msr     elr_el2, x2
    eret
    sb
    .global trapped
trapped:
    mrs     x0, S3_0_C12_C8_0
    b       done

    .macro  note level
    mrs     x13, esr_\level
    mrs     x14, elr_\level
    mrs     x15, spsr_\level
    mrs     x16, daif
    stp     x12, x13, [x29, #took_vector]
    stp     x14, x15, [x29, #took_link]
    str     x16, [x29, #took_masks]
    .endm

note_el2:
    // The end of a note taken at EL1 or in AArch32.
    mrs     x13, esr_el2
    lsr     x13, x13, #26
    cmp     x13, #0x16
    b.eq    done
    cmp     x13, #0x12
    b.eq    note_32
    note    el2
    b       done
note_el1:
    note    el1
    hvc     #0
note_32:
    // LR_und, SPSR_und; where, and in which state, the call to EL2 was.
    mrs     x13, S3_4_C4_C3_2
    mrs     x14, elr_el2
    mrs     x15, spsr_el2
    str     x14, [x29, #took_vector]
    stp     x22, x13, [x29, #took_link]
    str     x15, [x29, #took_masks]
    str     x5, [x29, #took_call]
    mov     x2, #1 << 31
    msr     hcr_el2, x2
    isb
    b       done

    .balign 0x800
trap_vectors_el2:
    vectors_to note_el2
    .balign 0x800
trap_vectors_el1:
    vectors_to note_el1

// trap_32(results): a call and such an access at EL1 in AArch32.
    .global trap_32
trap_32:
    begin
    adr     x2, trap_vectors_el2
    msr     vbar_el2, x2
    adr     x2, vectors_32
    msr     vbar_el1, x2
    ldr     x2, =0x00c50838
    msr     sctlr_el1, x2
    msr     hcr_el2, xzr
    // Supervisor, all masked.
    mov     x2, #0x1d3
    msr     spsr_el2, x2
    adr     x2, code_32
    msr     elr_el2, x2
    mov     x0, #0x80000000
    eret
    sb
code_32:
    // SMC #0; MOV R5, R0; MRC p15, 0, R0, c12, c8, 0; HVC #1.
    .inst   0xe1600070
    .inst   0xe1a05000
    .global trapped_32
trapped_32:
    .inst   0xee1c0f18
    .inst   0xe1400071
    .balign 0x20
    // Reset; Undefined: HVC #0.
    .global vectors_32
vectors_32:
    .inst   0xe1400071
    .inst   0xe1400070

// probe(results, level): executes every MRS, MSR, SYS and SYSL at this exception level. What was read is written back, with zero in between,
// but where that would move the vectors. The instructions are in the page behind the results.
    .global probe
probe:
    begin
    mov     x26, #0
    mov     x27, #0
    mov     x28, #0
    adr     x2, probe_vectors_el2
    msr     vbar_el2, x2
    adr     x2, probe_vectors_el1
    msr     vbar_el1, x2
    // UCI, DZE, UCT: EL0 may maintain caches.
    ldr     x2, =0x34d0c800
    msr     sctlr_el1, x2
    // SIMD, SVE and SME do not trap.
    mov     x2, #0x3330000
    msr     cpacr_el1, x2
    mov     x2, #1 << 31
    msr     hcr_el2, x2
    // All masked; SP_ELx.
    mov     x2, #0x3c0
    cbz     x1, 1f
    orr     x2, x2, x1, lsl #2
    orr     x2, x2, #1
1:  msr     spsr_el2, x2
    adr     x2, each_encoding
    msr     elr_el2, x2
    eret
    sb

each_encoding:
    add     x20, x29, #0x1000
    ldr     w21, =0xd65f03c0
    str     w21, [x20, #4]
    str     w21, [x20, #12]
    ldr     w22, =0xd530000a
    ldr     w23, =0xd5100009
    mov     w25, #0x8000
2:  str     w22, [x20]
    str     w23, [x20, #8]
    bl      fetch_anew
    mov     x10, #0
    blr     x20
    add     x24, x20, #8
    mov     x9, x10
    blr     x24
    ldr     w19, =0xd518c009
    cmp     w23, w19
    b.eq    3f
    ldr     w19, =0xd51cc009
    cmp     w23, w19
    b.eq    3f
    mov     x9, #0
    blr     x24
    mov     x9, x10
    blr     x24
3:  add     w22, w22, #32
    add     w23, w23, #32
    subs    w25, w25, #1
    b.ne    2b
    // SYS and SYSL, with an address that is this program's.
    ldr     w22, =0xd528000a
    ldr     w23, =0xd5080009
    mov     w25, #0x4000
4:  str     w22, [x20]
    str     w23, [x20, #8]
    bl      fetch_anew
    add     x24, x20, #8
    blr     x20
    add     x9, x29, #0x2000
    blr     x24
    add     w22, w22, #32
    add     w23, w23, #32
    subs    w25, w25, #1
    b.ne    4b
    svc     #0

fetch_anew:
    dc      cvau, x20
    dsb     ish
    ic      ivau, x20
    dsb     ish
    isb
    ret

    .macro  skip level, end
    mrs     x11, esr_\level
    lsr     x11, x11, #26
    cmp     x11, #0x15
    b.eq    \end
    cmp     x11, #0x16
    b.eq    \end
    // A trap of this world's own, or by FEAT_IDST, is as good.
    cbz     x11, 3f
    cmp     x11, #0x18
    b.ne    1f
3:  add     x26, x26, #1
    b       2f
1:  add     x27, x27, #1
    mrs     x28, esr_\level
2:  mrs     x11, elr_\level
    add     x11, x11, #4
    msr     elr_\level, x11
    eret
    sb
    .endm

probe_end_el1:
    hvc     #0
probe_end_el2:
    stp     x26, x27, [x29, #seen_undefined]
    str     x28, [x29, #seen_syndrome]
    b       done
skip_el2:
    skip    el2, probe_end_el2
skip_el1:
    skip    el1, probe_end_el1
    .ltorg

    .balign 0x800
probe_vectors_el2:
    vectors_to skip_el2
    .balign 0x800
probe_vectors_el1:
    vectors_to skip_el1
    .balign 0x1000
