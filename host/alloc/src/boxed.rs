//! Boxes of `alloc`, made without its abort.
//!
//! Only making one can fail: dropping, dereferencing and coercing a box link nothing that panics.

use crate::NoMemory;
use alloc::alloc::{alloc, alloc_zeroed};
use alloc::boxed::Box;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use zerocopy::FromZeros;

/// Boxes a value; without memory it is dropped.
pub fn try_box<T>(value: T) -> Result<Box<T>, NoMemory> {
    Ok(Box::write(try_uninit_box()?, value))
}

/// Memory for a value. What is made only after its memory is there (`Box::write`) need not be given up again.
pub fn try_uninit_box<T>() -> Result<Box<MaybeUninit<T>>, NoMemory> {
    let memory = request(Layout::new::<T>(), false)?.cast::<MaybeUninit<T>>();
    // SAFETY: the memory has T's layout, is nobody else's, and came from the global allocator (or T has no size). An
    // uninitialised value is a valid MaybeUninit.
    Ok(unsafe { Box::from_raw(memory.as_ptr()) })
}

/// A value of zeros that was never on the stack.
pub fn try_zeroed_box<T: FromZeros>() -> Result<Box<T>, NoMemory> {
    let memory = request(Layout::new::<T>(), true)?.cast::<T>();
    // SAFETY: the memory has T's layout, is nobody else's, and came from the global allocator (or T has no size). Its bytes
    // are zeros, which FromZeros says is a valid T.
    Ok(unsafe { Box::from_raw(memory.as_ptr()) })
}

/// A slice of zeros.
pub fn try_zeroed_slice<T: FromZeros>(len: usize) -> Result<Box<[T]>, NoMemory> {
    let layout = Layout::array::<T>(len).map_err(|_| NoMemory)?;
    let memory = request(layout, true)?.cast::<T>();
    let slice = core::ptr::slice_from_raw_parts_mut(memory.as_ptr(), len);
    // SAFETY: the memory has the layout of a `[T]` of this length, is nobody else's, and came from the global allocator (or
    // the slice has no size). Its bytes are zeros, which FromZeros says are valid Ts.
    Ok(unsafe { Box::from_raw(slice) })
}

/// An array whose elements are made one by one where they stay, so that no stack has to hold it.
pub fn try_box_array<T, const N: usize>(
    mut element: impl FnMut(usize) -> T,
) -> Result<Box<[T; N]>, NoMemory> {
    let mut array = try_uninit_box::<[T; N]>()?;
    let first = array.as_mut_ptr().cast::<T>();
    // Should `element` unwind, what was made so far is leaked.
    for index in 0..N {
        let value = element(index);
        // SAFETY: `first` points to room for N values of T, and index < N.
        unsafe { first.wrapping_add(index).write(value) };
    }
    // SAFETY: the loop wrote every element.
    Ok(unsafe { array.assume_init() })
}

/// Memory of this layout; a dangling pointer if it has no size.
pub(crate) fn request(layout: Layout, zeroed: bool) -> Result<NonNull<u8>, NoMemory> {
    if layout.size() == 0 {
        let aligned = core::ptr::without_provenance_mut(layout.align());
        return NonNull::new(aligned).ok_or(NoMemory);
    }
    let memory = if zeroed {
        // SAFETY: the size is not zero.
        unsafe { alloc_zeroed(layout) }
    } else {
        // SAFETY: the size is not zero.
        unsafe { alloc(layout) }
    };
    NonNull::new(memory).ok_or(NoMemory)
}
