// Out of reset: every CPU at EL3 with the MMU off.

    .section .text.reset, "ax"
    .global reset
reset:
    // Clusters of CPUs; who is beyond them takes no part.
    mrs     x0, mpidr_el1
    and     x19, x0, #0xff
    cmp     x19, #1 << {cluster_shift}
    b.hs    stop
    ubfx    x1, x0, #16, #8
    cbnz    x1, stop
    ubfx    x1, x0, #32, #8
    cbnz    x1, stop
    ubfx    x1, x0, #8, #8
    add     x19, x19, x1, lsl #{cluster_shift}
    cmp     x19, #{max_cpus}
    b.hs    stop
    msr     daifset, #0xf
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el3, x0
    ldr     x0, ={sctlr}
    msr     sctlr_el3, x0
    // NS and NSE: EL2 and ICC registers are those of the worlds below.
    mov     x0, #{scr_boot}
    msr     scr_el3, x0
    msr     cptr_el3, xzr
    isb
    ldr     x0, =stacks
    mov     x1, #{stack_size}
    add     x2, x19, #1
    madd    x0, x1, x2, x0
    mov     sp, x0
    cbnz    x19, secondary

    ldr     x0, =data
    ldr     x1, =data_end
    ldr     x2, =data_in_flash
1:  cmp     x0, x1
    b.hs    2f
    ldp     x3, x4, [x2], #16
    stp     x3, x4, [x0], #16
    b       1b
2:  ldr     x0, =bss
    ldr     x1, =bss_end
3:  cmp     x0, x1
    b.hs    4f
    stp     xzr, xzr, [x0], #16
    b       3b
4:  bl      {primary}
    b       stop

    // The first CPU says when the tables are there. Memory survives a reset, so nothing in it can say so: a bit of the interrupt
    // controller does, which a reset clears and only Secure and Root can set. The stack may be one that the first CPU is about
    // to give its first values: nothing of it is used before.
secondary:
    ldr     x0, ={gicd_ctlr}
5:  ldr     w1, [x0]
    tbnz    w1, #{released}, 6f
    wfe
    b       5b
6:  dmb     sy
    // Translation first: what is written to a stack without it is not what is read through caches afterwards.
    ldr     x0, ={root}
    ldr     x1, ={tcr}
    ldr     x2, ={mair}
    ldr     x3, ={sctlr_on}
    bl      enable_mmu
    mov     x0, x19
    bl      {secondary}

stop:
    wfi
    b       stop

    .ltorg

// Turns translation on: x0 = root table, x1 = TCR_EL3, x2 = MAIR_EL3, x3 = SCTLR_EL3.
    .section .text, "ax"
    .global enable_mmu
enable_mmu:
    msr     ttbr0_el3, x0
    msr     tcr_el3, x1
    msr     mair_el3, x2
    dsb     sy
    tlbi    alle3
    ic      iallu
    dsb     sy
    isb
    msr     sctlr_el3, x3
    isb
    ret

// Turns granule protection checks on: x0 = GPTBR_EL3, x1 = GPCCR_EL3 without GPC (Arm ARM D9.5).
    .global enable_gpt
enable_gpt:
    dsb     sy
    msr     S3_6_C2_C1_4, x0
    msr     S3_6_C2_C1_6, x1
    isb
    sys     #6, c8, c1, #4
    dsb     sy
    isb
    orr     x1, x1, #(1 << 16)
    msr     S3_6_C2_C1_6, x1
    isb
    sys     #6, c8, c1, #4
    dsb     sy
    isb
    ret
