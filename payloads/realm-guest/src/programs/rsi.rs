//! Every RSI command, with good arguments and bad, to the last register.

use crate::memory::{self, FREE, PAGE, RAM, RAM_END};
use crate::report::{self, Run};
use crate::smc::{self, Registers};
use realm_abi::rmi::{MEASUREMENT_SLOTS, Ripas};
use realm_abi::rsi::{RsiCall, RsiStatus};

const VERSION: u64 = 0xC400_0190;
const FEATURES: u64 = 0xC400_0191;
const MEASUREMENT_READ: u64 = 0xC400_0192;
const MEASUREMENT_EXTEND: u64 = 0xC400_0193;
const TOKEN_CONTINUE: u64 = 0xC400_0195;
const REALM_CONFIG: u64 = 0xC400_0196;
const IPA_STATE_SET: u64 = 0xC400_0197;
const IPA_STATE_GET: u64 = 0xC400_0198;
const HOST_CALL: u64 = 0xC400_0199;

const INPUT: u64 = RsiStatus::ERROR_INPUT.0;
const STATE: u64 = RsiStatus::ERROR_STATE.0;
const INCOMPLETE: u64 = RsiStatus::INCOMPLETE.0;
const NOT_SUPPORTED: u64 = u64::MAX;

/// A page for the commands, and one that is not RAM.
const BUFFER: u64 = FREE + 8 * PAGE;
const NO_RAM: u64 = 0x1000;

/// What is in registers a call should not touch.
fn marks() -> Registers {
    core::array::from_fn(|n| 0xa5a5_0000_5a5a_0000 + n as u64)
}

/// Makes a call; whether its first registers are `wanted` afterwards and all others as they were.
fn exact(run: &Run, check: &str, arguments: &[u64], wanted: &[u64]) -> bool {
    exact_by(smc::raw, run, check, arguments, wanted)
}

fn exact_by(by: fn(&mut Registers), run: &Run, check: &str, arguments: &[u64], wanted: &[u64]) -> bool {
    let mut registers = marks();
    registers[..arguments.len()].copy_from_slice(arguments);
    let mut expected = registers;
    expected[..wanted.len()].copy_from_slice(wanted);
    by(&mut registers);
    let wrong = registers.iter().zip(&expected).position(|(found, wanted)| found != wanted);
    run.check(
        check,
        wrong.is_none(),
        format_args!(
            "X{} is {:#x}, not {:#x}; X0 is {:#x}",
            wrong.unwrap_or(0),
            registers[wrong.unwrap_or(0)],
            expected[wrong.unwrap_or(0)],
            registers[0],
        ),
    );
    wrong.is_none()
}

/// Whether all calls with these arguments end with `status` and no results.
fn all_end(run: &Run, check: &str, status: u64, function: u64, arguments: &[[u64; 4]]) {
    for arguments in arguments {
        let mut registers = marks();
        registers[0] = function;
        registers[1..5].copy_from_slice(arguments);
        let mut expected = registers;
        expected[..4].copy_from_slice(&[status, 0, 0, 0]);
        smc::raw(&mut registers);
        if registers != expected {
            let wrong = registers.iter().zip(&expected).position(|(found, wanted)| found != wanted);
            let found = &registers[..4];
            run.check(check, false, format_args!("{arguments:x?}: X0 {found:x?}, wrong is X{wrong:?}"));
            return;
        }
    }
    run.check(check, true, format_args!(""));
}

pub fn run(run: &Run) {
    versions(run);
    unknown(run);
    config(run);
    let algorithm = memory::read(BUFFER + 8) & 0xff;
    measurements(run, algorithm);
    token(run);
    states(run);
    host_call(run);
    run.end();
}

