//! A Host reduced to the RMI calls it makes, for tests and benchmarks of the RMM alone: no files, no ledger, every
//! failure is the caller's to see.

use crate::config::DRAM_BASE;
use crate::machine::Machine;
use crate::pas::Pas;
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{
    DataFlags, RealmParams, RecFlags, RecParams, RecRun, ReturnCode, RmiCommand, RmiReply, UnprotectedDesc,
    rtt_entry_size,
};
use zerocopy::{FromBytes, IntoBytes};

/// Panics unless the RMM said success.
///
/// # Panics
/// With the status in words.
#[track_caller]
pub fn ok(reply: RmiReply) -> [u64; 4] {
    assert!(reply.code.is_success(), "{}", reply.code);
    reply.out
}

/// Hands out granules of a machine and makes RMI calls.
pub struct BareHost<'m> {
    machine: &'m Machine,
    next: u64,
}

impl<'m> BareHost<'m> {
    /// A Host that uses DRAM from its start on.
    #[must_use]
    pub const fn new(machine: &'m Machine) -> Self {
        Self::from(machine, DRAM_BASE)
    }

    /// A Host that uses DRAM from `first` on: several can share a machine.
    #[must_use]
    pub const fn from(machine: &'m Machine, first: u64) -> Self {
        Self { machine, next: first }
    }

    /// The machine.
    #[must_use]
    pub const fn machine(&self) -> &'m Machine {
        self.machine
    }

    /// An RMI call.
    pub fn rmi(&self, command: RmiCommand) -> RmiReply {
        self.machine.rmi(&command)
    }

    /// `count` granules nobody has used, aligned to `align` bytes (a power of two).
    ///
    /// # Panics
    /// If DRAM is used up.
    pub fn take(&mut self, count: u64, align: u64) -> u64 {
        let pa = self.next.next_multiple_of(align);
        self.next = pa + count * GRANULE_SIZE;
        assert!(self.next <= DRAM_BASE + self.machine.memory().size(), "DRAM is used up");
        pa
    }

    /// A fresh Non-secure granule.
    pub fn page(&mut self) -> u64 {
        self.take(1, GRANULE_SIZE)
    }

    /// `count` fresh delegated granules.
    pub fn delegated(&mut self, count: u64, align: u64) -> u64 {
        let pa = self.take(count, align);
        for granule in 0..count {
            ok(self.rmi(RmiCommand::GranuleDelegate { addr: pa + granule * GRANULE_SIZE }));
        }
        pa
    }

    /// Writes Non-secure memory.
    ///
    /// # Panics
    /// If it is not Non-secure.
    pub fn write(&self, pa: u64, bytes: &[u8]) {
        if let Err(fault) = self.machine.memory().write(Pas::NonSecure, Pas::NonSecure, pa, bytes) {
            panic!("{fault}");
        }
    }

    /// Reads Non-secure memory.
    ///
    /// # Panics
    /// If it is not Non-secure.
    pub fn read<T: FromBytes + IntoBytes>(&self, pa: u64) -> T {
        let mut value = T::new_zeroed();
        if let Err(fault) =
            self.machine.memory().read(Pas::NonSecure, Pas::NonSecure, pa, value.as_mut_bytes())
        {
            panic!("{fault}");
        }
        value
    }

    /// Creates a realm: `params` with the address of its tables filled in.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn realm(&mut self, mut params: RealmParams) -> BareRealm {
        let tables = u64::from(params.rtt_num_start);
        params.rtt_base = self.delegated(tables, tables.next_power_of_two() * GRANULE_SIZE);
        let rd = self.delegated(1, GRANULE_SIZE);
        let params_ptr = self.page();
        self.write(params_ptr, params.as_bytes());
        ok(self.rmi(RmiCommand::RealmCreate { rd, params_ptr }));
        BareRealm { rd, params, recs: Vec::new(), made: Vec::new() }
    }

    /// Takes granules back from the Realm world.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn undelegated(&self, pa: u64, count: u64) {
        for granule in 0..count {
            ok(self.rmi(RmiCommand::GranuleUndelegate { addr: pa + granule * GRANULE_SIZE }));
        }
    }
}

