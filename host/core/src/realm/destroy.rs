//! Destruction (docs/kvm-realm-abi.md section 3.7). The order is the caller's for what it owns, and each step can be
//! repeated:
//!
//! 1. [`Realm::begin_destroy`]: no new work.
//! 2. [`Realm::unmap_shared`] and [`Realm::unmap_private`] for all memory.
//! 3. RECs destroyed.
//! 4. [`Realm::destroy`]: tables, realm, RD, VMID, root tables.

use super::{Realm, State};
use crate::error::{Phase, RealmError};
use crate::rmm::rmi::implausible;
use crate::{Host, Lock};
use realm_abi::rmi::RmiCommand;

impl<H: Host> Realm<H> {
    /// Ends a realm's life: from now on only destruction is possible. A realm that was never created is dead at once.
    pub fn begin_destroy(&self) {
        self.state.lock().doom();
    }

    /// Destroys the tables below the starting level, the deepest first. Long.
    ///
    /// # Errors
    /// A command failed: usually memory is still mapped. What is destroyed is gone; call again when the reason is mended.
    pub fn destroy_tables(&self) -> Result<(), RealmError> {
        loop {
            let mut state = self.state.lock();
            let Some(live) = state.live() else { return Ok(()) };
            if live.stage2.destroy_tables_piece(&self.rmm)? {
                return Ok(());
            }
            drop(state);
            self.rmm.host().yield_now();
        }
    }

    /// Destroys the realm once its RECs are gone and its memory is unmapped. Long.
    ///
    /// # Errors
    /// A command failed: memory is still mapped, or RECs are left. The realm is dying; call again when the reason is
    /// mended.
    pub fn destroy(&self) -> Result<(), RealmError> {
        self.begin_destroy();
        self.destroy_tables()?;
        let mut state = self.state.lock();
        let Some(live) = state.live() else { return Ok(()) };
        self.rmm.rmi().realm_destroy(live.rd.pa())?;
        if let State::Dying(live) = core::mem::replace(&mut *state, State::Dead) {
            self.release(live);
        }
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
        if let State::Dying(live) = core::mem::replace(&mut *self.state.lock(), State::Dead) {
            let why = match error {
                RealmError::Rmi(error) => error,
                _ => implausible(
                    RmiCommand::RealmDestroy { rd: live.rd.pa() },
                    "the realm could not be destroyed",
                ),
            };
            let rmi = self.rmm.rmi();
            for granule in live.stage2.into_tables().chain(live.root).chain([live.rd]) {
                granule.lose(rmi, why);
            }
        }
    }
}
