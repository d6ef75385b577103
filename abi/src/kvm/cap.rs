//! Capability numbers (`linux/kvm.h`), the argument of KVM_CHECK_EXTENSION.

use crate::macros::open_enum;

open_enum! {
    /// A KVM capability. The realm capability is not here: [`Generation::cap_realm`](super::Generation::cap_realm).
    pub struct Cap(u32) {
        /// An interrupt controller in the kernel.
        IRQCHIP = 0,
        /// Memory slots.
        USER_MEMORY = 3,
        /// Recommended number of vCPUs.
        NR_VCPUS = 9,
        /// Number of memory slots.
        NR_MEMSLOTS = 10,
        /// KVM_GET_MP_STATE.
        MP_STATE = 14,
        /// Memory slots follow changes of the mapping behind them.
        SYNC_MMU = 16,
        /// A memory slot can be deleted.
        DESTROY_MEMORY_REGION_WORKS = 21,
        /// KVM_SET_GUEST_DEBUG.
        SET_GUEST_DEBUG = 23,
        /// KVM_GET_VCPU_EVENTS.
        VCPU_EVENTS = 41,
        /// KVM_ENABLE_CAP on a vCPU.
        ENABLE_CAP = 54,
        /// Largest number of vCPUs.
        MAX_VCPUS = 66,
        /// KVM_GET_ONE_REG.
        ONE_REG = 70,
        /// Read-only memory slots.
        READONLY_MEM = 81,
        /// PSCI in the kernel.
        ARM_PSCI = 87,
        /// KVM_CREATE_DEVICE.
        DEVICE_CTRL = 89,
        /// 32-bit EL1.
        ARM_EL1_32BIT = 93,
        /// KVM_ENABLE_CAP on a VM.
        ENABLE_CAP_VM = 98,
        /// PSCI 0.2 and later.
        ARM_PSCI_0_2 = 102,
        /// KVM_CHECK_EXTENSION on a VM.
        CHECK_EXTENSION_VM = 105,
        /// Number of hardware breakpoints for KVM_SET_GUEST_DEBUG.
        GUEST_DEBUG_HW_BPS = 119,
        /// Number of hardware watchpoints for KVM_SET_GUEST_DEBUG.
        GUEST_DEBUG_HW_WPS = 120,
        /// A PMU for the guest.
        ARM_PMU_V3 = 126,
        /// KVM_SET_DEVICE_ATTR on a vCPU.
        VCPU_ATTRIBUTES = 127,
        /// One more than the largest vCPU id.
        MAX_VCPU_ID = 128,
        /// MSIs carry a device id.
        MSI_DEVID = 131,
        /// `immediate_exit` in [`Run`](super::Run).
        IMMEDIATE_EXIT = 136,
        /// Timer and PMU interrupts can go to user space.
        ARM_USER_IRQ = 144,
        /// An SError can be injected with a syndrome.
        ARM_INJECT_SERROR_ESR = 158,
        /// Largest IPA width in bits of a normal VM.
        ARM_VM_IPA_SIZE = 165,
        /// SVE for the guest.
        ARM_SVE = 170,
        /// Pointer authentication, addresses.
        ARM_PTRAUTH_ADDRESS = 171,
        /// Pointer authentication, generic.
        ARM_PTRAUTH_GENERIC = 172,
        /// KVM_IRQ_LINE takes more than 256 vCPUs.
        ARM_IRQ_LINE_LAYOUT_2 = 174,
        /// Data aborts without syndrome can go to user space.
        ARM_NISV_TO_USER = 177,
        /// An external data abort can be injected.
        ARM_INJECT_EXT_DABT = 178,
        /// Stolen time is reported to the guest.
        STEAL_TIME = 187,
        /// KVM_ARM_SET_COUNTER_OFFSET.
        COUNTER_OFFSET = 227,
        /// KVM_ARM_GET_REG_WRITABLE_MASKS.
        ARM_SUPPORTED_REG_MASK_RANGES = 230,
        /// KVM_SET_USER_MEMORY_REGION2.
        USER_MEMORY2 = 231,
        /// KVM_EXIT_MEMORY_FAULT.
        MEMORY_FAULT_INFO = 232,
        /// The attributes KVM_SET_MEMORY_ATTRIBUTES knows.
        MEMORY_ATTRIBUTES = 233,
        /// KVM_CREATE_GUEST_MEMFD.
        GUEST_MEMFD = 234,
    }
}
