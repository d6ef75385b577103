//! Each command through [`Rmm::run_command`], on the fake machine: every failure condition by its name in the
//! specification, with proof that nothing changed, and every effect of success.

extern crate std;

mod broken;
mod data;
mod granule;
mod realm;
mod rec;
mod ripas;
mod rtt;
mod unprotected;

use crate::Rmm;
use crate::fakes::{FakePlatform, Pas};
use crate::granule::{GranuleEntry, GranuleState};
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, RealmParams, ReturnCode, Ripas, RmiCommand, RmiReply, RttEntryState,
    UnprotectedDesc,
};
use realm_abi::{GRANULE_SIZE, rmi, smccc};
use std::vec::Vec;
use zerocopy::IntoBytes;

pub(crate) const GRANULES: usize = 64;
pub(crate) const INPUT: ReturnCode = ReturnCode::ERROR_INPUT;
pub(crate) const REALM: ReturnCode = ReturnCode::ERROR_REALM;
/// An address that is not delegable.
pub(crate) const OUTSIDE: u64 = 0x4000_0000;

pub(crate) const fn rtt_error(level: i64) -> ReturnCode {
    ReturnCode::error_rtt(level)
}

pub(crate) fn entries() -> Vec<GranuleEntry> {
    (0..GRANULES).map(|_| GranuleEntry::default()).collect()
}

/// An RMM, and a Host with a supply of granules: 0 holds parameters, 1 a page of data, the others are handed out.
pub(crate) struct World<'a> {
    pub(crate) rmm: Rmm<'a, FakePlatform>,
    entries: &'a [GranuleEntry],
    next: AtomicU64,
}

pub(crate) const PARAMS: u64 = FakePlatform::granule(0);
pub(crate) const SOURCE: u64 = FakePlatform::granule(1);

impl<'a> World<'a> {
    pub(crate) fn new(entries: &'a [GranuleEntry]) -> Self {
        Self::with(entries, |_| ())
    }

    pub(crate) fn with(entries: &'a [GranuleEntry], change: impl FnOnce(&mut FakePlatform)) -> Self {
        let mut platform = FakePlatform::new(entries.len());
        change(&mut platform);
        let bank = platform.bank();
        Self { rmm: Rmm::new(platform, &[bank], entries).unwrap(), entries, next: AtomicU64::new(2) }
    }

    pub(crate) fn machine(&self) -> &FakePlatform {
        self.rmm.platform()
    }

    pub(crate) fn run(&self, command: RmiCommand) -> RmiReply {
        self.rmm.run_command(command)
    }

    /// Runs a command that must succeed; its outputs.
    #[track_caller]
    pub(crate) fn ok(&self, command: RmiCommand) -> [u64; 4] {
        let reply = self.run(command);
        assert_eq!(reply.code, ReturnCode::SUCCESS, "{command:?}");
        reply.out
    }

    /// Runs a command that must fail, with these outputs, and change nothing.
    #[track_caller]
    pub(crate) fn fails_with(&self, command: RmiCommand, code: ReturnCode, out: [u64; 4]) {
        let before = self.snapshot();
        let reply = self.run(command);
        assert_eq!(reply, RmiReply { code, out }, "{command:?}");
        assert!(before == self.snapshot(), "{command:?} failed but changed something");
        assert!(self.machine().take_invalidations().is_empty(), "{command:?} failed but forgot translations");
    }

    /// Runs a command that must fail without outputs and change nothing.
    #[track_caller]
    pub(crate) fn fails(&self, command: RmiCommand, code: ReturnCode) {
        self.machine().take_invalidations();
        self.fails_with(command, code, [0; 4]);
    }

    /// Everything the RMM keeps, and all memory; not its content under Miri, which is after other mistakes and slow.
    fn snapshot(&self) -> Vec<(u32, Pas, Vec<u8>)> {
        let granule = |(index, entry): (usize, &GranuleEntry)| {
            let word = entry.0.load(Ordering::Relaxed);
            let pa = FakePlatform::granule(index as u64);
            self.machine().memory(pa, |pas, granule| {
                let content = if cfg!(miri) { Vec::new() } else { granule.as_mut_bytes().to_vec() };
                (word, *pas, content)
            })
        };
        self.entries.iter().enumerate().map(granule).collect()
    }

