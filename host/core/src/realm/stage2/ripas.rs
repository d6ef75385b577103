//! RIPAS of protected addresses.

use super::Stage2;
use crate::Host;
use crate::error::RealmError;
use crate::rmm::Rmm;
use crate::rmm::rmi::RmiError;

impl Stage2 {
    /// RTT_INIT_RIPAS from `base` on; the address reached. Tables are created only down to the level whose entry can
    /// describe the head of the range, so the RIM depends on the range alone (docs/kvm-realm-abi.md section 3.11).
    pub(crate) fn init_ripas_piece<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        base: u64,
        end: u64,
    ) -> Result<u64, RealmError> {
        let rd = self.rd;
        self.ripas_piece(rmm, base, end, || rmm.rmi().rtt_init_ripas(rd, base, end))
    }

    /// RTT_SET_RIPAS from `base` on; the address reached.
    pub(crate) fn set_ripas_piece<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        rec: u64,
        base: u64,
        top: u64,
    ) -> Result<u64, RealmError> {
        let rd = self.rd;
        self.ripas_piece(rmm, base, top, || rmm.rmi().rtt_set_ripas(rd, rec, base, top))
    }

    /// Runs a command that stops at an entry larger than the range, and once more after splitting that entry.
    fn ripas_piece<H: Host>(
        &mut self,
        rmm: &Rmm<H>,
        base: u64,
        end: u64,
        command: impl Fn() -> Result<u64, RmiError>,
    ) -> Result<u64, RealmError> {
        let error = match command() {
            Ok(reached) => return Ok(reached),
            Err(error) => error,
        };
        let wanted = self.space.map_level(base, end);
        match error.rtt_level() {
            Some(level) if level < wanted => {
                self.create_tables(rmm, base, level, wanted)?;
                Ok(command()?)
            }
            _ => Err(error.into()),
        }
    }
}
