//! RMM-EL3: calls, boot registers, structures, and the boot manifest as bytes and as something EL3 could have written.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use realm_abi::rmi::Version;
use realm_abi::rmm_el3::manifest::{ConsoleInfo, Limits, Manifest, ManifestBuilder, MemoryBank, SmmuInfo};
use realm_abi::rmm_el3::{
    ColdBoot, El3Call, El3Reply, SHARED_BUFFER_SIZE, TokenSignRequest, TokenSignResponse, WarmBoot,
};
use realmkit_fuzz::{check_call, check_structure, registers};

const PA: u64 = 0x40ff_f000;
const LIMITS: Limits = Limits { banks: 8, granules: 1 << 24, pa_bits: 48 };

#[derive(Arbitrary, Debug)]
struct Written {
    minor: u8,
    dram: Vec<(u64, u64)>,
    consoles: Vec<[u64; 6]>,
    regions: Vec<(u64, u64)>,
    smmus: Vec<(u64, u64)>,
    /// Bytes changed afterwards: offset and mask.
    changes: Vec<(u16, u8)>,
}

fn banks(pairs: &[(u64, u64)]) -> Vec<MemoryBank> {
    // Page aligned and small most of the time, so that some pass.
    let page = |value: u64| if value & 1 == 0 { value >> 20 << 12 } else { value };
    pairs.iter().map(|&(base, size)| MemoryBank { base: page(base), size: page(size) }).collect()
}

/// Everything a manifest that was accepted promises.
fn check(manifest: &Manifest<'_>) {
    for list in [manifest.dram, manifest.ncoh_regions, manifest.coh_regions] {
        assert!(list.len() <= LIMITS.banks);
        let mut free_from = 1;
        for bank in list.iter() {
            assert!(bank.base >= free_from && bank.size > 0 && (bank.base | bank.size) & 0xfff == 0);
            free_from = bank.base + bank.size;
            assert!(free_from <= 1 << LIMITS.pa_bits);
        }
    }
    let granules: u64 = manifest.dram.iter().map(|bank| bank.size >> 12).sum();
    assert!(granules <= LIMITS.granules);
    for complex in manifest.root_complexes.iter() {
        for port in manifest.root_ports(&complex).expect("checked").iter() {
            assert_eq!(manifest.bdf_mappings(&port).expect("checked").len(), port.num_bdf_mappings as usize);
        }
    }
    let _ = format!("{manifest:?}");
}

fn parse(page: &[u8]) -> bool {
    match Manifest::parse(page, PA, &LIMITS) {
        Ok(manifest) => {
            check(&manifest);
            true
        }
        Err(error) => {
            assert!(error.boot_code().0 <= -6);
            assert!(!error.to_string().contains('\n'));
            false
        }
    }
}

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    match input.int_in_range(0..=2)? {
        0 => {
            check_call!(El3Call, registers::<12>(&mut input, El3Call::TABLE)?);
            let reply: [u64; 4] = input.arbitrary()?;
            assert_eq!(El3Reply::from_regs(&reply).to_regs(), reply);
            let boot: [u64; 5] = input.arbitrary()?;
            assert_eq!(ColdBoot::from_regs(&boot).to_regs(), boot);
            let _ = (ColdBoot::from_regs(&boot).check(8), WarmBoot::from_regs(&boot));
            let rest = input.take_rest();
            check_structure::<TokenSignRequest>(rest);
            check_structure::<TokenSignResponse>(rest);
        }
        1 => {
            parse(input.take_rest());
        }
        _ => {
            let written: Written = input.arbitrary()?;
            let consoles: Vec<_> = written
                .consoles
                .iter()
                .map(|console| ConsoleInfo {
                    base: console[0],
                    map_pages: console[1],
                    name: console[2].to_le_bytes(),
                    clk_in_hz: console[3],
                    baud_rate: console[4],
                    flags: console[5],
                })
                .collect();
            let smmus: Vec<_> =
                written.smmus.iter().map(|&(base, realm_base)| SmmuInfo { base, realm_base }).collect();
            let (dram, regions) = (banks(&written.dram), banks(&written.regions));
            let builder = ManifestBuilder {
                version: Version::new(0, u16::from(written.minor % 7)),
                plat_data: 0,
                dram: &dram,
                consoles: &consoles,
                ncoh_regions: &regions,
                coh_regions: &[],
                smmus: &smmus,
            };
            let mut page = [0; SHARED_BUFFER_SIZE];
            if builder.write(&mut page, PA).is_err() {
                return Ok(());
            }
            if parse(&page) {
                let manifest = Manifest::parse(&page, PA, &LIMITS).expect("parsed before");
                if builder.version.minor() >= 2 {
                    assert!(manifest.dram.iter().eq(dram.iter().copied()));
                }
                if builder.version.minor() >= 5 {
                    assert!(manifest.smmus.iter().eq(smmus.iter().copied()));
                }
            }
            for (offset, mask) in written.changes {
                page[usize::from(offset) % SHARED_BUFFER_SIZE] ^= mask;
            }
            parse(&page);
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
