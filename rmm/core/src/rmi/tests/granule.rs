use super::*;

#[test]
fn a_delegated_granule_is_the_realm_worlds_and_wiped_and_comes_back() {
    let entries = entries();
    let w = World::new(&entries);
    let addr = w.fresh();
    w.machine().host_write(addr, &[0xa5; 4096]);
    w.ok(RmiCommand::GranuleDelegate { addr });
    assert_eq!((w.state(addr), w.machine().pas(addr)), (GranuleState::Delegated, Pas::Realm));
    assert_eq!(w.machine().content(addr), [0; 4096]);
    w.ok(RmiCommand::GranuleUndelegate { addr });
    assert_eq!((w.state(addr), w.machine().pas(addr)), (GranuleState::Undelegated, Pas::NonSecure));
}

#[test]
fn gran_align_gran_bound_addresses_that_are_no_granules_are_refused() {
    let entries = entries();
    let w = World::new(&entries);
    let end = FakePlatform::granule(GRANULES as u64);
    for addr in [w.fresh() + 1, w.fresh() + 0x800, OUTSIDE, end, u64::MAX, 0] {
        w.fails(RmiCommand::GranuleDelegate { addr }, INPUT);
        w.fails(RmiCommand::GranuleUndelegate { addr }, INPUT);
    }
}

#[test]
fn gran_state_a_granule_in_use_is_refused() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let data = w.data(rd, 0);
    for addr in [rd, data, w.tables(rd, 1 << 21, 3)] {
        w.fails(RmiCommand::GranuleDelegate { addr }, INPUT);
        w.fails(RmiCommand::GranuleUndelegate { addr }, INPUT);
    }
    w.fails(RmiCommand::GranuleDelegate { addr: w.delegated() }, INPUT);
    w.fails(RmiCommand::GranuleUndelegate { addr: w.fresh() }, INPUT);
}

#[test]
fn gran_gpt_a_granule_of_the_secure_world_is_refused() {
    let entries = entries();
    let w = World::new(&entries);
    let addr = w.fresh();
    w.machine().memory(addr, |pas, _| *pas = Pas::Secure);
    w.fails(RmiCommand::GranuleDelegate { addr }, INPUT);
}

#[test]
fn a_granule_el3_does_not_give_back_stays_delegated() {
    let entries = entries();
    let w = World::new(&entries);
    let addr = w.delegated();
    w.machine().el3_refuses.store(true, Ordering::Relaxed);
    w.fails(RmiCommand::GranuleUndelegate { addr }, INPUT);
    w.machine().el3_refuses.store(false, Ordering::Relaxed);
    w.ok(RmiCommand::GranuleUndelegate { addr });
}
