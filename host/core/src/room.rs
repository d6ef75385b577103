//! Room in lists that a lock protects, made before the lock is taken; and how long they are.

use crate::{Errno, Lock};
use realm_alloc::Vec;

/// Makes sure that a list has room for `more` elements, allocating with the lock free. Another thread may take the room
/// before the caller has the lock again: then the caller asks once more.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn make<S, T>(
    lock: &impl Lock<S>,
    list: impl Fn(&mut S) -> &mut Vec<T>,
    more: usize,
) -> Result<(), Errno> {
    let len = {
        let mut state = lock.lock();
        let list = list(&mut state);
        if list.spare() >= more {
            return Ok(());
        }
        list.len()
    };
    let mut longer = Vec::with_capacity(len.saturating_mul(2).max(len.saturating_add(more)))?;
    let mut state = lock.lock();
    let list = list(&mut state);
    if list.spare() < more && longer.capacity() >= list.len().saturating_add(more) {
        for element in core::mem::take(list) {
            // The capacity was just compared.
            let _full = longer.push_within(element);
        }
        core::mem::swap(list, &mut longer);
    }
    drop(state);
    Ok(())
}

/// How many elements an iterator has. `Iterator::count` panics when the number overflows, and the code for that is linked.
pub(crate) fn count(elements: impl Iterator) -> usize {
    elements.fold(0, |count, _| count.saturating_add(1))
}