fn versions(run: &Run) {
    run.state("versions");
    exact(run, "version", &[VERSION, 0x1_0000], &[0, 0x1_0000, 0x1_0000, 0]);
    for (check, asked) in [("version-1.1", 0x1_0001), ("version-2.0", 0x2_0000), ("version-0.0", 0)] {
        exact(run, check, &[VERSION, asked], &[INPUT, 0x1_0000, 0x1_0000, 0]);
    }
    for (check, index) in [("features-0", 0), ("features-1", 1), ("features-max", u64::MAX)] {
        exact(run, check, &[FEATURES, index], &[0, 0, 0, 0]);
    }
    exact(run, "upper-half-of-x0", &[VERSION | 0xffff_ffff << 32, 0x1_0000], &[0, 0x1_0000, 0x1_0000, 0]);
    exact(run, "sve-hint", &[VERSION | 1 << 16, 0x1_0000], &[0, 0x1_0000, 0x1_0000, 0]);
    let by = smc::raw_other_immediate;
    exact_by(by, run, "other-immediate", &[VERSION, 0x1_0000], &[0, 0x1_0000, 0x1_0000, 0]);
    exact(run, "smccc-version", &[0x8000_0000], &[0x1_0002, 0, 0, 0]);
}

fn unknown(run: &Run) {
    run.state("functions that are none");
    // Behind the RSI, RMI, RMM-EL3, SMC32 forms, other owners, yielding calls.
    let functions = [
        0xC400_019A,
        0xC400_01AF,
        0xC400_0150,
        0xC400_0151,
        0xC400_015C,
        0xC400_018F,
        0xC400_01B0,
        0xC400_01CF,
        0x8400_0190,
        0x8400_0197,
        0x4400_0190,
        0x8000_0001,
        0x8000_8000,
        0x8000_3fff,
        0x8400_0050,
        0xC600_0000,
        0x3200_0000,
        0,
        0xffff_ffff,
    ];
    let good = functions.iter().all(|function| {
        let mut registers = marks();
        registers[0] = *function;
        let mut expected = registers;
        expected[..4].copy_from_slice(&[NOT_SUPPORTED, 0, 0, 0]);
        smc::raw(&mut registers);
        if registers != expected {
            run.check("unknown", false, format_args!("{function:#x}: {:x?}", &registers[..4]));
        }
        registers == expected
    });
    if good {
        run.check("unknown", true, format_args!(""));
    }
}

/// Addresses no buffer can be at: unprotected ones, ones outside, ones without RAM.
fn no_buffers() -> [[u64; 4]; 7] {
    let alias = memory::alias();
    [alias | BUFFER, alias, 2 * alias, (2 * alias) | BUFFER, 1 << 63, NO_RAM, !(PAGE - 1)]
        .map(|address| [address, 0, 16, 0])
}

fn config(run: &Run) {
    run.state("configuration");
    memory::fill(BUFFER, u64::MAX);
    exact(run, "config", &[REALM_CONFIG, BUFFER], &[0, 0, 0, 0]);
    let width = memory::read(BUFFER);
    run.check("config-width", (32..=52).contains(&width), format_args!("{width}"));
    let algorithm = memory::read(BUFFER + 8);
    run.check("config-hash", algorithm <= 1, format_args!("{algorithm:#x}"));
    let rest = (BUFFER..BUFFER + PAGE)
        .step_by(8)
        .skip(2)
        .find(|address| !(0x200..0x240).contains(&(address - BUFFER)) && memory::read(*address) != 0);
    run.equal("config-rest", rest, None);
    // A page that was never touched gets its memory now.
    exact(run, "config-fresh", &[REALM_CONFIG, RAM_END - 3 * PAGE], &[0, 0, 0, 0]);
    run.equal("config-fresh-width", memory::read(RAM_END - 3 * PAGE), width);
    let unaligned = [1, 8, 0x100, 0x800, 0xfff].map(|offset| [BUFFER + offset, 0, 0, 0]);
    all_end(run, "config-unaligned", INPUT, REALM_CONFIG, &unaligned);
    all_end(run, "config-nowhere", INPUT, REALM_CONFIG, &no_buffers());
}

