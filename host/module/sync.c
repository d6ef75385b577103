// SPDX-License-Identifier: GPL-2.0
/* Locks and events of the Host core, in memory of their own: they must not move. */

#include <linux/hrtimer.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/swait.h>

#include "shim.h"

/* Classes of locks (realm_host::host::LockClass), more than there are. */
#define CLASSES 32
/* Spin locks by the order in which they may be taken: a GIC's distributor, then one of its vCPUs. */
#define SPINS 2
/* Bytes of a class's name. */
#define NAME 24

static struct lock_class_key keys[CLASSES];
static char names[CLASSES][NAME];

void *k_lock_new(u32 class, const u8 *name, size_t len)
{
	struct mutex *lock;

	if (class >= CLASSES)
		return NULL;
	lock = kmalloc(sizeof(*lock), GFP_KERNEL_ACCOUNT);
	if (!lock)
		return NULL;
	/* Always the same text: who writes it at the same time writes the same. */
	memcpy(names[class], name, min_t(size_t, len, NAME - 1));
	__mutex_init(lock, names[class], &keys[class]);
	return lock;
}

void k_lock(void *lock)
{
	mutex_lock(lock);
}

int k_lock_killable(void *lock)
{
	return mutex_lock_killable(lock);
}

void k_unlock(void *lock)
{
	mutex_unlock(lock);
}

void k_lock_free(void *lock)
{
	mutex_destroy(lock);
	kfree(lock);
}

void *k_spin_new(u32 order)
{
	static struct lock_class_key orders[SPINS];
	raw_spinlock_t *lock;

	if (order >= SPINS)
		return NULL;
	lock = kmalloc(sizeof(*lock), GFP_KERNEL_ACCOUNT);
	if (!lock)
		return NULL;
	raw_spin_lock_init(lock);
	lockdep_set_class(lock, &orders[order]);
	return lock;
}

u64 k_spin_lock(void *lock)
{
	unsigned long flags;

	raw_spin_lock_irqsave((raw_spinlock_t *)lock, flags);
	return flags;
}

void k_spin_unlock(void *lock, u64 flags)
{
	raw_spin_unlock_irqrestore((raw_spinlock_t *)lock, flags);
}

void k_spin_free(void *lock)
{
	kfree(lock);
}

/* What the thread of one vCPU sleeps on. */
struct realm_event {
	struct swait_queue_head queue;
	atomic_t signalled;
};

void *k_event_new(void)
{
	struct realm_event *event = kmalloc(sizeof(*event), GFP_KERNEL_ACCOUNT);

	if (!event)
		return NULL;
	init_swait_queue_head(&event->queue);
	atomic_set(&event->signalled, 0);
	return event;
}

/* When the counter reaches deadline, on the kernel's clock; at most some seconds from now, so that nothing overflows. */
static ktime_t due(u64 now, u64 deadline)
{
	u64 frequency = k_counter_frequency();
	u64 ticks = min(deadline - now, 4 * frequency);

	return ktime_add_ns(ktime_get(), div64_u64(ticks * NSEC_PER_SEC, frequency));
}

void k_event_wait(void *arg, u64 deadline)
{
	struct realm_event *event = arg;
	DECLARE_SWAITQUEUE(wait);

	for (;;) {
		ktime_t expires;
		u64 now;

		prepare_to_swait_exclusive(&event->queue, &wait, TASK_INTERRUPTIBLE);
		now = k_counter();
		if (atomic_xchg(&event->signalled, 0) || k_must_return() || now >= deadline)
			break;
		expires = due(now, deadline);
		schedule_hrtimeout_range(deadline == U64_MAX ? NULL : &expires, 0, HRTIMER_MODE_ABS);
	}
	finish_swait(&event->queue, &wait);
}

void k_event_signal(void *arg)
{
	struct realm_event *event = arg;

	atomic_set(&event->signalled, 1);
	/* The sleeper looks at it after it has queued itself. */
	smp_mb__after_atomic();
	swake_up_one(&event->queue);
}

void k_event_free(void *event)
{
	kfree(event);
}
