//! A growable array.

use crate::NoMemory;
use crate::boxed::request;
use alloc::alloc::{dealloc, realloc};
use core::alloc::Layout;
use core::fmt::{self, Debug};
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

/// The room a vector takes at first, if it has to choose.
const FIRST: usize = 4;

/// A growable array, which is a slice for everything that does not change its length.
///
/// Only operations whose names begin with `try_`, and [`Vec::with_capacity`], ask for memory.
pub struct Vec<T> {
    /// Room for `room` values of T, of which the first `len` are initialised; dangling while `room` is 0.
    memory: NonNull<T>,
    /// Always 0 if T has no size.
    room: usize,
    len: usize,
}

// SAFETY: a vector owns its values and nothing else refers to its memory.
unsafe impl<T: Send> Send for Vec<T> {}
// SAFETY: a shared vector gives out shared references to its values only.
unsafe impl<T: Sync> Sync for Vec<T> {}

impl<T> Vec<T> {
    /// An empty vector, which has no memory.
    pub const fn new() -> Self {
        Self { memory: NonNull::dangling(), room: 0, len: 0 }
    }

    /// An empty vector with room for just so many values.
    pub fn with_capacity(capacity: usize) -> Result<Self, NoMemory> {
        let mut vec = Self::new();
        if capacity > vec.capacity() {
            vec.grow(capacity)?;
        }
        Ok(vec)
    }

    /// How many values there is room for.
    pub const fn capacity(&self) -> usize {
        if size_of::<T>() == 0 { usize::MAX } else { self.room }
    }

    /// How many more values there is room for.
    pub const fn spare(&self) -> usize {
        self.capacity().saturating_sub(self.len)
    }

    /// Makes room for so many more values.
    pub fn try_reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        if more <= self.spare() {
            return Ok(());
        }
        let needed = self.len.checked_add(more).ok_or(NoMemory)?;
        // Doubled, or pushing n values would copy n² of them.
        self.grow(needed.max(self.room.saturating_mul(2)).max(FIRST))
    }

    /// Appends a value; without memory it is dropped.
    pub fn try_push(&mut self, value: T) -> Result<(), NoMemory> {
        self.try_reserve(1)?;
        self.push_within(value).map_err(|_| NoMemory)
    }

    /// Appends a value if there is room for it.
    pub fn push_within(&mut self, value: T) -> Result<(), T> {
        if self.spare() == 0 {
            return Err(value);
        }
        // SAFETY: there is room for a value after the last one.
        unsafe { self.slot(self.len).write(value) };
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// Puts a value before the one at `index`, if there is room for it and so many values.
    pub fn insert_within(&mut self, index: usize, value: T) -> Result<(), T> {
        let Some(after) = self.len.checked_sub(index) else { return Err(value) };
        if self.spare() == 0 {
            return Err(value);
        }
        let slot = self.slot(index);
        // SAFETY: the values from `index` on are initialised, and there is room for them one further.
        unsafe { ptr::copy(slot, slot.wrapping_add(1), after) };
        // SAFETY: index <= len, so the slot is inside the memory; what was in it has moved.
        unsafe { slot.write(value) };
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// Takes the value at `index` out; those after it move up.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        let after = self.len.checked_sub(index)?.checked_sub(1)?;
        let slot = self.slot(index);
        // SAFETY: index < len, so there is a value; the copy or the new length makes it unreachable here.
        let value = unsafe { slot.read() };
        // SAFETY: `after` initialised values follow the slot.
        unsafe { ptr::copy(slot.wrapping_add(1), slot, after) };
        self.len = self.len.saturating_sub(1);
        Some(value)
    }

    /// Drops the values from index `from` up to, not including, `to`; those after them move up, once. What is not there is not
    /// dropped.
    pub fn remove_range(&mut self, from: usize, to: usize) {
        let len = self.len;
        let to = if to < len { to } else { len };
        if from >= to {
            return;
        }
        // Only what is in front counts meanwhile: a value whose drop unwinds takes the rest with it, unreachable.
        self.len = from;
        let gone = ptr::slice_from_raw_parts_mut(self.slot(from), to.saturating_sub(from));
        // SAFETY: from < to <= the former length: these are values, which the new length makes unreachable here.
        unsafe { gone.drop_in_place() };
        let after = len.saturating_sub(to);
        // SAFETY: `after` initialised values follow `to`, and there is room for them from `from` on.
        unsafe { ptr::copy(self.slot(to), self.slot(from), after) };
        self.len = from.saturating_add(after);
    }

    /// Takes the value at `index` out; the last one takes its place.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        let last = self.pop()?;
        match self.get_mut(index) {
            Some(value) => Some(core::mem::replace(value, last)),
            None => Some(last),
        }
    }

    /// Takes the last value out.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was the last value, and is not one of the vector's any more.
        Some(unsafe { self.slot(self.len).read() })
    }

    /// Drops all values after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        let Some(after) = self.len.checked_sub(len) else { return };
        let tail = ptr::slice_from_raw_parts_mut(self.slot(len), after);
        self.len = len;
        // SAFETY: the values were initialised, and are not the vector's any more, even if a drop unwinds.
        unsafe { ptr::drop_in_place(tail) };
    }

    /// Drops all values. The memory stays.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops the values for which `keep` says no. The others stay in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let mut kept = 0_usize;
        for index in 0..self.len {
            let keeps = self.get_mut(index).is_some_and(&mut keep);
            if keeps {
                // SAFETY: kept <= index < len: both are values.
                unsafe { ptr::swap(self.slot(kept), self.slot(index)) };
                kept = kept.saturating_add(1);
            }
        }
        self.truncate(kept);
    }

    /// Appends what an iterator yields. Without memory what was appended so far stays, and the rest is dropped.
    pub fn try_extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), NoMemory> {
        let values = values.into_iter();
        self.try_reserve(values.size_hint().0)?;
        for value in values {
            self.try_push(value)?;
        }
        Ok(())
    }

    /// What an iterator yields.
    pub fn try_from_iter(values: impl IntoIterator<Item = T>) -> Result<Self, NoMemory> {
        let mut vec = Self::new();
        vec.try_extend(values)?;
        Ok(vec)
    }

    /// A copy, with just the room it needs.
    pub fn try_clone(&self) -> Result<Self, NoMemory>
    where
        T: Clone,
    {
        let mut copy = Self::with_capacity(self.len)?;
        for value in self {
            copy.push_within(value.clone()).map_err(|_| NoMemory)?;
        }
        Ok(copy)
    }

    /// Where the value of this index is or would be.
    const fn slot(&self, index: usize) -> *mut T {
        self.memory.as_ptr().wrapping_add(index)
    }

    /// Makes room for just `room` values, which is more than there is.
    fn grow(&mut self, room: usize) -> Result<(), NoMemory> {
        if size_of::<T>() == 0 {
            return Err(NoMemory);
        }
        let new = Layout::array::<T>(room).map_err(|_| NoMemory)?;
        let memory = if self.room == 0 {
            request(new, false)?
        } else {
            let old = Layout::array::<T>(self.room).map_err(|_| NoMemory)?;
            let memory = self.memory.as_ptr().cast::<u8>();
            // SAFETY: the memory was allocated with `old`, and the new size is neither zero nor, as a layout has it, too large.
            NonNull::new(unsafe { realloc(memory, old, new.size()) }).ok_or(NoMemory)?
        };
        self.memory = memory.cast();
        self.room = room;
        Ok(())
    }
}