/// Parameters of a realm with `ipa_bits` (33 to 39) from level 1, one table, SHA-256.
#[must_use]
pub fn realm_params(vmid: u16, ipa_bits: u8) -> RealmParams {
    let mut params = RealmParams::default();
    params.s2sz = ipa_bits;
    (params.num_bps, params.num_wps) = (1, 1);
    params.vmid = vmid;
    (params.rtt_level_start, params.rtt_num_start) = (1, 1);
    params
}

/// A REC and what belongs to it.
#[derive(Clone, Debug)]
pub struct BareRec {
    /// The REC.
    pub rec: u64,
    /// Its [`RecRun`].
    pub run: u64,
    /// Its auxiliary granules.
    pub aux: Vec<u64>,
}

/// Something in a realm's tables.
#[derive(Clone, Copy, Debug)]
enum Made {
    Table { ipa: u64, level: i64 },
    Data { ipa: u64 },
    Shared { ipa: u64 },
}

/// A realm made with [`BareHost::realm`].
#[derive(Debug)]
pub struct BareRealm {
    /// The RD.
    pub rd: u64,
    /// What it was made with.
    pub params: RealmParams,
    /// Its RECs in order of creation.
    pub recs: Vec<BareRec>,
    /// What [`Self::destroy`] has to take away, in order of creation.
    made: Vec<Made>,
}

impl BareRealm {
    /// First unprotected IPA.
    #[must_use]
    pub const fn unprotected(&self) -> u64 {
        1 << (self.params.s2sz - 1)
    }

