use super::*;
use crate::gpt::{Gpi, L1_ENTRIES};
use crate::layout::RMM_POOL;
use core::sync::atomic::AtomicU64;

struct Nothing;

impl Maintenance for Nothing {
    fn write_back<W>(&self, _entry: &W) {}
    fn flush(&self, _pa: u64, _space: Gpi) {}
    fn forget(&self, _pa: u64, _size: u64) {}
}

/// Services with a table in which the RMM has its memory and the rest of its GiB is the Non-secure world's.
struct Monitor {
    services: Services,
    l0: Vec<AtomicU64>,
    l1: Vec<AtomicU64>,
    shared: Vec<u8>,
}

const BUFFER: u64 = SHARED_BUFFER.base;

impl Monitor {
    fn new(minor: u16) -> Self {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            services: Services::new(Version::new(0, minor), RMM_POOL),
            l0: words(4),
            l1: words(L1_ENTRIES),
            shared: vec![0; 4096],
        }
    }

    fn calls(&mut self, calls: &[El3Call]) -> Vec<El3Reply> {
        let gpt = Gpt::new(&self.l0, &self.l1, 0x0e10_0000);
        gpt.assign(0x4000_0000, 0x4000_0000, Gpi::NS).expect("room");
        gpt.assign(RMM.base, RMM.size, Gpi::REALM).expect("room");
        let platform = || Platform { config: "a test", components: &[("RMM", [1; 32])] };
        let answer = |call: &El3Call| match granule(call.to_regs()[0], call.to_regs()[1], &gpt, &Nothing) {
            Some(code) => El3Reply::new(code),
            None => self.services.call(call, &mut self.shared, platform),
        };
        calls.iter().map(answer).collect()
    }

    fn call(&mut self, call: El3Call) -> El3Reply {
        self.calls(&[call])[0]
    }
}

#[test]
fn a_granule_changes_hands_once_each_way() {
    let pa = 0x7000_0000;
    let replies = Monitor::new(8).calls(&[
        El3Call::GtsiDelegate { pa },
        El3Call::GtsiDelegate { pa },
        El3Call::GtsiUndelegate { pa },
        El3Call::GtsiUndelegate { pa },
        El3Call::GtsiDelegate { pa: pa + 8 },
        El3Call::GtsiDelegate { pa: 0x1_0000_0000 },
        El3Call::GtsiDelegate { pa: !0xfff },
    ]);
    let codes: Vec<_> = replies.iter().map(|reply| reply.code).collect();
    let (ok, pas, addr) = (El3Code::OK, El3Code::BAD_PAS, El3Code::BAD_ADDR);
    assert_eq!(codes, [ok, pas, ok, pas, addr, addr, addr]);
}

#[test]
fn the_memory_of_the_rmm_stays_in_the_realm_world() {
    for pa in [RMM.base, SHARED_BUFFER.base] {
        let replies = Monitor::new(8).calls(&[El3Call::GtsiDelegate { pa }, El3Call::GtsiUndelegate { pa }]);
        assert_eq!((replies[0].code, replies[1].code), (El3Code::BAD_PAS, El3Code::BAD_ADDR));
    }
}

#[test]
fn the_key_goes_to_the_shared_buffer_only() {
    let mut monitor = Monitor::new(3);
    let key = |buffer, size, curve| El3Call::AttestGetRealmKey { buffer, size, curve };
    assert_eq!(monitor.call(key(BUFFER - 4096, 4096, 0)).code, El3Code::BAD_ADDR);
    assert_eq!(monitor.call(key(BUFFER + 4096, 48, 0)).code, El3Code::BAD_ADDR);
    assert_eq!(monitor.call(key(0, 48, 0)).code, El3Code::BAD_ADDR);
    assert_eq!(monitor.call(key(BUFFER + 1, 4096, 0)).code, El3Code::INVAL);
    assert_eq!(monitor.call(key(BUFFER, u64::MAX, 0)).code, El3Code::INVAL);
    assert_eq!(monitor.call(key(BUFFER, 47, 0)).code, El3Code::INVAL);
    assert_eq!(monitor.call(key(BUFFER, 48, 1)).code, El3Code::INVAL);
    assert!(monitor.shared.iter().all(|&byte| byte == 0));
    assert_eq!(monitor.call(key(BUFFER + 16, 48, 0)), El3Reply::success([48, 0, 0]));
    assert_eq!(monitor.shared[16..64], REALM_ATTESTATION_KEY);
}

#[test]
fn a_token_comes_in_pieces_as_large_as_the_buffer() {
    let mut monitor = Monitor::new(3);
    let get = |size, challenge_size| El3Call::AttestGetPlatToken { buffer: BUFFER, size, challenge_size };
    assert_eq!(monitor.call(get(64, 0)).code, El3Code::INVAL);
    monitor.shared[..32].fill(7);
    let whole = monitor.call(get(4096, 32));
    let size = whole.out[0] as usize;
    assert_eq!((whole.code, whole.out[1]), (El3Code::OK, 0));
    let token = monitor.shared[..size].to_vec();
    assert_eq!(monitor.call(get(64, 0)).code, El3Code::INVAL);
    monitor.shared[..32].fill(7);
    let mut pieces = Vec::new();
    let mut challenge_size = 32;
    loop {
        let reply = monitor.call(get(100, challenge_size));
        challenge_size = 0;
        assert_eq!(reply.code, El3Code::OK);
        pieces.extend_from_slice(&monitor.shared[..reply.out[0] as usize]);
        assert_eq!(pieces.len() + reply.out[1] as usize, size);
        if reply.out[1] == 0 {
            break;
        }
    }
    // Signatures are deterministic.
    assert_eq!(pieces, token);
}

