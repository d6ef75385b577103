//! A typed client of the RMM: one method per RMI command the Host core uses, with what the command returns as a Rust
//! type. The RMM is trusted with the realm, not with the Host's own state, so outputs that steer a loop or name memory
//! are checked here.

pub(crate) mod error;

pub(crate) use error::implausible;
pub use error::{Failure, RmiError};

use crate::realm::ipa::{align_down, entry_size};
use crate::rmm::ledger::Ledger;
use crate::{Errno, Host};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{DataFlags, RTT_PAGE_LEVEL, ReturnCode, RmiCommand, RmiReply, UnprotectedDesc, Version};

/// Answer to RMI_VERSION: the range the RMM reports with its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionReply {
    /// SUCCESS, ERROR_INPUT for an incompatible version, NOT_SUPPORTED without an RMM.
    pub code: ReturnCode,
    /// The version that will be used, or the nearest one below.
    pub lower: Version,
    /// The highest version the RMM has.
    pub higher: Version,
}

/// What a command that removes something from a realm's tables found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It removed the entry. `pa` is what was there (zero for RTT_UNMAP_UNPROTECTED, which does not say); nothing lives
    /// between here and `top`.
    Removed {
        /// Physical address of the granule taken out.
        pa: u64,
        /// The next address worth looking at.
        top: u64,
    },
    /// Nothing is there up to `top`.
    Hole {
        /// The next address worth looking at.
        top: u64,
    },
    /// An entry of another size, or a live table, is in the way at `level`.
    Blocked {
        /// Level of the entry in the way.
        level: i64,
    },
}

/// The RMM of a machine and the record of everything asked of it.
pub struct Rmi<H: Host> {
    host: H,
    ledger: Ledger<H>,
}