    /// Creates the tables that are missing for an entry at `level` that maps `ipa`.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn tables(&mut self, host: &mut BareHost<'_>, ipa: u64, level: i64) {
        for table in self.params.rtt_level_start + 1..=level {
            let span = rtt_entry_size(table - 1).unwrap_or(GRANULE_SIZE);
            let ipa = ipa & !(span - 1);
            let [reached, ..] = ok(host.rmi(RmiCommand::RttReadEntry { rd: self.rd, ipa, level: table }));
            if reached.cast_signed() < table {
                let rtt = host.delegated(1, GRANULE_SIZE);
                ok(host.rmi(RmiCommand::RttCreate { rd: self.rd, rtt, ipa, level: table }));
                self.made.push(Made::Table { ipa, level: table });
            }
        }
    }

    /// Makes `[base, top)` RAM, creating tables where the range needs them.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn init_ripas(&mut self, host: &mut BareHost<'_>, base: u64, top: u64) {
        let mut at = base;
        while at < top {
            let reply = host.rmi(RmiCommand::RttInitRipas { rd: self.rd, base: at, top });
            if reply.code.is_error_rtt() {
                self.tables(host, at, reply.code.level() + 1);
            } else {
                at = ok(reply)[0];
            }
        }
    }

    /// Adds a measured page with `content` at `ipa`.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn data(&mut self, host: &mut BareHost<'_>, ipa: u64, content: &[u8]) -> u64 {
        self.tables(host, ipa, 3);
        let (src, data) = (host.page(), host.delegated(1, GRANULE_SIZE));
        host.write(src, content);
        let flags = DataFlags::MEASURE;
        ok(host.rmi(RmiCommand::DataCreate { rd: self.rd, data, ipa, src, flags }));
        self.made.push(Made::Data { ipa });
        data
    }

    /// Adds a page of unknown content at `ipa`.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn data_unknown(&mut self, host: &mut BareHost<'_>, ipa: u64) -> u64 {
        self.tables(host, ipa, 3);
        let data = host.delegated(1, GRANULE_SIZE);
        ok(host.rmi(RmiCommand::DataCreateUnknown { rd: self.rd, data, ipa }));
        self.made.push(Made::Data { ipa });
        data
    }

    /// Maps a fresh Non-secure page at an unprotected `ipa`, readable and writable.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn share(&mut self, host: &mut BareHost<'_>, ipa: u64) -> u64 {
        self.tables(host, ipa, 3);
        let pa = host.page();
        let desc = UnprotectedDesc::normal_rw(pa);
        ok(host.rmi(RmiCommand::RttMapUnprotected { rd: self.rd, ipa, level: 3, desc }));
        self.made.push(Made::Shared { ipa });
        pa
    }

    /// Creates the next REC.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn rec(&mut self, host: &mut BareHost<'_>, pc: u64, gprs: [u64; 8], runnable: bool) -> usize {
        let [num_aux, ..] = ok(host.rmi(RmiCommand::RecAuxCount { rd: self.rd }));
        let index = self.recs.len() as u64;
        let mut params = RecParams::default();
        params.flags = if runnable { RecFlags::RUNNABLE.bits() } else { 0 };
        params.mpidr = index & 0xf | (index >> 4) << 8;
        (params.pc, params.gprs, params.num_aux) = (pc, gprs, num_aux);
        let aux: Vec<u64> = (0..num_aux).map(|_| host.delegated(1, GRANULE_SIZE)).collect();
        params.aux[..aux.len()].copy_from_slice(&aux);
        let (rec, params_ptr, run) = (host.delegated(1, GRANULE_SIZE), host.page(), host.page());
        host.write(params_ptr, params.as_bytes());
        ok(host.rmi(RmiCommand::RecCreate { rd: self.rd, rec, params_ptr }));
        self.recs.push(BareRec { rec, run, aux });
        self.recs.len() - 1
    }

    /// Destroys the realm and takes everything back. Data destroyed meanwhile is skipped.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn destroy(self, host: &BareHost<'_>) {
        let rd = self.rd;
        for rec in self.recs {
            ok(host.rmi(RmiCommand::RecDestroy { rec: rec.rec }));
            host.undelegated(rec.rec, 1);
            rec.aux.iter().for_each(|aux| host.undelegated(*aux, 1));
        }
        for made in self.made.into_iter().rev() {
            match made {
                Made::Table { ipa, level } => {
                    let [rtt, ..] = ok(host.rmi(RmiCommand::RttDestroy { rd, ipa, level }));
                    host.undelegated(rtt, 1);
                }
                Made::Data { ipa } => {
                    let reply = host.rmi(RmiCommand::DataDestroy { rd, ipa });
                    if !reply.code.is_error_rtt() {
                        host.undelegated(ok(reply)[0], 1);
                    }
                }
                Made::Shared { ipa } => {
                    ok(host.rmi(RmiCommand::RttUnmapUnprotected { rd, ipa, level: 3 }));
                }
            }
        }
        ok(host.rmi(RmiCommand::RealmDestroy { rd }));
        host.undelegated(rd, 1);
        host.undelegated(self.params.rtt_base, self.params.rtt_num_start.into());
    }

    /// Activates the realm.
    ///
    /// # Panics
    /// If the RMM refuses.
    pub fn activate(&self, host: &BareHost<'_>) {
        ok(host.rmi(RmiCommand::RealmActivate { rd: self.rd }));
    }

    /// Enters a REC with `enter` and reads what it left.
    ///
    /// # Errors
    /// The RMM's status.
    pub fn enter(&self, host: &BareHost<'_>, rec: usize, enter: &RecRun) -> Result<RecRun, ReturnCode> {
        let BareRec { rec, run, .. } = self.recs[rec];
        host.write(run, enter.enter.as_bytes());
        match host.rmi(RmiCommand::RecEnter { rec, run_ptr: run }).code {
            ReturnCode::SUCCESS => Ok(host.read(run)),
            code => Err(code),
        }
    }
}
