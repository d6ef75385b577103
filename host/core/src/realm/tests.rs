//! Life and death of a realm, with everything failing once.

mod no_memory;

use super::*;
use crate::Errno;
use crate::fake::{ALWAYS, FakeHost, NEVER, Step, many_pins};
use crate::memory::guest_memfd::{GuestMemfd, PrivateRange};
use crate::realm::Supply;
use crate::realm::ipa::BLOCK_SIZE;
use crate::realm::rec::{Rec, RecConfig, RecParts};
use alloc::string::{String, ToString};
use realm_abi::rmi::{DataFlags, ReturnCode, Ripas, RmiCommand};

const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 3 * BLOCK_SIZE;
/// Memory of the VMM.
const SHARED: u64 = 0x9_0000_0000;
const CPU: CpuParams = CpuParams { sve_vl: None, num_bps: 1, num_wps: 1, pmu_num_ctrs: None };

/// A VM with RAM in a guest_memfd. Dropped in the order of its fields: the realm before its memory.
struct Vm {
    realm: Realm<FakeHost>,
    memfd: GuestMemfd<FakeHost>,
    rmm: Arc<Rmm<FakeHost>>,
}

impl Vm {
    fn new(rmm: &Arc<Rmm<FakeHost>>) -> Self {
        let realm = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
        let memfd = GuestMemfd::new(rmm.clone(), RAM_SIZE).unwrap();
        Self { realm, memfd, rmm: rmm.clone() }
    }

    fn created(page_shift: u32) -> Self {
        let vm = Self::new(&FakeHost::started(page_shift));
        vm.realm.create(&CPU).unwrap();
        vm
    }

    fn ram(&self) -> PrivateRange<'_, FakeHost> {
        PrivateRange { memfd: &self.memfd, offset: 0, ipa: RAM, size: RAM_SIZE }
    }

    /// Populates whole host pages from `ipa` on.
    fn populate(&self, ipa: u64, pages: u64) -> Result<(), RealmError> {
        let host = self.rmm.host();
        let mut run = PopulateRun::new();
        for page in 0..pages {
            let source = host.source_page(0x11);
            let at = ipa + page * host.page_size();
            let result =
                self.realm.populate_page(&mut run, &self.ram(), at, source.pa, DataFlags::MEASURE, &ALWAYS);
            host.free(source);
            result?;
            host.yield_now();
        }
        Ok(())
    }

    /// Everything a realm does, up to the first failure.
    fn live(&self) -> Result<(), RealmError> {
        let host = self.rmm.host();
        self.realm.create(&CPU)?;
        host.yield_now();
        self.realm.init_ripas(RAM, RAM_SIZE, &NEVER)?;
        self.populate(RAM, 2)?;
        self.make_rec()?;
        self.realm.activate()?;
        self.realm.fault_private(&self.ram(), RAM + 0x1_0000, &ALWAYS, &ALWAYS)?;
        self.realm.fault_private(&self.ram(), RAM + BLOCK_SIZE + 0x5000, &ALWAYS, &ALWAYS)?;
        self.realm.fault_private(&self.ram(), RAM + 2 * BLOCK_SIZE, &ALWAYS, &ALWAYS)?;
        self.share(RAM, host.page_size())?;
        self.share(RAM + BLOCK_SIZE, BLOCK_SIZE)?;
        self.realm.unmap_shared(RAM + BLOCK_SIZE + 0x3000, 0x2000, &mut Supply::HostOrReserve, &NEVER)?;
        let part = self.ram().within(RAM + BLOCK_SIZE, RAM + BLOCK_SIZE + 0x1_0000).unwrap();
        self.realm.unmap_private(&part, &mut Supply::HostOrReserve, &NEVER, &ALWAYS)
    }

    /// Makes a REC of its parts, and destroys it.
    fn make_rec(&self) -> Result<(), RealmError> {
        let config = RecConfig { mpidr: 0, pc: 0, gprs: [0; 8], runnable: true };
        let mut rec = Some(RecParts::gather(&self.realm)?.create(&self.realm, &config)?);
        self.rmm.host().yield_now();
        // An RMM that keeps the REC once gives it back the next time.
        Rec::destroy(&mut rec, &self.rmm).or_else(|_| Rec::destroy(&mut rec, &self.rmm))
    }

    /// Shares memory of the VMM, as an ioctl of its own.
    fn share(&self, ipa: u64, size: u64) -> Result<(), RealmError> {
        let host = self.rmm.host();
        host.yield_now();
        let pinned = host.hold(SHARED + (ipa - RAM), size);
        let shared =
            self.realm.map_shared(ipa, pinned, &ALWAYS).map(|fault| assert_eq!(fault, SharedFault::Mapped));
        host.yield_now();
        shared
    }

    /// The steps of destruction, in order, up to the first failure.
    fn destroy(&self) -> Result<(), RealmError> {
        self.realm.begin_destroy();
        self.realm.unmap_shared(0, u64::MAX, &mut Supply::HostOrReserve, &NEVER)?;
        self.realm.unmap_private(&self.ram(), &mut Supply::HostOrReserve, &NEVER, &ALWAYS)?;
        self.realm.destroy()
    }
}

