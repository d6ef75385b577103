// SPDX-License-Identifier: GPL-2.0
/* The process that makes an ioctl, and messages. */

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/user_namespace.h>
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
	struct user_namespace *ns = current_user_ns();
	kuid_t user = current_uid();

	/* Whoever made a namespace answers for all users in it, or one user would be as many as there are in theirs. */
	for (; ns != &init_user_ns; ns = ns->parent)
		user = ns->owner;
	return from_kuid(&init_user_ns, user);
}

bool k_privileged(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_SYS_RESOURCE);
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
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 10);
	/* The rest of a longer line is dropped. */
	char line[256];
	int size;

	/* A VMM can cause any number of the others. */
	if (!warning && !__ratelimit(&limit))
		return;
	size = realm_format(message, line, sizeof(line));
	if (warning)
		pr_warn("kvm-realm: %.*s\n", size, line);
	else
		pr_info("kvm-realm: %.*s\n", size, line);
}