    pub(crate) fn state(&self, pa: u64) -> GranuleState {
        self.rmm.granules().peek(pa).unwrap()
    }

    /// A granule of the Host not used yet.
    pub(crate) fn fresh(&self) -> u64 {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(index < self.entries.len() as u64, "the test needs more granules");
        FakePlatform::granule(index)
    }

    pub(crate) fn delegated(&self) -> u64 {
        let addr = self.fresh();
        self.ok(RmiCommand::GranuleDelegate { addr });
        addr
    }

    /// `count` contiguous DELEGATED granules, the first a multiple of their size.
    pub(crate) fn delegated_run(&self, count: u64) -> u64 {
        while !(FakePlatform::granule(self.next.load(Ordering::Relaxed))).is_multiple_of(count * GRANULE_SIZE)
        {
            self.fresh();
        }
        let first = self.delegated();
        for _ in 1..count {
            self.delegated();
        }
        first
    }

    /// Puts realm parameters where the Host passes them.
    pub(crate) fn put_params(&self, rtt_base: u64, change: impl FnOnce(&mut RealmParams)) {
        let mut params = default_params(rtt_base);
        change(&mut params);
        self.machine().host_write(PARAMS, params.as_bytes());
    }

    /// A NEW realm with its parameters changed.
    #[track_caller]
    pub(crate) fn realm_with(&self, tables: u64, change: impl FnOnce(&mut RealmParams)) -> u64 {
        let rd = self.delegated();
        self.put_params(self.delegated_run(tables), change);
        self.ok(RmiCommand::RealmCreate { rd, params_ptr: PARAMS });
        rd
    }

    /// A NEW realm of 33 bits with its root at level 1.
    #[track_caller]
    pub(crate) fn realm(&self) -> u64 {
        self.realm_with(1, |_| ())
    }

    #[track_caller]
    pub(crate) fn activate(&self, rd: u64) {
        self.ok(RmiCommand::RealmActivate { rd });
    }

    /// Creates tables down to `level` for the range of `ipa`; the last one.
    #[track_caller]
    pub(crate) fn tables(&self, rd: u64, ipa: u64, level: i64) -> u64 {
        let mut last = 0;
        for level in 2..=level {
            let base = ipa & !(rmi::rtt_entry_size(level - 1).unwrap() - 1);
            let reached = self.ok(RmiCommand::RttReadEntry { rd, ipa: base, level: level - 1 });
            if reached[1] != u64::from(RttEntryState::TABLE.0) {
                last = self.delegated();
                self.ok(RmiCommand::RttCreate { rd, rtt: last, ipa: base, level });
            }
        }
        last
    }

    /// A zero page measured into a NEW realm at `ipa`, tables included.
    #[track_caller]
    pub(crate) fn data(&self, rd: u64, ipa: u64) -> u64 {
        self.tables(rd, ipa, 3);
        let data = self.delegated();
        self.ok(RmiCommand::DataCreate { rd, data, ipa, src: SOURCE, flags: DataFlags::MEASURE });
        data
    }

    /// What RTT_READ_ENTRY says of `ipa` at `level`.
    #[track_caller]
    pub(crate) fn entry(&self, rd: u64, ipa: u64, level: i64) -> (i64, RttEntryState, u64, Ripas) {
        let reply = self.run(RmiCommand::RttReadEntry { rd, ipa, level });
        assert!(reply.code.is_success());
        reply.read_entry()
    }

    /// The RIM, from the RD.
    pub(crate) fn rim(&self, rd: u64) -> [u8; 64] {
        let content = self.machine().content(rd);
        content[..64].try_into().unwrap()
    }
}

/// A realm of 33 bits of IPA space, one table at level 1, SHA-256, VMID 1.
fn default_params(rtt_base: u64) -> RealmParams {
    let mut params = RealmParams::default();
    (params.s2sz, params.num_bps, params.num_wps, params.vmid) = (33, 1, 1, 1);
    (params.rtt_base, params.rtt_level_start, params.rtt_num_start) = (rtt_base, 1, 1);
    params
}

