extern crate std;

use super::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;
use zerocopy::IntoBytes;

const PA: u64 = 0x40ff_f000;
const LIMITS: Limits = Limits { banks: 4, granules: 0x10_0000, pa_bits: 40 };
const DRAM: [MemoryBank; 2] =
    [MemoryBank { base: 0x8000_0000, size: 0x4000_0000 }, MemoryBank { base: 0x8_8000_0000, size: 0x1000 }];
const CONSOLE: ConsoleInfo = ConsoleInfo {
    base: 0x900_0000,
    map_pages: 1,
    name: *b"pl011\0\0\0",
    clk_in_hz: 24_000_000,
    baud_rate: 115_200,
    flags: 0,
};
const REGIONS: [MemoryBank; 1] = [MemoryBank { base: 0x40_0000_0000, size: 0x1000_0000 }];
const SMMUS: [SmmuInfo; 1] = [SmmuInfo { base: 0x2b40_0000, realm_base: 0x2b50_0000 }];

fn builder(minor: u16) -> ManifestBuilder<'static> {
    ManifestBuilder {
        version: Version::new(0, minor),
        plat_data: 0,
        dram: &DRAM,
        consoles: &[CONSOLE],
        ncoh_regions: &REGIONS,
        coh_regions: &REGIONS,
        smmus: &SMMUS,
    }
}

fn built(builder: &ManifestBuilder<'_>) -> Vec<u8> {
    let mut page = vec![0; 4096];
    builder.write(&mut page, PA).unwrap();
    page
}

fn parse(page: &[u8]) -> Result<Manifest<'_>, ManifestError> {
    Manifest::parse(page, PA, &LIMITS)
}

/// Changes the word at `offset` and the checksum at `checksum` with it.
fn patch(page: &mut [u8], offset: usize, value: u64, checksum: usize) {
    let word = |page: &[u8], at: usize| u64::read_from_bytes(&page[at..at + 8]).unwrap();
    let balance = word(page, checksum).wrapping_add(word(page, offset)).wrapping_sub(value);
    page[offset..offset + 8].copy_from_slice(value.as_bytes());
    page[checksum..checksum + 8].copy_from_slice(balance.as_bytes());
}

#[test]
fn each_version_tells_what_it_has() {
    for minor in 1..=6 {
        let page = built(&builder(minor));
        let manifest = parse(&page).unwrap();
        assert_eq!(manifest.version, Version::new(0, minor));
        assert_eq!(manifest.dram.iter().collect::<Vec<_>>(), if minor >= 2 { &DRAM[..] } else { &[] });
        assert_eq!(
            manifest.consoles.iter().collect::<Vec<_>>(),
            if minor >= 3 { &[CONSOLE][..] } else { &[] }
        );
        assert_eq!(
            manifest.coh_regions.iter().collect::<Vec<_>>(),
            if minor >= 4 { &REGIONS[..] } else { &[] }
        );
        assert_eq!(manifest.smmus.iter().collect::<Vec<_>>(), if minor >= 5 { &SMMUS[..] } else { &[] });
        assert!(manifest.root_complexes.is_empty());
    }
}

#[test]
fn another_version_is_not_supported() {
    for version in [0, 0x1_0001, 0x8000_0003] {
        let mut page = built(&builder(3));
        page[..4].copy_from_slice(&u32::to_le_bytes(version));
        let error = parse(&page).unwrap_err();
        assert_eq!(error, ManifestError::Version(Version(version.into())));
        assert_eq!(error.boot_code(), BootCode::MANIFEST_VERSION_NOT_SUPPORTED);
    }
}

#[test]
fn a_buffer_that_ends_in_the_head_is_refused() {
    let page = built(&builder(3));
    assert_eq!(parse(&page[..63]).unwrap_err(), ManifestError::TooShort { needed: 64, len: 63 });
    assert_eq!(parse(&page[..3]).unwrap_err(), ManifestError::TooShort { needed: 16, len: 3 });
}

#[test]
fn a_wrong_checksum_of_any_list_is_refused() {
    let lists = [
        (32, ListName::Dram),
        (56, ListName::Consoles),
        (80, ListName::NcohRegions),
        (104, ListName::CohRegions),
        (128, ListName::Smmus),
        (160, ListName::RootComplexes),
    ];
    for (checksum, list) in lists {
        let mut page = built(&builder(5));
        page[checksum] ^= 1;
        let error = parse(&page).unwrap_err();
        assert_eq!(error, ManifestError::Checksum(list));
        assert_eq!(error.boot_code(), BootCode::MANIFEST_DATA_ERROR);
    }
}

#[test]
fn the_old_checksum_of_consoles_without_the_name_is_accepted() {
    let mut page = built(&builder(3));
    let checksum = u64::read_from_bytes(&page[56..64]).unwrap();
    let old = checksum.wrapping_add(u64::from_le_bytes(CONSOLE.name));
    page[56..64].copy_from_slice(old.as_bytes());
    assert_eq!(parse(&page).unwrap().consoles.iter().next(), Some(CONSOLE));
    page[56] ^= 1;
    assert_eq!(parse(&page).unwrap_err(), ManifestError::Checksum(ListName::Consoles));
}

