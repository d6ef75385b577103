//! Single commands, whose arguments mostly fit the state.

use crate::oracle::addresses::GEOMETRIES;
use crate::oracle::driver::Driver;
use crate::oracle::pick::align;
use crate::oracle::random::Choice;
use realm_abi::rmi::{DataFlags, RmiCommand, UnprotectedDesc, Version};
use realm_model::{Entry, GranuleState as G, LastExit};
use zerocopy::IntoBytes;

impl Driver {
    /// A command with arguments that mostly fit the state.
    pub(crate) fn command(&mut self, c: &mut Choice, name: &str) -> RmiCommand {
        let rd = self.rd(c);
        let ns_entry = |_: i64, e: Entry| e == Entry::UnassignedNs;
        match name {
            "delegate" => RmiCommand::GranuleDelegate { addr: self.granule(c, G::Undelegated) },
            "undelegate" => RmiCommand::GranuleUndelegate { addr: self.granule(c, G::Delegated) },
            "realm_create" => {
                let base = self.granule(c, G::Delegated);
                let geometry = c.of(&GEOMETRIES);
                let params = self.realm_params(c, base, geometry);
                RmiCommand::RealmCreate {
                    rd: self.granule(c, G::Delegated),
                    params_ptr: self.host_page(c, params.as_bytes()),
                }
            }
            "realm_destroy" => RmiCommand::RealmDestroy { rd },
            "rec_destroy" => {
                RmiCommand::RecDestroy { rec: if c.one_in(2) { self.rec(c) } else { c.of(&self.pool) } }
            }
            "rec_create" => {
                let count = self.shared().model.config().rec_aux_count;
                let aux = (0..count).map(|_| self.granule(c, G::Delegated)).collect();
                let params = self.rec_params(c, rd, aux);
                let rec = self.granule(c, G::Delegated);
                RmiCommand::RecCreate { rd, rec, params_ptr: self.host_page(c, params.as_bytes()) }
            }
            "rtt_create" => {
                let ipa = self.ipa(c, rd, |level, e| level < 3 || matches!(e, Entry::AssignedNs(_)));
                let level = self.level(c, rd, ipa, 1);
                RmiCommand::RttCreate {
                    rd,
                    rtt: self.granule(c, G::Delegated),
                    ipa: self.aligned(c, ipa, level.saturating_sub(1)),
                    level,
                }
            }
            "rtt_destroy" | "fold" => {
                let ipa = self.ipa(c, rd, |level, _| level > 0);
                let level = self.level(c, rd, ipa, 0);
                let ipa = self.aligned(c, ipa, level.saturating_sub(1));
                if name == "fold" {
                    RmiCommand::RttFold { rd, ipa, level }
                } else {
                    RmiCommand::RttDestroy { rd, ipa, level }
                }
            }
            "map" => {
                let ipa = self.ipa(c, rd, ns_entry);
                let level = self.level(c, rd, ipa, 0);
                RmiCommand::RttMapUnprotected {
                    rd,
                    ipa: self.aligned(c, ipa, level),
                    level,
                    desc: self.desc(c, level),
                }
            }
            "unmap" => {
                let ipa = self.ipa(c, rd, |_, e| matches!(e, Entry::AssignedNs(_)));
                let level = self.level(c, rd, ipa, 0);
                RmiCommand::RttUnmapUnprotected { rd, ipa: self.aligned(c, ipa, level), level }
            }
            "read" => {
                let ipa = self.ipa(c, rd, |_, _| true);
                let level = c.of(&[-1, 0, 1, 2, 3, 3, 3, 4]);
                RmiCommand::RttReadEntry { rd, ipa: self.aligned(c, ipa, level), level }
            }
            "data" => RmiCommand::DataCreate {
                rd,
                data: self.granule(c, G::Delegated),
                ipa: self.ipa(c, rd, |level, e| level == 3 && matches!(e, Entry::Unassigned(_))),
                src: {
                    let content: Vec<u8> = (0..0x200).flat_map(|_| c.next().to_le_bytes()).collect();
                    self.host_page(c, &content)
                },
                flags: DataFlags(c.of(&[0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 1 << 63])),
            },
            "data_unknown" => RmiCommand::DataCreateUnknown {
                rd,
                data: self.granule(c, G::Delegated),
                ipa: self.ipa(c, rd, |level, e| level == 3 && matches!(e, Entry::Unassigned(_))),
            },
            "data_destroy" => RmiCommand::DataDestroy {
                rd,
                ipa: self.ipa(c, rd, |_, e| matches!(e, Entry::Assigned { .. })),
            },
            "init_ripas" => {
                let ipa = self.ipa(c, rd, |level, e| level >= 2 && matches!(e, Entry::Unassigned(_)));
                let size = c.of(&[
                    0x1000,
                    0x1000,
                    0x2000,
                    0x5000,
                    0x20_0000,
                    0x20_1000,
                    0x4000_0000,
                    0,
                    0x800,
                    u64::MAX,
                ]);
                RmiCommand::RttInitRipas { rd, base: ipa, top: ipa.wrapping_add(size) }
            }
            "set_ripas" => self.set_ripas(c, rd),
            "psci_complete" => self.psci_complete(c),
            _ => match c.below(4) {
                0 => RmiCommand::Version {
                    req: c.of(&[Version::V1_0, Version::new(1, 1), Version::new(2, 0), Version::new(0, 1)]),
                },
                1 => RmiCommand::Features { index: c.of(&[0, 0, 1, u64::MAX]) },
                _ => RmiCommand::RecAuxCount { rd },
            },
        }
    }