/// Every command of this file's families that names a realm, otherwise in order.
fn commands_on(w: &World<'_>, rd: u64) -> Vec<RmiCommand> {
    let (level, ipa, data) = (2, 0, w.delegated());
    let unprotected = 1 << 32;
    std::vec![
        RmiCommand::RealmActivate { rd },
        RmiCommand::RealmDestroy { rd },
        RmiCommand::DataCreate { rd, data, ipa, src: SOURCE, flags: DataFlags::MEASURE },
        RmiCommand::DataCreateUnknown { rd, data, ipa },
        RmiCommand::DataDestroy { rd, ipa },
        RmiCommand::RttCreate { rd, rtt: data, ipa, level },
        RmiCommand::RttDestroy { rd, ipa, level },
        RmiCommand::RttFold { rd, ipa, level },
        RmiCommand::RttMapUnprotected { rd, ipa: unprotected, level: 1, desc: UnprotectedDesc::normal_rw(0) },
        RmiCommand::RttUnmapUnprotected { rd, ipa: unprotected, level: 1 },
        RmiCommand::RttReadEntry { rd, ipa, level: 1 },
        RmiCommand::RttInitRipas { rd, base: 0, top: 1 << 30 },
    ]
}

#[test]
fn rd_align_rd_bound_rd_state_every_command_refuses_what_is_not_a_realm() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    for not_rd in [rd + 8, OUTSIDE, u64::MAX - 0xfff, w.delegated(), w.fresh()] {
        for command in commands_on(&w, not_rd) {
            w.fails(command, INPUT);
        }
    }
}

#[test]
fn an_unknown_function_is_not_supported() {
    let entries = entries();
    let w = World::new(&entries);
    for fid in [0xC400_0156, 0xC400_0160, 0xC400_018F, 0, !0xffff] {
        assert_eq!(w.rmm.handle_rmi(&[fid, 1, 2, 3, 4, 5, 6, 7]), [u64::MAX, 0, 0, 0, 4], "{fid:#x}");
    }
}

#[test]
fn no_command_has_more_outputs_than_the_table_says_and_x4_is_kept_by_all_others() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let mut commands = commands_on(&w, rd);
    commands.push(RmiCommand::Features { index: 0 });
    commands.push(RmiCommand::RecAuxCount { rd });
    for command in commands {
        let mut regs = command.to_regs();
        // X4 is an argument of those that have four.
        if regs[4] == 0 {
            regs[4] = 0xabcd;
        }
        let replied = w.rmm.handle_rmi(&regs);
        let count = command.outputs();
        let unused = replied.get(count + 1..4).unwrap_or_default();
        assert!(unused.iter().all(|word| *word == 0), "{command:?}");
        if count < 4 {
            assert_eq!(replied[4], regs[4], "{command:?}");
        } else {
            assert_eq!(replied[4], u64::from(Ripas::EMPTY.0), "{command:?}");
        }
    }
}

#[test]
fn the_sve_hint_and_the_top_of_x0_are_not_part_of_the_function() {
    let entries = entries();
    let w = World::new(&entries);
    let mut regs = RmiCommand::Features { index: 0 }.to_regs();
    let plain = w.rmm.handle_rmi(&regs);
    regs[0] |= smccc::SVE_HINT | 1 << 40;
    assert_eq!(w.rmm.handle_rmi(&regs), plain);
    assert_eq!(plain[0], 0);
}

#[test]
fn version_1_0_is_granted_and_every_other_is_told_of_it() {
    let entries = entries();
    let w = World::new(&entries);
    let v1 = rmi::Version::V1_0;
    for (req, code) in
        [(v1, ReturnCode::SUCCESS), (rmi::Version::new(1, 1), INPUT), (rmi::Version::new(2, 0), INPUT)]
    {
        assert_eq!(w.run(RmiCommand::Version { req }), RmiReply { code, out: [v1.0, v1.0, 0, 0] });
    }
    assert_eq!(w.run(RmiCommand::Version { req: rmi::Version::new(0, 9) }).code, INPUT);
}

