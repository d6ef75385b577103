//! Aborts of a realm and RIPAS changes: what is mapped, what is emulated, what the VMM has to convert first
//! (docs/kvm-realm-abi.md sections 3.13, 3.15 and 3.18).

use crate::error::RealmError;
use crate::files::vm::Slot;
use crate::host::Hold;
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::{Fault, RipasChange, SharedFault, Supply};
use crate::run::mmio::{Access, class, ec, fault_ipa};
use crate::run::pending::{Next, Pending};
use crate::run::vcpu::State;
use crate::{Errno, Host, Lock, UserMemory, Vcpu};
use realm_abi::rmi::Ripas;
use realm_alloc::Arc;

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

impl<H: Host> Vcpu<H> {
    #[inline(never)]
    pub(crate) fn handle_abort(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<Next, Errno> {
        let (esr, ipa) = (state.exit.esr, fault_ipa(state.exit.hpfar, state.exit.far));
        let space = self.vm().realm.ipa();
        if space.is_protected(ipa) {
            return self.private_fault(user, ipa).map(|()| Next::Resume);
        }
        let ipa = space.without_alias(ipa);
        match self.shared_target(ipa) {
            Target::Slot(slot) => self.shared_fault(user, ipa, &slot).map(|()| Next::Resume),
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

    #[inline(never)]
    fn private_fault(&self, user: &impl UserMemory, ipa: u64) -> Result<(), Errno> {
        let vm = self.vm();
        let (slot, private) = {
            let memory = vm.memory.lock();
            (memory.slots.find(ipa).cloned(), memory.private.around(ipa))
        };
        let (Some(slot), Some(private)) = (&slot, private) else {
            return match slot {
                // RIPAS says RAM, and it is a shared slot's.
                Some(slot) if slot.private.is_none() => Err(Errno::EINVAL),
                // No slot is there, or the page is shared: the VMM has to change that.
                _ => Err(self.memory_fault(ipa, true)),
            };
        };
        if slot.is_leaving() {
            return vm.wait_for_layout();
        }
        let block = ipa & !BLOCK_SIZE.wrapping_sub(1);
        let around = private.start.max(block)..private.end.min(block.saturating_add(BLOCK_SIZE));
        let range = slot.private_range(&around).ok_or(Errno::EINVAL)?;
        let covered = range.ipa..range.end();
        // Looked at with the block locked: who changes slots or attributes takes the memory away afterwards.
        let valid = || vm.is_private(slot, &covered);
        let go_on = || !user.must_return() && !self.waker().is_kicked();
        let fault = vm.realm.fault_private(&range, ipa, &valid, &go_on);
        match fault.map_err(|error| vm.explain("KVM_RUN: private memory", &error))? {
            Fault::Mapped | Fault::AlreadyMapped | Fault::Changed => Ok(()),
            Fault::Destroyed => {
                // Entering again would fault again, for ever.
                vm.host().explain(format_args!(
                    "KVM_RUN: the realm uses IPA {ipa:#x}, whose memory was taken away without its consent"
                ));
                Err(self.memory_fault(ipa, true))
            }
        }
    }

    fn shared_target(&self, ipa: u64) -> Target<H> {
        let memory = self.vm().memory.lock();
        match memory.slots.find(ipa) {
            None => Target::Nothing,
            // Only a slot with a private side has an attribute to disagree with.
            Some(slot) if slot.private.is_some() && memory.private.around(ipa).is_some() => Target::Mismatch,
            Some(slot) => Target::Slot(slot.clone()),
        }
    }

    #[inline(never)]
    fn shared_fault(&self, user: &impl UserMemory, ipa: u64, slot: &Arc<Slot<H>>) -> Result<(), Errno> {
        let vm = self.vm();
        if slot.is_leaving() {
            return vm.wait_for_layout();
        }
        let page = vm.page_size();
        let ipa = ipa & !page.wrapping_sub(1);
        let (user_addr, in_block) = (slot.user_addr_of(ipa), BLOCK_SIZE.wrapping_sub(1));
        let block = ipa & !in_block..(ipa & !in_block).saturating_add(BLOCK_SIZE);
        let mut as_block = (user_addr ^ ipa) & in_block == 0
            && slot.range().start <= block.start
            && block.end <= slot.range().end
            && vm.is_shared(slot, &block)
            && vm.realm.shares_nothing_around(ipa);
        loop {
            // Every shared page is writable: the RMM does not tell reads and writes apart for the realm.
            let most = if as_block { BLOCK_SIZE } else { page };
            let pinned = user.pin(user_addr, most, Hold::Lasting).inspect_err(|_| {
                self.memory_fault(ipa, false);
            })?;
            let covered =
                if pinned.size == BLOCK_SIZE { block.clone() } else { ipa..ipa.saturating_add(page) };
            // Looked at with the block locked, as for private memory.
            let mapped = vm.realm.map_shared(ipa, pinned, &|| vm.is_shared(slot, &covered));
            match mapped.map_err(|error| vm.explain("KVM_RUN: shared memory", &error))? {
                SharedFault::Mapped | SharedFault::AlreadyMapped | SharedFault::Changed => return Ok(()),
                SharedFault::NotAsBlock if as_block => as_block = false,
                SharedFault::NotAsBlock => return Ok(()),
            }
        }
    }

    fn mmio(&self, state: &mut State<H>, esr: u64, ipa: u64) -> Next {
        let Some(access) = Access::of_syndrome(esr) else {
            state.pending = Pending::InjectSea;
            return Next::Resume;
        };
        let [value, ..] = state.exit.gprs;
        let value = access.truncate(value);
        if let Some(gic) = &state.gic {
            let answer = if access.write {
                gic.mmio_write(self.id(), ipa, access.size, value).then_some(0)
            } else {
                gic.mmio_read(self.id(), ipa, access.size).map(|value| access.truncate(value))
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
    pub(crate) fn handle_ripas_change(&self, state: &mut State<H>) -> Result<Next, Errno> {
        let exit = &state.exit;
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
    #[inline(never)]
    pub(crate) fn commit_ripas(&self, state: &mut State<H>, user: &impl UserMemory) -> Result<(), Errno> {
        let Pending::RipasChange(mut change) = state.pending else { return Ok(()) };
        let rec = state.rec.as_ref().map(crate::realm::rec::Rec::pa).ok_or(Errno::EPERM)?;
        let vm = self.vm();
        let stop = || user.must_return() || vm.is_dead();
        while !change.is_done() {
            let piece = change.next(RIPAS_STEP);
            let done = vm.realm.set_ripas(rec, &mut change, piece.end, &stop).and_then(|()| {
                if change.ripas() == Ripas::EMPTY {
                    vm.unmap_private_of(&change.to_free(), &mut Supply::HostOrReserve, &stop)?;
                }
                change.freed();
                Ok(())
            });
            state.pending = Pending::RipasChange(change);
            match done {
                Ok(()) => {}
                // The loop tells the VMM.
                Err(RealmError::Killed) => return Ok(()),
                Err(error @ (RealmError::NoMemory | RealmError::WrongState { .. })) => {
                    return Err(vm.explain("KVM_RUN: RIPAS change", &error));
                }
                Err(error) => {
                    // The realm learns from the RMM how far it got.
                    let _: Errno = vm.explain("KVM_RUN: RIPAS change", &error);
                    break;
                }
            }
        }
        state.pending = Pending::Nothing;
        Ok(())
    }
}
