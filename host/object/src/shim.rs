//! What the module's C code provides. A result of type `i32` is 0 (or what is said), or a negative errno.
//!
//! Those that are `safe` cannot break anything in this object whatever they are called with; that they do what they say is
//! what the C code promises.

use core::ffi::c_void;

unsafe extern "C" {
    /// Nobody provides it: an object in which a panic is reachable does not link.
    pub safe fn forbidden_panic() -> !;

    /// `kmalloc`, zeroed or not: null if there is no memory.
    pub safe fn k_malloc(size: usize, align: usize, zeroed: bool) -> *mut c_void;
    /// `kfree`.
    pub fn k_free(memory: *mut c_void);

    /// Pages for a purpose, zeroed, aligned to their size; all ones if there are none.
    pub safe fn k_alloc_pages(pages: usize, purpose: u32) -> u64;
    /// Gives such pages back. With `refused` the RMM will not take them.
    pub safe fn k_free_pages(pa: u64, pages: usize, refused: bool);
    /// Where the kernel has mapped a page of the two above or of [`k_pin`].
    pub safe fn k_mapped(pa: u64) -> *mut c_void;

    /// A new mutex of this class and name, null if there is no memory.
    pub safe fn k_lock_new(class: u32, name: *const u8, len: usize) -> *mut c_void;
    /// `mutex_lock`.
    pub fn k_lock(lock: *mut c_void);
    /// `mutex_lock_killable`.
    pub fn k_lock_killable(lock: *mut c_void) -> i32;
    /// `mutex_unlock`.
    pub fn k_unlock(lock: *mut c_void);
    /// `mutex_destroy`, and its memory.
    pub fn k_lock_free(lock: *mut c_void);

    /// A new spin lock (`raw_spinlock_t`) of this order (`realm_vgic::Order`), null if there is no memory.
    pub safe fn k_spin_new(order: u32) -> *mut c_void;
    /// `raw_spin_lock_irqsave`: the flags. Any context.
    pub fn k_spin_lock(lock: *mut c_void) -> u64;
    /// `raw_spin_unlock_irqrestore`.
    pub fn k_spin_unlock(lock: *mut c_void, flags: u64);
    /// Its end.
    pub fn k_spin_free(lock: *mut c_void);

    /// A new event, null if there is no memory.
    pub safe fn k_event_new() -> *mut c_void;
    /// Sleeps until it is signalled, the counter reaches `deadline`, or the thread has a signal.
    pub fn k_event_wait(event: *mut c_void, deadline: u64);
    /// Wakes a sleeper. Any context.
    pub fn k_event_signal(event: *mut c_void);
    /// Its end.
    pub fn k_event_free(event: *mut c_void);

    /// An SMC with the eight words at `regs` in X0 to X7; X0 to X4 are in the first five afterwards.
    pub fn k_smc(regs: *mut u64);
    /// CNTPCT_EL0.
    pub safe fn k_counter() -> u64;
    /// CNTFRQ_EL0.
    pub safe fn k_counter_frequency() -> u64;
    /// `PAGE_SHIFT`.
    pub safe fn k_page_shift() -> u32;
    /// 16 with FEAT_VMID16, else 8.
    pub safe fn k_vmid_bits() -> u32;
    /// `nr_cpu_ids`.
    pub safe fn k_cpus() -> usize;
    /// `raw_smp_processor_id`.
    pub safe fn k_cpu() -> usize;
    /// `cond_resched`.
    pub safe fn k_yield();
    /// Ends a run of this vCPU. Any context.
    pub safe fn k_kick(vcpu: u32);
    /// No preemption and no interrupts from here on.
    pub safe fn k_vcpu_load(vcpu: u32, mask_pmu: bool);
    /// The opposite.
    pub safe fn k_vcpu_put(vcpu: u32, mask_pmu: bool);

    /// A descriptor for a file; `kind` counts as the variants of `realm_host::File` do.
    pub fn k_install_file(kind: u32, file: *mut c_void) -> i32;
    /// The file that was given to [`k_install_file`], null for a descriptor of something else. Whatever it is, it stays open until
    /// [`k_put_file`] of what is written to `held`.
    pub fn k_get_file(fd: i32, held: *mut *mut c_void) -> *const c_void;
    /// See [`k_get_file`].
    pub fn k_put_file(held: *mut c_void);

    /// `copy_from_user`.
    pub fn k_copy_from_user(to: *mut u8, from: u64, size: usize) -> i32;
    /// `copy_to_user`.
    pub fn k_copy_to_user(to: u64, from: *const u8, size: usize) -> i32;
    /// `pin_user_pages` of a block of `most` bytes or of one page; writes physical address and size to `block`.
    pub fn k_pin(addr: u64, most: u64, lasting: bool, block: *mut u64) -> i32;
    /// `unpin_user_page` of each page.
    pub safe fn k_unpin(pa: u64, size: u64);
    /// The address of `current->mm`.
    pub safe fn k_process() -> u64;
    /// `current_uid`.
    pub safe fn k_user() -> u32;
    /// `capable(CAP_SYS_RESOURCE)`.
    pub safe fn k_privileged() -> bool;
    /// `signal_pending`.
    pub safe fn k_must_return() -> bool;
    /// `fatal_signal_pending`.
    pub safe fn k_must_die() -> bool;
    /// `need_resched` and other work of the thread.
    pub safe fn k_has_work() -> bool;
    /// Does it.
    pub safe fn k_do_work();

    /// `printk`, rate-limited: it calls [`realm_format`](crate::log::realm_format) with `message` to have the text.
    pub fn k_log(warning: bool, message: *const c_void);
}
