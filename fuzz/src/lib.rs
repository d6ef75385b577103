//! What the fuzz targets share.

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
