//! KVM_ENABLE_CAP: the commands that make a realm (docs/kvm-realm-abi.md sections 2.1 to 2.5).

use super::{Config, Vm};
use crate::error::{Operation, Phase, RealmError};
use crate::host::user;
use crate::realm::CpuParams;
use crate::realm::Parts;
use crate::{Errno, Host, Lock, UserMemory};
use realm_abi::kvm::{
    ConfigItem, EnableCap, RealmCommand, RmeConfig, RmeInitRipas, RmePopulate, VcpuFeature,
};
use realm_abi::rmi::HashAlgorithm;

impl<H: Host> Vm<H> {
    pub(super) fn enable_cap(&self, user: &impl UserMemory, arg: u64) -> Result<i64, Errno> {
        let (command, pointer) = self.read_cap(user, arg)?;
        match command {
            RealmCommand::CONFIG_REALM => self.configure(user, pointer),
            RealmCommand::CREATE_REALM => self.create_realm(),
            RealmCommand::INIT_RIPAS_REALM => {
                let request: RmeInitRipas = user::read(user, pointer)?;
                self.init_ripas(user, &request)
            }
            RealmCommand::POPULATE_REALM => {
                let request: RmePopulate = user::read(user, pointer)?;
                self.populate(user, &request)
            }
            RealmCommand::ACTIVATE_REALM => self.activate(),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The command of a capability, and where its request is.
    #[inline(never)]
    fn read_cap(&self, user: &impl UserMemory, arg: u64) -> Result<(RealmCommand, u64), Errno> {
        let cap: EnableCap = user::read(user, arg)?;
        if cap.flags != 0 || cap.cap != self.device().generation().cap_realm.0 {
            return Err(Errno::EINVAL);
        }
        let [command, pointer, ..] = cap.args;
        Ok((RealmCommand(command), pointer))
    }

    #[inline(never)]
    fn activate(&self) -> Result<i64, Errno> {
        let _config = self.config.lock_killable()?;
        self.realm.activate().map_err(|error| self.explain("ACTIVATE_REALM", &error))?;
        Ok(0)
    }

    /// Which state the realm is in decides before what the request holds.
    pub(super) fn require(&self, phase: Phase, operation: Operation) -> Result<(), RealmError> {
        match self.realm.phase() {
            state if state == phase => Ok(()),
            state => Err(RealmError::WrongState { operation, state }),
        }
    }

    #[inline(never)]
    fn configure(&self, user: &impl UserMemory, pointer: u64) -> Result<i64, Errno> {
        let request: RmeConfig = user::read(user, pointer)?;
        let explain = |error: RealmError| self.explain("CONFIG_REALM", &error);
        let _config = self.config.lock_killable()?;
        self.require(Phase::None, Operation::Configure).map_err(explain)?;
        match request.cfg {
            ConfigItem::RPV => self.realm.set_rpv(request.as_rpv()),
            ConfigItem::HASH_ALGO => {
                // A number that is no RmiHashAlgorithm must not become one by being cut to a byte.
                let hash = u8::try_from(request.as_hash_algo()).unwrap_or(u8::MAX);
                self.realm.set_hash(HashAlgorithm(hash))
            }
            _ => return Err(Errno::EINVAL),
        }
        .map_err(explain)?;
        Ok(0)
    }

    #[inline(never)]
    fn create_realm(&self) -> Result<i64, Errno> {
        let explain = |error: RealmError| self.explain("CREATE_REALM", &error);
        let parts = self.realm.gather().map_err(explain)?;
        let created = self.create_of(parts);
        created.map(|()| 0)
    }

    #[inline(never)]
    fn create_of(&self, parts: Parts) -> Result<(), Errno> {
        let config = match self.config.lock_killable() {
            Ok(config) => config,
            Err(errno) => {
                self.realm.scatter(parts);
                return Err(errno);
            }
        };
        let cpu = match self.cpu_params(&config) {
            Ok(cpu) => cpu,
            Err(errno) => {
                self.realm.scatter(parts);
                return Err(errno);
            }
        };
        self.realm.create_from(parts, &cpu).map_err(|error| self.explain("CREATE_REALM", &error))
    }

    /// What the vCPUs decide about the realm, with the configuration locked.
    fn cpu_params(&self, config: &Config<H>) -> Result<CpuParams, Errno> {
        let pmu = config.features.is_some_and(|features| features.has(VcpuFeature::PMU_V3));
        Ok(CpuParams {
            sve_vl: self.common_sve_length()?,
            num_bps: config.registers.num_bps(),
            num_wps: config.registers.num_wps(),
            pmu_num_ctrs: pmu.then(|| config.registers.pmu_num_ctrs()),
        })
    }

    /// The vector length of all vCPUs, in quadwords minus one; `None` if none of them has SVE.
    fn common_sve_length(&self) -> Result<Option<u8>, Errno> {
        let mut lengths = self.vcpus().map(|vcpu| vcpu.sve_length());
        let first = lengths.next().unwrap_or(Ok(None))?;
        for length in lengths {
            if length? != first {
                self.host()
                    .explain(format_args!("CREATE_REALM: all vCPUs must have the same SVE vector length"));
                return Err(Errno::EINVAL);
            }
        }
        Ok(first)
    }

    #[inline(never)]
    fn init_ripas(&self, user: &impl UserMemory, request: &RmeInitRipas) -> Result<i64, Errno> {
        // Version 8 does not look at the reserved fields, later ones want zero: a VMM that is right for both sets zero.
        if request.reserved != [0; 2] {
            return Err(Errno::EINVAL);
        }
        let done = self.realm.init_ripas(request.base, request.size, &|| user.must_die());
        done.map_err(|error| self.explain("INIT_RIPAS_REALM", &error))?;
        Ok(0)
    }
}
