//! KVM_SET_VCPU_EVENTS: aborts a VMM can inject (docs/kvm-realm-abi.md section 2.11).

use super::{State, Vcpu};
use crate::host::user;
use crate::run::pending::Pending;
use crate::{Errno, Host, UserMemory};
use realm_abi::kvm::VcpuEvents;

impl<H: Host> Vcpu<H> {
    #[inline(never)]
    pub(super) fn get_events(&self, user: &impl UserMemory, arg: u64) -> Result<(), Errno> {
        user::write(user, arg, &VcpuEvents::default())
    }

    /// After an MMIO exit the VMM may answer with an external abort instead of a value; the RMM lets the Host inject
    /// nothing else.
    #[inline(never)]
    pub(super) fn set_events(&self, state: &mut State<H>, events: &VcpuEvents) -> Result<(), Errno> {
        if state.init.is_none() {
            return Err(Errno::ENOEXEC);
        }
        if events.serror_pending != 0 {
            return Err(Errno::EINVAL);
        }
        if events.ext_dabt_pending != 0 {
            if !matches!(state.pending, Pending::Mmio(_) | Pending::Emulated { .. }) {
                return Err(Errno::EINVAL);
            }
            state.pending = Pending::InjectSea;
        }
        Ok(())
    }
}
