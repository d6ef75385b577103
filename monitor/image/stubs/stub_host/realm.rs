//! Realms made by hand.

use super::*;

/// Where the fields of the run page are.
mod field {
    pub const FLAGS: u64 = super::RUN_PAGE;
    pub const REASON: u64 = super::RUN_PAGE + 0x800;
    pub const ESR: u64 = super::RUN_PAGE + 0x900;
    pub const FAR: u64 = super::RUN_PAGE + 0x908;
    pub const HPFAR: u64 = super::RUN_PAGE + 0x910;
    pub const GPRS: u64 = super::RUN_PAGE + 0xa00;
    pub const IMM: u64 = super::RUN_PAGE + 0xe00;
}

const EMULATED: u64 = 1 << 0;
const SYNC: u64 = 0;
const IRQ: u64 = 1;
const PSCI: u64 = 3;
const HOST_CALL: u64 = 5;

/// Enters the REC; checks status and reason of the exit.
fn enter(run: &mut Run, check: &str, rec: u64, flags: u64, reason: u64) {
    put(field::FLAGS, flags);
    run.equal(check, smc(&[REC_ENTER, rec, RUN_PAGE])[0], 0);
    run.equal("exit-reason", get(field::REASON) & 0xff, reason);
}

/// A write to the page the realm can only read, at `offset` in it.
fn written(run: &mut Run, rec: u64, flags: u64, offset: u64, value: u64) {
    const SHOWN: u64 = 0x3f << 26 | 1 << 24 | 1 << 6 | 0x3c;
    enter(run, "write", rec, flags, SYNC);
    run.equal("esr", get(field::ESR) & SHOWN, 0x24 << 26 | 1 << 24 | 1 << 6 | 0x0c);
    run.equal("hpfar", get(field::HPFAR), UNPROTECTED >> 8);
    run.equal("far", get(field::FAR), offset);
    run.equal("value", get(field::GPRS), value);
}

/// What the realm is to do, in X0.
const RUNS: u64 = 0;
const PROBES: u64 = 1;

/// A realm that was made.
struct Realm {
    rd: u64,
    rec: u64,
    /// The end of its granules.
    end: u64,
}

/// Its tables but the root: IPA and level.
const TABLES: [(u64, u64); 4] = [(0, 2), (0, 3), (UNPROTECTED, 2), (UNPROTECTED, 3)];

fn build(run: &mut Run, program: u64) -> Realm {
    let mut next = GRANULES;
    let mut granule = |run: &mut Run| {
        let pa = next;
        next += 0x1000;
        run.equal("delegate", smc(&[DELEGATE, pa])[0], 0);
        pa
    };
    for page in [RUN_PAGE, PARAMS, READ_ONLY, WRITABLE] {
        clear(page);
    }
    let (rd, root) = (granule(run), granule(run));
    put(PARAMS + 0x8, 33);
    put(PARAMS + 0x18, 1);
    put(PARAMS + 0x20, 1);
    put(PARAMS + 0x800, 5);
    put(PARAMS + 0x808, root);
    put(PARAMS + 0x810, 1);
    put(PARAMS + 0x818, 1);
    run.equal("realm-create", smc(&[REALM_CREATE, rd, PARAMS])[0], 0);
    for (ipa, level) in TABLES {
        let table = granule(run);
        run.equal("rtt-create", smc(&[RTT_CREATE, rd, table, ipa, level])[0], 0);
    }
    run.equal("init-ripas", smc(&[RTT_INIT_RIPAS, rd, 0, 0x1000 * PAGES])[0], 0);
    for page in 0..PAGES {
        let data = granule(run);
        // The program, then zeros.
        let source = if page == 0 { &raw const realm_start as u64 } else { WRITABLE };
        run.equal("data-create", smc(&[DATA_CREATE, rd, data, page << 12, source, 1])[0], 0);
    }
    let [status, aux_count, ..] = smc(&[REC_AUX_COUNT, rd]);
    run.equal("aux-count", status, 0);
    let rec = granule(run);
    clear(PARAMS);
    put(PARAMS, 1);
    put(PARAMS + 0x300, program);
    put(PARAMS + 0x800, aux_count);
    for n in 0..aux_count {
        put(PARAMS + 0x808 + 8 * n, granule(run));
    }
    run.equal("rec-create", smc(&[REC_CREATE, rd, rec, PARAMS])[0], 0);
    // Write-back; readable, readable and writable.
    for (n, desc) in [READ_ONLY | 0x58, WRITABLE | 0xd8].into_iter().enumerate() {
        let ipa = UNPROTECTED + 0x1000 * n as u64;
        run.equal("map-unprotected", smc(&[RTT_MAP_UNPROTECTED, rd, ipa, 3, desc])[0], 0);
    }
    run.equal("realm-activate", smc(&[REALM_ACTIVATE, rd])[0], 0);
    Realm { rd, rec, end: next }
}

