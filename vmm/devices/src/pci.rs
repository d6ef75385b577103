//! PCI: one bus of functions with MSI-X and no other interrupts.

pub(crate) mod config;
pub(crate) mod host;
pub(crate) mod msix;

/// Reads bytes of an image at an offset; what is behind its end reads as zero.
pub(crate) fn read_image(image: &[u8], offset: usize, out: &mut [u8]) {
    out.fill(0);
    let rest = image.get(offset..).unwrap_or_default();
    for (out, byte) in out.iter_mut().zip(rest) {
        *out = *byte;
    }
}
