use super::*;
use minicbor::Decoder;
use minicbor::data::Tag;
use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

const INIT: u64 = 0xC400_0194;
const CONTINUE: u64 = 0xC400_0195;
const EXTEND: u64 = 0xC400_0193;

const ERROR_STATE: u64 = 2;
const INCOMPLETE: u64 = 3;
const ERROR_UNKNOWN: u64 = 4;

fn init(challenge: u64) -> [u64; 9] {
    let mut regs = [challenge; 9];
    regs[0] = INIT;
    regs
}

/// A realm on a machine with attestation.
fn vm<'w, 'a>(w: &'w World<'a>) -> Vm<'w, 'a> {
    w.rmm.init_attestation().unwrap();
    Vm::with(w, |params| (params.rpv, params.hash_algo) = ([9; 64], HashAlgorithm::SHA_512), |_| ())
}

/// Gets the token begun, `size` bytes a call.
#[track_caller]
fn collect(vm: &Vm<'_, '_>, size: u64) -> Vec<u8> {
    let mut token = Vec::new();
    loop {
        let gprs = vm.call(&[CONTINUE, 0, 64, size]);
        let len = gprs[1] as usize;
        token.extend_from_slice(&vm.w.machine().content(vm.data)[64..64 + len]);
        match gprs[0] {
            0 => return token,
            INCOMPLETE => assert_eq!(len as u64, size),
            status => panic!("status {status}"),
        }
    }
}