/// What a REM of zeros becomes when it is extended by 32 bytes of zeros: SHA-256, SHA-512.
const EXTENDED: [[u64; 8]; 2] = [
    [0x3020_6ad1_42fd_a5f5, 0x9b97_09d3_6eef_9827, 0xe8f0_d920_233d_0043, 0x4bfb_5927_a931_98ea, 0, 0, 0, 0],
    [
        0x8db1_e5a9_5db1_66e8,
        0x208a_c00f_25de_3b4b,
        0x1313_4737_0f44_9983,
        0xf4b0_5141_6e00_b4c5,
        0x9399_6824_d72c_4b46,
        0x11cd_4907_0c66_585d,
        0xe4a6_6007_24b8_0b57,
        0xfeaf_cd18_be75_b16b,
    ],
];
/// And when it is extended by nothing.
const EXTENDED_BY_NOTHING: [[u64; 8]; 2] = [
    [0x77bd_62f8_ad7a_6866, 0x208e_9f8e_8bc1_8f6c, 0xb333_e26e_8514_9708, 0x2529_5f0d_1d59_2a90, 0, 0, 0, 0],
    [
        0xe679_418f_a4fd_e97b,
        0xfa09_ff3c_a798_c611,
        0xeae6_fe1e_4369_28f7,
        0x66bf_4bb4_0cde_14ad,
        0x70b1_8e7a_2b75_3f50,
        0x287d_ebe6_3c5f_3583,
        0x246a_f95a_b236_f206,
        0x8100_c205_7488_2be2,
    ],
];

fn slot(index: u64) -> [u64; 8] {
    let [_, x1, x2, x3, x4, x5, x6, x7, x8, ..] = smc::call(&[MEASUREMENT_READ, index]);
    [x1, x2, x3, x4, x5, x6, x7, x8]
}

fn measurements(run: &Run, algorithm: u64) {
    run.state("measurements");
    let rim = slot(0);
    let used = if algorithm == 0 { 4 } else { 8 };
    run.check("rim", rim[..used].iter().all(|word| *word != 0), format_args!("{rim:x?}"));
    run.equal("rim-padding", rim[used..].iter().any(|word| *word != 0), false);
    for index in 0..MEASUREMENT_SLOTS as u64 {
        let content = if index == 0 { rim } else { [0; 8] };
        let [w1, w2, w3, w4, w5, w6, w7, w8] = content;
        let wanted = [0, w1, w2, w3, w4, w5, w6, w7, w8];
        exact(run, "read", &[MEASUREMENT_READ, index], &wanted);
    }
    let beyond = [5, 6, 255, 1 << 32, u64::MAX].map(|index| [index, 0, 0, 0]);
    all_end(run, "read-beyond", INPUT, MEASUREMENT_READ, &beyond);

    let extend = |index, size| [MEASUREMENT_EXTEND, index, size, 0, 0, 0, 0, 0, 0, 0, 0];
    let extended = EXTENDED[if algorithm == 0 { 0 } else { 1 }];
    exact(run, "extend", &extend(2, 32), &[0, 0, 0, 0]);
    run.equal("extended", slot(2), extended);
    exact(run, "extend-by-nothing", &extend(3, 0), &[0, 0, 0, 0]);
    run.equal("extended-by-nothing", slot(3), EXTENDED_BY_NOTHING[if algorithm == 0 { 0 } else { 1 }]);
    run.equal("others-stay", (slot(0), slot(1), slot(4)), (rim, [0; 8], [0; 8]));
    // The same bytes in another order end elsewhere.
    let mut ends = [[0; 8]; 2];
    for (end, (index, values)) in ends.iter_mut().zip([(1, [7, 9]), (4, [9, 7])]) {
        for value in values {
            smc::call(&[MEASUREMENT_EXTEND, index, 64, value, 2, 3, 4, 5, 6, 7, 8]);
        }
        *end = slot(index);
    }
    run.check("extend-order", ends[0] != ends[1] && ends[0] != [0; 8], format_args!("{:x?}", ends[0]));
    let bad = [[0, 32, 0, 0], [5, 32, 0, 0], [u64::MAX, 32, 0, 0], [1, 65, 0, 0], [1, u64::MAX, 0, 0]];
    let before = [slot(0), slot(1)];
    all_end(run, "extend-bad", INPUT, MEASUREMENT_EXTEND, &bad);
    run.equal("extend-bad-changes-nothing", [slot(0), slot(1)], before);
}

