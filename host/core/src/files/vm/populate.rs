//! POPULATE_REALM: initial content, copied from the shared side of the slots (docs/kvm-realm-abi.md section 3.12).

use super::{Slot, Vm};
use crate::error::{Operation, Phase};
use crate::host::Hold;
use crate::realm::PopulateRun;
use crate::realm::ipa::BLOCK_SIZE;
use crate::{Errno, Host, Lock, UserMemory};
use core::ops::Range;
use realm_abi::kvm::{POPULATE_MEASURE, RmePopulate};
use realm_abi::rmi::DataFlags;
use realm_alloc::Arc;

impl<H: Host> Vm<H> {
    /// The whole request is checked, slots included, before the first page of it is measured: a VMM's mistake then leaves
    /// the realm as it was. What fails later makes the realm unusable, because its measurement is one nobody expects.
    #[inline(never)]
    pub(super) fn populate(&self, user: &impl UserMemory, request: &RmePopulate) -> Result<i64, Errno> {
        self.require(Phase::New, Operation::Populate)
            .map_err(|error| self.explain("POPULATE_REALM", &error))?;
        let range = self.check_populate(request)?;
        let flags =
            if request.flags & POPULATE_MEASURE != 0 { DataFlags::MEASURE } else { DataFlags::NO_MEASURE };
        let mut run = PopulateRun::new();
        let mut at = range.start;
        while at < range.end {
            let end = block_end(at).min(range.end);
            if let Err(errno) = self.populate_piece(user, &mut run, at..end, flags) {
                self.realm.abandon_populate(&run);
                return Err(errno);
            }
            at = end;
        }
        Ok(0)
    }

    fn check_populate(&self, request: &RmePopulate) -> Result<Range<u64>, Errno> {
        let page = self.page_size();
        let &RmePopulate { base, size, flags, reserved } = request;
        if !base.is_multiple_of(page) || !size.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        // Version 8 does not look at the reserved fields, later ones want zero.
        if flags & !POPULATE_MEASURE != 0 || reserved != [0; 3] {
            return Err(Errno::EINVAL);
        }
        let end = base.checked_add(size).ok_or(Errno::EINVAL)?;
        if end > self.realm.ipa().protected_end() {
            return Err(Errno::EINVAL);
        }
        let mut at = base;
        while at < end {
            let chunk = at..block_end(at).min(end);
            let slot = self.populate_slot(&chunk)?;
            // The other chunks that lie wholly in the slot need no look: the request may be huge.
            let whole = slot.range().end & !BLOCK_SIZE.wrapping_sub(1);
            at = chunk.end.max(whole.min(end));
        }
        Ok(base..end)
    }

    /// The slot for a 2 MiB chunk of a request.
    fn populate_slot(&self, chunk: &Range<u64>) -> Result<Arc<Slot<H>>, Errno> {
        let slot = self.memory.lock().slots.find(chunk.start).cloned().ok_or(Errno::EFAULT)?;
        if chunk.end > slot.range().end {
            return Err(Errno::EINVAL);
        }
        if slot.private.is_none() {
            return Err(Errno::EPERM);
        }
        Ok(slot)
    }

    /// Populates a chunk page by page. No lock is held over a page's fault or its allocation, so that whoever serves them may
    /// use the VM.
    #[inline(never)]
    fn populate_piece(
        &self,
        user: &impl UserMemory,
        run: &mut PopulateRun,
        chunk: Range<u64>,
        flags: DataFlags,
    ) -> Result<(), Errno> {
        let page = self.page_size();
        let mut slot = self.populate_slot(&chunk)?;
        let mut ipa = chunk.start;
        while ipa < chunk.end {
            if user.must_die() {
                return Err(Errno::EINTR);
            }
            let private = slot.private_range(&chunk).ok_or(Errno::EPERM)?;
            // The series faults the source in for writing; the RMM only reads it.
            let source = user.pin(slot.user_addr_of(ipa), page, Hold::Briefly)?;
            // Another thread may be taking the slot away: what came after it nobody would find again.
            let covered = ipa..ipa.saturating_add(page);
            let valid = || self.has_slot(&slot, &covered);
            let populated = self.realm.populate_page(run, &private, ipa, source.pa, flags, &valid);
            self.host().unpin(source);
            self.host().yield_now();
            if populated.map_err(|error| self.explain("POPULATE_REALM", &error))? {
                ipa = covered.end;
            } else {
                self.wait_for_layout()?;
                slot = self.populate_slot(&chunk)?;
            }
        }
        Ok(())
    }
}

fn block_end(ipa: u64) -> u64 {
    (ipa | BLOCK_SIZE.wrapping_sub(1)).saturating_add(1)
}
