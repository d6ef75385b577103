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
        self.state.lock().condemn();
    }

    /// Destroys the tables below the starting level, the deepest first. Long.
    ///
    /// # Errors
    /// A command failed: usually memory is still mapped. What is destroyed is gone; call again when the reason is mended.
    pub fn destroy_tables(&self) -> Result<(), RealmError> {
        while let Some((tables, _)) = self.known()
            && !tables.destroy_tables_piece()?
        {
            self.rmm.host().yield_now();
        }
        Ok(())
    }

    /// Destroys the realm once its RECs are gone and its memory is unmapped. Long.
    ///
    /// # Errors
    /// A command failed: memory is still mapped, or RECs are left. The realm is dying; call again when the reason is
    /// mended.
    pub fn destroy(&self) -> Result<(), RealmError> {
        self.begin_destroy();
        self.destroy_tables()?;
        let Some((tables, _)) = self.known() else { return Ok(()) };
        tables.empty_reserve();
        let mut state = self.state.lock();
        let Some(live) = state.live() else { return Ok(()) };
        self.rmm.rmi().realm_destroy(live.rd.pa())?;
        if let State::Dying(live) = core::mem::replace(&mut *state, State::Dead) {
            drop(state);
            // What could not be unmapped before: no table is left.
            tables.release_all();
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
        if tables.pinned() > 0 {
            let held = tables.pinned();
            let text = "bytes of a VMM's memory stay in place: the realm may still reach them";
            self.rmm.host().warn(format_args!("{held} {text}"));
        }
        let rmi = self.rmm.rmi();
        live.root.into_iter().chain([live.rd]).for_each(|granule| granule.lose(rmi, why));
    }
}