/// Whether granules hold nothing.
fn all_zero(granules: core::ops::Range<u64>) -> bool {
    granules.step_by(8).all(|word| get(word) == 0)
}

/// Makes a realm that is not run; its RD and its REC.
pub fn granules_of_one(run: &mut Run) -> (u64, u64) {
    let Realm { rd, rec, .. } = build(run, RUNS);
    (rd, rec)
}

pub fn realm(run: &mut Run) {
    let Realm { rd, rec, end } = build(run, RUNS);
    put(READ_ONLY + 0x10, 0x5555);
    written(run, rec, 0, 0x123, 0x11);
    written(run, rec, EMULATED, 0x450, 0x2222_2222_2222_2222);
    run.equal("nothing-written", get(READ_ONLY + 0x450) | get(READ_ONLY + 0x120), 0);
    enter(run, "host-call", rec, EMULATED, HOST_CALL);
    run.equal("immediate", get(field::IMM) & 0xffff, 0x77);
    run.equal("par", get(field::GPRS), 0x0123_4567_89ab_c000);
    run.equal("read", get(field::GPRS + 8), 0x5555);
    run.equal("disr", get(field::GPRS + 16), 0);
    run.equal("own-disr", get(field::GPRS + 24), 0x8000_0411);
    start_timer(0);
    enter(run, "interrupted", rec, 0, IRQ);
    stop_timer();
    put(WRITABLE, 1);
    enter(run, "system-off", rec, 0, PSCI);
    run.equal("function", get(field::GPRS), SYSTEM_OFF);

    destroy(run, &Realm { rd, rec, end });
}

fn destroy(run: &mut Run, &Realm { rd, rec, end }: &Realm) {
    run.equal("rec-destroy", smc(&[REC_DESTROY, rec])[0], 0);
    for page in 0..PAGES {
        run.equal("data-destroy", smc(&[DATA_DESTROY, rd, page << 12])[0], 0);
    }
    for page in 0..2 {
        let ipa = UNPROTECTED + (page << 12);
        run.equal("unmap-unprotected", smc(&[RTT_UNMAP_UNPROTECTED, rd, ipa, 3])[0], 0);
    }
    for (ipa, level) in TABLES.into_iter().rev() {
        run.equal("rtt-destroy", smc(&[RTT_DESTROY, rd, ipa, level])[0], 0);
    }
    run.equal("realm-destroy", smc(&[REALM_DESTROY, rd])[0], 0);
    for pa in (GRANULES..end).step_by(0x1000) {
        run.equal("undelegate", smc(&[UNDELEGATE, pa])[0], 0);
    }
    run.equal("wiped", all_zero(GRANULES..end).into(), 1);
}

/// A realm that tries every system register and instruction. Nothing of it may fall through to EL3.
pub fn probe() {
    const SYSTEM_REGISTER: u64 = 0x18;
    let mut run = Run::begin("probe");
    let realm = build(&mut run, PROBES);
    put(field::FLAGS, 0);
    let (mut exits, mut others) = (0, 0);
    let reason = loop {
        if smc(&[REC_ENTER, realm.rec, RUN_PAGE])[0] != 0 {
            break u64::MAX;
        }
        exits += 1;
        match get(field::REASON) & 0xff {
            // An SGI the realm sends.
            SYNC if get(field::ESR) >> 26 == SYSTEM_REGISTER => {}
            SYNC => others += 1,
            reason => break reason,
        }
    };
    run.equal("others", others, 0);
    run.equal("exit-reason", reason, PSCI);
    let _ = writeln!(Uart, "@value probe exits {exits}");
    destroy(&mut run, &realm);
    run.end();
}

/// Resets the machine while there is a realm, if EL3 can do so, and looks what of it can be read afterwards.
pub fn reset() {
    const DONE: u64 = 0x7e5e7;
    if smc(&[PSCI_FEATURES, SYSTEM_RESET])[0] != 0 {
        return;
    }
    let mut run = Run::begin(if get(RESET_PAGE) == DONE { "after-reset" } else { "before-reset" });
    if get(RESET_PAGE) == DONE {
        run.equal("wiped", all_zero(GRANULES..get(RESET_PAGE + 8)).into(), 1);
        run.end();
    } else {
        let realm = build(&mut run, RUNS);
        put(RESET_PAGE, DONE);
        put(RESET_PAGE + 8, realm.end);
        run.end();
        smc(&[SYSTEM_RESET]);
    }
}
