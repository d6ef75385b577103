//! Aborts of a realm and RIPAS changes: what is mapped, what is emulated, what the VMM has to convert first
//! (docs/kvm-realm-abi.md sections 3.13, 3.15 and 3.18).

use crate::error::RealmError;
use crate::files::vm::{Memory, Slot};
use crate::host::PinnedPage;
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::{Fault, RipasChange, SharedPage};
use crate::run::mmio::{Access, class, ec, fault_ipa};
use crate::run::pending::{Next, Pending};
use crate::run::vcpu::State;
use crate::{Errno, Host, Lock, UserMemory, Vcpu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use realm_abi::rmi::Ripas;

/// How much of a RIPAS change is done before the thread looks at its signals.
const RIPAS_STEP: u64 = 1 << 30;

/// Where an abort leads.
enum Target<H: Host> {
    /// To memory of this slot.
    Slot(Arc<Slot<H>>),
    /// To no memory.
    Nothing,
    /// To memory whose attribute says otherwise.
    Mismatch,
}

impl<H: Host> Memory<H> {
    /// Whether the 2 MiB block around `ipa` can be shared with one entry: the process maps it as one at addresses aligned
    /// alike, `slot` covers it, and none of it is private.
    fn shares_block(&self, slot: &Slot<H>, ipa: u64, page: &PinnedPage) -> bool {
        let in_block = BLOCK_SIZE.wrapping_sub(1);
        let base = ipa & !in_block;
        let block = base..base.saturating_add(BLOCK_SIZE);
        let covered = slot.range();
        page.block >= BLOCK_SIZE
            && (slot.user_addr_of(ipa) ^ ipa) & in_block == 0
            && covered.start <= block.start
            && block.end <= covered.end
            && !self.private.meet(&block)
    }
}

impl<H: Host> Vcpu<H> {
    pub(crate) fn handle_abort(&self, state: &mut State, user: &impl UserMemory) -> Result<Next, Errno> {
        let exit = &state.run.exit;
        let (esr, ipa) = (exit.esr, fault_ipa(exit.hpfar, exit.far));
        let space = self.vm().realm.ipa();
        if space.is_protected(ipa) {
            return self.private_fault(ipa).map(|()| Next::Resume);
        }
        let ipa = space.without_alias(ipa);
        let (target, generation) = self.shared_target(ipa);
        match target {
            Target::Slot(slot) => self.shared_fault(user, ipa, &slot, generation).map(|()| Next::Resume),
            Target::Mismatch => Err(self.memory_fault(ipa, false)),
            Target::Nothing if class(esr) == ec::DATA_ABORT => Ok(self.mmio(state, esr, ipa)),
            // The RMM does not let a realm execute there; it has answered by itself.
            Target::Nothing => Err(Errno::ENXIO),
        }
    }

    /// The page at `ipa` has to be converted, or gets its memory, before the access can be tried again.
    fn memory_fault(&self, ipa: u64, private: bool) -> Errno {
        let page = self.vm().page_size();
        self.kvm_run().exit_memory_fault(ipa & !page.wrapping_sub(1), page, private);
        Errno::EFAULT
    }

    fn private_fault(&self, ipa: u64) -> Result<(), Errno> {
        let vm = self.vm();
        // The attribute is looked at and the page mapped in one go, so that no conversion comes between.
        let memory = vm.memory.lock();
        let Some(slot) = memory.slots.find(ipa).cloned() else {
            drop(memory);
            // RIPAS says RAM, and no slot does: the VMM has to put one there.
            return Err(self.memory_fault(ipa, true));
        };
        let Some(private) = memory.private.around(ipa) else {
            drop(memory);
            return if slot.private.is_some() {
                Err(self.memory_fault(ipa, true))
            } else {
                Err(Errno::EINVAL)
            };
        };
        if memory.removals != 0 {
            drop(memory);
            vm.host().yield_now();
            return Ok(());
        }
        let block = ipa & !BLOCK_SIZE.wrapping_sub(1);
        let around = private.start.max(block)..private.end.min(block.saturating_add(BLOCK_SIZE));
        let range = slot.private_range(&around).ok_or(Errno::EINVAL)?;
        let mapped = vm.realm.fault_private(&range, ipa);
        drop(memory);
        match mapped.map_err(|error| vm.explain("KVM_RUN: private memory", &error))? {
            Fault::Mapped { .. } | Fault::AlreadyMapped => Ok(()),
            Fault::Destroyed => {
                // Entering again would fault again, for ever.
                vm.host().explain(format_args!(
                    "KVM_RUN: the realm uses IPA {ipa:#x}, whose memory was taken away without its consent"
                ));
                Err(self.memory_fault(ipa, true))
            }
        }
    }

    fn shared_target(&self, ipa: u64) -> (Target<H>, u64) {
        let memory = self.vm().memory.lock();
        let target = match memory.slots.find(ipa) {
            None => Target::Nothing,
            // Only a slot with a private side has an attribute to disagree with.
            Some(slot) if slot.private.is_some() && memory.private.around(ipa).is_some() => Target::Mismatch,
            Some(slot) => Target::Slot(slot.clone()),
        };
        (target, memory.generation)
    }

    fn shared_fault(
        &self,
        user: &impl UserMemory,
        ipa: u64,
        slot: &Slot<H>,
        generation: u64,
    ) -> Result<(), Errno> {
        let vm = self.vm();
        let size = vm.page_size();
        let ipa = ipa & !size.wrapping_sub(1);
        // Every shared page is writable: the RMM does not tell reads and writes apart for the realm.
        let page = user.pin(slot.user_addr_of(ipa), true).inspect_err(|_| {
            self.memory_fault(ipa, false);
        })?;
        let mapped = {
            let memory = vm.memory.lock();
            // The page may be gone from the process, or the slot from here, since it was looked up: then again.
            if memory.removals != 0 || memory.generation != generation {
                None
            } else {
                let with_block = memory.shares_block(slot, ipa, &page);
                let page = SharedPage { ipa, pa: page.pa, size, with_block, writable: page.writable };
                Some(vm.realm.map_shared(&page))
            }
        };
        // The mapping stays right without the pin: before the process loses the page it is invalidated, as is the rest
        // of its block.
        user.unpin(page);
        let Some(mapped) = mapped else {
            vm.host().yield_now();
            return Ok(());
        };
        mapped.map_err(|error| vm.explain("KVM_RUN: shared memory", &error))
    }

    fn mmio(&self, state: &mut State, esr: u64, ipa: u64) -> Next {
        let Some(access) = Access::of_syndrome(esr) else {
            state.pending = Pending::InjectSea;
            return Next::Resume;
        };
        let [value, ..] = state.run.exit.gprs;
        let value = access.truncate(value);
        if let Some(irqchip) = &state.irqchip {
            let answer = if access.write {
                irqchip.mmio_write(self.id(), ipa, access.size, value).then_some(0)
            } else {
                irqchip.mmio_read(self.id(), ipa, access.size).map(|value| access.truncate(value))
            };
            if let Some(value) = answer {
                state.pending = Pending::Emulated { value };
                return Next::Resume;
            }
        }
        state.pending = Pending::Mmio(access);
        self.kvm_run().exit_mmio(ipa, access.size, access.write.then_some(value));
        Next::Return
    }

    /// The VMM is told of a RIPAS change before it is done, so that it can convert the memory; a range that cannot be is
    /// rejected.
    pub(crate) fn handle_ripas_change(&self, state: &mut State) -> Result<Next, Errno> {
        let exit = &state.run.exit;
        let (base, top, ripas) = (exit.ripas_base, exit.ripas_top, exit.ripas_value);
        let page = realm_abi::GRANULE_SIZE;
        let good = base < top
            && top <= self.vm().realm.ipa().protected_end()
            && base.is_multiple_of(page)
            && top.is_multiple_of(page)
            && matches!(ripas, Ripas::EMPTY | Ripas::RAM);
        if !good {
            state.pending = Pending::RejectRipas;
            return Ok(Next::Resume);
        }
        state.pending = Pending::RipasChange(RipasChange::new(base, top, ripas));
        self.kvm_run().exit_memory_fault(base, top.saturating_sub(base), ripas == Ripas::RAM);
        Err(Errno::EFAULT)
    }

    /// Does a RIPAS change the VMM was told of. What is done stays done when it is interrupted or runs out of memory:
    /// the next KVM_RUN goes on from there.
    pub(crate) fn commit_ripas(&self, state: &mut State, user: &impl UserMemory) -> Result<(), Errno> {
        let Pending::RipasChange(mut change) = state.pending else { return Ok(()) };
        let rec = state.rec.as_ref().map(crate::realm::rec::Rec::pa).ok_or(Errno::EPERM)?;
        let vm = self.vm();
        while !change.is_done() {
            if user.interrupted() || vm.is_dead() {
                // The loop tells the VMM.
                return Ok(());
            }
            let piece = change.next(RIPAS_STEP);
            let slots: Vec<Arc<Slot<H>>> = vm.memory.lock().slots_in(&piece);
            let ranges: Vec<_> = slots.iter().filter_map(|slot| slot.private_range(&piece)).collect();
            let done = vm.realm.set_ripas(rec, &mut change, piece.end, &ranges);
            state.pending = Pending::RipasChange(change);
            if let Err(error) = done {
                let errno = vm.explain("KVM_RUN: RIPAS change", &error);
                match error {
                    RealmError::NoMemory | RealmError::WrongState { .. } => return Err(errno),
                    // The realm learns from the RMM how far it got.
                    _ => break,
                }
            }
        }
        state.pending = Pending::Nothing;
        Ok(())
    }
}