    /// The level a walk reaches at `ipa` plus `more`; mostly.
    fn level(&self, c: &mut Choice, rd: u64, ipa: u64, more: i64) -> i64 {
        if c.one_in(5) {
            return c.of(&[1, 2, 3, 2, 3, 0, -1, 4, i64::MIN, i64::MAX]);
        }
        self.shared().model.walk(rd, ipa, 3).map_or(3, |walk| walk.level + more)
    }

    fn aligned(&self, c: &mut Choice, ipa: u64, level: i64) -> u64 {
        if c.one_in(20) { ipa } else { align(ipa, level) }
    }

    fn desc(&self, c: &mut Choice, level: i64) -> UnprotectedDesc {
        let pa = if level == 3 || c.one_in(12) {
            if c.one_in(2) { c.of(&self.host_pages) } else { c.of(&self.pool) }
        } else {
            c.of(&[0x8000_0000, 0x8000_0000, 0xc000_0000, 0])
        };
        let memattr = c.of(&[0u64, 1, 5, 6, 6, 6, 7]) << 2;
        let access = c.of(&[0u64, 1, 2, 3, 3, 3, 3, 3]) << 6;
        let wrong = match c.below(40) {
            0 => 1,
            1 => 1 << 5,
            2 => 1 << 55,
            3 => 1 << 10,
            4 => 3 << 8,
            5 => 1 << 48,
            6 => 1 << 50,
            _ => 0,
        };
        UnprotectedDesc(pa | memattr | access | wrong)
    }

    fn set_ripas(&mut self, c: &mut Choice, rd: u64) -> RmiCommand {
        let asking: Vec<(u64, u64, u64, u64)> = {
            let shared = self.shared();
            shared
                .model
                .recs()
                .iter()
                .filter_map(|(pa, rec)| match rec.last_exit {
                    LastExit::Ripas { addr, top, .. } => Some((*pa, rec.owner, addr, top)),
                    _ => None,
                })
                .collect()
        };
        let (rec, owner, addr, limit) = c.maybe(&asking).unwrap_or((self.rec(c), rd, 0, 0x1000));
        let near = [limit, limit, limit, addr.wrapping_add(0x1000), addr.wrapping_add(0x20_0000)];
        let mut top = c.of(&near).min(limit);
        let (mut owner, mut base) = (owner, addr);
        match c.below(20) {
            0 => {
                top = c.of(&[
                    limit.wrapping_add(0x1000),
                    base,
                    base.wrapping_sub(0x1000),
                    0,
                    limit | 0x800,
                    u64::MAX,
                ])
            }
            1 => base = c.of(&[base.wrapping_add(0x1000), base | 0x800, 0, 1 << 63]),
            2 => owner = rd,
            _ => {}
        }
        RmiCommand::RttSetRipas { rd: owner, rec, base, top }
    }

    fn psci_complete(&mut self, c: &mut Choice) -> RmiCommand {
        let pairs: Vec<(u64, u64)> = {
            let shared = self.shared();
            let recs = shared.model.recs();
            let pending = recs.iter().filter(|(_, rec)| matches!(rec.last_exit, LastExit::Psci(_)));
            pending
                .flat_map(|(pa, rec)| {
                    recs.iter()
                        .filter(move |(_, target)| target.owner == rec.owner)
                        .map(move |(target, _)| (*pa, *target))
                })
                .collect()
        };
        let any = (self.rec(c), self.rec(c));
        let (calling_rec, mut target_rec) = c.maybe(&pairs).unwrap_or(any);
        if c.one_in(12) {
            target_rec = self.rec(c);
        }
        RmiCommand::PsciComplete { calling_rec, target_rec, status: c.of(&[0, 0, 0, -3, -3, -4, 1]) }
    }
}
