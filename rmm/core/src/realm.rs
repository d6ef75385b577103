//! The Realm Descriptor: what the RMM knows of a realm (RMM 1.0, RmmRealm), kept in the RD granule.

use crate::granule::{Content, Granule, granule_content};
use crate::rtt::Stage2;
use realm_abi::rmi::{HashAlgorithm, MEASUREMENT_SIZE, MEASUREMENT_SLOTS, RPV_SIZE, RealmFlags, RealmParams};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `RealmState` (RMM 1.0, RmmRealmState).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RealmState {
    /// Being built.
    New,
    /// Can run.
    Active,
    /// Turned itself off.
    SystemOff,
}

/// The content of an RD granule. Written only while the RD's lock is held.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RealmDescriptor {
    /// RIM, then the four REMs, each padded with zeros to 64 bytes.
    pub measurements: [[u8; MEASUREMENT_SIZE]; MEASUREMENT_SLOTS],
    /// Realm Personalization Value.
    pub rpv: [u8; RPV_SIZE],
    /// First starting-level table.
    pub rtt_base: u64,
    /// Starting level.
    pub rtt_level_start: i64,
    /// Number of starting-level tables.
    pub rtt_num_start: u64,
    /// Index the next REC must have; never decreases.
    pub rec_index: u64,
    /// [`RealmState`] as a number, see [`Self::state`].
    state: u64,
    /// Virtual Machine Identifier.
    pub vmid: u16,
    /// IPA width in bits.
    pub ipa_width: u8,
    /// Hash of RIM and REMs.
    pub hash_algo: HashAlgorithm,
    /// 1 if stage 2 uses LPA2.
    pub lpa2: u8,
    /// 1 if the realm has SVE.
    pub sve: u8,
    /// SVE vector length in quadwords minus one.
    pub sve_vl: u8,
    /// 1 if the realm has a PMU.
    pub pmu: u8,
    /// PMU event counters.
    pub pmu_num_ctrs: u8,
    /// Breakpoints minus one.
    pub num_bps: u8,
    /// Watchpoints minus one.
    pub num_wps: u8,
    pad: [u8; 5],
}

granule_content!(RealmDescriptor);

/// CPUs of which an RD knows which REC ran there last.
const KNOWN_CPUS: usize = 1024;
/// Where in an RD granule that is.
const LAST_RAN_OFFSET: usize = 2048;

/// Which REC of the realm ran last on each CPU, in the second half of the RD granule: its number and one, 0 if none did. RECs
/// are made before the first runs (RMM 1.0, RMI_REC_CREATE), so a number is never another REC's later.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LastRan([u16; KNOWN_CPUS]);

impl LastRan {
    /// Notes that the REC with this number runs on `cpu` now. Whether another one may have run there since the realm's
    /// translations were last invalidated: always so of a CPU there is no room for.
    pub(crate) fn replace(&mut self, cpu: usize, rec_index: u64) -> bool {
        let (Some(last), Ok(rec)) = (self.0.get_mut(cpu), u16::try_from(rec_index.saturating_add(1))) else {
            return true;
        };
        let before = core::mem::replace(last, rec);
        before != 0 && before != rec
    }
}

impl Content for LastRan {
    fn of(granule: &mut Granule) -> &mut Self {
        #[derive(FromBytes, IntoBytes, KnownLayout)]
        #[repr(C)]
        struct Whole {
            descriptor: [u8; LAST_RAN_OFFSET],
            last_ran: LastRan,
        }
        const { assert!(size_of::<RealmDescriptor>() <= LAST_RAN_OFFSET) };
        let whole: &mut Whole = zerocopy::transmute_mut!(granule);
        &mut whole.last_ran
    }
}

impl RealmDescriptor {
    /// A NEW realm with these parameters, which are valid, and this initial RIM.
    #[must_use]
    pub fn new(params: &RealmParams, rim: [u8; MEASUREMENT_SIZE]) -> Self {
        let flags = RealmFlags::from_bits_retain(params.flags);
        let (sve, pmu) = (flags.contains(RealmFlags::SVE), flags.contains(RealmFlags::PMU));
        let mut measurements = [[0; MEASUREMENT_SIZE]; MEASUREMENT_SLOTS];
        measurements[0] = rim;
        Self {
            measurements,
            rpv: params.rpv,
            rtt_base: params.rtt_base,
            rtt_level_start: params.rtt_level_start,
            rtt_num_start: params.rtt_num_start.into(),
            rec_index: 0,
            state: 0,
            vmid: params.vmid,
            ipa_width: params.s2sz,
            hash_algo: params.hash_algo,
            lpa2: flags.contains(RealmFlags::LPA2).into(),
            sve: sve.into(),
            sve_vl: if sve { params.sve_vl } else { 0 },
            pmu: pmu.into(),
            pmu_num_ctrs: if pmu { params.pmu_num_ctrs } else { 0 },
            num_bps: params.num_bps,
            num_wps: params.num_wps,
            pad: [0; 5],
        }
    }
    /// The realm's state.
    #[must_use]
    pub const fn state(&self) -> RealmState {
        match self.state {
            0 => RealmState::New,
            1 => RealmState::Active,
            _ => RealmState::SystemOff,
        }
    }
    /// Moves the realm to another state.
    pub const fn set_state(&mut self, state: RealmState) {
        self.state = match state {
            RealmState::New => 0,
            RealmState::Active => 1,
            RealmState::SystemOff => 2,
        };
    }
    /// The realm's stage 2, which never changes once the realm exists.
    #[must_use]
    pub const fn stage2(&self) -> Stage2 {
        Stage2 {
            base: self.rtt_base,
            level_start: self.rtt_level_start,
            num_start: self.rtt_num_start,
            ipa_width: self.ipa_width,
            vmid: self.vmid,
            lpa2: self.lpa2 != 0,
        }
    }
}