/// Runs a whole life in which the chosen steps fail from number `from` on, `count` of them; whether any did.
fn life_with_failures(page_shift: u32, chosen: fn(Step) -> bool, from: u64, count: u64) -> bool {
    let rmm = FakeHost::started(page_shift);
    let host = rmm.host();
    let vm = Vm::new(&rmm);
    host.inject(chosen, from, count);
    let outcome = vm.live();
    let mut destroyed = vm.destroy();
    if count == 1 {
        for _ in 0..2 {
            destroyed = destroyed.or_else(|_| vm.destroy());
        }
        // What the RMM did not give back is lost, but nothing keeps the realm alive.
        assert_eq!((destroyed, vm.realm.phase()), (Ok(()), Phase::Dead), "step {from}: {outcome:?}");
        assert_eq!(rmm.vmids().reserved(), 0, "step {from}");
    }
    drop(vm);
    let injected = host.stop_injecting();
    FakeHost::assert_all_came_back_or_is_named(&rmm);
    assert!(
        host.with_rmm(|rmm| rmm.realms.len()) <= rmm.vmids().reserved(),
        "a VMID the RMM holds is reserved"
    );
    injected > 0
}

fn any(_: Step) -> bool {
    true
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_whole_life_gives_everything_back() {
    for shift in [12, 14, 16] {
        let rmm = FakeHost::started(shift);
        let host = rmm.host();
        let vm = Vm::new(&rmm);
        vm.live().unwrap();
        assert!(rmm.ledger().snapshot().held() > 512);
        vm.destroy().unwrap();
        assert_eq!(vm.realm.phase(), Phase::Dead);
        drop(vm);
        let end = rmm.ledger().snapshot();
        assert_eq!((end.delegated, end.leaked, host.pages(), host.warnings()), (end.undelegated, 0, 0, 0));
        assert!(host.most_calls_without_yield() < 64, "{}", host.most_calls_without_yield());
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_failure_at_any_allocation_loses_nothing() {
    for shift in [12, 14, 16] {
        let mut from = 0;
        while life_with_failures(shift, |step| matches!(step, Step::Alloc(_)), from, 1) {
            from += 1;
        }
        assert!(from >= 4, "pages of {shift} bits: {from} allocations");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_failure_at_any_command_loses_only_what_it_names() {
    // All of the first commands, then one in 101, a number prime to the patterns a block makes: every kind is met.
    for (shift, first) in [(12, 0), (14, 4), (16, 9)] {
        let mut from = first;
        while life_with_failures(shift, any, from, 1) {
            from += if from < 60 { 1 } else { 101 };
        }
        assert!(from > 2000, "the life has commands");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_command_that_always_fails_leaves_nothing_uncounted() {
    let kinds: [fn(Step) -> bool; 9] = [
        |step| matches!(step, Step::Call(RmiCommand::GranuleUndelegate { .. })),
        |step| matches!(step, Step::Call(RmiCommand::GranuleDelegate { .. })),
        |step| matches!(step, Step::Call(RmiCommand::DataDestroy { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RttDestroy { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RealmDestroy { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RttUnmapUnprotected { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RttFold { .. })),
        |step| matches!(step, Step::Call(RmiCommand::RecAuxCount { .. } | RmiCommand::RealmDestroy { .. })),
        |step| matches!(step, Step::Alloc(_)),
    ];
    for (kind, chosen) in kinds.into_iter().enumerate() {
        for shift in [12, 16] {
            for from in [0, 1, 5, 40] {
                let injected = life_with_failures(shift, chosen, from, u64::MAX);
                assert!(injected || from > 0, "kind {kind}");
            }
        }
    }
}

#[test]
fn a_realm_is_created_with_what_was_configured() {
    let rmm = FakeHost::started(12);
    let realm = Realm::new(rmm.clone(), 40, many_pins()).unwrap();
    realm.set_rpv([7; RPV_SIZE]).unwrap();
    let cpu = CpuParams { sve_vl: Some(3), num_bps: 5, num_wps: 4, pmu_num_ctrs: Some(6) };
    realm.create(&cpu).unwrap();
    let rd = realm.rd().unwrap();
    rmm.host().with_rmm(|mini| {
        let params = &mini.realms[&rd].params;
        assert_eq!((params.flags, params.s2sz, params.rpv), (0b110, 40, [7; RPV_SIZE]));
        assert_eq!((params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs), (3, 5, 4, 6));
        assert_eq!((params.rtt_level_start, params.rtt_num_start), (1, 2));
    });
    assert_eq!(realm.for_rec_create(), Ok((rd, 2)));
}

#[test]
fn a_realm_wider_than_48_bits_uses_lpa2() {
    let host = FakeHost::new(12);
    host.with_rmm(|mini| mini.features = mini.features.with_s2sz(52).with_lpa2(1));
    let rmm = Arc::try_new(Rmm::start(host).unwrap()).unwrap();
    let realm = Realm::new(rmm.clone(), 52, many_pins()).unwrap();
    realm.create(&CPU).unwrap();
    let flags = rmm.host().with_rmm(|mini| mini.realms[&realm.rd().unwrap()].params.flags);
    assert_eq!(flags, 1);
}

#[test]
fn widths_the_rmm_does_not_offer_are_refused() {
    let rmm = FakeHost::started(12);
    for bits in [0, 31, 49, 64] {
        let refused = Realm::new(rmm.clone(), bits, many_pins()).map(|_| ()).unwrap_err();
        assert_eq!(refused.errno(), Errno::EINVAL);
    }
}

#[test]
fn every_operation_in_a_wrong_state_has_the_errno_of_the_matrix() {
    let unborn = Vm::new(&FakeHost::started(12));
    assert_eq!(unborn.realm.init_ripas(0, 0x1000, &NEVER).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(unborn.populate(RAM, 1).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(unborn.realm.activate().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(unborn.realm.for_rec_create().unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(
        unborn.realm.fault_private(&unborn.ram(), RAM, &ALWAYS, &ALWAYS).unwrap_err().errno(),
        Errno::EINVAL
    );
    let active = Vm::created(12);
    assert_eq!(active.realm.set_rpv([0; RPV_SIZE]).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(active.realm.create(&CPU).unwrap_err().errno(), Errno::EEXIST);
    active.realm.activate().unwrap();
    assert_eq!(active.realm.set_hash(HashAlgorithm::SHA_256).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(active.realm.create(&CPU).unwrap_err().errno(), Errno::EEXIST);
    assert_eq!(active.realm.init_ripas(0, 0x1000, &NEVER).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(active.populate(RAM, 1).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(active.realm.activate().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(active.realm.for_rec_create().unwrap_err().errno(), Errno::ENOENT);
    active.destroy().unwrap();
    let dead = active.realm.init_ripas(0, 0x1000, &NEVER).unwrap_err();
    assert_eq!(dead.errno(), Errno::EIO);
    assert_eq!(dead.to_string(), "the realm cannot initialise RIPAS: it is destroyed");
}

#[test]
fn a_hash_the_rmm_does_not_offer_is_refused() {
    let vm = Vm::new(&FakeHost::started(12));
    for hash in [HashAlgorithm::SHA_512, HashAlgorithm(2)] {
        assert_eq!(vm.realm.set_hash(hash).unwrap_err().errno(), Errno::EINVAL);
    }
    vm.realm.set_hash(HashAlgorithm::SHA_256).unwrap();
}

#[test]
fn creation_can_be_tried_again_after_a_failure() {
    let chosen =
        |step| matches!(step, Step::Call(RmiCommand::RealmCreate { .. } | RmiCommand::RecAuxCount { .. }));
    for from in 0..2 {
        let vm = Vm::new(&FakeHost::started(12));
        vm.rmm.host().inject(chosen, from, 1);
        let failed = vm.realm.create(&CPU).unwrap_err();
        assert_eq!((failed.errno(), vm.realm.phase()), (Errno::ENXIO, Phase::None));
        assert_eq!((vm.rmm.host().pages(), vm.rmm.vmids().reserved()), (0, 0));
        vm.realm.create(&CPU).unwrap();
    }
}

#[test]
fn a_realm_the_rmm_neither_describes_nor_destroys_keeps_its_vmid_until_it_does() {
    let chosen =
        |step| matches!(step, Step::Call(RmiCommand::RecAuxCount { .. } | RmiCommand::RealmDestroy { .. }));
    let vm = Vm::new(&FakeHost::started(12));
    vm.rmm.host().inject(chosen, 0, 2);
    assert_eq!(vm.realm.create(&CPU).unwrap_err().errno(), Errno::ENXIO);
    assert_eq!((vm.realm.phase(), vm.rmm.vmids().reserved()), (Phase::Dying, 1));
    assert_eq!(vm.rmm.ledger().snapshot().leaked, 0);
    vm.destroy().unwrap();
    assert_eq!((vm.realm.phase(), vm.rmm.vmids().reserved()), (Phase::Dead, 0));
    FakeHost::assert_all_came_back_or_is_named(&vm.rmm);
}

#[test]
fn an_rmm_that_creates_a_realm_and_denies_it_keeps_the_vmid() {
    let rmm = FakeHost::started(12);
    let realm = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
    rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RealmCreate { .. }) {
            *reply = realm_abi::rmi::RmiReply::failed(ReturnCode::ERROR_INPUT);
        }
    });
    assert_eq!(realm.create(&CPU).unwrap_err().errno(), Errno::ENXIO);
    rmm.host().stop_injecting();
    assert_eq!((realm.phase(), rmm.vmids().reserved()), (Phase::None, 1));
    FakeHost::assert_all_came_back_or_is_named(&rmm);
    realm.create(&CPU).unwrap();
}

#[test]
fn more_auxiliary_granules_than_a_rec_can_have_are_not_believed() {
    let host = FakeHost::new(12);
    host.with_rmm(|mini| mini.aux_count = 17);
    let realm = Realm::new(Arc::try_new(Rmm::start(host).unwrap()).unwrap(), 33, many_pins()).unwrap();
    assert_eq!(realm.create(&CPU).unwrap_err().errno(), Errno::ENXIO);
    assert_eq!(realm.phase(), Phase::None);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn without_a_free_vmid_no_realm_is_created() {
    let rmm = FakeHost::started(12);
    let realms: std::vec::Vec<_> =
        (0..256).map(|_| Realm::new(rmm.clone(), 33, many_pins()).unwrap()).collect();
    for realm in &realms {
        realm.create(&CPU).unwrap();
    }
    let one_more = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
    assert_eq!(one_more.create(&CPU), Err(RealmError::NoVmid));
    realms[9].destroy().unwrap();
    one_more.create(&CPU).unwrap();
}

#[test]
fn a_dropped_realm_destroys_itself() {
    let rmm = FakeHost::started(12);
    let realm = Realm::new(rmm.clone(), 33, many_pins()).unwrap();
    realm.create(&CPU).unwrap();
    realm.init_ripas(RAM, 0x1000, &NEVER).unwrap();
    drop(realm);
    assert_eq!(rmm.ledger().snapshot().leaked, 0);
    FakeHost::assert_all_came_back_or_is_named(&rmm);
}

#[test]
fn a_populate_that_fails_after_its_first_granule_condemns_the_realm() {
    let vm = Vm::created(12);
    vm.populate(RAM, 1).unwrap();
    // Nothing of this request was done when it fails: the realm is as it was.
    assert_eq!(vm.populate(RAM, 1), Err(RealmError::AlreadyPopulated { ipa: RAM }));
    assert_eq!(vm.realm.phase(), Phase::New);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::DataCreate { .. })), 1, u64::MAX);
    assert_eq!(vm.populate(RAM + 0x1000, 2).unwrap_err().errno(), Errno::ENXIO);
    assert_eq!(vm.realm.phase(), Phase::Dying);
    assert_eq!(vm.realm.activate().unwrap_err().errno(), Errno::EIO);
    vm.destroy().unwrap();
}

#[test]
fn a_populate_that_fails_inside_a_host_page_leaves_nothing_of_that_page() {
    let vm = Vm::created(16);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::DataCreate { .. })), 9, u64::MAX);
    vm.populate(RAM, 1).unwrap_err();
    assert_eq!(vm.realm.phase(), Phase::Dying);
    let rd = vm.realm.rd().unwrap();
    vm.rmm.host().with_rmm(|mini| {
        for at in (RAM..RAM + 0x1_0000).step_by(0x1000) {
            assert!(matches!(mini.realms[&rd].entry(at, 3).1, crate::fake::Entry::Unassigned(_)));
        }
    });
    vm.destroy().unwrap();
}

#[test]
fn an_abandoned_populate_condemns_the_realm_only_if_it_created_something() {
    let vm = Vm::created(12);
    vm.realm.abandon_populate(&PopulateRun::new());
    assert_eq!(vm.realm.phase(), Phase::New);
    let (host, mut run) = (vm.rmm.host(), PopulateRun::new());
    let source = host.source_page(1);
    vm.realm.populate_page(&mut run, &vm.ram(), RAM, source.pa, DataFlags::MEASURE, &ALWAYS).unwrap();
    host.free(source);
    vm.realm.abandon_populate(&run);
    assert_eq!((run.created(), vm.realm.phase()), (1, Phase::Dying));
}

#[test]
fn ranges_are_refused_before_the_rmm_is_asked() {
    let vm = Vm::created(12);
    vm.rmm.host().take_commands();
    let half = vm.realm.ipa().protected_end();
    for (base, size) in
        [(0x800, 0x1000), (0, 0x800), (half, 0x1000), (half - 0x1000, 0x2000), (u64::MAX - 0xfff, 0x2000)]
    {
        assert_eq!(
            vm.realm.init_ripas(base, size, &NEVER).unwrap_err().errno(),
            Errno::EINVAL,
            "{base:#x} {size:#x}"
        );
    }
    let page = SHARED;
    for (ipa, pa, size) in [
        (half, page, 0x1000),
        (half - 0x1000, page, BLOCK_SIZE * 2),
        (0, page + 0x10, 0x1000),
        (0, page, BLOCK_SIZE * 2),
        (0x1000, page + 0x1000, BLOCK_SIZE),
    ] {
        let pinned = vm.rmm.host().hold(pa, size);
        let refused = vm.realm.map_shared(ipa, pinned, &ALWAYS).unwrap_err();
        assert_eq!((refused.errno(), vm.rmm.host().held()), (Errno::EINVAL, 0), "{ipa:#x} {size:#x}");
    }
    for ipa in [RAM - 0x1000, RAM + RAM_SIZE, half] {
        assert_eq!(
            vm.realm.fault_private(&vm.ram(), ipa, &ALWAYS, &ALWAYS).unwrap_err().errno(),
            Errno::EINVAL
        );
    }
    vm.realm.init_ripas(RAM, 0, &NEVER).unwrap();
    assert_eq!(vm.rmm.host().take_commands(), []);
}

#[test]
fn an_init_ripas_that_fails_half_way_condemns_the_realm() {
    let vm = Vm::created(12);
    vm.rmm.host().inject(|step| matches!(step, Step::Call(RmiCommand::RttInitRipas { .. })), 3, 1);
    assert_eq!(vm.realm.init_ripas(RAM + 0x1000, BLOCK_SIZE * 2, &NEVER).unwrap_err().errno(), Errno::ENXIO);
    assert_eq!(vm.realm.phase(), Phase::Dying);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_ripas_change_goes_on_where_it_stopped() {
    let vm = Vm::created(12);
    vm.realm.init_ripas(RAM, RAM_SIZE, &NEVER).unwrap();
    vm.realm.activate().unwrap();
    for block in 0..3 {
        vm.realm.fault_private(&vm.ram(), RAM + block * BLOCK_SIZE, &ALWAYS, &ALWAYS).unwrap();
    }
    let (base, top) = (RAM + 0x3000, RAM + 2 * BLOCK_SIZE + 0x5000);
    let rd = vm.realm.rd().unwrap();
    vm.rmm
        .host()
        .with_rmm(|mini| mini.realms.get_mut(&rd).unwrap().request = Some((base, top, Ripas::EMPTY)));
    // The Host has no memory for a table that a change needs; and before every other piece the thread is killed.
    vm.rmm.host().inject(|step| matches!(step, Step::Alloc(_)), 2, 1);
    let (mut change, mut stops) = (RipasChange::new(base, top, Ripas::EMPTY), [0, 0]);
    for killed in [true, false].into_iter().cycle() {
        if change.is_done() {
            break;
        }
        let piece = change.next(BLOCK_SIZE);
        match vm.realm.set_ripas(0, &mut change, piece.end, &|| killed) {
            Ok(()) => {
                let freed = change.to_free();
                let range = vm.ram().within(freed.start, freed.end).unwrap();
                vm.realm.unmap_private(&range, &mut Supply::HostOrReserve, &NEVER, &ALWAYS).unwrap();
                change.freed();
            }
            Err(RealmError::NoMemory) => stops[0] += 1,
            Err(error) => {
                assert_eq!(error, RealmError::Killed);
                stops[1] += 1;
            }
        }
    }
    assert_eq!(change.reached(), top);
    assert!(stops[0] == 1 && stops[1] > 0, "{stops:?}");
    vm.rmm.host().with_rmm(|mini| {
        let realm = &mini.realms[&rd];
        assert_eq!(realm.request, None);
        for at in (RAM..RAM + RAM_SIZE).step_by(0x1000) {
            let (_, entry) = realm.entry(at, 3);
            let inside = (base..top).contains(&at);
            assert_eq!(
                matches!(entry, crate::fake::Entry::Unassigned(Ripas::EMPTY)),
                inside,
                "{at:#x}: {entry:?}"
            );
        }
    });
    vm.destroy().unwrap();
    let rmm = vm.rmm.clone();
    drop(vm);
    FakeHost::assert_all_came_back_or_is_named(&rmm);
}

#[test]
fn a_ripas_change_the_rmm_refuses_tells_how_far_it_got() {
    let vm = Vm::created(12);
    vm.realm.activate().unwrap();
    let mut change = RipasChange::new(RAM, RAM + 0x1000, Ripas::RAM);
    assert_eq!(vm.realm.set_ripas(0, &mut change, u64::MAX, &NEVER).unwrap_err().errno(), Errno::ENXIO);
    assert_eq!(change.reached(), RAM);
    let mut backwards = RipasChange::new(RAM, RAM - 0x1000, Ripas::RAM);
    assert_eq!(vm.realm.set_ripas(0, &mut backwards, u64::MAX, &NEVER).unwrap_err().errno(), Errno::EINVAL);
}

#[test]
fn errors_name_the_command_the_status_and_the_place() {
    let vm = Vm::created(12);
    vm.rmm.host().mangle(|command, reply| {
        if matches!(command, RmiCommand::RttInitRipas { .. }) {
            *reply = realm_abi::rmi::RmiReply::failed(ReturnCode::error_rtt(3));
        }
    });
    let text: String = vm.realm.init_ripas(RAM, 0x1000, &NEVER).unwrap_err().to_string();
    assert_eq!(text, "RMI_RTT_INIT_RIPAS of IPAs 0x40000000 to 0x40001000 failed: RMI_ERROR_RTT(level 3)");
}
