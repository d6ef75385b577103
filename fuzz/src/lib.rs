//! What the fuzz targets share.

pub mod world;

use arbitrary::Unstructured;

/// Registers of a call: X0 is mostly one of the known identifiers, the rest is anything.
pub fn registers<const N: usize>(
    input: &mut Unstructured<'_>,
    known: &[(u64, &str)],
) -> arbitrary::Result<[u64; N]> {
    let mut regs: [u64; N] = input.arbitrary()?;
    if input.ratio(7, 8)? {
        regs[0] = input.choose(known)?.0;
    }
    Ok(regs)
}

/// Checks a call table on one set of registers: reading, writing and reading again is stable, and a call nobody knows
/// keeps every register.
#[macro_export]
macro_rules! check_call {
    ($call:ident, $regs:expr) => {{
        let regs = $regs;
        let call = $call::from_regs(&regs);
        let written = call.to_regs();
        assert_eq!($call::from_regs(&written), call);
        assert_eq!(written[0], regs[0]);
        if call.name().is_none() {
            assert_eq!(written, regs);
        }
        let _ = format!("{call:?}");
        call
    }};
}

/// Checks that a structure is its bytes and nothing else.
pub fn check_structure<T>(bytes: &[u8])
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + std::fmt::Debug,
{
    if let Ok((value, _)) = T::read_from_prefix(bytes) {
        assert_eq!(value.as_bytes(), &bytes[..size_of::<T>()]);
        let _ = format!("{value:?}");
    }
}

/// Inputs shorter than this are continued.
const SHORT: usize = 256;
/// How long they become.
const GROWN: usize = 1024;

/// Reads a structured input. The fuzzer begins with a few bytes and one run of a whole machine takes milliseconds, so a
/// short input is continued by a generator it seeds (splitmix64): even the first second sees long sequences.
pub fn structured<T: for<'a> arbitrary::Arbitrary<'a>>(data: &[u8]) -> arbitrary::Result<T> {
    let mut bytes = data.to_vec();
    if data.len() < SHORT {
        let mut state = data
            .iter()
            .fold(data.len() as u64, |state, byte| state.wrapping_mul(0x100_0193) ^ u64::from(*byte));
        while bytes.len() < GROWN {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(word ^ word >> 31).to_le_bytes());
        }
    }
    T::arbitrary_take_rest(Unstructured::new(&bytes))
}
