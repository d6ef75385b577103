// SPDX-License-Identifier: GPL-2.0
/* The module: /dev/kvm-realm, the files behind it, and the end of the kernel. */

#include <linux/anon_inodes.h>
#include <linux/device.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/suspend.h>

#include <asm/cpufeature.h>
#include <asm/virt.h>

#include "shim.h"

#ifdef CONFIG_SHADOW_CALL_STACK
#error "The Rust core uses x18, in which this kernel has its shadow call stack."
#endif
#if defined(CONFIG_CFI_CLANG) || defined(CONFIG_CFI)
#error "The Rust core has no types for this kernel's control flow checks."
#endif

#ifdef CONFIG_ARM64_BTI_KERNEL
#error "The Rust core has no landing pads for this kernel's branch target checks."
#endif

static unsigned long pinned_mib = 256;
module_param(pinned_mib, ulong, 0444);
MODULE_PARM_DESC(pinned_mib, "MiB of its VMM's memory that a VM may hold in place because the realm shares it (256)");

static unsigned long pinned_mib_user = 1024;
module_param(pinned_mib_user, ulong, 0444);
MODULE_PARM_DESC(pinned_mib_user, "MiB that all VMs of a user may hold in place (1024)");

static uint users = 4;
module_param(users, uint, 0444);
MODULE_PARM_DESC(users, "One user may have one of so many parts of all VMIDs and vCPUs (4)");

/* The one file of the device, for as long as the module is there. */
static struct realm_file *device;

static long realm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return realm_file_ioctl(file->private_data, cmd, arg);
}

