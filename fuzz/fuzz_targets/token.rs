//! Attestation tokens and keys from anybody, and changes to a token the RMM has made: decoded strictly, explained and
//! verified without a panic, and no change of what is signed goes unnoticed.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_attest::token::cbor::Value;
use realm_attest::token::{Expectations, PublicKey, Token, verify};
use realm_machine::el3::keys::platform_public_key_pem;
use realm_vmm::RealmVm;
use realmkit_fuzz::world::{RAM, RAM_SIZE, SETTINGS, World, guest, run_for_a_while};
use std::sync::{Arc, LazyLock, Mutex};

const CHALLENGE: [u8; 64] = [0x5a; 64];

/// The token of a realm on the machine.
static TOKEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let world = World::default();
    let token = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&token);
    world.machine.set_guest(move |guest| {
        let words =
            CHALLENGE.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        let challenge = words.collect::<Vec<_>>().try_into().expect("8 words");
        guest.rsi(&RsiCall::AttestationTokenInit { challenge });
        let (addr, mut offset) = (RAM + RAM_SIZE / 4, 0);
        let mut status = RsiStatus::INCOMPLETE;
        while status == RsiStatus::INCOMPLETE {
            let size = 0x1000 - offset;
            let (next, out) = guest.rsi(&RsiCall::AttestationTokenContinue { addr, offset, size });
            (status, offset) = (next, offset + out[0]);
        }
        assert_eq!(status, RsiStatus::SUCCESS);
        sink.lock().expect("one writer").extend(guest.read_bytes(addr, offset as usize).expect("RAM"));
    });
    let process = world.process();
    let vm = RealmVm::build(&process, &guest(1), &SETTINGS, &mut ()).expect("nothing disturbs the VMM");
    run_for_a_while(&vm).expect("the realm turns itself off");
    let token = token.lock().expect("nobody writes any more");
    assert!(!token.is_empty());
    token.clone()
});
static KEY: LazyLock<PublicKey> =
    LazyLock::new(|| PublicKey::parse(platform_public_key_pem().as_bytes()).expect("the machine's key"));

/// The same decoded; it verifies.
static ORIGINAL: LazyLock<Token> = LazyLock::new(|| {
    let (token, ok) = check(&TOKEN).expect("the RMM makes tokens");
    assert!(ok, "the RMM's token verifies");
    token
});

#[derive(Arbitrary, Debug)]
enum Edit {
    Flip { at: u16, mask: u8 },
    Remove { at: u16, len: u8 },
    Insert { at: u16, bytes: Vec<u8> },
    Copy { from: u16, to: u16, len: u8 },
}

impl Edit {
    fn apply(&self, token: &mut Vec<u8>) {
        let place = |at: u16| usize::from(at) % token.len().max(1);
        match self {
            _ if token.is_empty() => {}
            Self::Flip { at, mask } => {
                let at = place(*at);
                token[at] ^= mask;
            }
            Self::Remove { at, len } => {
                let at = place(*at);
                let end = (at + usize::from(*len)).min(token.len());
                token.drain(at..end);
            }
            Self::Insert { at, bytes } => {
                let at = place(*at);
                token.splice(at..at, bytes.iter().copied());
            }
            Self::Copy { from, to, len } => {
                let (from, to) = (place(*from), place(*to));
                let len = usize::from(*len).min(token.len() - from.max(to));
                token.copy_within(from..from + len, to);
            }
        }
    }
}

/// Decodes and verifies; whether all holds.
fn check(bytes: &[u8]) -> Option<(Token, bool)> {
    if let Ok(value) = Value::decode(bytes) {
        assert_eq!(value.encode(), bytes, "a strict decoder accepts one encoding of each value");
    }
    match Token::decode(bytes) {
        Ok(token) => {
            let expectations = Expectations {
                platform_key: &KEY,
                secured: true,
                rim: None,
                rpv: Some(&[0; 64]),
                challenge: Some(&CHALLENGE),
            };
            let _ = format!("{token:?}");
            let ok = verify(&token, &expectations).ok;
            Some((token, ok))
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            None
        }
    }
}

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    if input.arbitrary()? {
        let bytes = input.take_rest();
        let _ = PublicKey::parse(bytes).map(|key| key.to_cose());
        assert!(check(bytes).is_none_or(|(_, ok)| !ok || bytes == *TOKEN), "only the RMM can sign");
        return Ok(());
    }
    let mut bytes = TOKEN.clone();
    for edit in input.arbitrary::<Vec<Edit>>()? {
        edit.apply(&mut bytes);
    }
    if let Some((token, true)) = check(&bytes) {
        assert_eq!(token.platform_claims, ORIGINAL.platform_claims);
        assert_eq!(token.realm_claims, ORIGINAL.realm_claims);
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