impl<H: Host> Rmi<H> {
    /// A client that calls through `host`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(host: H) -> Result<Self, Errno> {
        let ledger = Ledger::new(host.cpus())?;
        Ok(Self { host, ledger })
    }

    /// The surroundings.
    #[must_use]
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The record of calls and granules.
    #[must_use]
    pub fn ledger(&self) -> &Ledger<H> {
        &self.ledger
    }

    /// Makes a call and counts it.
    pub fn call(&self, command: RmiCommand) -> RmiReply {
        self.ledger.count_call(self.host.cpu(), command.fid());
        RmiReply::from_regs(&self.host.smc(command.to_regs()))
    }

    fn run(&self, command: RmiCommand) -> Result<[u64; 4], RmiError> {
        let reply = self.call(command);
        if reply.code.is_success() {
            Ok(reply.out)
        } else {
            Err(RmiError::new(command, Failure::Code(reply.code)))
        }
    }

    fn done(&self, command: RmiCommand) -> Result<(), RmiError> {
        self.run(command).map(|_| ())
    }

    /// RMI_VERSION.
    pub fn version(&self, req: Version) -> VersionReply {
        let RmiReply { code, out: [lower, higher, ..] } = self.call(RmiCommand::Version { req });
        VersionReply { code, lower: Version(lower), higher: Version(higher) }
    }

    /// RMI_FEATURES.
    ///
    /// # Errors
    /// The RMM refused.
    pub fn features(&self, index: u64) -> Result<u64, RmiError> {
        self.run(RmiCommand::Features { index }).map(|[value, ..]| value)
    }

    /// RMI_GRANULE_DELEGATE. Use [`OwnedGranule::delegate`](crate::rmm::granule::OwnedGranule::delegate).
    #[inline(never)]
    pub(crate) fn granule_delegate(&self, addr: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::GranuleDelegate { addr })
    }

    /// RMI_GRANULE_UNDELEGATE. Use [`DelegatedGranule::undelegate`](crate::rmm::granule::DelegatedGranule::undelegate).
    #[inline(never)]
    pub(crate) fn granule_undelegate(&self, addr: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::GranuleUndelegate { addr })
    }

    /// RMI_REALM_CREATE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn realm_create(&self, rd: u64, params_ptr: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RealmCreate { rd, params_ptr })
    }

    /// RMI_REALM_ACTIVATE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn realm_activate(&self, rd: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RealmActivate { rd })
    }

    /// RMI_REALM_DESTROY.
    ///
    /// # Errors
    /// The RMM refused: RECs or tables are left.
    #[inline(never)]
    pub fn realm_destroy(&self, rd: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RealmDestroy { rd })
    }

    /// RMI_REC_AUX_COUNT: auxiliary granules each REC of the realm needs, at most 16.
    ///
    /// # Errors
    /// The RMM refused, or named more than a REC can have.
    #[inline(never)]
    pub fn rec_aux_count(&self, rd: u64) -> Result<usize, RmiError> {
        let command = RmiCommand::RecAuxCount { rd };
        let [count, ..] = self.run(command)?;
        match usize::try_from(count) {
            Ok(count) if count <= realm_abi::rmi::MAX_REC_AUX => Ok(count),
            _ => Err(implausible(command, &"more auxiliary granules than RmiRecParams can name")),
        }
    }

    /// RMI_REC_CREATE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn rec_create(&self, rd: u64, rec: u64, params_ptr: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RecCreate { rd, rec, params_ptr })
    }

    /// RMI_REC_DESTROY.
    ///
    /// # Errors
    /// The RMM refused: the REC is running.
    #[inline(never)]
    pub fn rec_destroy(&self, rec: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RecDestroy { rec })
    }

    /// RMI_REC_ENTER. Returns when the REC exits.
    ///
    /// # Errors
    /// The RMM refused; the code says why.
    #[inline(never)]
    pub fn rec_enter(&self, rec: u64, run_ptr: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::RecEnter { rec, run_ptr })
    }

    /// RMI_PSCI_COMPLETE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn psci_complete(&self, calling_rec: u64, target_rec: u64, status: i64) -> Result<(), RmiError> {
        self.done(RmiCommand::PsciComplete { calling_rec, target_rec, status })
    }

    /// RMI_DATA_CREATE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn data_create(
        &self,
        rd: u64,
        data: u64,
        ipa: u64,
        src: u64,
        flags: DataFlags,
    ) -> Result<(), RmiError> {
        self.done(RmiCommand::DataCreate { rd, data, ipa, src, flags })
    }

    /// RMI_DATA_CREATE_UNKNOWN.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn data_create_unknown(&self, rd: u64, data: u64, ipa: u64) -> Result<(), RmiError> {
        self.done(RmiCommand::DataCreateUnknown { rd, data, ipa })
    }

    /// RMI_DATA_DESTROY.
    ///
    /// # Errors
    /// The RMM refused for another reason than the state of the entry.
    #[inline(never)]
    pub fn data_destroy(&self, rd: u64, ipa: u64) -> Result<Removal, RmiError> {
        self.removal(RmiCommand::DataDestroy { rd, ipa }, ipa, RTT_PAGE_LEVEL, |[pa, top, ..]| (pa, top))
    }

    /// RMI_RTT_CREATE.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn rtt_create(&self, rd: u64, rtt: u64, ipa: u64, level: i64) -> Result<(), RmiError> {
        self.done(RmiCommand::RttCreate { rd, rtt, ipa, level })
    }

    /// RMI_RTT_DESTROY.
    ///
    /// # Errors
    /// The RMM refused for another reason than the state of the tables.
    #[inline(never)]
    pub fn rtt_destroy(&self, rd: u64, ipa: u64, level: i64) -> Result<Removal, RmiError> {
        self.removal(
            RmiCommand::RttDestroy { rd, ipa, level },
            ipa,
            level.saturating_sub(1),
            |[pa, top, ..]| (pa, top),
        )
    }

    /// RMI_RTT_FOLD: the physical address of the table that was folded away.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn rtt_fold(&self, rd: u64, ipa: u64, level: i64) -> Result<u64, RmiError> {
        self.run(RmiCommand::RttFold { rd, ipa, level }).map(|[pa, ..]| pa)
    }

    /// RMI_RTT_MAP_UNPROTECTED.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn rtt_map_unprotected(
        &self,
        rd: u64,
        ipa: u64,
        level: i64,
        desc: UnprotectedDesc,
    ) -> Result<(), RmiError> {
        self.done(RmiCommand::RttMapUnprotected { rd, ipa, level, desc })
    }

    /// RMI_RTT_UNMAP_UNPROTECTED.
    ///
    /// # Errors
    /// The RMM refused for another reason than the state of the entry.
    #[inline(never)]
    pub fn rtt_unmap_unprotected(&self, rd: u64, ipa: u64, level: i64) -> Result<Removal, RmiError> {
        self.removal(RmiCommand::RttUnmapUnprotected { rd, ipa, level }, ipa, level, |[top, ..]| (0, top))
    }

    /// RMI_RTT_READ_ENTRY.
    ///
    /// # Errors
    /// The RMM refused.
    #[inline(never)]
    pub fn rtt_read_entry(&self, rd: u64, ipa: u64, level: i64) -> Result<RmiReply, RmiError> {
        self.run(RmiCommand::RttReadEntry { rd, ipa, level }).map(RmiReply::success)
    }

    /// RMI_RTT_INIT_RIPAS: the address reached, above `base` and not above `top`.
    ///
    /// # Errors
    /// The RMM refused, or reports an address outside the range.
    #[inline(never)]
    pub fn rtt_init_ripas(&self, rd: u64, base: u64, top: u64) -> Result<u64, RmiError> {
        self.reached(RmiCommand::RttInitRipas { rd, base, top }, base, top)
    }

    /// RMI_RTT_SET_RIPAS: the address reached, above `base` and not above `top`.
    ///
    /// # Errors
    /// The RMM refused, or reports an address outside the range.
    #[inline(never)]
    pub fn rtt_set_ripas(&self, rd: u64, rec: u64, base: u64, top: u64) -> Result<u64, RmiError> {
        self.reached(RmiCommand::RttSetRipas { rd, rec, base, top }, base, top)
    }

    fn reached(&self, command: RmiCommand, base: u64, top: u64) -> Result<u64, RmiError> {
        let [reached, ..] = self.run(command)?;
        if reached > base && reached <= top {
            Ok(reached)
        } else {
            Err(implausible(command, &"success, but the address reached is outside the range asked for"))
        }
    }

    /// Sorts the answer of a command that removes the entry at `level` for `ipa` (RMM 1.0, RMI_DATA_DESTROY,
    /// RMI_RTT_DESTROY, RMI_RTT_UNMAP_UNPROTECTED): on ERROR_RTT, `top` above the address means a hole and
    /// `top` at the address that something else is there.
    /// A `top` above the address lies behind the entry at least, so a walk cannot be made endless.
    fn removal(
        &self,
        command: RmiCommand,
        ipa: u64,
        level: i64,
        outputs: impl Fn([u64; 4]) -> (u64, u64),
    ) -> Result<Removal, RmiError> {
        let reply = self.call(command);
        let (pa, top) = outputs(reply.out);
        let progress = top >= align_down(ipa, level).saturating_add(entry_size(level))
            && top.is_multiple_of(GRANULE_SIZE);
        if reply.code.is_success() {
            return match progress {
                true => Ok(Removal::Removed { pa, top }),
                false => Err(implausible(command, &"success, but the next address is not behind the entry")),
            };
        }
        if !reply.code.is_error_rtt() {
            return Err(RmiError::new(command, Failure::Code(reply.code)));
        }
        match top > ipa {
            true if progress => Ok(Removal::Hole { top }),
            true => Err(implausible(command, &"a hole that ends inside the entry")),
            false => Ok(Removal::Blocked { level: reply.code.level() }),
        }
    }
}