fn challenge() -> [u64; 8] {
    core::array::from_fn(|n| 0x6368_616c_6c65_6e00 + n as u64)
}

/// Pages for the token.
const TOKEN: u64 = FREE + 16 * PAGE;
const TOKEN_PAGES: u64 = 4;
const PIECE: u64 = 120;

fn token(run: &Run) {
    run.state("attestation token");
    exact(run, "token-none", &[TOKEN_CONTINUE, TOKEN, 0, PAGE], &[STATE, 0, 0, 0]);
    let begin = |run: &Run| {
        let (status, [limit, x2, x3, ..]) =
            smc::rsi(&RsiCall::AttestationTokenInit { challenge: challenge() });
        run.equal("token-init", (status, x2, x3), (RsiStatus::SUCCESS, 0, 0));
        limit
    };
    let limit = begin(run);
    run.check("token-limit", (1..=TOKEN_PAGES * PAGE).contains(&limit), format_args!("{limit}"));
    let outside = [
        [TOKEN + 1, 0, 16, 0],
        [TOKEN, PAGE, 0, 0],
        [TOKEN, PAGE - 1, 2, 0],
        [TOKEN, 0, PAGE + 1, 0],
        [TOKEN, u64::MAX, 2, 0],
        [TOKEN, 16, u64::MAX, 0],
    ];
    all_end(run, "token-outside", INPUT, TOKEN_CONTINUE, &outside);
    // An address without RAM is seen only when there is a token to write; until then it may be incomplete.
    exact(run, "token-unprotected", &[TOKEN_CONTINUE, memory::alias() | TOKEN, 0, 16], &[INPUT, 0, 0, 0]);
    loop {
        let [status, written, ..] = smc::call(&[TOKEN_CONTINUE, TOKEN, 0, 0]);
        if (status, written) != (INCOMPLETE, 0) {
            run.check("token-signed", false, format_args!("{status}, {written} bytes"));
            break;
        }
        let [status, ..] = smc::call(&[TOKEN_CONTINUE, NO_RAM, 0, 16]);
        if status != INCOMPLETE {
            run.equal("token-no-ram", status, INPUT);
            break;
        }
    }
    let first = read_token(PIECE);
    run.check("token", first.is_some_and(|len| len > 512 && len <= limit), format_args!("{first:?}"));
    exact(run, "token-over", &[TOKEN_CONTINUE, TOKEN, 0, 16], &[STATE, 0, 0, 0]);
    let len = first.unwrap_or(0);
    // A CCA token is a map with tag 399.
    let head: [u8; 3] = core::array::from_fn(|n| memory::byte(TOKEN + n as u64));
    run.equal("token-tag", head, [0xd9, 0x01, 0x8f]);
    let challenge = challenge();
    let is_challenge = |at: u64| {
        (0..64)
            .all(|n| memory::byte(TOKEN + at + n) == challenge[n as usize / 8].to_le_bytes()[n as usize % 8])
    };
    run.check("token-challenge", (0..len.saturating_sub(64)).any(is_challenge), format_args!("not in it"));
    // Whether it is genuine is seen where there is a verifier.
    for start in (0..len).step_by(48) {
        let piece: [u8; 48] = core::array::from_fn(|n| memory::byte(TOKEN + start + n as u64));
        report::bytes("token", &piece[..(len - start).min(48) as usize]);
    }
    // A new one replaces one that is not done.
    begin(run);
    smc::call(&[TOKEN_CONTINUE, TOKEN, 0, 8]);
    begin(run);
    let whole = read_token(PAGE);
    run.check("token-again", whole.is_some_and(|again| again.abs_diff(len) < 16), format_args!("{whole:?}"));
    run.value("token-bytes", len);
}

