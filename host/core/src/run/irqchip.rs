//! What the Host core asks of an emulated GICv3. The emulation itself lives outside of this crate.

use crate::Errno;
use realm_abi::rmi::MAX_LRS;

/// Where the VMM put the frames of the GIC, as KVM_SET_DEVICE_ATTR gave them. Addresses are protected IPAs; the realm
/// reaches the frames through the unprotected alias, which the Host core has removed before it calls the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicConfig {
    /// Distributor, 64 KiB.
    pub dist: u64,
    /// First redistributor, 128 KiB for each vCPU.
    pub redist: u64,
    /// Interrupts including the 32 private ones.
    pub nr_irqs: u32,
    /// vCPUs of the VM: their indices are below this.
    pub vcpus: u32,
}

/// Interface state for an entry of a REC (RMM 1.0, RmiRecEnter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GicEntry {
    /// ICH_HCR_EL2; the Host core drops what the Host may not set.
    pub hcr: u64,
    /// `ICH_LR<n>_EL2`; only the first [`Irqchip::flush`] was told of are used.
    pub lrs: [u64; MAX_LRS],
}

/// Interface state after an exit of a REC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GicExit {
    /// ICH_HCR_EL2: EOIcount and the Host's bits.
    pub hcr: u64,
    /// `ICH_LR<n>_EL2`. An entry whose State is invalid is zero, unless its EOI was asked to be told.
    pub lrs: [u64; MAX_LRS],
    /// ICH_MISR_EL2.
    pub misr: u64,
    /// ICH_VMCR_EL2; `None` if the realm did not run.
    pub vmcr: Option<u64>,
}

/// A write to a CPU interface register that the RMM leaves to the Host (RMM 1.0 reference, trapped registers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicRegister {
    /// ICC_SGI1R_EL1: a Group 1 SGI.
    Sgi1r,
    /// ICC_ASGI1R_EL1: a Group 1 SGI of the other security state.
    Asgi1r,
    /// ICC_SGI0R_EL1: a Group 0 SGI.
    Sgi0r,
    /// ICC_DIR_EL1: deactivation.
    Dir,
}

/// Wakes vCPUs that may have an interrupt now.
pub trait Wake {
    /// The vCPU with this index. Any context, also with locks of the GIC held.
    fn wake(&self, vcpu: u32);
}

/// An emulated GICv3 of one VM. All methods may be called on many threads at once and in any context: they neither sleep nor
/// allocate. vCPUs are named by index (`vcpu_id` of KVM_CREATE_VCPU), and by their affinity fields where the guest names them
/// ([`realm_abi::kvm::vcpu_mpidr`]). `wake` is called for a vCPU that gained an interrupt, or whose list registers hold one
/// that changed: it is to look at [`Self::pending`] again, or to leave the realm and come to [`Self::flush`].
pub trait Irqchip: Send + Sync + 'static {
    /// Chooses pending interrupts of `vcpu` for at most `lrs` list registers. HW must be 0 in each.
    fn flush(&self, vcpu: u32, lrs: usize) -> GicEntry;

    /// Takes back what a run left of the last [`Self::flush`].
    fn sync(&self, vcpu: u32, exit: &GicExit, wake: &dyn Wake);

    /// Whether `vcpu`, which does not run, has an interrupt that ends a WFI.
    fn pending(&self, vcpu: u32) -> bool;

    /// Drives the line of a private interrupt (16 to 31).
    ///
    /// # Errors
    /// `EINVAL` for an interrupt that is not one.
    fn set_private(&self, vcpu: u32, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno>;

    /// Drives the line of a shared interrupt (from 32).
    ///
    /// # Errors
    /// `EINVAL` for an interrupt the GIC does not have.
    fn set_shared(&self, intid: u32, level: bool, wake: &dyn Wake) -> Result<(), Errno>;

    /// A write of `vcpu` to a CPU interface register.
    fn write_register(&self, vcpu: u32, register: GicRegister, value: u64, wake: &dyn Wake);

    /// A read of `size` bytes (1 to 8) by `vcpu`; `None` if `ipa` is in none of its frames.
    fn mmio_read(&self, vcpu: u32, ipa: u64, size: usize) -> Option<u64>;

    /// A write of `size` bytes (1 to 8) by `vcpu`; whether `ipa` is in one of its frames.
    fn mmio_write(&self, vcpu: u32, ipa: u64, size: usize, value: u64, wake: &dyn Wake) -> bool;
}
