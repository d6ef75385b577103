//! Functions that break one rule each. The linker leaves them out unless the check asks for them.

use crate::shim;
use core::hint::black_box;
use realm_alloc::Box;

/// Panics for an index from outside.
#[unsafe(no_mangle)]
pub extern "C" fn spoilt_panic(index: usize) -> u64 {
    black_box([1_u64, 2, 3])[index]
}

/// Aborts when memory is out.
#[unsafe(no_mangle)]
pub extern "C" fn spoilt_allocation(value: u64) -> *mut u64 {
    extern crate alloc;
    Box::into_raw(alloc::boxed::Box::new(value))
}

/// Has a frame of more than 1 KiB.
#[unsafe(no_mangle)]
pub extern "C" fn spoilt_frame() -> u64 {
    let mut words = [shim::k_process(); 160];
    shim::k_yield();
    black_box(&mut words)[3]
}

/// Is deeper than 4 KiB, with no frame of 1 KiB, and at the end by a pointer.
#[unsafe(no_mangle)]
pub extern "C" fn spoilt_depth(level: u64) -> u64 {
    first(level)
}

macro_rules! level {
    ($name:ident, $next:expr) => {
        #[inline(never)]
        fn $name(level: u64) -> u64 {
            let mut words = [level; 110];
            let next: fn(u64) -> u64 = black_box($next);
            next(level).wrapping_add(black_box(&mut words)[7])
        }
    };
}

level!(first, second);
level!(second, third);
level!(third, fourth);
level!(fourth, fifth);
level!(fifth, |level| level);
