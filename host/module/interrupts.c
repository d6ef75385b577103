// SPDX-License-Identifier: GPL-2.0
/*
 * The private interrupts by which a realm's timers and its list registers end a run. While a realm runs they only have to be
 * enabled: the RMM restores the host's (silent) timers before this kernel could take them.
 *
 * KVM has requested and enabled them on most hosts, and they stay its own. If nobody has, they are this module's.
 */

#include <linux/cpuhotplug.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/of.h>
#include <linux/of_irq.h>

#include "shim.h"

static struct {
	const char *what;
	const char *compatible;
	const char *name;
	/* Among the interrupts of the node. */
	int index;
	int irq;
	bool ours;
} lines[] = {
	{ "virtual timer", "arm,armv8-timer", "virt", 2 },
	{ "physical timer", "arm,armv8-timer", "phys", 1 },
	{ "GIC maintenance interrupt", "arm,gic-v3", "maintenance", 0 },
};

/* The PMU's interrupt, 0 if there is none; whoever has it keeps it. */
static int pmu_irq;
static DEFINE_PER_CPU(bool, pmu_masked);

static DEFINE_PER_CPU(int, owner);
static enum cpuhp_state hotplug = CPUHP_INVALID;

/* The interrupt of a node: the one it calls by name, if it names any, else the one with this index. */
static int find(struct device_node *node, const char *name, int index)
{
	int named = node ? of_property_match_string(node, "interrupt-names", name) : -ENODEV;
	int irq = node ? irq_of_parse_and_map(node, named >= 0 ? named : index) : 0;

	of_node_put(node);
	return irq;
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), size = strlen(end);

	return length >= size && !strcmp(text + length - size, end);
}

/* The PMU's node goes by the CPU's name, but for its end. */
static struct device_node *pmu_node(void)
{
	struct device_node *node;
	const char *compatible;

	for_each_node_with_property(node, "interrupts")
		if (!of_property_read_string(node, "compatible", &compatible) &&
		    (ends_with(compatible, "-pmu") || ends_with(compatible, "-pmuv3")) && !of_property_present(node, "reg"))
			return node;
	return NULL;
}

static irqreturn_t silent(int irq, void *data)
{
	return IRQ_HANDLED;
}

static int online(unsigned int cpu)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(lines); i++)
		if (lines[i].ours)
			enable_percpu_irq(lines[i].irq, IRQ_TYPE_NONE);
	return 0;
}

static int offline(unsigned int cpu)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(lines); i++)
		if (lines[i].ours)
			disable_percpu_irq(lines[i].irq);
	return 0;
}

static void is_enabled(void *arg)
{
	int *irq = arg;

	if (!irq_percpu_is_enabled(*irq))
		*irq = 0;
}

/* Whether an interrupt is enabled on all CPUs that are there. */
static bool enabled_everywhere(int irq)
{
	int left = irq;

	on_each_cpu(is_enabled, &left, true);
	return left != 0;
}

static void give_back(void)
{
	int i;

	if (hotplug != CPUHP_INVALID)
		cpuhp_remove_state(hotplug);
	hotplug = CPUHP_INVALID;
	for (i = 0; i < ARRAY_SIZE(lines); i++) {
		if (lines[i].ours)
			free_percpu_irq(lines[i].irq, &owner);
		lines[i].ours = false;
	}
}

int realm_interrupts_init(void)
{
	bool any = false;
	int i, error;

	pmu_irq = find(pmu_node(), "pmu", 0);
	for (i = 0; i < ARRAY_SIZE(lines); i++) {
		lines[i].irq = find(of_find_compatible_node(NULL, NULL, lines[i].compatible), lines[i].name, lines[i].index);
		if (!lines[i].irq) {
			pr_err("kvm-realm: the device tree names no %s (machines with ACPI are not supported yet)\n",
			       lines[i].what);
			error = -ENODEV;
			goto failed;
		}
		if (enabled_everywhere(lines[i].irq))
			continue;
		error = request_percpu_irq(lines[i].irq, silent, "kvm-realm", &owner);
		if (error) {
			pr_err("kvm-realm: the %s is KVM's, which has not enabled it: boot without kvm.enable_virt_at_load=0\n",
			       lines[i].what);
			error = -EBUSY;
			goto failed;
		}
		lines[i].ours = true;
		any = true;
	}
	if (!any)
		return 0;
	error = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "kvm-realm:online", online, offline);
	if (error < 0)
		goto failed;
	hotplug = error;
	return 0;

failed:
	give_back();
	return error;
}

void realm_interrupts_exit(void)
{
	give_back();
}

/* On this CPU, with interrupts off. */
void realm_mask_pmu(bool mask)
{
	if (!mask || !pmu_irq || !irq_percpu_is_enabled(pmu_irq))
		return;
	disable_percpu_irq(pmu_irq);
	__this_cpu_write(pmu_masked, true);
}

void realm_unmask_pmu(bool mask)
{
	if (!mask || !__this_cpu_read(pmu_masked))
		return;
	__this_cpu_write(pmu_masked, false);
	enable_percpu_irq(pmu_irq, IRQ_TYPE_NONE);
}
