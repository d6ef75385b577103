//! The Realm Initial Measurement, predicted from the steps a Host takes (RMM 1.0, Realm Initial Measurement).
//!
//! The RIM depends on the order of the steps and, for INIT_RIPAS, on which translation tables exist: each table entry is
//! measured on its own, however much it covers. So the prediction is a model of two parties, kept apart from
//! both implementations: the RMM (what it measures) and our Host core (which tables it makes, and when). The
//! Host makes tables only when the RMM refuses a step for the lack of them, and never folds before activation.

mod parameters;
mod tables;

pub use parameters::{MAX_IPA_BITS, MAX_IPA_BITS_LPA2, MIN_IPA_BITS, ParameterError, RealmParameters};

use crate::measurement::{Measurement, UnknownHash};
use realm_abi::rmi::{
    DataFlags, HashAlgorithm, MEASUREMENT_SIZE, REC_CREATE_GPRS, RTT_PAGE_LEVEL, RecFlags, RecParams,
};
use realm_abi::{GRANULE_SIZE, rmi};
use tables::{InitRipas, Tables};
use zerocopy::{Immutable, IntoBytes};

/// Why a step cannot be taken. The realm a Host builds would be refused at the same step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The parameters of the realm.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// An address or a size.
    #[error("{what} {value:#x} is not a multiple of the granule size 4096")]
    Unaligned {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u64,
    },
    /// Nothing to do.
    #[error("{0} is 0: the step would do nothing")]
    Empty(&'static str),
    /// The range leaves the half of the IPA space that belongs to the realm.
    #[error(
        "{base:#x} + {size:#x} ends beyond {protected_top:#x}, the end of the protected half of the IPA space"
    )]
    BeyondProtected {
        /// First IPA.
        base: u64,
        /// Bytes.
        size: u64,
        /// First IPA of the unprotected half.
        protected_top: u64,
    },
    /// A granule is populated twice.
    #[error("{ipa:#x} is already populated: a granule is populated once")]
    Populated {
        /// The first such granule.
        ipa: u64,
    },
    /// RTT_INIT_RIPAS finds a populated granule where it has to begin.
    #[error("{ipa:#x} is already populated: RIPAS can be initialised only before")]
    RipasAfterPopulate {
        /// The granule.
        ipa: u64,
    },
    /// More registers than REC_CREATE sets.
    #[error("{0} gprs: a REC starts with at most 8, X0 to X7")]
    Gprs(usize),
}

/// Why a populate step failed.
#[derive(Debug, PartialEq, Eq)]
pub enum PopulateError<E> {
    /// The step itself.
    Step(StepError),
    /// Reading the content.
    Read(E),
}