/// Reads a token to [`TOKEN`] in pieces; how long it is.
fn read_token(piece: u64) -> Option<u64> {
    let mut len = 0;
    while len < TOKEN_PAGES * PAGE {
        let (page, offset) = (TOKEN + len / PAGE * PAGE, len % PAGE);
        let size = piece.min(PAGE - offset);
        let [status, written, ..] = smc::call(&[TOKEN_CONTINUE, page, offset, size]);
        if written > size {
            return None;
        }
        len += written;
        match status {
            0 => return Some(len),
            INCOMPLETE => {}
            _ => return None,
        }
    }
    None
}

fn states(run: &Run) {
    run.state("RIPAS");
    let page = BUFFER;
    exact(run, "get", &[IPA_STATE_GET, page, page + PAGE], &[0, page + PAGE, 1, 0]);
    exact(run, "get-empty", &[IPA_STATE_GET, NO_RAM, NO_RAM + PAGE], &[0, NO_RAM + PAGE, 0, 0]);
    run.equal("get-all", smc::ripas(RAM, RAM_END), Some(Ripas::RAM));
    run.equal("get-behind", smc::ripas(RAM_END, RAM_END + (4 << 20)), Some(Ripas::EMPTY));
    run.equal("get-before", smc::ripas(RAM - PAGE, RAM), Some(Ripas::EMPTY));
    run.equal("get-mixed", smc::ripas(RAM_END - PAGE, RAM_END + PAGE), None);
    let top = memory::alias();
    let ranges = [
        (page + 1, page + PAGE),
        (page, page + PAGE + 1),
        (page, page + 8),
        (page, page),
        (page + PAGE, page),
        (page, 0),
        (top - PAGE, top + PAGE),
        (top, top + PAGE),
        (2 * top, 2 * top + PAGE),
        (0, !(PAGE - 1)),
        (!(PAGE - 1), 0),
    ];
    let gets = ranges.map(|(base, top)| [base, top, 0, 0]);
    all_end(run, "get-bad", INPUT, IPA_STATE_GET, &gets);
    let sets = ranges.map(|(base, top)| [base, top, 1, 0]);
    all_end(run, "set-bad-range", INPUT, IPA_STATE_SET, &sets);
    let ripas = [2, 3, 255, 256, 1 << 32, u64::MAX].map(|ripas| [page, page + PAGE, ripas, 0]);
    all_end(run, "set-bad-ripas", INPUT, IPA_STATE_SET, &ripas);
    memory::write(page, 0x1234);
    exact(run, "set-same", &[IPA_STATE_SET, page, page + PAGE, 1, 0], &[0, page + PAGE, 0, 0]);
    run.equal("set-same-keeps", memory::read(page), 0x1234);
}

fn host_call(run: &Run) {
    run.state("host calls");
    let at = BUFFER + 0xf00;
    for (check, function, answer) in
        [("host", 0x8000_0000, 0x1_0001), ("host-unknown", 0x8600_1234, u64::MAX)]
    {
        memory::write(at, 0xbeef);
        memory::write(at + 8, function);
        for register in 1..31 {
            memory::write(at + 8 + 8 * register, 0x100 + register);
        }
        exact(run, check, &[HOST_CALL, at], &[0, 0, 0, 0]);
        let reply: [u64; 32] = core::array::from_fn(|n| memory::read(at + 8 * n as u64));
        let wanted: [u64; 32] = core::array::from_fn(|n| match n as u64 {
            0 => 0xbeef,
            1 => answer,
            2..5 => 0,
            n => 0x100 + n - 1,
        });
        run.equal(check, reply, wanted);
    }
    // The structure in a page that was never touched.
    exact(run, "host-fresh", &[HOST_CALL, RAM_END - 5 * PAGE], &[0, 0, 0, 0]);
    run.equal("host-fresh-reply", memory::read(RAM_END - 5 * PAGE + 8), u64::MAX);
    let unaligned = [1, 8, 0x80, 0xf80, 0xff8].map(|offset| [BUFFER + offset, 0, 0, 0]);
    all_end(run, "host-unaligned", INPUT, HOST_CALL, &unaligned);
    all_end(run, "host-nowhere", INPUT, HOST_CALL, &no_buffers());
}