#[test]
fn a_challenge_of_another_size_is_refused_and_leaves_no_token() {
    let mut monitor = Monitor::new(8);
    let get = |size, challenge_size| El3Call::AttestGetPlatToken { buffer: BUFFER, size, challenge_size };
    assert_eq!(monitor.call(get(64, 32)).code, El3Code::OK);
    for (size, challenge_size) in [(64, 33), (31, 32), (4096, 4096), (64, u64::MAX)] {
        assert_eq!(monitor.call(get(size, challenge_size)).code, El3Code::INVAL);
    }
    assert_eq!(monitor.call(get(64, 0)).code, El3Code::INVAL);
}

#[test]
fn a_hash_is_signed_and_fetched_once() {
    let mut monitor = Monitor::new(4);
    let sign = |op, size| El3Call::TokenSign { op, buffer: BUFFER, size, curve: 0 };
    let pull = sign(TokenSignOp::PULL_RESPONSE, 4096);
    let push = sign(TokenSignOp::PUSH_REQUEST, 4096);
    assert_eq!(monitor.call(pull).code, El3Code::AGAIN);
    let mut request = TokenSignRequest::default();
    (request.rec, request.ticket, request.hash_alg) = (5, 6, HASH_SHA_384);
    request.hash[..48].fill(9);
    monitor.shared[..size_of::<TokenSignRequest>()].copy_from_slice(request.as_bytes());
    assert_eq!(monitor.call(sign(TokenSignOp::PUSH_REQUEST, 8)).code, El3Code::INVAL);
    assert_eq!(monitor.call(push).code, El3Code::OK);
    assert_eq!(monitor.call(push).code, El3Code::AGAIN);
    assert_eq!(monitor.call(pull).code, El3Code::OK);
    let (response, _) = TokenSignResponse::read_from_prefix(&monitor.shared).expect("a response");
    assert_eq!((response.rec, response.ticket, response.sig_len), (5, 6, 96));
    assert_eq!(
        Some(response.signature[..96].try_into().expect("96 bytes")),
        attest::sign_for_realm(&[9; 48])
    );
    assert_eq!(monitor.call(pull).code, El3Code::AGAIN);
    request.hash_alg = 2;
    monitor.shared[..size_of::<TokenSignRequest>()].copy_from_slice(request.as_bytes());
    assert_eq!(monitor.call(push).code, El3Code::INVAL);
    let point = monitor.call(sign(TokenSignOp::GET_RAK_PUB, 97));
    assert_eq!(point, El3Reply::success([97, 0, 0]));
    assert_eq!(Some(monitor.shared[..97].try_into().expect("97 bytes")), attest::realm_public_key());
}

#[test]
fn an_older_interface_has_fewer_services() {
    let calls = [
        (El3Call::Features { index: 0 }, 4, El3Code::OK),
        (El3Call::Features { index: 1 }, 4, El3Code::INVAL),
        (El3Call::ReserveMemory { size: 4096, flags: 0 }, 7, El3Code::OK),
    ];
    for (call, since, code) in calls {
        assert_eq!(Monitor::new(since).call(call).code, code);
        assert_eq!(Monitor::new(since - 1).call(call).code, El3Code::UNKNOWN);
    }
    let unknown = El3Call::Unknown { regs: [0xc400_01be; 12] };
    assert_eq!(Monitor::new(8).call(unknown).code, El3Code::UNKNOWN);
}

#[test]
fn reserved_memory_is_aligned_and_never_given_twice() {
    let mut monitor = Monitor::new(8);
    let reserve = |size, log: u64| El3Call::ReserveMemory { size, flags: log << 56 };
    let first = monitor.call(reserve(0x3000, 21)).out[0];
    let second = monitor.call(reserve(0x1000, 0)).out[0];
    assert!(first.is_multiple_of(2 << 20) && RMM_POOL.contains(Range::new(first, 0x3000)));
    assert_eq!(second, first - 0x1000);
    assert_eq!(monitor.call(reserve(RMM_POOL.size, 0)).code, El3Code::NOMEM);
    assert_eq!(monitor.call(reserve(0x1000, 63)).code, El3Code::NOMEM);
    assert_eq!(monitor.call(reserve(0x1001, 0)).code, El3Code::INVAL);
    assert_eq!(monitor.call(reserve(0, 0)).code, El3Code::INVAL);
    assert_eq!(monitor.call(reserve(0x1000, 64)).code, El3Code::INVAL);
    assert_eq!(monitor.call(reserve(0x1000, 0)).out[0], second - 0x1000);
}
