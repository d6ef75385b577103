//! Files and numbers a user gives the VMM: refused in one line, or turned into a guest whose parts do not overlap.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use realm_vmm::{Guest, GuestConfig};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Makes the start of the file a header with these words.
    header: Option<(u64, u32, u8)>,
    kernel: &'a [u8],
    initrd: Option<&'a [u8]>,
    bootargs: Option<&'a str>,
    ram: u16,
    cpus: u8,
    ipa_bits: Option<u8>,
    page: u8,
}

fuzz_target!(|input: Input<'_>| {
    let mut kernel = input.kernel.to_vec();
    if let (Some((text_offset, image_size, flags)), true) = (input.header, kernel.len() >= 64) {
        kernel[8..16].copy_from_slice(&(text_offset & 0x3f_ffff).to_le_bytes());
        kernel[16..24].copy_from_slice(&u64::from(image_size).to_le_bytes());
        kernel[24..32].copy_from_slice(&u64::from(flags).to_le_bytes());
        kernel[56..60].copy_from_slice(b"ARM\x64");
    }
    let config = GuestConfig {
        kernel: &kernel,
        initrd: input.initrd,
        bootargs: input.bootargs,
        ram_size: u64::from(input.ram) << 16,
        cpus: input.cpus.into(),
        ipa_bits: input.ipa_bits,
        page_size: [0x1000, 0x4000, 0x1_0000, u64::from(input.page)][usize::from(input.page) % 4],
    };
    match Guest::new(&config) {
        Ok(guest) => {
            for part in &guest.parts {
                assert!(guest.layout.ram.contains(part.region.base, part.region.size));
                assert_eq!(part.content.len() as u64, part.region.size);
            }
            assert!(guest.parts.windows(2).all(|pair| pair[0].region.end() <= pair[1].region.base));
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
