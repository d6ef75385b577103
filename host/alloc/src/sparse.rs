//! An ordered map from `u64`, for few indices in a huge space.

use crate::{NoMemory, Vec, try_box_array};
use alloc::boxed::Box;
use core::fmt::{self, Debug};

/// Bits of an index that choose a value in a leaf.
const LEAF_BITS: u32 = 6;
const LEAF_SLOTS: usize = 1 << LEAF_BITS;
/// Bits of an index that choose a child of a branch.
const BRANCH_BITS: u32 = 5;
const BRANCH_SLOTS: usize = 1 << BRANCH_BITS;

type Values<T> = [Option<T>; LEAF_SLOTS];
type Children<T> = [Option<Node<T>>; BRANCH_SLOTS];

/// A map from `u64` to `T`, in order of its indices.
///
/// It is a radix tree in which a branch with one child is left out, so one insertion needs at most two nodes: a leaf, and a branch
/// where it parts from what was there. It is at most 13 nodes deep. A leaf holds 64 neighbours and has at most 4 KiB: a
/// value whose `Option` has more than 64 bytes is to be boxed, or filling a [`Spare`] does not compile. Nodes without values are
/// freed.
///
/// ```compile_fail
/// realm_alloc::Sparse::new().try_insert(0, [0_u64; 8]);
/// ```
///
/// ```
/// realm_alloc::Sparse::new().try_insert(0, [0_u64; 7])?;
/// # Ok::<(), realm_alloc::NoMemory>(())
/// ```
pub struct Sparse<T> {
    root: Option<Node<T>>,
    len: usize,
}

/// Its array is all of a node that is on the heap, so that it fills a power of two of memory.
enum Node<T> {
    Leaf {
        base: u64,
        /// How many values there are: never none.
        used: u8,
        values: Box<Values<T>>,
    },
    /// Has at least two children.
    Branch { base: u64, shift: u8, children: Box<Children<T>> },
}

impl<T> Node<T> {
    /// Two nodes that do not cover each other, below one that covers both.
    fn branch(one: Self, other: Self, mut children: Box<Children<T>>) -> Self {
        let shift = parting(one.base(), other.base());
        let base = one.base() & high((shift as u32).saturating_add(BRANCH_BITS));
        for node in [one, other] {
            if let Some(slot) = children.get_mut(branch_slot(node.base(), shift)) {
                *slot = Some(node);
            }
        }
        Self::Branch { base, shift, children }
    }

    const fn base(&self) -> u64 {
        match self {
            Self::Leaf { base, .. } | Self::Branch { base, .. } => *base,
        }
    }

    /// The bits of an index that matter below here.
    const fn bits(&self) -> u32 {
        match self {
            Self::Leaf { .. } => LEAF_BITS,
            Self::Branch { shift, .. } => (*shift as u32).saturating_add(BRANCH_BITS),
        }
    }

    const fn covers(&self, index: u64) -> bool {
        index & high(self.bits()) == self.base()
    }

    /// The largest index it covers.
    const fn end(&self) -> u64 {
        self.base() | !high(self.bits())
    }

    fn child_is_branch(&self, index: u64) -> bool {
        let Self::Branch { shift, children, .. } = self else { return false };
        matches!(children.get(branch_slot(index, *shift)), Some(Some(Self::Branch { .. })))
    }

    fn first(&self) -> Option<(u64, &T)> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf { base, values, .. } => return first_from(*base, values, 0),
                Self::Branch { children, .. } => node = children.iter().flatten().next()?,
            }
        }
    }

    fn last(&self) -> Option<(u64, &T)> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf { base, values, .. } => {
                    return (0..LEAF_SLOTS)
                        .rev()
                        .find_map(|slot| Some((*base | slot as u64, values.get(slot)?.as_ref()?)));
                }
                Self::Branch { children, .. } => node = children.iter().rev().flatten().next()?,
            }
        }
    }
}

/// A mask of all but so many bits.
const fn high(bits: u32) -> u64 {
    match u64::MAX.checked_shl(bits) {
        Some(mask) => mask,
        None => 0,
    }
}

const fn leaf_slot(index: u64) -> usize {
    (index & !high(LEAF_BITS)) as usize
}

const fn branch_slot(index: u64, shift: u8) -> usize {
    match index.checked_shr(shift as u32) {
        Some(index) => (index & !high(BRANCH_BITS)) as usize,
        None => 0,
    }
}

/// The shift of the lowest branch that covers two indices of different leaves.
const fn parting(one: u64, other: u64) -> u8 {
    let differ = (one ^ other).checked_ilog2();
    let above = match differ {
        Some(bit) => bit.saturating_sub(LEAF_BITS) / BRANCH_BITS,
        None => 0,
    };
    above.saturating_mul(BRANCH_BITS).saturating_add(LEAF_BITS) as u8
}

