//! Physical memory behind a Granule Protection Table: every access, by any world, names the physical address space it
//! uses, and succeeds only where the table has the granule in that space.

use crate::config::DRAM_BASE;
pub use crate::pas::{GranuleFault, Pas};
use crate::probe::log::{Event, EventLog, lock};
use realm_abi::{GRANULE_SHIFT, GRANULE_SIZE};
use realm_rmm::granule::Granule;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use zerocopy::IntoBytes;

/// Why a granule could not move to another address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionError {
    /// Not the address of a granule of DRAM.
    BadAddress,
    /// The granule is not where it should come from.
    BadPas,
}

/// The DRAM of one machine.
pub struct Memory {
    /// `None` reads as zeros.
    granules: Vec<Mutex<Option<Box<Granule>>>>,
    gpt: Vec<AtomicU8>,
}

struct Slot<'a> {
    memory: &'a Memory,
    index: usize,
}

impl Slot<'_> {
    fn pas(&self) -> Pas {
        Pas::from_gpi(self.memory.gpt[self.index].load(Ordering::Acquire))
    }
}

impl Memory {
    /// `size` bytes of zeros, all Non-secure.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let granules = usize::try_from(size >> GRANULE_SHIFT).unwrap_or(usize::MAX);
        Self {
            granules: (0..granules).map(|_| Mutex::new(None)).collect(),
            gpt: (0..granules).map(|_| AtomicU8::new(Pas::NonSecure as u8)).collect(),
        }
    }

    /// Bytes of DRAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.granules.len() as u64) << GRANULE_SHIFT
    }

    fn slot(&self, pa: u64) -> Option<Slot<'_>> {
        let index = usize::try_from(pa.checked_sub(DRAM_BASE)? >> GRANULE_SHIFT).ok()?;
        (index < self.gpt.len()).then_some(Slot { memory: self, index })
    }

    /// The address space the granule at `pa` is in; `None` outside DRAM.
    #[must_use]
    pub fn pas(&self, pa: u64) -> Option<Pas> {
        self.slot(pa).map(|slot| slot.pas())
    }

    /// Granules that are in `pas` now.
    #[must_use]
    pub fn count(&self, pas: Pas) -> usize {
        self.gpt.iter().filter(|gpi| gpi.load(Ordering::Acquire) == pas as u8).count()
    }

    /// What is in the granules of `pas` now: those that are not zero, by address.
    #[must_use]
    pub fn content(&self, pas: Pas) -> BTreeMap<u64, Vec<u8>> {
        let mut content = BTreeMap::new();
        for (index, granule) in self.granules.iter().enumerate() {
            if self.gpt[index].load(Ordering::Acquire) != pas as u8 {
                continue;
            }
            if let Some(granule) = lock(granule).as_mut() {
                let bytes = granule.as_mut_bytes();
                if bytes.iter().any(|byte| *byte != 0) {
                    content.insert(DRAM_BASE + ((index as u64) << GRANULE_SHIFT), bytes.to_vec());
                }
            }
        }
        content
    }

    /// Moves the granule at `pa` from one address space to another, as EL3 does. The content stays as it is.
    ///
    /// # Errors
    /// See [`TransitionError`]; nothing has changed.
    pub fn transition(&self, pa: u64, from: Pas, to: Pas) -> Result<(), TransitionError> {
        let slot =
            self.slot(pa).filter(|_| pa.is_multiple_of(GRANULE_SIZE)).ok_or(TransitionError::BadAddress)?;
        // Under the granule's lock, so that an access which passed its check has ended.
        let _content = lock(&self.granules[slot.index]);
        if slot.pas() != from {
            return Err(TransitionError::BadPas);
        }
        self.gpt[slot.index].store(to as u8, Ordering::Release);
        Ok(())
    }

    /// Runs `f` on the granule that holds `pa`. Calls nest for different granules.
    ///
    /// # Errors
    /// The fault, if the granule is not in `pas` or `world` may not use `pas`; `f` has not run.
    pub fn with<R>(
        &self,
        world: Pas,
        pas: Pas,
        pa: u64,
        f: impl FnOnce(&mut Granule) -> R,
    ) -> Result<R, GranuleFault> {
        match self.with_valid(world, pas, pa, || true, f) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(self.fault(world, pas, pa)),
            Err(fault) => Err(fault),
        }
    }

    /// [`Self::with`], unless `valid` says no once nobody else can use or move the granule; `None` then.
    ///
    /// # Errors
    /// The fault, if the granule is not in `pas` or `world` may not use `pas`; `f` has not run.
    pub fn with_valid<R>(
        &self,
        world: Pas,
        pas: Pas,
        pa: u64,
        valid: impl FnOnce() -> bool,
        f: impl FnOnce(&mut Granule) -> R,
    ) -> Result<Option<R>, GranuleFault> {
        let Some(slot) = self.slot(pa) else {
            return if valid() { Err(self.fault(world, pas, pa)) } else { Ok(None) };
        };
        // Refused before the lock: the caller may be inside the same granule under its true address space.
        if !world.may_use(pas) || slot.pas() != pas {
            return if valid() { Err(self.fault(world, pas, pa)) } else { Ok(None) };
        }
        let mut content = lock(&self.granules[slot.index]);
        if !valid() {
            return Ok(None);
        }
        if slot.pas() != pas {
            return Err(self.fault(world, pas, pa));
        }
        Ok(Some(f(content.get_or_insert_with(|| Box::new(Granule::zeroed())))))
    }

    fn fault(&self, world: Pas, pas: Pas, pa: u64) -> GranuleFault {
        GranuleFault { world, pa, pas, found: self.pas(pa) }
    }

    /// Copies from memory, over as many granules as it takes.
    ///
    /// # Errors
    /// The first fault; `out` is then written in part.
    pub fn read(&self, world: Pas, pas: Pas, pa: u64, out: &mut [u8]) -> Result<(), GranuleFault> {
        let mut at = pa;
        let mut rest = out;
        while !rest.is_empty() {
            let offset = (at % GRANULE_SIZE) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(GRANULE_SIZE as usize - offset));
            if self.is_zero(world, pas, at)? {
                now.fill(0);
            } else {
                self.with(world, pas, at, |granule| {
                    now.copy_from_slice(&granule.as_mut_bytes()[offset..offset + now.len()]);
                })?;
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Whether nobody has written the granule yet: reading it then takes no memory here.
    fn is_zero(&self, world: Pas, pas: Pas, pa: u64) -> Result<bool, GranuleFault> {
        match self.slot(pa) {
            Some(slot) if world.may_use(pas) && slot.pas() == pas => {
                Ok(lock(&self.granules[slot.index]).is_none())
            }
            _ => Err(self.fault(world, pas, pa)),
        }
    }

    /// Copies to memory, over as many granules as it takes.
    ///
    /// # Errors
    /// The first fault; what lies before it is then written.
    pub fn write(&self, world: Pas, pas: Pas, pa: u64, bytes: &[u8]) -> Result<(), GranuleFault> {
        let mut at = pa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (at % GRANULE_SIZE) as usize;
            let (now, later) = rest.split_at(rest.len().min(GRANULE_SIZE as usize - offset));
            self.with(world, pas, at, |granule| {
                granule.as_mut_bytes()[offset..offset + now.len()].copy_from_slice(now);
            })?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Makes the granule that holds `pa` read as zeros, and lets its memory here go.
    ///
    /// # Errors
    /// The fault, if the granule is not in `pas` or `world` may not use `pas`.
    pub fn clear(&self, world: Pas, pas: Pas, pa: u64) -> Result<(), GranuleFault> {
        let slot = self.slot(pa).ok_or_else(|| self.fault(world, pas, pa))?;
        if !world.may_use(pas) || slot.pas() != pas {
            return Err(self.fault(world, pas, pa));
        }
        *lock(&self.granules[slot.index]) = None;
        Ok(())
    }
}

/// Puts a fault into the log: for accesses that software which is right never makes.
pub(crate) fn report<T>(log: &EventLog, result: Result<T, GranuleFault>) -> Option<T> {
    result.map_err(|fault| log.push(Event::GranuleFault(fault))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 4 * GRANULE_SIZE;
    const PA: u64 = DRAM_BASE + GRANULE_SIZE;

    #[test]
    fn every_world_reaches_its_own_memory_and_no_other() {
        let all = [Pas::NonSecure, Pas::Secure, Pas::Realm, Pas::Root];
        for held in all {
            let memory = Memory::new(SIZE);
            memory.transition(PA, Pas::NonSecure, held).expect("Non-secure before");
            for world in all {
                for used in all {
                    let expected = used == held && world.may_use(used);
                    let fault = GranuleFault { world, pa: PA, pas: used, found: Some(held) };
                    let wanted = if expected { Ok(()) } else { Err(fault) };
                    assert_eq!(memory.read(world, used, PA, &mut [0; 8]), wanted);
                    assert_eq!(memory.write(world, used, PA, &[0; 8]), wanted);
                    assert_eq!(memory.clear(world, used, PA), wanted);
                }
            }
        }
        assert!(!Pas::NonSecure.may_use(Pas::Realm) && !Pas::Secure.may_use(Pas::Realm));
        assert!(!Pas::Realm.may_use(Pas::Secure) && !Pas::Realm.may_use(Pas::Root));
    }

    #[test]
    fn an_address_outside_dram_is_a_fault() {
        let memory = Memory::new(SIZE);
        for pa in [0, DRAM_BASE - 1, DRAM_BASE + SIZE, u64::MAX] {
            let fault = GranuleFault { world: Pas::Root, pa, pas: Pas::NonSecure, found: None };
            assert_eq!(memory.read(Pas::Root, Pas::NonSecure, pa, &mut [0]), Err(fault));
        }
    }

    #[test]
    fn a_copy_stops_at_the_granule_that_is_not_accessible() {
        let memory = Memory::new(SIZE);
        memory.transition(PA, Pas::NonSecure, Pas::Realm).expect("Non-secure before");
        let fault =
            GranuleFault { world: Pas::NonSecure, pa: PA, pas: Pas::NonSecure, found: Some(Pas::Realm) };
        let write = memory.write(Pas::NonSecure, Pas::NonSecure, PA - 2, &[7; 4]);
        assert_eq!(write, Err(fault));
        let mut before = [0; 2];
        memory.read(Pas::NonSecure, Pas::NonSecure, PA - 2, &mut before).expect("Non-secure");
        assert_eq!(before, [7; 2]);
    }

    #[test]
    fn transitions_keep_the_content_and_check_address_and_state() {
        let memory = Memory::new(SIZE);
        memory.write(Pas::NonSecure, Pas::NonSecure, PA, b"kept").expect("Non-secure");
        assert_eq!(memory.transition(PA, Pas::Realm, Pas::NonSecure), Err(TransitionError::BadPas));
        assert_eq!(memory.transition(PA + 8, Pas::NonSecure, Pas::Realm), Err(TransitionError::BadAddress));
        assert_eq!(
            memory.transition(DRAM_BASE + SIZE, Pas::NonSecure, Pas::Realm),
            Err(TransitionError::BadAddress)
        );
        memory.transition(PA, Pas::NonSecure, Pas::Realm).expect("Non-secure before");
        assert_eq!((memory.count(Pas::Realm), memory.count(Pas::NonSecure)), (1, 3));
        let mut content = [0; 4];
        memory.read(Pas::Realm, Pas::Realm, PA, &mut content).expect("Realm now");
        assert_eq!(&content, b"kept");
    }
}
