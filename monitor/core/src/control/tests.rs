use super::*;

#[test]
fn a_cpu_without_later_features_opens_what_every_cpu_with_rme_has() {
    let features = Features::SVE | Features::PMU;
    let (non_secure, realm) = (Scr::of(World::NonSecure, features), Scr::of(World::Realm, features));
    assert_eq!(non_secure | Scr::NSE, realm);
    assert_eq!(non_secure.bits(), 0x0000_0040_1803_0535);
    assert_eq!(Mdcr::of(World::Realm, features), Mdcr::of(World::NonSecure, features));
    assert_eq!(Mdcr::of(World::Realm, features).bits(), 0xc_0081_8000);
}

#[test]
fn no_later_feature_is_open_to_the_realm_world() {
    let all = Features::all();
    let known = Scr::ALWAYS | Scr::NSE | Scr::EN_SCXT | Scr::ATA | Scr::AMVOFFEN | Scr::EN_FPM;
    assert_eq!(Scr::of(World::Realm, all), known);
    let known = Mdcr::ALWAYS | Mdcr::NSPB | Mdcr::NSTB | Mdcr::TTRF;
    assert_eq!(Mdcr::of(World::Realm, all), known);
}

#[test]
fn each_feature_the_id_registers_show_is_open_to_the_non_secure_world() {
    for (feature, bit) in [
        (Features::TCR2, Scr::TCR2_EN),
        (Features::SCTLR2, Scr::SCTLR2_EN),
        (Features::S1PIE, Scr::PI_EN),
        (Features::S2PIE, Scr::PI_EN),
        (Features::S1POE, Scr::PI_EN),
        (Features::GCS, Scr::GCS_EN),
        (Features::AIE, Scr::AI_EN),
        (Features::FPMR, Scr::EN_FPM),
        (Features::FGT2, Scr::FGT_EN2),
        (Features::THE, Scr::RCWMASK_EN),
    ] {
        assert!(Scr::of(World::NonSecure, feature).contains(bit), "{feature:?}");
        assert!(!Scr::of(World::NonSecure, Features::all() - feature).contains(bit) || bit == Scr::PI_EN);
    }
}

#[test]
fn counters_stand_still_at_el3() {
    for world in [World::NonSecure, World::Realm] {
        let mdcr = Mdcr::of(world, Features::all());
        assert!(mdcr.contains(Mdcr::MCCD | Mdcr::MPMX) && !mdcr.contains(Mdcr::SPME));
    }
}

#[test]
fn registers_of_lower_levels_have_their_reserved_bits() {
    assert_eq!((el2::SCTLR, el1::SCTLR), (0x30c5_0830, 0x30d0_0800));
}

#[test]
fn reserved_bits_of_sctlr_are_what_they_should_be() {
    assert_eq!(SctlrEl3::RESET.bits(), 0x30c5_1830);
    assert_eq!(SctlrEl3::ON.bits(), 0x30cd_183d);
}
