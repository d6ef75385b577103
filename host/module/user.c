// SPDX-License-Identifier: GPL-2.0
/* The process that makes an ioctl, and messages. */

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "shim.h"

int k_copy_from_user(u8 *to, u64 from, size_t size)
{
	return copy_from_user(to, u64_to_user_ptr(from), size) ? -EFAULT : 0;
}

int k_copy_to_user(u64 to, const u8 *from, size_t size)
{
	return copy_to_user(u64_to_user_ptr(to), from, size) ? -EFAULT : 0;
}

u64 k_process(void)
{
	return (u64)current->mm;
}

u32 k_user(void)
{
	return from_kuid(&init_user_ns, current_uid());
}

bool k_privileged(void)
{
	return capable(CAP_SYS_RESOURCE);
}

bool k_must_return(void)
{
	return signal_pending(current);
}

bool k_must_die(void)
{
	return fatal_signal_pending(current);
}

bool k_has_work(void)
{
	return need_resched();
}

void k_do_work(void)
{
	cond_resched();
}

void k_yield(void)
{
	cond_resched();
}

void k_log(bool warning, const void *message)
{
	/* Bytes of a line; the rest of a longer one is dropped. */
	static char line[320];
	static DEFINE_RAW_SPINLOCK(lock);
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 10);
	unsigned long flags;
	size_t size;

	/* A VMM can cause any number of the others. */
	if (!warning && !__ratelimit(&limit))
		return;
	raw_spin_lock_irqsave(&lock, flags);
	size = realm_format(message, line, sizeof(line));
	if (warning)
		pr_warn("kvm-realm: %.*s\n", (int)size, line);
	else
		pr_info("kvm-realm: %.*s\n", (int)size, line);
	raw_spin_unlock_irqrestore(&lock, flags);
}
