//! REC_ENTER as a Host makes it, and the end of everything.

use crate::oracle::addresses::BLOCK;
use crate::oracle::driver::Driver;
use crate::oracle::pick::align;
use crate::oracle::random::Choice;
use realm_abi::rmi::{EnterFlags, GICV3_HCR_HOST_BITS, RecRun, RmiCommand};
use realm_machine::memory::Pas;
use realm_model::{Entry, GranuleState, LastExit, RealmState};
use zerocopy::IntoBytes;

impl Driver {
    pub(crate) fn enter(&mut self, c: &mut Choice) -> Result<(), String> {
        let ready: Vec<u64> = {
            let shared = self.shared();
            let ready = |rec: &&realm_model::Rec| {
                let active = shared
                    .model
                    .realms()
                    .get(&rec.owner)
                    .is_some_and(|realm| realm.state == RealmState::Active);
                active && rec.runnable && !matches!(rec.last_exit, LastExit::Psci(_))
            };
            shared.model.recs().iter().filter(|(_, rec)| ready(rec)).map(|(pa, _)| *pa).collect()
        };
        let rec = match c.maybe(&ready) {
            Some(rec) if !c.one_in(16) => rec,
            _ => self.rec(c),
        };
        let last = self.shared().model.recs().get(&rec).map(|rec| rec.last_exit);
        let mut run = RecRun::default();
        let mut flags = EnterFlags::empty();
        if let Some(LastExit::Abort { emulatable, .. }) = last {
            match c.below(4) {
                0 => flags |= EnterFlags::INJECT_SEA,
                1 | 2 if emulatable => flags |= EnterFlags::EMUL_MMIO,
                _ => {}
            }
        }
        for (flag, often) in [
            (EnterFlags::TRAP_WFI, 2),
            (EnterFlags::TRAP_WFE, 2),
            (EnterFlags::RIPAS_RESPONSE, 5),
            (EnterFlags::EMUL_MMIO, 24),
            (EnterFlags::INJECT_SEA, 24),
        ] {
            if c.one_in(often) {
                flags |= flag;
            }
        }
        run.enter.flags = flags.bits();
        if c.one_in(4) {
            // Bits without a meaning, and list registers this CPU does not have.
            run.enter.flags |= c.next() << 5;
            run.enter.gicv3_lrs[5] = c.next();
        }
        run.enter.gprs = std::array::from_fn(|_| c.next());
        self.interrupts(c, &mut run);
        // What is in the exit's half, or between fields, must not show.
        let mut page = run.as_bytes().to_vec();
        page[0x800..].fill(c.next() as u8);
        page[8..0x200].fill(c.next() as u8);
        let run_ptr = self.host_page(c, &page);
        self.call(RmiCommand::RecEnter { rec, run_ptr }).map(drop)
    }

    /// List registers: mostly none, sometimes valid ones, sometimes not.
    fn interrupts(&self, c: &mut Choice, run: &mut RecRun) {
        if !c.one_in(4) {
            return;
        }
        run.enter.gicv3_hcr = c.next() & GICV3_HCR_HOST_BITS & !(1 << 14);
        for (i, lr) in run.enter.gicv3_lrs.iter_mut().take(4).enumerate() {
            let id = c.of(&[27u64, 30, 32, 100, 1019, 8192, 40]) + if i == 3 { 1 } else { 0 };
            let priority = (c.below(16) << 4) & 0xf8;
            *lr = c.below(4) << 62 | c.below(2) << 60 | priority << 48 | c.below(2) << 41 | id;
        }
        match c.below(12) {
            0 => run.enter.gicv3_hcr |= c.of(&[1, 1 << 8, 1 << 11, 1 << 27, 1 << 63]),
            1 => run.enter.gicv3_lrs[0] |= 1 << 61,
            2 => run.enter.gicv3_lrs[1] |= 1 << 32 | 1 << 62,
            3 => run.enter.gicv3_lrs[2] = 1 << 62 | c.of(&[1020, 1056, 4096, 8191, 65535, 65536, 1 << 24]),
            4 => run.enter.gicv3_lrs[0] |= 1 << 48 | 1 << 62,
            _ => {}
        }
    }

    /// Takes everything back, as a Host does when its VMs are gone.
    ///
    /// # Errors
    /// What differs, or what cannot be destroyed.
    pub fn tear_down(&mut self) -> Result<(), String> {
        let recs: Vec<u64> = self.shared().model.recs().keys().copied().collect();
        for rec in recs {
            self.done(RmiCommand::RecDestroy { rec })?;
        }
        let realms: Vec<u64> = self.shared().model.realms().keys().copied().collect();
        for rd in realms {
            while let Some(command) = self.last_table(rd) {
                self.done(command)?;
            }
            self.done(RmiCommand::RealmDestroy { rd })?;
        }
        let granules: Vec<u64> = {
            let shared = self.shared();
            let ours = self.pool.iter().chain(&self.host_pages).copied();
            let block = (0..1024).map(|i| BLOCK + i * 0x1000);
            ours.chain(block)
                .filter(|pa| shared.model.granule_state(*pa) != Some(GranuleState::Undelegated))
                .collect()
        };
        for addr in granules {
            self.done(RmiCommand::GranuleUndelegate { addr })?;
        }
        Ok(())
    }

    fn done(&mut self, command: RmiCommand) -> Result<(), String> {
        let reply = self.call(command)?;
        if reply.code.is_success() {
            Ok(())
        } else {
            Err(format!("tearing down, {command:x?} gives {reply:x?}"))
        }
    }

    /// The next command that makes the tables of a realm fewer: destroys or unfolds what is deepest.
    fn last_table(&mut self, rd: u64) -> Option<RmiCommand> {
        let spare = self.pool.iter().copied().chain(self.host_pages.iter().copied());
        let shared = self.shared();
        let rtt =
            spare.into_iter().find(|pa| shared.model.granule_state(*pa) == Some(GranuleState::Delegated));
        let unused = self.pool.iter().copied().find(|pa| {
            shared.model.granule_state(*pa) == Some(GranuleState::Undelegated)
                && self.machine.memory().pas(*pa) == Some(Pas::NonSecure)
        });
        let rtts = &shared.model.realms().get(&rd)?.rtts;
        let start = shared.model.realms().get(&rd)?.rtt_level_start;
        let ((level, base), table) =
            rtts.tables().iter().rev().find(|((level, _), table)| *level > start || table.live())?;
        let size = 1u64 << (12 + 9 * (3 - level));
        let assigned = table.entries.iter().position(|e| matches!(e, Entry::Assigned { .. }));
        Some(match assigned {
            Some(index) if *level == 3 => RmiCommand::DataDestroy { rd, ipa: base + index as u64 * size },
            Some(index) => {
                let ipa = base + index as u64 * size;
                match rtt {
                    Some(rtt) => RmiCommand::RttCreate { rd, rtt, ipa, level: level + 1 },
                    None => RmiCommand::GranuleDelegate { addr: unused? },
                }
            }
            None => RmiCommand::RttDestroy { rd, ipa: align(*base, level - 1), level: *level },
        })
    }
}