static vm_fault_t no_fault(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct vm_operations_struct run_page_ops = {
	.fault = no_fault,
};

static int realm_vcpu_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 pa = realm_vcpu_run_page(file->private_data);

	if (!pa)
		return -ENODEV;
	if (vma->vm_pgoff || vma_pages(vma) != 1 || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vma->vm_ops = &run_page_ops;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	return vm_insert_page(vma, vma->vm_start, phys_to_page(pa));
}

/* While the RMM holds on to realms that have no files any more the module stays, so that they can be ended later. */
static void stay_for_unfinished(void)
{
	static DEFINE_MUTEX(lock);
	static bool stays;
	struct realm_counts counts;

	mutex_lock(&lock);
	realm_statistics(device, &counts);
	if (counts.unfinished && !stays)
		__module_get(THIS_MODULE);
	if (!counts.unfinished && stays)
		module_put(THIS_MODULE);
	stays = counts.unfinished;
	mutex_unlock(&lock);
}

static int realm_release(struct inode *inode, struct file *file)
{
	realm_file_release(file->private_data);
	stay_for_unfinished();
	return 0;
}

#define REALM_FILE(name, more...)			\
	static const struct file_operations name = {	\
		.owner = THIS_MODULE,			\
		.unlocked_ioctl = realm_ioctl,		\
		.compat_ioctl = compat_ptr_ioctl,	\
		.llseek = noop_llseek,			\
		more					\
	}

REALM_FILE(vm_fops, .release = realm_release);
REALM_FILE(vcpu_fops, .release = realm_release, .mmap = realm_vcpu_mmap);
REALM_FILE(irqchip_fops, .release = realm_release);
REALM_FILE(memfd_fops, .release = realm_release);

/* By the variants of realm_host::File; the first is the device, which has no descriptor of this kind. */
static const struct {
	const char *name;
	const struct file_operations *fops;
} kinds[] = {
	{ NULL, NULL },
	{ "kvm-realm-vm", &vm_fops },
	{ "kvm-realm-vcpu", &vcpu_fops },
	{ "kvm-realm-irqchip", &irqchip_fops },
	{ "kvm-realm-guest-memfd", &memfd_fops },
};

int k_install_file(u32 kind, void *file)
{
	if (kind >= ARRAY_SIZE(kinds) || !kinds[kind].fops)
		return -EINVAL;
	return anon_inode_getfd(kinds[kind].name, kinds[kind].fops, file, O_RDWR | O_CLOEXEC);
}

const void *k_get_file(int fd, void **held)
{
	struct file *file = fget(fd);
	size_t i;

	*held = file;
	for (i = 1; file && i < ARRAY_SIZE(kinds); i++)
		if (file->f_op == kinds[i].fops)
			return file->private_data;
	return NULL;
}

void k_put_file(void *held)
{
	if (held)
		fput(held);
}

static int device_open(struct inode *inode, struct file *file)
{
	file->private_data = device;
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	realm_device_close(file->private_data);
	stay_for_unfinished();
	return 0;
}

REALM_FILE(device_fops, .open = device_open, .release = device_release);

#define COUNTER(name, field)								\
	static ssize_t name##_show(struct device *dev, struct device_attribute *attr, char *buf)	\
	{										\
		struct realm_counts counts;						\
											\
		realm_statistics(device, &counts);					\
		return sysfs_emit(buf, "%llu\n", counts.field);				\
	}										\
	static DEVICE_ATTR(name, 0440, name##_show, NULL)

COUNTER(rec_exits, exits);
COUNTER(rmi_calls, calls);
COUNTER(granules_delegated, delegated);
COUNTER(granules_undelegated, undelegated);
COUNTER(granules_lost, leaked);
COUNTER(unfinished_vms, unfinished);

static struct attribute *counter_attrs[] = {
	&dev_attr_rec_exits.attr,
	&dev_attr_rmi_calls.attr,
	&dev_attr_granules_delegated.attr,
	&dev_attr_granules_undelegated.attr,
	&dev_attr_granules_lost.attr,
	&dev_attr_unfinished_vms.attr,
	NULL,
};

static const struct attribute_group counter_group = {
	.name = "counters",
	.attrs = counter_attrs,
};

static const struct attribute_group *groups[] = { &counter_group, NULL };

static struct miscdevice misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kvm-realm",
	.fops = &device_fops,
	.mode = 0660,
	.groups = groups,
};

/* Whatever kernel comes next must not find memory of the Realm world. */
static int going_down(struct notifier_block *block, unsigned long action, void *data)
{
	u64 held = realm_shut_down(device);

	if (held)
		pr_emerg("kvm-realm: %llu granules or VMs could not be taken back from the RMM\n", held);
	return NOTIFY_DONE;
}

static struct notifier_block reboot = {
	.notifier_call = going_down,
};

/* The Realm world's memory cannot be saved, and nobody said that an RMM lives on when the machine sleeps. */
static int sleeping(struct notifier_block *block, unsigned long action, void *data)
{
	struct realm_counts counts;

	if (action != PM_HIBERNATION_PREPARE && action != PM_SUSPEND_PREPARE && action != PM_RESTORE_PREPARE)
		return NOTIFY_DONE;
	realm_statistics(device, &counts);
	if (!counts.held)
		return NOTIFY_DONE;
	pr_warn("kvm-realm: the machine cannot sleep while there are realms\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block sleep = {
	.notifier_call = sleeping,
};

static int __init realm_init(void)
{
	static char text[256] __initdata;
	int error;

	if (!is_kernel_in_hyp_mode()) {
		pr_err("kvm-realm: this kernel does not run at EL2 (VHE): its tick could not end a realm's turn. Boot without kvm-arm.mode=nvhe or protected, on a CPU with VHE.\n");
		return -ENODEV;
	}
	if (system_uses_irq_prio_masking()) {
		pr_err("kvm-realm: interrupts are masked by priority here, so none would end a realm's turn. Boot without irqchip.gicv3_pseudo_nmi=1.\n");
		return -ENODEV;
	}
	error = realm_run_init();
	if (error)
		return error;
	error = realm_interrupts_init();
	if (error)
		goto no_interrupts;
	error = -ENOMEM;
	device = realm_device_new((u64)pinned_mib << 20, (u64)pinned_mib_user << 20, users);
	if (!device)
		goto no_device;
	pr_info("kvm-realm: %.*s\n", (int)realm_describe(device, text, sizeof(text)), text);
	error = -ENODEV;
	if (!realm_makes_realms(device))
		goto no_rmm;
	error = register_reboot_notifier(&reboot);
	if (error)
		goto no_rmm;
	error = register_pm_notifier(&sleep);
	if (error)
		goto no_sleep;
	realm_guard_init();
	error = misc_register(&misc);
	if (error)
		goto no_file;
	return 0;

no_file:
	realm_guard_exit();
	unregister_pm_notifier(&sleep);
no_sleep:
	unregister_reboot_notifier(&reboot);
no_rmm:
	realm_device_free(device);
no_device:
	realm_interrupts_exit();
no_interrupts:
	realm_run_exit();
	realm_memory_exit();
	return error;
}
module_init(realm_init);

/* No file is open, and no VM is left: stay_for_unfinished() has seen to it. */
static void __exit realm_exit(void)
{
	misc_deregister(&misc);
	realm_guard_exit();
	unregister_pm_notifier(&sleep);
	unregister_reboot_notifier(&reboot);
	realm_device_free(device);
	realm_interrupts_exit();
	realm_run_exit();
	realm_memory_exit();
}
module_exit(realm_exit);

MODULE_DESCRIPTION("Arm CCA realms: the KVM realm ioctls on kernels that have none");
MODULE_AUTHOR("Realmkit");
MODULE_LICENSE("Dual MIT/GPL");