#[test]
fn a_list_outside_of_the_buffer_is_refused() {
    for pointer in [0, PA - 8, PA + 4096, PA + 4096 - 8, PA + 68, u64::MAX - 7] {
        let mut page = built(&builder(3));
        patch(&mut page, 24, pointer, 32);
        assert_eq!(parse(&page).unwrap_err(), ManifestError::Pointer { list: ListName::Dram, pointer });
    }
    let mut page = built(&builder(3));
    patch(&mut page, 40, u64::MAX / 16, 56);
    assert!(matches!(parse(&page), Err(ManifestError::Pointer { list: ListName::Consoles, .. })));
}

#[test]
fn banks_that_cannot_be_are_refused() {
    let bank = |base, size| MemoryBank { base, size };
    let bad = [
        bank(0, 0x1000),
        bank(0x1000, 0),
        bank(0x1800, 0x1000),
        bank(0x1000, 0x800),
        bank(1 << 40, 0x1000),
        bank((1 << 40) - 0x1000, 0x2000),
        bank(!0xfff, 0x1000),
    ];
    for bank in bad {
        let page = built(&ManifestBuilder { dram: &[bank], ..builder(3) });
        assert_eq!(parse(&page).unwrap_err(), ManifestError::Bank { list: ListName::Dram, bank });
    }
    let second = bank(0x1000, 0x1000);
    for first in [bank(0x2000, 0x1000), bank(0x1000, 0x1000)] {
        let page = built(&ManifestBuilder { dram: &[first, second], ..builder(3) });
        assert_eq!(parse(&page).unwrap_err(), ManifestError::Bank { list: ListName::Dram, bank: second });
    }
    let page = built(&ManifestBuilder { dram: &[second, bank(0x2000, 0x1000)], ..builder(3) });
    assert_eq!(parse(&page).unwrap().dram.len(), 2);
}

#[test]
fn the_limits_of_the_rmm_are_kept() {
    let page = built(&ManifestBuilder { dram: &[], ..builder(3) });
    assert_eq!(parse(&page).unwrap_err(), ManifestError::NoBanks);
    let five: Vec<_> = (1..6).map(|index| MemoryBank { base: index * 0x1000, size: 0x1000 }).collect();
    let page = built(&ManifestBuilder { dram: &five, ..builder(3) });
    let error = parse(&page).unwrap_err();
    assert_eq!(error, ManifestError::TooManyBanks { list: ListName::Dram, count: 5 });
    let large = [MemoryBank { base: 0x1000, size: 0x1_0000_1000 }];
    let page = built(&ManifestBuilder { dram: &large, ..builder(3) });
    assert_eq!(parse(&page).unwrap_err(), ManifestError::TooManyGranules(0x10_0001));
    assert!(!parse(&page).unwrap_err().to_string().contains('\n'));
}

#[test]
fn root_complexes_are_read_to_their_mappings() {
    let mut page = built(&ManifestBuilder { smmus: &[], ..builder(5) });
    let (complex_at, port_at, mapping_at) = (0x400, 0x440, 0x480);
    let complex = RootComplexInfo {
        ecam_base: 0x40_1000_0000,
        num_root_ports: 1,
        root_ports: PA + port_at as u64,
        ..Default::default()
    };
    let port = RootPortInfo {
        root_port_id: 8,
        num_bdf_mappings: 1,
        bdf_mappings: PA + mapping_at as u64,
        padding: 0,
    };
    let mapping = BdfMapping { base: 0x100, top: 0x200, offset: 1, smmu: 0 };
    page[complex_at..complex_at + 24].copy_from_slice(complex.as_bytes());
    page[port_at..port_at + 16].copy_from_slice(port.as_bytes());
    page[mapping_at..mapping_at + 8].copy_from_slice(mapping.as_bytes());
    let words = page[complex_at..].chunks_exact(8).map(|word| u64::read_from_bytes(word).unwrap());
    let pointer = PA + complex_at as u64;
    let sum = words.fold(1 + 1 + pointer, u64::wrapping_add);
    let list =
        RootComplexList { count: 1, info_version: 1, padding: 0, pointer, checksum: sum.wrapping_neg() };
    page[136..168].copy_from_slice(list.as_bytes());

    let manifest = parse(&page).unwrap();
    let read = manifest.root_complexes.iter().next().unwrap();
    assert_eq!(read, complex);
    let read = manifest.root_ports(&read).unwrap().iter().next().unwrap();
    assert_eq!(read, port);
    assert_eq!(manifest.bdf_mappings(&read).unwrap().iter().collect::<Vec<_>>(), [mapping]);

    page[mapping_at] ^= 1;
    assert_eq!(parse(&page).unwrap_err(), ManifestError::Checksum(ListName::RootComplexes));
}

#[test]
fn a_manifest_that_does_not_fit_is_not_written() {
    let mut page = [0; 100];
    assert_eq!(builder(3).write(&mut page, PA), Err(NoRoom));
    assert_eq!(builder(3).write(&mut [0; 10], PA), Err(NoRoom));
}
