//! What the Host core asks of the machine.

use super::rules::{self, FakeEvent, FakeLock};
use super::{FakeHost, FakeIrqchip, Machine, ON_ALLOC, Step, WIPED};
use crate::host::{Entry, GranuleBytes, PageBlock, Pinned, Purpose};
use crate::run::irqchip::GicConfig;
use crate::{Errno, File, Host};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ExitReason, RecRun, ReturnCode, RmiCommand, RmiReply};
use realm_alloc::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

impl Host for FakeHost {
    type Lock<T: Send> = FakeLock<T>;
    type Event = FakeEvent;
    type Irqchip = FakeIrqchip;

    fn page_shift(&self) -> u32 {
        self.page_shift
    }

    fn alloc(&self, pages: usize, _purpose: Purpose) -> Option<PageBlock> {
        rules::check_allocation("an allocation of pages");
        rules::interrupt(&ON_ALLOC);
        assert!(pages.is_power_of_two());
        let mut machine = self.machine();
        let fails = machine.fails(Step::Alloc(pages)) || machine.fails_at_random();
        if fails || machine.largest.is_some_and(|largest| pages > largest) {
            return None;
        }
        Some(machine.alloc(pages, self.page_size()))
    }

    fn free(&self, block: PageBlock) {
        rules::check_process("a page is freed");
        self.machine().take(&block, self.page_size());
    }

    fn free_refused(&self, block: PageBlock) {
        rules::check_process("a page is freed");
        let mut machine = self.machine();
        machine.take(&block, self.page_size());
        machine.refused.push(block);
    }

    fn unpin(&self, pinned: Pinned) {
        rules::check_process("an unpin");
        if std::thread::panicking() {
            // The test has failed: what is left of it is dropped.
            return;
        }
        let mut machine = self.machine();
        assert!(pinned.size.is_multiple_of(self.page_size()));
        let mut free = Vec::new();
        for pa in (pinned.pa..pinned.pa + pinned.size).step_by(GRANULE_SIZE as usize) {
            let count = machine.pins.get_mut(&pa).expect("released memory is held");
            *count -= 1;
            if *count == 0 {
                machine.pins.remove(&pa);
                free.push(pa);
            }
        }
        // An RMM that lies may do anything.
        if machine.mangle.is_none() && machine.answer.is_none() && !free.is_empty() {
            let reached = machine.rmm.shared();
            let in_reach = |pa: &u64| reached.iter().any(|range| range.contains(pa));
            let (first, last) = (free[0], free[free.len() - 1]);
            let near = reached.iter().any(|range| range.start <= last && first < range.end);
            assert!(
                !near || !free.iter().any(in_reach),
                "a realm can reach released memory from {first:#x} on"
            );
        }
    }

    fn with_granule<R>(&self, pa: u64, work: impl FnOnce(&mut GranuleBytes) -> R) -> R {
        assert!(pa.is_multiple_of(GRANULE_SIZE));
        let mut bytes = self.machine().content(pa).clone();
        let result = work(&mut bytes);
        *self.machine().content(pa) = bytes;
        result
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        let offset = usize::try_from(pa % GRANULE_SIZE).unwrap();
        out.copy_from_slice(&self.machine().content(pa).0[offset..offset + out.len()]);
    }

    fn write_phys(&self, pa: u64, bytes: &[u8]) {
        let offset = usize::try_from(pa % GRANULE_SIZE).unwrap();
        self.machine().content(pa).0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn smc(&self, regs: [u64; 8]) -> [u64; 5] {
        let calls = self.calls_since_yield.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_calls_without_yield.fetch_max(calls, Ordering::Relaxed);
        let command = RmiCommand::from_regs(&regs);
        let mut machine = self.machine();
        machine.commands.push(command);
        if machine.fails(Step::Call(command)) {
            let code = machine.fault.as_ref().map_or(ReturnCode::ERROR_INPUT, |fault| fault.code);
            return RmiReply::failed(code).to_regs();
        }
        if let Some(reply) = machine.answer.as_mut().and_then(|answer| answer(&command)) {
            return reply.to_regs();
        }
        match command {
            RmiCommand::GranuleDelegate { addr } => {
                let block = machine.blocks.range(..=addr).next_back();
                let owned =
                    block.is_some_and(|(&base, &pages)| addr < base + (pages as u64) * self.page_size());
                assert!(owned, "delegated memory at {addr:#x} that is not allocated");
            }
            RmiCommand::RttMapUnprotected { level, desc, .. } => {
                let pa = desc.0 & !0xfff;
                let size = crate::realm::ipa::entry_size(level);
                let held = machine.pins.range(pa..pa + size).count() as u64 * GRANULE_SIZE == size;
                assert!(held, "shared memory at {pa:#x} that is not held");
            }
            _ => {}
        }
        let enters = matches!(command, RmiCommand::RecEnter { .. });
        assert_eq!(
            enters,
            rules::is_atomic(),
            "between vcpu_load and vcpu_put the realm is entered: {command:?}"
        );
        if let RmiCommand::RecEnter { run_ptr, .. } = command {
            let mut run = RecRun::read_from_bytes(&machine.content(run_ptr).0[..]).unwrap();
            run.exit.zero();
            run.exit.exit_reason = ExitReason::IRQ;
            if let Some(guest) = &mut machine.guest {
                guest(&mut run);
            }
            machine.content(run_ptr).0.copy_from_slice(run.as_bytes());
        }
        let Machine { rmm, contents, mangle, .. } = &mut *machine;
        let mut reply = rmm.handle(command, contents);
        if let (RmiCommand::GranuleUndelegate { addr }, true) = (command, reply.code.is_success()) {
            contents.insert(addr, Box::new(GranuleBytes([WIPED; GRANULE_SIZE as usize])));
        }
        if let Some(mangle) = mangle {
            mangle(&command, &mut reply);
        }
        reply.to_regs()
    }

    fn counter(&self) -> (u64, u64) {
        (0, 1_000_000_000)
    }

    fn yield_now(&self) {
        rules::check_yield();
        self.calls_since_yield.store(0, Ordering::Relaxed);
        self.yields.fetch_add(1, Ordering::Relaxed);
    }

    fn kick(&self, _vcpu: u32) {}

    fn vcpu_load(&self, _entry: &Entry) {
        rules::load();
    }

    fn vcpu_put(&self, _entry: &Entry) {
        rules::put();
    }

    fn install_file(&self, file: File<Self>) -> Result<i32, Errno> {
        let mut machine = self.machine();
        machine.files.push(Some(file));
        Ok(i32::try_from(machine.files.len() - 1).unwrap())
    }

    fn file(&self, fd: i32) -> Option<File<Self>> {
        self.machine().files.get(usize::try_from(fd).ok()?)?.clone()
    }

    fn create_irqchip(&self, _config: &GicConfig) -> Result<Arc<FakeIrqchip>, Errno> {
        Ok(Arc::try_new(FakeIrqchip)?)
    }

    fn warn(&self, _message: core::fmt::Arguments<'_>) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
    }
}
