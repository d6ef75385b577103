use super::*;
use realm_abi::rmi::MAX_REC_AUX;

#[test]
fn the_number_of_auxiliary_granules_is_that_of_the_platform_and_the_rmm() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    assert_eq!(w.ok(RmiCommand::RecAuxCount { rd }), [2, 0, 0, 0]);
    for not_rd in [rd + 8, OUTSIDE, w.delegated(), w.fresh()] {
        w.fails(RmiCommand::RecAuxCount { rd: not_rd }, INPUT);
    }
}

#[test]
fn a_rec_takes_its_granules_and_counts_and_gives_all_back() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rec = w.rec_with(rd, 0, |params| params.gprs = [1, 2, 3, 4, 5, 6, 7, 8]);
    let content = w.rec(rec);
    assert_eq!(content.owner, rd);
    assert_eq!(content.context.gprs[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(content.aux().len(), 2);
    for aux in content.aux() {
        assert_eq!(w.state(*aux), GranuleState::RecAux);
    }
    w.fails(RmiCommand::RealmDestroy { rd }, REALM);
    w.ok(RmiCommand::RecDestroy { rec });
    for pa in content.aux().iter().chain([&rec]) {
        assert_eq!(w.state(*pa), GranuleState::Delegated);
        assert_eq!(w.machine().content(*pa), [0; 4096]);
    }
    w.ok(RmiCommand::RealmDestroy { rd });
}

#[test]
fn a_runnable_rec_is_measured_and_another_is_not() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rim = w.rim(rd);
    w.rec_with(rd, 0, |params| params.flags = 0);
    assert_eq!(w.rim(rd), rim);
    w.rec_with(rd, 1, |_| ());
    assert_ne!(w.rim(rd), rim);
}

#[test]
fn mpidr_index_recs_are_created_in_order_and_an_index_is_used_once() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let create = |mpidr| {
        let mut params = w.rec_params(rd, 0);
        params.mpidr = mpidr;
        w.machine().host_write(PARAMS, params.as_bytes());
        RmiCommand::RecCreate { rd, rec: w.delegated(), params_ptr: PARAMS }
    };
    w.fails(create(1), INPUT);
    let first = w.rec_with(rd, 0, |_| ());
    w.ok(RmiCommand::RecDestroy { rec: first });
    w.fails(create(0), INPUT);
    w.fails(create(1 | 1 << 4), INPUT);
    w.fails(create(1 | 1 << 32), INPUT);
    w.ok(create(1));
}

#[test]
fn params_rec_rd_and_aux_conditions_refuse_and_change_nothing() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rec = w.delegated();
    let good = w.rec_params(rd, 0);
    let put = |change: &dyn Fn(&mut RecParams)| {
        let mut params = good.clone();
        change(&mut params);
        w.machine().host_write(PARAMS, params.as_bytes());
    };
    let create = RmiCommand::RecCreate { rd, rec, params_ptr: PARAMS };

    put(&|_| ());
    // params_align, params_bound, params_pas
    for params_ptr in [PARAMS + 8, OUTSIDE, w.delegated()] {
        w.fails(RmiCommand::RecCreate { rd, rec, params_ptr }, INPUT);
    }
    // rec_align, rec_bound, rec_state
    for rec in [rec + 8, OUTSIDE, w.fresh(), rd] {
        w.fails(RmiCommand::RecCreate { rd, rec, params_ptr: PARAMS }, INPUT);
    }
    // rd_align, rd_bound, rd_state
    for rd in [rd + 8, OUTSIDE, w.fresh(), w.delegated()] {
        w.fails(RmiCommand::RecCreate { rd, rec, params_ptr: PARAMS }, INPUT);
    }
    // num_aux
    for num_aux in [0, 1, 3, MAX_REC_AUX as u64, MAX_REC_AUX as u64 + 1, u64::MAX] {
        put(&|params| params.num_aux = num_aux);
        w.fails(create, INPUT);
    }
    // aux_align, aux_state, aux_alias
    let host = w.fresh();
    for bad in [good.aux[1] + 8, OUTSIDE, host, rd, rec, good.aux[0]] {
        put(&|params| params.aux[1] = bad);
        w.fails(create, INPUT);
    }
    put(&|_| ());
    w.ok(create);
}

#[test]
fn realm_state_recs_are_created_before_activation_only() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let params = w.rec_params(rd, 0);
    w.machine().host_write(PARAMS, params.as_bytes());
    w.activate(rd);
    let create = |rd| RmiCommand::RecCreate { rd, rec: w.delegated(), params_ptr: PARAMS };
    w.fails(create(rd), REALM);
    // rd_state comes before realm_state.
    w.fails(create(w.delegated()), INPUT);
}

#[test]
fn rec_conditions_of_destruction() {
    let entries = entries();
    let w = World::new(&entries);
    let rd = w.realm();
    let rec = w.rec_with(rd, 0, |_| ());
    for not_rec in [rec + 8, OUTSIDE, rd, w.delegated(), w.fresh()] {
        w.fails(RmiCommand::RecDestroy { rec: not_rec }, INPUT);
    }
}
