//! Destruction (docs/kvm-realm-abi.md section 3.7). The order is the caller's for what it owns, and each step can be
//! repeated:
//!
//! 1. [`Realm::begin_destroy`]: no new work.
//! 2. [`Realm::unmap_shared`] and [`Realm::unmap_private`] for all memory.
//! 3. RECs destroyed.
//! 4. [`Realm::destroy`]: tables, realm, RD, VMID, root tables.

use super::stage2::Sweep;
use super::{Live, Realm, State};
use crate::error::{Phase, RealmError};
use crate::rmm::rmi::implausible;
use crate::{Host, Lock};
use realm_abi::rmi::RmiCommand;

impl<H: Host> Realm<H> {
    /// Ends a realm's life: from now on only destruction is possible. A realm that was never created is dead at once.
    pub fn begin_destroy(&self) {
        self.state.lock().condemn();
    }

    /// Destroys the tables below the starting level, the deepest first. Long.
    ///
    /// # Errors
    /// The first failure: usually memory is still mapped. Every table is tried; call again when the reason is mended.
    pub fn destroy_tables(&self) -> Result<(), RealmError> {
        let mut sweep = Sweep::new();
        while let Some((tables, _)) = self.known()
            && !tables.destroy_tables_piece(&mut sweep)
        {
            self.rmm.host().yield_now();
        }
        sweep.result()
    }

    /// Destroys the realm once its RECs are gone and its memory is unmapped. Long.
    ///
    /// Whether that is so is for REALM_DESTROY to say, whatever was answered before: once the RMM has destroyed the realm it has
    /// no use for anything of it, so all that is left is asked for.
    ///
    /// # Errors
    /// A command failed: memory is still mapped, or RECs are left. The realm is dying; call again when the reason is
    /// mended.
    pub fn destroy(&self) -> Result<(), RealmError> {
        self.begin_destroy();
        let swept = self.destroy_tables();
        let Some((tables, _)) = self.known() else { return Ok(()) };
        if let Err(error) = self.destroy_rd() {
            return Err(swept.err().unwrap_or(error));
        }
        tables.take_back_all();
        Ok(())
    }

    /// REALM_DESTROY; then RD, root tables and VMID.
    #[inline(never)]
    fn destroy_rd(&self) -> Result<(), RealmError> {
        let rmi = self.rmm.rmi();
        let mut state = self.state.lock();
        let State::Dying(live) = core::mem::replace(&mut *state, State::Dead) else { return Ok(()) };
        let Live { rd, root, vmid, aux_count } = live;
        let rd = match rmi.realm_destroy(rd.pa()) {
            Ok(()) => rd.undelegate(rmi).ok(),
            Err(error) => match rd.ask_back(rmi) {
                // Only a granule that is no RD comes back: the RMM destroyed the realm, now or at an earlier try, and did not say
                // so. It would not say so at any later try either.
                Ok(rd) => Some(rd),
                Err(rd) => {
                    *state = State::Dying(Live { rd, root, vmid, aux_count });
                    return Err(error.into());
                }
            },
        };
        drop(state);
        if let Some(rd) = rd {
            self.rmm.put_owned(rd);
        }
        self.rmm.give_back_all(root);
        self.rmm.vmids().release(vmid);
        Ok(())
    }
}

impl<H: Host> Drop for Realm<H> {
    /// The last attempt. What the RMM still holds after it is lost, and said so.
    fn drop(&mut self) {
        if matches!(self.phase(), Phase::None | Phase::Dead) {
            return;
        }
        let Err(error) = self.destroy() else { return };
        let state = core::mem::replace(&mut *self.state.lock(), State::Dead);
        let State::Dying(live) = state else { return };
        let why = match error {
            RealmError::Rmi(error) => error,
            _ => implausible(
                RmiCommand::RealmDestroy { rd: live.rd.pa() },
                &"the realm could not be destroyed",
            ),
        };
        let tables = self.tables.of(&self.rmm, live.rd.pa());
        tables.lose_tables(why);
        let held = self.pinned();
        if held > 0 {
            let text = "bytes of a VMM's memory stay in place: the realm may still reach them";
            self.rmm.host().warn(format_args!("{held} {text}"));
        }
        let rmi = self.rmm.rmi();
        live.root.into_iter().chain([live.rd]).for_each(|granule| granule.lose(rmi, why));
    }
}