/// `RmmMeasurementDescriptorRipas` and `RmmMeasurementDescriptorData` share this head (RMM 1.0).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DescriptorHead {
    desc_type: u8,
    pad: [u8; 7],
    len: u64,
    rim: [u8; MEASUREMENT_SIZE],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DataDescriptor {
    head: DescriptorHead,
    ipa: u64,
    flags: u64,
    content: [u8; MEASUREMENT_SIZE],
    pad: [u8; 0x60],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct RecDescriptor {
    head: DescriptorHead,
    content: [u8; MEASUREMENT_SIZE],
    pad: [u8; 0x70],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct RipasDescriptor {
    head: DescriptorHead,
    base: u64,
    top: u64,
    pad: [u8; 0xa0],
}

const DESCRIPTOR_SIZE: usize = 0x100;
const _: () = assert!(
    size_of::<DataDescriptor>() == DESCRIPTOR_SIZE
        && size_of::<RecDescriptor>() == DESCRIPTOR_SIZE
        && size_of::<RipasDescriptor>() == DESCRIPTOR_SIZE
);

/// A realm being built, as far as its measurement goes.
///
/// After an error the prediction is of no further use: a Host would have stopped there.
#[derive(Clone, Debug)]
pub struct RimPredictor {
    hash: HashAlgorithm,
    rim: Measurement,
    tables: Tables,
}

impl RimPredictor {
    /// A realm after REALM_CREATE.
    ///
    /// # Errors
    /// What is wrong with the parameters.
    pub fn new(parameters: &RealmParameters) -> Result<Self, StepError> {
        let params = parameters.to_rmi()?;
        Ok(Self {
            hash: params.hash_algo,
            rim: measure(params.hash_algo, params.measured().as_bytes())?,
            tables: Tables::new(parameters.ipa_bits),
        })
    }

    /// The measurement after the steps so far.
    #[must_use]
    pub const fn rim(&self) -> &Measurement {
        &self.rim
    }

    /// Makes `[base, base + size)` RAM, as the INIT_RIPAS ioctl does: RTT_INIT_RIPAS over the whole range, tables made
    /// where the RMM asks for them down to the level whose entries are the largest that describe the rest.
    ///
    /// # Errors
    /// An unaligned, empty or too large range, or populated memory in it.
    pub fn init_ripas(&mut self, base: u64, size: u64) -> Result<(), StepError> {
        aligned("base", base)?;
        aligned("size", size)?;
        let end = self.protected_end("size", base, size)?;
        let mut at = base;
        while at < end {
            match self.tables.init_ripas(at, end) {
                InitRipas::Done { top, entry_size } => {
                    while at < top {
                        let entry_top = at.saturating_add(entry_size).min(end);
                        self.extend_ripas(at, entry_top)?;
                        at = entry_top;
                    }
                }
                InitRipas::ErrorRtt { level } => {
                    let wanted = self.tables.find_map_level(at, end);
                    if level >= wanted {
                        return Err(StepError::RipasAfterPopulate { ipa: at });
                    }
                    self.tables.create_levels(at, level, wanted);
                }
            }
        }
        Ok(())
    }

    /// Creates data granules from `ipa` on with `size` bytes of content, the last granule padded with zeros. `read`
    /// fills the slice it is given with the bytes that follow; it is asked for one granule at a time.
    ///
    /// # Errors
    /// An unaligned, empty, too large or already populated range; what `read` returned.
    pub fn populate<E>(
        &mut self,
        ipa: u64,
        size: u64,
        measured: bool,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), PopulateError<E>> {
        let end = self.populate_end(ipa, size).map_err(PopulateError::Step)?;
        let mut left = size;
        let mut at = ipa;
        while at < end {
            let mut granule = [0; GRANULE_SIZE as usize];
            let len = left.min(GRANULE_SIZE);
            if let Some(content) = granule.get_mut(..len as usize) {
                read(content).map_err(PopulateError::Read)?;
            }
            self.data_create(at, &granule, measured).map_err(PopulateError::Step)?;
            left = left.saturating_sub(len);
            at = at.saturating_add(GRANULE_SIZE);
        }
        Ok(())
    }

    /// Creates a REC that starts at `pc` with `gprs` in X0 and following, the others zero. Only a runnable one is
    /// measured.
    ///
    /// # Errors
    /// More than 8 registers.
    pub fn rec(&mut self, pc: u64, gprs: &[u64], runnable: bool) -> Result<(), StepError> {
        if gprs.len() > REC_CREATE_GPRS {
            return Err(StepError::Gprs(gprs.len()));
        }
        if !runnable {
            return Ok(());
        }
        let mut params = RecParams::default();
        params.flags = RecFlags::RUNNABLE.bits();
        params.pc = pc;
        params.gprs.iter_mut().zip(gprs).for_each(|(to, from)| *to = *from);
        let content = *measure(self.hash, params.measured().as_bytes())?.slot();
        self.extend(&RecDescriptor { head: self.head(1), content, pad: [0; _] })
    }

    /// The end of a populated range, rounded up to the granule, if every granule in it is free.
    fn populate_end(&self, ipa: u64, size: u64) -> Result<u64, StepError> {
        aligned("ipa", ipa)?;
        let beyond =
            StepError::BeyondProtected { base: ipa, size, protected_top: self.tables.protected_top() };
        let padded = size.checked_next_multiple_of(GRANULE_SIZE).ok_or(beyond)?;
        let end = self.protected_end("size", ipa, padded)?;
        match self.tables.first_assigned(ipa, end) {
            Some(taken) => Err(StepError::Populated { ipa: taken }),
            None => Ok(end),
        }
    }

    fn protected_end(&self, what: &'static str, base: u64, size: u64) -> Result<u64, StepError> {
        if size == 0 {
            return Err(StepError::Empty(what));
        }
        let protected_top = self.tables.protected_top();
        base.checked_add(size).filter(|end| *end <= protected_top).ok_or(StepError::BeyondProtected {
            base,
            size,
            protected_top,
        })
    }

    /// DATA_CREATE of one granule; the Host makes the tables down to level 3 when they lack.
    fn data_create(&mut self, ipa: u64, granule: &[u8], measured: bool) -> Result<(), StepError> {
        let level = self.tables.walk(ipa);
        self.tables.create_levels(ipa, level, RTT_PAGE_LEVEL);
        self.tables.assign(ipa);
        let (flags, content) = if measured {
            (DataFlags::MEASURE, *measure(self.hash, granule)?.slot())
        } else {
            (DataFlags::NO_MEASURE, [0; _])
        };
        self.extend(&DataDescriptor { head: self.head(0), ipa, flags: flags.0, content, pad: [0; _] })
    }

    fn extend_ripas(&mut self, base: u64, top: u64) -> Result<(), StepError> {
        self.extend(&RipasDescriptor { head: self.head(2), base, top, pad: [0; _] })
    }

    /// The head of a descriptor with the current RIM. The prose for INIT_RIPAS does not name the RIM field, but the structure
    /// has it and deployed firmware fills it.
    const fn head(&self, desc_type: u8) -> DescriptorHead {
        DescriptorHead { desc_type, pad: [0; _], len: DESCRIPTOR_SIZE as u64, rim: *self.rim.slot() }
    }

    fn extend(&mut self, descriptor: &(impl IntoBytes + Immutable)) -> Result<(), StepError> {
        self.rim = measure(self.hash, descriptor.as_bytes())?;
        Ok(())
    }
}

/// The measurement of a REM after an extension with `value` (at most 64 bytes count): the hash of the old value and
/// the new bytes one after the other. The specification leaves the function open; this is what TF-RMM does.
///
/// # Errors
/// [`UnknownHash`].
pub fn extend_rem(
    hash: HashAlgorithm,
    old: &[u8; MEASUREMENT_SIZE],
    value: &[u8],
) -> Result<Measurement, UnknownHash> {
    let hash_len = if hash == HashAlgorithm::SHA_256 { 32 } else { MEASUREMENT_SIZE };
    let mut input = alloc::vec::Vec::with_capacity(2 * MEASUREMENT_SIZE);
    input.extend(old.iter().take(hash_len));
    input.extend(value.iter().take(rmi::MEASUREMENT_SIZE));
    Measurement::of(hash, &input)
}

fn measure(hash: HashAlgorithm, bytes: &[u8]) -> Result<Measurement, StepError> {
    Measurement::of(hash, bytes).map_err(|UnknownHash(hash)| ParameterError::Hash(hash).into())
}

fn aligned(what: &'static str, value: u64) -> Result<(), StepError> {
    if value.is_multiple_of(GRANULE_SIZE) { Ok(()) } else { Err(StepError::Unaligned { what, value }) }
}

#[cfg(test)]
mod tests;
