//! The surroundings of the Host core: a kernel.

use crate::lock::{Mutex, Spins, WaitQueue};
use crate::log::log;
use crate::process::result;
use crate::shim;
use core::fmt::Arguments;
use realm_abi::Errno;
use realm_alloc::{Arc, Box, try_uninit_box};
use realm_host::host::{Entry, GranuleBytes, PageBlock, Pinned, Purpose};
use realm_host::irqchip::GicConfig;
use realm_host::{File, Host};
use realm_vgic::Vgic;

/// See the module.
pub struct Kernel;

impl Kernel {
    /// The bytes of a page from `pa` on.
    fn bytes(pa: u64) -> *mut u8 {
        shim::k_mapped(pa).cast()
    }
}

impl Host for Kernel {
    type Lock<T: Send> = Mutex<T>;
    type Event = WaitQueue;
    type Irqchip = Vgic<Spins>;

    fn page_shift(&self) -> u32 {
        shim::k_page_shift()
    }

    fn vmid_bits(&self) -> u32 {
        shim::k_vmid_bits()
    }

    fn cpus(&self) -> usize {
        shim::k_cpus()
    }

    fn cpu(&self) -> usize {
        shim::k_cpu()
    }

    fn alloc(&self, pages: usize, purpose: Purpose) -> Option<PageBlock> {
        match shim::k_alloc_pages(pages, purpose as u32) {
            u64::MAX => None,
            pa => Some(PageBlock { pa, pages }),
        }
    }

    fn free(&self, block: PageBlock) {
        shim::k_free_pages(block.pa, block.pages, false);
    }

    fn free_refused(&self, block: PageBlock) {
        shim::k_free_pages(block.pa, block.pages, true);
    }

    fn unpin(&self, pinned: Pinned) {
        shim::k_unpin(pinned.pa, pinned.size);
    }

    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
        let bytes = Self::bytes(pa).cast::<GranuleBytes>();
        // SAFETY: the Host core owns the granule or has pinned it, and says that nobody else writes it meanwhile.
        work(unsafe { &mut *bytes })
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        let mut from = Self::bytes(pa).cast_const();
        for byte in out {
            // SAFETY: the Host core stays in a page it owns. Others may write it, so each byte is read once.
            *byte = unsafe { from.read_volatile() };
            from = from.wrapping_add(1);
        }
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        let mut to = Self::bytes(pa);
        for &byte in bytes {
            // SAFETY: the Host core stays in a page it owns.
            unsafe { to.write_volatile(byte) };
            to = to.wrapping_add(1);
        }
    }

    fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        let mut regs = regs;
        // SAFETY: eight words. What the call does to memory is what the Host core wants of it.
        unsafe { shim::k_smc(regs.as_mut_ptr()) };
        let [x0, x1, x2, x3, x4, ..] = regs;
        [x0, x1, x2, x3, x4]
    }

    fn counter(&self) -> (u64, u64) {
        (shim::k_counter(), shim::k_counter_frequency())
    }

    fn yield_now(&self) {
        shim::k_yield();
    }

    fn kick(&self, vcpu: u32) {
        shim::k_kick(vcpu);
    }

    fn vcpu_load(&self, entry: &Entry) {
        shim::k_vcpu_load(entry.vcpu, entry.mask_pmu);
    }

    fn vcpu_put(&self, entry: &Entry) {
        shim::k_vcpu_put(entry.vcpu, entry.mask_pmu);
    }

    fn install_file(&self, file: File<Self>) -> Result<i32, Errno> {
        let kind = match &file {
            File::Device(_) => 0,
            File::Vm(_) => 1,
            File::Vcpu(_) => 2,
            File::Irqchip(_) => 3,
            File::GuestMemfd(_) => 4,
        };
        let file = Box::into_raw(Box::write(try_uninit_box()?, file));
        // SAFETY: the file is the C code's from here on, until it calls `realm_file_release` or fails.
        result(unsafe { shim::k_install_file(kind, file.cast()) }).inspect_err(|_| {
            // SAFETY: it came from a box above, and the C code did not keep it.
            drop(unsafe { Box::from_raw(file) });
        })
    }

    fn file(&self, fd: i32) -> Option<File<Self>> {
        let mut held = core::ptr::null_mut();
        // SAFETY: `held` is a pointer's place.
        let file = unsafe { shim::k_get_file(fd, &raw mut held) };
        // SAFETY: it is null or what `install_file` handed out, and stays until it is put.
        let clone = unsafe { file.cast::<File<Self>>().as_ref() }.cloned();
        // SAFETY: it was held by the call above.
        unsafe { shim::k_put_file(held) };
        clone
    }

    fn create_irqchip(&self, config: &GicConfig) -> Result<Arc<Vgic<Spins>>, Errno> {
        Ok(Arc::try_new(Vgic::new(config)?)?)
    }

    fn explain(&self, message: Arguments<'_>) {
        log(false, message);
    }

    fn warn(&self, message: Arguments<'_>) {
        log(true, message);
    }
}