impl<T> Drop for Vec<T> {
    fn drop(&mut self) {
        /// Frees the memory also if dropping a value unwinds.
        struct Memory<T>(NonNull<T>, usize);
        impl<T> Drop for Memory<T> {
            fn drop(&mut self) {
                if self.1 == 0 {
                    return;
                }
                if let Ok(layout) = Layout::array::<T>(self.1) {
                    // SAFETY: the memory was allocated with this layout, and nobody uses it any more.
                    unsafe { dealloc(self.0.as_ptr().cast(), layout) };
                }
            }
        }
        let _memory = Memory(self.memory, self.room);
        self.clear();
    }
}

impl<T> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Vec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` values are initialised, and change only through `&mut self`.
        unsafe { core::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Vec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the first `len` values are initialised, and `&mut self` is the only way to them.
        unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl<T: Debug> Debug for Vec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&**self, f)
    }
}

impl<T: PartialEq> PartialEq for Vec<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Vec<T> {}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Vec<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;
    fn into_iter(mut self) -> IntoIter<T> {
        let end = core::mem::take(&mut self.len);
        IntoIter { memory: self, next: 0, end }
    }
}

/// The values of a vector, by value.
pub struct IntoIter<T> {
    /// A vector of no values, in whose memory those from `next` to `end` are initialised, and the iterator's.
    memory: Vec<T>,
    next: usize,
    end: usize,
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        let slot = self.memory.slot(self.next);
        self.next = self.next.saturating_add(1);
        // SAFETY: the value was one of the iterator's, and is not any more.
        Some(unsafe { slot.read() })
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.saturating_sub(self.next);
        (left, Some(left))
    }
}

impl<T> DoubleEndedIterator for IntoIter<T> {
    fn next_back(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        self.end = self.end.saturating_sub(1);
        // SAFETY: the value was one of the iterator's, and is not any more.
        Some(unsafe { self.memory.slot(self.end).read() })
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}

impl<T> Drop for IntoIter<T> {
    fn drop(&mut self) {
        let left = self.end.saturating_sub(self.next);
        let slice = ptr::slice_from_raw_parts_mut(self.memory.slot(self.next), left);
        // SAFETY: the values are initialised and the iterator's; its memory is freed after this, without values.
        unsafe { ptr::drop_in_place(slice) };
    }
}
