// SPDX-License-Identifier: GPL-2.0
/*
 * Pages the RMM has are still in the kernel's linear map. This module does not touch them, and nobody else has a reference to them,
 * but whoever reads memory at large (/proc/kcore, a debugger, a crash tool's *_nofault()) may: the granule protection fault this
 * raises has no entry in the kernel's table of faults, which ends the thread in do_bad() even where it was ready for a fault. A probe
 * there lets it have its fault.
 */

#include <linux/kprobes.h>
#include <linux/printk.h>

#include <asm/esr.h>
#include <asm/ptrace.h>

#include "shim.h"

/* Granule protection faults, on a table walk (0x23 to 0x27) and on the access itself. */
#define FIRST_GPF 0x23
#define LAST_GPF 0x28

/* fixup_exception(), which is not exported. Some kernels hand it the syndrome as well. */
static bool (*fixup)(struct pt_regs *regs, unsigned long esr);

/* do_bad(far, esr, regs) */
static int before_do_bad(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long esr = regs->regs[1];
	struct pt_regs *fault = (struct pt_regs *)regs->regs[2];
	unsigned long status = esr & ESR_ELx_FSC;

	if (status < FIRST_GPF || status > LAST_GPF || user_mode(fault) || !fixup(fault, esr))
		return 0;
	/* Returns 0 to its caller: the fault is dealt with. */
	regs->regs[0] = 0;
	instruction_pointer_set(regs, regs->regs[30]);
	return 1;
}
NOKPROBE_SYMBOL(before_do_bad);

static struct kprobe probe = {
	.symbol_name = "do_bad",
	.pre_handler = before_do_bad,
};
static bool guarded;

void realm_guard_init(void)
{
	struct kprobe search = { .symbol_name = "fixup_exception" };

	if (!register_kprobe(&search)) {
		fixup = (void *)search.addr;
		unregister_kprobe(&search);
		guarded = !register_kprobe(&probe);
	}
	if (!guarded)
		pr_warn("kvm-realm: no probe of do_bad(): reading a realm's memory through the linear map ends the thread that does\n");
}

void realm_guard_exit(void)
{
	if (guarded)
		unregister_kprobe(&probe);
}