fn first_from<T>(base: u64, values: &Values<T>, from: usize) -> Option<(u64, &T)> {
    (from..LEAF_SLOTS).find_map(|slot| Some((base | slot as u64, values.get(slot)?.as_ref()?)))
}

/// The lowest link on the way to an index: to the leaf that covers it, to a node that does not, or to nothing.
fn lowest<T>(link: &mut Option<Node<T>>, index: u64) -> Option<&mut Option<Node<T>>> {
    descend(link, index, |node| !node.covers(index))
}

/// The link to the first node at which to stop, to a leaf, or to nothing. There always is one: `None` would be a slot that no
/// branch has.
fn descend<T>(
    mut link: &mut Option<Node<T>>,
    index: u64,
    stop: impl Fn(&Node<T>) -> bool,
) -> Option<&mut Option<Node<T>>> {
    loop {
        match link {
            Some(node) if stop(node) => return Some(link),
            Some(Node::Branch { shift, children, .. }) => {
                link = children.get_mut(branch_slot(index, *shift))?;
            }
            _ => return Some(link),
        }
    }
}

impl<T> Sparse<T> {
    /// An empty map, which has no memory.
    pub const fn new() -> Self {
        Self { root: None, len: 0 }
    }

    /// How many values there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at an index.
    pub fn get(&self, index: u64) -> Option<&T> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Leaf { values, .. } if node.covers(index) => {
                    return values.get(leaf_slot(index))?.as_ref();
                }
                Node::Leaf { .. } => return None,
                // The leaf tells whether it is the right one.
                Node::Branch { shift, children, .. } => {
                    node = children.get(branch_slot(index, *shift))?.as_ref()?;
                }
            }
        }
    }

    /// The value at an index.
    pub fn get_mut(&mut self, index: u64) -> Option<&mut T> {
        let node = lowest(&mut self.root, index)?.as_mut()?;
        if !node.covers(index) {
            return None;
        }
        let Node::Leaf { values, .. } = node else { return None };
        values.get_mut(leaf_slot(index))?.as_mut()
    }

    /// Puts a value at an index, and returns the one that was there. Memory comes from `spare`; without enough there, nothing
    /// changes and the value comes back as the error.
    pub fn insert(&mut self, index: u64, value: T, spare: &mut Spare<T>) -> Result<Option<T>, T> {
        let Some(link) = lowest(&mut self.root, index) else { return Err(value) };
        if let Some(Node::Leaf { base, used, values }) = link
            && *base == index & high(LEAF_BITS)
        {
            let Some(slot) = values.get_mut(leaf_slot(index)) else { return Err(value) };
            let before = slot.replace(value);
            if before.is_none() {
                *used = used.saturating_add(1);
                self.len = self.len.saturating_add(1);
            }
            return Ok(before);
        }
        if spare.leaves.is_empty() {
            return Err(value);
        }
        let children = match link {
            None => None,
            Some(_) => match spare.branches.pop() {
                None => return Err(value),
                some => some,
            },
        };
        let Some(mut values) = spare.leaves.pop() else { return Err(value) };
        if let Some(slot) = values.get_mut(leaf_slot(index)) {
            *slot = Some(value);
        }
        let leaf = Node::Leaf { base: index & high(LEAF_BITS), used: 1, values };
        *link = Some(match link.take().zip(children) {
            None => leaf,
            Some((there, children)) => Node::branch(there, leaf, children),
        });
        self.len = self.len.saturating_add(1);
        Ok(None)
    }

    /// Puts a value at an index, with memory allocated if it is needed, and returns the one that was there. Without memory the
    /// value is dropped and nothing changes.
    pub fn try_insert(&mut self, index: u64, value: T) -> Result<Option<T>, NoMemory> {
        let mut spare = Spare::new();
        match self.insert(index, value, &mut spare) {
            Ok(before) => Ok(before),
            Err(value) => {
                spare.fill(1)?;
                self.insert(index, value, &mut spare).map_err(|_| NoMemory)
            }
        }
    }

    /// Takes the value at an index out. Nodes without values are freed.
    pub fn remove(&mut self, index: u64) -> Option<T> {
        let node = lowest(&mut self.root, index)?.as_mut()?;
        if !node.covers(index) {
            return None;
        }
        let Node::Leaf { used, values, .. } = node else { return None };
        let value = values.get_mut(leaf_slot(index))?.take()?;
        *used = used.saturating_sub(1);
        let empty = *used == 0;
        self.len = self.len.saturating_sub(1);
        if empty {
            self.unlink(index);
        }
        Some(value)
    }

    /// Frees the empty leaf of an index, and the branch above it if one child is left.
    fn unlink(&mut self, index: u64) {
        // To the leaf if it is the root, or else to the branch whose child it is.
        let Some(link) = descend(&mut self.root, index, |node| !node.child_is_branch(index)) else { return };
        let only = match link {
            Some(Node::Branch { shift, children, .. }) => {
                if let Some(leaf) = children.get_mut(branch_slot(index, *shift)) {
                    *leaf = None;
                }
                let mut left = children.iter_mut().filter(|child| child.is_some());
                match (left.next(), left.next()) {
                    (Some(only), None) => only.take(),
                    _ => return,
                }
            }
            _ => None,
        };
        *link = only;
    }

    /// The first value at an index or above it.
    pub fn next(&self, from: u64) -> Option<(u64, &T)> {
        let mut node = self.root.as_ref()?;
        // The next node to the right of the way down.
        let mut right: Option<&Node<T>> = None;
        loop {
            if from <= node.base() {
                return node.first();
            }
            if from > node.end() {
                return right?.first();
            }
            match node {
                Node::Leaf { base, values, .. } => {
                    return match first_from(*base, values, leaf_slot(from)) {
                        None => right?.first(),
                        some => some,
                    };
                }
                Node::Branch { shift, children, .. } => {
                    let mut children = children.iter().skip(branch_slot(from, *shift));
                    let child = children.next()?;
                    right = children.flatten().next().or(right);
                    match child {
                        None => return right?.first(),
                        Some(child) => node = child,
                    }
                }
            }
        }
    }

    /// The first value at an index or above it.
    pub fn next_mut(&mut self, from: u64) -> Option<(u64, &mut T)> {
        let (index, _) = self.next(from)?;
        Some((index, self.get_mut(index)?))
    }

    /// The value of the lowest index.
    pub fn first(&self) -> Option<(u64, &T)> {
        self.root.as_ref()?.first()
    }

    /// The value of the highest index.
    pub fn last(&self) -> Option<(u64, &T)> {
        self.root.as_ref()?.last()
    }

    /// Takes the value of the lowest index out.
    pub fn pop_first(&mut self) -> Option<(u64, T)> {
        let (index, _) = self.first()?;
        Some((index, self.remove(index)?))
    }

    /// Takes the value of the highest index out.
    pub fn pop_last(&mut self) -> Option<(u64, T)> {
        let (index, _) = self.last()?;
        Some((index, self.remove(index)?))
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// All values, in order.
    pub const fn iter(&self) -> Iter<'_, T> {
        Iter { map: self, from: Some(0) }
    }
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Debug> Debug for Sparse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<'a, T> IntoIterator for &'a Sparse<T> {
    type Item = (u64, &'a T);
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// The values of a [`Sparse`], in order.
pub struct Iter<'a, T> {
    map: &'a Sparse<T>,
    /// `None` after the last index there can be.
    from: Option<u64>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (u64, &'a T);
    fn next(&mut self) -> Option<Self::Item> {
        let (index, value) = self.map.next(self.from?)?;
        self.from = index.checked_add(1);
        Some((index, value))
    }
}

/// Memory for insertions into a [`Sparse`], to be filled before a lock is taken.
pub struct Spare<T> {
    leaves: Vec<Box<Values<T>>>,
    branches: Vec<Box<Children<T>>>,
}

impl<T> Spare<T> {
    const LEAF_FITS: () =
        assert!(size_of::<Values<T>>() <= 4096, "a value whose option has more than 64 bytes is to be boxed");

    /// Nothing.
    pub const fn new() -> Self {
        Self { leaves: Vec::new(), branches: Vec::new() }
    }

    /// Makes sure that there is enough for so many insertions. What was allocated before memory ran out stays.
    pub fn fill(&mut self, insertions: usize) -> Result<(), NoMemory> {
        const { Self::LEAF_FITS };
        fill(&mut self.leaves, insertions)?;
        fill(&mut self.branches, insertions)
    }

    /// Makes sure that there is enough for insertions at so many consecutive indices.
    pub fn fill_run(&mut self, indices: usize) -> Result<(), NoMemory> {
        // Each end can have a leaf of its own.
        let leaves = indices.div_ceil(LEAF_SLOTS).saturating_add(1);
        self.fill(leaves.min(indices))
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes sure that there are so many arrays of nothing.
fn fill<T, const N: usize>(nodes: &mut Vec<Box<[Option<T>; N]>>, count: usize) -> Result<(), NoMemory> {
    let missing = count.saturating_sub(nodes.len());
    nodes.try_reserve(missing)?;
    for _ in 0..missing {
        nodes.try_push(try_box_array(|_| None)?)?;
    }
    Ok(())
}
