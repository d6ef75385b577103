//! RIPAS of protected addresses.

use super::Stage2;
use super::spare::{Stop, Supply};
use crate::error::RealmError;
use crate::rmm::rmi::RmiError;
use crate::{Host, Lock};

impl<H: Host> Stage2<'_, H> {
    /// RTT_INIT_RIPAS from `base` on; the address reached. Tables are created only down to the level whose entry can
    /// describe the head of the range, so the RIM depends on the range alone (docs/kvm-realm-abi.md section 3.11).
    pub(crate) fn init_ripas_piece(&self, base: u64, end: u64) -> Result<u64, RealmError> {
        self.ripas_piece(base, end, || self.rmm.rmi().rtt_init_ripas(self.rd, base, end))
    }

    /// RTT_SET_RIPAS from `base` on; the address reached.
    pub(crate) fn set_ripas_piece(&self, rec: u64, base: u64, top: u64) -> Result<u64, RealmError> {
        self.ripas_piece(base, top, || self.rmm.rmi().rtt_set_ripas(self.rd, rec, base, top))
    }

    /// Runs a command that stops at an entry larger than the range, and once more after splitting that entry. The command
    /// changes no table, so it needs no lock; nobody takes a table away from where RIPAS changes.
    fn ripas_piece(
        &self,
        base: u64,
        end: u64,
        command: impl Fn() -> Result<u64, RmiError>,
    ) -> Result<u64, RealmError> {
        let error = match command() {
            Ok(reached) => return Ok(reached),
            Err(error) => error,
        };
        let wanted = self.tables.space.map_level(base, end);
        let Some(level) = error.rtt_level().filter(|level| *level < wanted) else { return Err(error.into()) };
        self.with_spare(&mut Supply::Host, |spare| {
            let mut blocks = self.blocks(base).lock();
            self.create_tables(&mut blocks, spare, base, level, wanted)?;
            command().map_err(Stop::from)
        })
    }
}
