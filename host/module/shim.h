/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The two faces of the Rust core (host/object): what it calls (k_*, host/object/src/shim.rs) and what is called of it
 * (realm_*, host/object/src/entries.rs). Results of type int are 0 or what is said, or a negative errno.
 */
#ifndef KVM_REALM_SHIM_H
#define KVM_REALM_SHIM_H

#include <linux/types.h>

/* A file of the core: what realm_device_new() returned or k_install_file() was given. */
struct realm_file;

struct realm_counts {
	u64 exits;
	u64 calls;
	u64 held;
	u64 leaked;
	u64 unfinished;
	u64 delegated;
	u64 undelegated;
};

struct realm_file *realm_device_new(u64 pinned, u64 pinned_by_user, u32 users);
void realm_device_free(struct realm_file *file);
s64 realm_file_ioctl(const struct realm_file *file, u32 cmd, u64 arg);
void realm_file_release(struct realm_file *file);
void realm_device_close(const struct realm_file *file);
u64 realm_vcpu_run_page(const struct realm_file *file);
u64 realm_shut_down(const struct realm_file *file);
void realm_statistics(const struct realm_file *file, struct realm_counts *counts);
size_t realm_describe(const struct realm_file *file, u8 *buffer, size_t size);
bool realm_makes_realms(const struct realm_file *file);
size_t realm_format(const void *message, u8 *buffer, size_t size);

void *k_malloc(size_t size, size_t align, bool zeroed);
void k_free(void *memory);

u64 k_alloc_pages(size_t pages, u32 purpose);
void k_free_pages(u64 pa, size_t pages, bool refused);
void *k_mapped(u64 pa);

void *k_lock_new(u32 class, const u8 *name, size_t len);
void k_lock(void *lock);
int k_lock_killable(void *lock);
void k_unlock(void *lock);
void k_lock_free(void *lock);

void *k_spin_new(u32 order);
u64 k_spin_lock(void *lock);
void k_spin_unlock(void *lock, u64 flags);
void k_spin_free(void *lock);

void *k_event_new(void);
void k_event_wait(void *event, u64 deadline);
void k_event_signal(void *event);
void k_event_free(void *event);

void k_smc(u64 *regs);
u64 k_counter(void);
u64 k_counter_frequency(void);
u32 k_page_shift(void);
u32 k_vmid_bits(void);
size_t k_cpus(void);
size_t k_cpu(void);
void k_yield(void);
void k_kick(u32 vcpu);
void k_vcpu_load(u32 vcpu, bool mask_pmu);
void k_vcpu_put(u32 vcpu, bool mask_pmu);

int k_install_file(u32 kind, void *file);
const void *k_get_file(int fd, void **held);
void k_put_file(void *held);

int k_copy_from_user(u8 *to, u64 from, size_t size);
int k_copy_to_user(u64 to, const u8 *from, size_t size);
int k_pin(u64 addr, u64 most, bool lasting, u64 *block);
void k_unpin(u64 pa, u64 size);
u64 k_process(void);
u32 k_user(void);
bool k_privileged(void);
bool k_must_return(void);
bool k_must_die(void);
bool k_has_work(void);
void k_do_work(void);

void k_log(bool warning, const void *message);

/* Of the C files among themselves. */
int realm_interrupts_init(void);
void realm_interrupts_exit(void);
void realm_mask_pmu(bool mask);
void realm_unmask_pmu(bool mask);
int realm_run_init(void);
void realm_run_exit(void);
void realm_memory_exit(void);
void realm_guard_init(void);
void realm_guard_exit(void);

#endif
