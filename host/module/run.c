// SPDX-License-Identifier: GPL-2.0
/* Running vCPUs: secure monitor calls, the counter, and what ends a run. */

#include <linux/arm-smccc.h>
#include <linux/cpumask.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>

#include <asm/cpufeature.h>
#include <asm/sysreg.h>
#include <asm/virt.h>

#include "shim.h"

/* Numbers of vCPUs have 16 bits. */
#define VCPUS (1 << 16)

/* The CPU on which a vCPU's thread is between k_vcpu_load() and k_vcpu_put(), plus one. */
static u16 *loaded;

/* An interrupt that does nothing but end a run. */
static void nothing(void *info)
{
}

/* Given its values when the module starts: a module's per-CPU data is not relocated. */
static DEFINE_PER_CPU(call_single_data_t, kick);

int realm_run_init(void)
{
	unsigned int cpu;

	BUILD_BUG_ON(NR_CPUS >= U16_MAX);
	for_each_possible_cpu(cpu)
		INIT_CSD(per_cpu_ptr(&kick, cpu), nothing, NULL);
	loaded = vzalloc(array_size(VCPUS, sizeof(*loaded)));
	return loaded ? 0 : -ENOMEM;
}

void realm_run_exit(void)
{
	/* A kick that is still on its way runs before its CPU next enables interrupts, so before it comes to rest. */
	synchronize_rcu();
	vfree(loaded);
}

void k_smc(u64 *regs)
{
	struct arm_smccc_1_2_regs args = {
		.a0 = regs[0], .a1 = regs[1], .a2 = regs[2], .a3 = regs[3],
		.a4 = regs[4], .a5 = regs[5], .a6 = regs[6], .a7 = regs[7],
	};

	arm_smccc_1_2_smc(&args, &args);
	regs[0] = args.a0;
	regs[1] = args.a1;
	regs[2] = args.a2;
	regs[3] = args.a3;
	regs[4] = args.a4;
}

u64 k_counter(void)
{
	isb();
	return read_sysreg(cntpct_el0);
}

u64 k_counter_frequency(void)
{
	return read_sysreg(cntfrq_el0);
}

u32 k_page_shift(void)
{
	return PAGE_SHIFT;
}

u32 k_vmid_bits(void)
{
	u64 features = read_sanitised_ftr_reg(SYS_ID_AA64MMFR1_EL1);

	return cpuid_feature_extract_unsigned_field(features, ID_AA64MMFR1_EL1_VMIDBits_SHIFT) ==
	       ID_AA64MMFR1_EL1_VMIDBits_16 ? 16 : 8;
}

size_t k_cpus(void)
{
	return nr_cpu_ids;
}

size_t k_cpu(void)
{
	return raw_smp_processor_id();
}

void k_vcpu_load(u32 vcpu, bool mask_pmu)
{
	preempt_disable();
	/*
	 * Masked here, an interrupt ends a run at once, and is taken in k_vcpu_put(). With interrupt priorities in the place of
	 * DAIF it would not reach the Realm world: such kernels are refused.
	 */
	local_irq_disable();
	realm_mask_pmu(mask_pmu);
	WRITE_ONCE(loaded[vcpu & (VCPUS - 1)], smp_processor_id() + 1);
	/* Who wants something of this vCPU says so first and looks at this second; this thread does it the other way round. */
	smp_mb();
}

void k_vcpu_put(u32 vcpu, bool mask_pmu)
{
	WRITE_ONCE(loaded[vcpu & (VCPUS - 1)], 0);
	realm_unmask_pmu(mask_pmu);
	local_irq_enable();
	preempt_enable();
}

void k_kick(u32 vcpu)
{
	unsigned int cpu;

	smp_mb();
	cpu = READ_ONCE(loaded[vcpu & (VCPUS - 1)]);
	/*
	 * On the CPU itself no realm runs now. If another kick of the same CPU is still on its way it ends the run as well. A CPU that
	 * went offline since runs nothing.
	 */
	preempt_disable();
	if (cpu && cpu - 1 != smp_processor_id())
		smp_call_function_single_async(cpu - 1, per_cpu_ptr(&kick, cpu - 1));
	preempt_enable();
}