#[test]
fn feature_register_0_tells_what_the_cpus_have_and_others_are_zero() {
    let entries = entries();
    let w = World::with(&entries, |machine| {
        machine.features.pa_bits = 52;
        machine.features.sve_vl = Some(3);
    });
    let [value, ..] = w.ok(RmiCommand::Features { index: 0 });
    let features = rmi::FeatureRegister0(value);
    // Without LPA2 an IPA has at most 48 bits, whatever the physical addresses have.
    assert_eq!((features.s2sz(), features.lpa2()), (48, 0));
    assert_eq!((features.sve_en(), features.sve_vl()), (1, 3));
    assert_eq!((features.num_bps(), features.num_wps()), (5, 3));
    assert_eq!((features.pmu_en(), features.pmu_num_ctrs()), (1, 6));
    assert_eq!((features.hash_sha_256(), features.hash_sha_512()), (1, 1));
    assert_eq!((features.gicv3_num_lrs(), features.max_recs()), (3, 1023));
    assert_eq!(w.ok(RmiCommand::Features { index: 1 }), [0; 4]);
}

/// How often to try what a race may hit: Miri is slow, and finds a data race on the first try.
const fn rounds(native: usize) -> usize {
    if cfg!(miri) { 1 } else { native }
}

#[test]
fn two_cpus_build_and_destroy_two_realms_at_once() {
    let entries = entries();
    let w = World::new(&entries);
    // Interleaved granules, so that a mistake in whose is whose shows.
    let mut granules: [Vec<u64>; 2] = core::array::from_fn(|_| Vec::new());
    for i in 0..20 {
        granules[i % 2].push(w.fresh());
    }
    let params: [u64; 2] = core::array::from_fn(|_| w.fresh());
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for (cpu, (mine, params_ptr)) in granules.iter().zip(params).enumerate() {
            let (w, barrier) = (&w, &barrier);
            scope.spawn(move || {
                let &[rd, root, l2, l3, ref pages @ ..] = &mine[..] else { unreachable!() };
                let mut params = default_params(root);
                params.vmid = cpu as u16;
                w.machine().host_write(params_ptr, params.as_bytes());
                for _ in 0..rounds(20) {
                    barrier.wait();
                    for addr in mine {
                        w.ok(RmiCommand::GranuleDelegate { addr: *addr });
                    }
                    w.ok(RmiCommand::RealmCreate { rd, params_ptr });
                    w.ok(RmiCommand::RttCreate { rd, rtt: l2, ipa: 0, level: 2 });
                    w.ok(RmiCommand::RttCreate { rd, rtt: l3, ipa: 0, level: 3 });
                    for (data, ipa) in pages.iter().zip((0..).step_by(4096)) {
                        w.ok(RmiCommand::DataCreateUnknown { rd, data: *data, ipa });
                    }
                    for (data, ipa) in pages.iter().zip((0..).step_by(4096)) {
                        assert_eq!(w.ok(RmiCommand::DataDestroy { rd, ipa })[0], *data);
                    }
                    assert_eq!(w.ok(RmiCommand::RttDestroy { rd, ipa: 0, level: 3 })[0], l3);
                    assert_eq!(w.ok(RmiCommand::RttDestroy { rd, ipa: 0, level: 2 })[0], l2);
                    w.ok(RmiCommand::RealmDestroy { rd });
                    for addr in mine {
                        w.ok(RmiCommand::GranuleUndelegate { addr: *addr });
                    }
                }
            });
        }
    });
}

#[test]
fn two_cpus_that_race_for_one_granule_both_end_and_one_wins() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    w.tables(rd, 0, 3);
    let data = w.delegated();
    let barrier = std::sync::Barrier::new(2);
    for _ in 0..rounds(50) {
        let wins: Vec<bool> = std::thread::scope(|scope| {
            let race = |ipa| {
                let (w, barrier) = (&w, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    w.run(RmiCommand::DataCreateUnknown { rd, data, ipa }).code.is_success()
                })
            };
            [race(0x1000), race(0x2000)].map(|cpu| cpu.join().unwrap()).to_vec()
        });
        assert_eq!(wins.iter().filter(|won| **won).count(), 1);
        let ipa = if wins[0] { 0x1000 } else { 0x2000 };
        assert_eq!(w.ok(RmiCommand::DataDestroy { rd, ipa })[0], data);
    }
}
