//! KVM_SET_ONE_REG, KVM_GET_ONE_REG and KVM_GET_REG_LIST (docs/kvm-realm-abi.md section 2.7).

use super::{State, Vcpu};
use crate::error::Phase;
use crate::host::user;
use crate::run::regs::{self, MAX_REG_SIZE, SharedRegisters, VectorLengths};
use crate::{Errno, Host, Lock, UserMemory, room};
use realm_abi::kvm::reg::{RegId, RegKind};
use realm_abi::kvm::{OneReg, RegListHeader, VcpuFeature};

impl<H: Host> Vcpu<H> {
    #[inline(never)]
    pub(super) fn set_one_reg(
        &self,
        state: &mut State<H>,
        user: &impl UserMemory,
        request: &OneReg,
    ) -> Result<(), Errno> {
        let init = state.init.ok_or(Errno::ENOEXEC)?;
        let id = RegId(request.id);
        match id.kind() {
            RegKind::X(n) => {
                let value = user::read(user, request.addr)?;
                let x = state.registers.x.get_mut(usize::from(n)).ok_or(Errno::EINVAL)?;
                *x = value;
                Ok(())
            }
            RegKind::Pc => {
                state.registers.pc = user::read(user, request.addr)?;
                Ok(())
            }
            RegKind::Sys(_) if id == RegId::ID_AA64DFR0_EL1 => {
                let value = user::read(user, request.addr)?;
                self.set_shared(|registers, frozen| registers.set_dfr0(value, frozen))
            }
            RegKind::Sys(_) if id == RegId::PMCR_EL0 => {
                if !init.has(VcpuFeature::PMU_V3) {
                    return Err(Errno::ENOENT);
                }
                let value = user::read(user, request.addr)?;
                self.set_shared(|registers, frozen| registers.set_pmcr(value, frozen))
            }
            RegKind::SveVls => {
                if !init.has(VcpuFeature::SVE) {
                    return Err(Errno::ENOENT);
                }
                let value: [u8; MAX_REG_SIZE] = user::read(user, request.addr)?;
                self.set_vector_lengths(&value)
            }
            _ => {
                self.vm
                    .host()
                    .explain(format_args!("KVM_SET_ONE_REG: {id} of a realm is not the VMM's to set"));
                Err(Errno::EINVAL)
            }
        }
    }

    fn set_shared(
        &self,
        set: impl FnOnce(&mut SharedRegisters, bool) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut config = self.vm.config.lock_killable()?;
        let frozen = self.vm.realm.phase() != Phase::None;
        set(&mut config.registers, frozen)
    }

    fn set_vector_lengths(&self, value: &[u8; MAX_REG_SIZE]) -> Result<(), Errno> {
        let _config = self.vm.config.lock_killable()?;
        let created = self.vm.realm.phase() != Phase::None;
        let sve = &mut self.public.lock().sve;
        if sve.finalized || created {
            return Err(Errno::EPERM);
        }
        sve.lengths = VectorLengths::from_bytes(value, self.vm.info.features)?;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn get_one_reg(
        &self,
        state: &State<H>,
        user: &impl UserMemory,
        request: &OneReg,
    ) -> Result<(), Errno> {
        let init = state.init.ok_or(Errno::ENOEXEC)?;
        let id = RegId(request.id);
        let value: u64 = match id.kind() {
            RegKind::X(n) => *state.registers.x.get(usize::from(n)).ok_or(Errno::EINVAL)?,
            RegKind::Pc => state.registers.pc,
            RegKind::Sys(_) if id == RegId::ID_AA64DFR0_EL1 => {
                self.vm.config.lock_killable()?.registers.dfr0()
            }
            RegKind::Sys(_) if id == RegId::PMCR_EL0 && init.has(VcpuFeature::PMU_V3) => {
                self.vm.config.lock_killable()?.registers.pmcr()
            }
            // MPIDR_EL1 has a 1 in bit 31.
            RegKind::Sys(_) if id == RegId::MPIDR_EL1 => self.mpidr() | 1 << 31,
            RegKind::SveVls if init.has(VcpuFeature::SVE) => {
                let lengths = self.public.lock().sve.lengths;
                return user.write(request.addr, &lengths.to_bytes());
            }
            _ => return Err(Errno::ENOENT),
        };
        user::write(user, request.addr, &value)
    }

    #[inline(never)]
    pub(super) fn get_reg_list(
        &self,
        state: &State<H>,
        user: &impl UserMemory,
        arg: u64,
    ) -> Result<(), Errno> {
        let init = state.init.ok_or(Errno::ENOEXEC)?;
        let list = || regs::settable(init.has(VcpuFeature::PMU_V3), init.has(VcpuFeature::SVE));
        let room: RegListHeader = user::read(user, arg)?;
        let n = room::count(list()) as u64;
        user::write(user, arg, &RegListHeader { n })?;
        if room.n < n {
            return Err(Errno::E2BIG);
        }
        let mut addr = arg.checked_add(size_of::<RegListHeader>() as u64).ok_or(Errno::EFAULT)?;
        for id in list() {
            user::write(user, addr, &id.0)?;
            addr = addr.checked_add(size_of::<u64>() as u64).ok_or(Errno::EFAULT)?;
        }
        Ok(())
    }
}