/// Takes the token apart and checks signature and binding; the platform token's and the realm's claims.
fn verify(token: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut outer = Decoder::new(token);
    assert_eq!(outer.tag().unwrap(), Tag::new(399));
    assert_eq!(outer.map().unwrap(), Some(2));
    assert_eq!(outer.u16().unwrap(), 44234);
    let platform = outer.bytes().unwrap();
    assert_eq!(outer.u16().unwrap(), 44241);
    let mut realm = Decoder::new(outer.bytes().unwrap());
    assert_eq!(outer.position(), token.len());
    assert_eq!(realm.tag().unwrap(), Tag::new(18));
    assert_eq!(realm.array().unwrap(), Some(4));
    let protected = realm.bytes().unwrap();
    assert_eq!(realm.map().unwrap(), Some(0));
    let payload = realm.bytes().unwrap();
    let signature = Signature::from_slice(realm.bytes().unwrap()).unwrap();

    let mut claims = Decoder::new(payload);
    let count = claims.map().unwrap().unwrap();
    let cose_key = (0..count)
        .find_map(|_| {
            let key = claims.u16().unwrap();
            if key == 44237 {
                return Some(claims.bytes().unwrap());
            }
            claims.skip().unwrap();
            None
        })
        .unwrap();
    // The fake platform's token is the challenge it was given.
    assert_eq!(platform, &Sha256::digest(cose_key)[..]);
    let point = [&[4][..], &cose_key[cose_key.len() - 99..][..48], &cose_key[cose_key.len() - 48..]].concat();
    let key = VerifyingKey::from_sec1_bytes(&point).unwrap();
    let mut signed = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut signed);
    encoder.array(4).unwrap().str("Signature1").unwrap().bytes(protected).unwrap();
    encoder.bytes(&[]).unwrap().bytes(payload).unwrap();
    key.verify(&signed, &signature).expect("the signature is the Realm Attestation Key's");
    (platform.to_vec(), payload.to_vec())
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn a_token_says_what_the_realm_is_and_is_signed() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call(&[EXTEND, 3, 8, 1]);
    let gprs = vm.call(&init(0x1122));
    assert_eq!((gprs[0], gprs[2], gprs[3]), (0, 0, 0));
    let token = collect(&vm, 4096 - 64);
    assert_eq!(token.len() as u64, gprs[1], "the length told is the length given");
    let (_, payload) = verify(&token);
    let mut claims = Decoder::new(&payload);
    assert_eq!(claims.map().unwrap(), Some(8));
    assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (10, [0x1122_u64; 8].as_bytes()));
    assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (44235, &[9; 64][..]));
    claims.skip().and_then(|()| claims.skip()).unwrap();
    assert_eq!((claims.u16().unwrap(), claims.str().unwrap()), (44236, "sha-512"));
    assert_eq!((claims.u16().unwrap(), claims.str().unwrap()), (44240, "sha-256"));
    claims.skip().and_then(|()| claims.skip()).unwrap();
    assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (44238, &w.rim(vm.rd)[..]));
    assert_eq!((claims.u16().unwrap(), claims.array().unwrap()), (44239, Some(4)));
    for index in 1..5 {
        let rem = vm.call(&[0xC400_0192, index])[1..9].as_bytes().to_vec();
        assert_eq!(claims.bytes().unwrap(), rem);
        assert_eq!(rem == [0; 64], index != 3);
    }
    // It is over, and nothing of it is left.
    assert_eq!(vm.call(&[CONTINUE, 0, 0, 4096])[0], ERROR_STATE);
    assert_eq!(w.machine().content(vm.content().aux()[0]), [0; 4096]);
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn a_token_in_pieces_is_the_same_token() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call(&init(5));
    let whole = collect(&vm, 2048);
    for size in [1, 33, 100] {
        vm.call(&init(5));
        assert_eq!(vm.call(&[CONTINUE, 0, 0, 0])[..3], [INCOMPLETE, 0, 0]);
        assert_eq!(collect(&vm, size), whole);
    }
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn an_interrupt_stops_signing_and_the_realm_calls_again() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call(&init(5));
    let whole = collect(&vm, 2048);
    vm.call(&init(5));
    w.machine().interrupt.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        let pc = vm.content().context.pc;
        let exit = vm.call_exits(&[CONTINUE, 0, 64, 2048]);
        assert_exit(&exit, |exit| exit.exit_reason = ExitReason::IRQ);
        let content = vm.content();
        assert_eq!(content.context.gprs[..4], [INCOMPLETE, 0, 0, 0]);
        assert_eq!(content.context.pc, pc + 4);
    }
    w.machine().interrupt.store(false, Ordering::Relaxed);
    assert_eq!(collect(&vm, 2048), whole);
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn beginning_again_forgets_what_was_begun() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call(&init(5));
    vm.call(&[CONTINUE, 0, 0, 100]);
    vm.call(&init(6));
    let (_, payload) = verify(&collect(&vm, 2048));
    let mut claims = Decoder::new(&payload);
    claims.map().unwrap();
    assert_eq!((claims.u16().unwrap(), claims.bytes().unwrap()), (10, [6_u64; 8].as_bytes()));
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn conditions_of_going_on() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    for (addr, offset, size) in [
        (8, 0, 8),
        (PROTECTED_TOP, 0, 8),
        (!0xfff, 0, 8),
        (0, 4096, 0),
        (0, 8, u64::MAX - 7),
        (0, 8, u64::MAX),
        (0, 8, 4089),
        (0, 0, 4097),
    ] {
        assert_eq!(vm.call(&[CONTINUE, addr, offset, size])[0], 1, "{addr:#x} {offset} {size}");
    }
    assert_eq!(vm.call(&[CONTINUE, 0, 8, 4088])[0], ERROR_STATE);
    vm.call(&init(5));
    assert_eq!(vm.call(&[CONTINUE, 0x2000, 0, 8])[0], 1, "an EMPTY page");
    w.ok(RmiCommand::DataDestroy { rd: vm.rd, ipa: 0 });
    let pc = vm.content().context.pc;
    let exit = vm.call_exits(&[CONTINUE, 0, 0, 4096]);
    assert_exit(&exit, |exit| exit.esr = 0x24 << 26 | 0b000111);
    assert_eq!(vm.content().context.pc, pc);
}

#[test]
fn without_a_key_there_is_no_token() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    assert_eq!(vm.call(&init(5))[..2], [ERROR_UNKNOWN, 0]);
    assert_eq!(vm.call(&[CONTINUE, 0, 0, 4096])[0], ERROR_STATE);
}

#[test]
#[cfg_attr(miri, ignore = "a key or signature takes a minute in an interpreter")]
fn a_rec_destroyed_while_signing_leaves_no_nonce() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = vm(&w);
    vm.call(&init(5));
    w.machine().interrupt.store(true, Ordering::Relaxed);
    vm.call_exits(&[CONTINUE, 0, 64, 2048]);
    let aux = vm.content().aux()[0];
    assert_ne!(w.machine().content(aux), [0; 4096]);
    w.ok(RmiCommand::RecDestroy { rec: vm.rec });
    assert_eq!(w.machine().content(aux), [0; 4096]);
}
