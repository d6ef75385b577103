//! What the Host core asks of its surroundings: pages, user pages and files of the calling process, CPUs, time.

use super::locks::{SpinLocks, StdEvent, StdLock};
use super::machine_host::{MAX_EXPLANATIONS, MachineHost};
use super::{process, rules};
use crate::hardware::clock::COUNTER_FREQUENCY;
use crate::hardware::memory::report;
use crate::pas::Pas;
use crate::probe::fault::Point;
use crate::probe::log::{Event, lock};
use realm_abi::{Errno, GRANULE_SIZE};
use realm_host::host::{Entry, GranuleBytes, PageBlock, Pinned, Purpose};
use realm_host::irqchip::GicConfig;
use realm_host::{Arc, File, Host};
use realm_vgic::Vgic;

impl Host for MachineHost {
    type Lock<T: Send> = StdLock<T>;
    type Event = StdEvent;
    type Irqchip = Vgic<SpinLocks>;

    fn page_shift(&self) -> u32 {
        self.shift
    }

    fn vmid_bits(&self) -> u32 {
        if self.machine.config().features.vmid16 { 16 } else { 8 }
    }

    fn alloc(&self, pages: usize, purpose: Purpose) -> Option<PageBlock> {
        rules::may_allocate("pages");
        if !process::allocates(self) || self.machine.faults().hit(Point::Alloc).is_some() {
            return None;
        }
        if !pages.is_power_of_two() {
            self.machine.log().push(Event::HostMisuse(format!("{pages} pages are no power of two")));
            return None;
        }
        let _ = purpose;
        self.alloc_block(pages.ilog2(), false).map(|pa| PageBlock { pa, pages })
    }

    fn free(&self, block: PageBlock) {
        rules::not_atomic("free");
        self.free_block(block.pa, block.pages.max(1).ilog2());
    }

    fn unpin(&self, pinned: Pinned) {
        rules::not_atomic("unpin");
        for pa in (pinned.pa..pinned.pa + pinned.size).step_by(1 << self.shift) {
            self.unpin_user(pa);
        }
    }

    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
        let mut bytes = Box::new(GranuleBytes([0; GRANULE_SIZE as usize]));
        self.read_phys(pa, &mut bytes.0);
        let before = bytes.clone();
        let result = work(&mut bytes);
        if bytes != before {
            self.write_phys(pa, &bytes.0);
        }
        result
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        self.check_owned(pa);
        report(self.machine.log(), self.machine.memory().read(Pas::NonSecure, Pas::NonSecure, pa, out));
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        self.check_owned(pa);
        report(self.machine.log(), self.machine.memory().write(Pas::NonSecure, Pas::NonSecure, pa, bytes));
    }

    fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        self.machine.smc(regs)
    }

    fn counter(&self) -> (u64, u64) {
        (self.machine.clock().now(), COUNTER_FREQUENCY)
    }

    fn yield_now(&self) {
        rules::may_yield();
        std::thread::yield_now();
    }

    fn kick(&self, vcpu: u32) {
        self.machine.kick(vcpu);
    }

    fn vcpu_load(&self, entry: &Entry) {
        self.machine.load(entry.vcpu);
        rules::begin_atomic();
    }

    fn vcpu_put(&self, entry: &Entry) {
        rules::end_atomic();
        self.machine.put(entry.vcpu);
    }

    fn install_file(&self, file: File<Self>) -> Result<i32, Errno> {
        process::current_call().ok_or(Errno::EBADF)?.install(file)
    }

    fn file(&self, fd: i32) -> Option<File<Self>> {
        process::current_call()?.file(fd)
    }

    fn create_irqchip(&self, config: &GicConfig) -> Result<Arc<Vgic<SpinLocks>>, Errno> {
        rules::may_allocate("an interrupt controller");
        Ok(Arc::try_new(Vgic::new(config)?)?)
    }

    fn explain(&self, message: std::fmt::Arguments<'_>) {
        let mut explanations = lock(&self.explanations);
        if explanations.len() == MAX_EXPLANATIONS {
            explanations.pop_front();
        }
        explanations.push_back(message.to_string());
    }

    fn warn(&self, message: std::fmt::Arguments<'_>) {
        self.machine.log().push(Event::HostWarning(message.to_string()));
    }
}
