//! RSI (RMM 1.0, RSI commands): the answers and exits of each call of a realm.

use crate::granule::aligned;
use crate::measurement::extend_rem;
use crate::rec::LastExit;
use crate::registers::{Registers, Rule};
use crate::run::abort::data_abort_exit;
use crate::run::alternative::{Alternative, Exit, exit_of, not_supported};
use crate::{Entry, Model, Realm};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{ExitReason, Ripas, Version};
use realm_abi::rsi::{HostCall, RealmConfig, RsiCall, RsiStatus};
use zerocopy::{FromBytes, IntoBytes};

/// What is behind an IPA the RMM is to read or write for the realm.
pub(crate) enum Buffer {
    /// A DATA granule.
    Data(u64),
    /// RIPAS EMPTY.
    Empty,
    /// Nothing, as found at this level: the Host has to see to it.
    Missing(i64),
}

fn error_input(name: &'static str, regs: &Registers) -> Alternative {
    Alternative::answer(name, regs, &[RsiStatus::ERROR_INPUT.0])
}

impl Model {
    pub(crate) fn buffer(&self, rd: u64, ipa: u64) -> Buffer {
        let Some(walk) = self.walk(rd, ipa, 3) else { return Buffer::Empty };
        let offset = (ipa - walk.entry_base()) & !(GRANULE_SIZE - 1);
        match (walk.entry, walk.entry.ripas()) {
            (Entry::Assigned { pa, .. }, Some(Ripas::RAM)) => Buffer::Data(pa + offset),
            (_, Some(Ripas::EMPTY)) => Buffer::Empty,
            _ => Buffer::Missing(walk.level),
        }
    }

    /// What an RSI call in X0 to X10 may do.
    pub(crate) fn rsi(&mut self, rec_pa: u64, regs: &Registers) -> Vec<Alternative> {
        let mut call: [u64; 11] = std::array::from_fn(|i| regs.gprs[i]);
        call[0] &= !realm_abi::smccc::SVE_HINT;
        let Some((rec, owner)) = self.recs.get(&rec_pa).map(|rec| (rec, rec.owner)) else {
            return Vec::new();
        };
        let (token, Some(realm)) = (rec.token, self.realms.get_mut(&owner)) else { return Vec::new() };
        let ok = |name, out: &[u64]| vec![Alternative::answer(name, regs, out)];
        let success = RsiStatus::SUCCESS.0;
        match RsiCall::from_regs(&call) {
            RsiCall::Version { req } => {
                let fine = req == Version::V1_0;
                let (name, status) = if fine {
                    ("RSI_VERSION", success)
                } else {
                    ("RSI_VERSION, input", RsiStatus::ERROR_INPUT.0)
                };
                ok(name, &[status, Version::V1_0.0, Version::V1_0.0])
            }
            RsiCall::Features { .. } => ok("RSI_FEATURES", &[success, 0]),
            RsiCall::MeasurementRead { index } => {
                let slot = usize::try_from(index).ok().and_then(|index| realm.measurements.get(index));
                let Some(slot) = slot else { return vec![error_input("RSI_MEASUREMENT_READ, input", regs)] };
                let words =
                    slot.chunks_exact(8).map(|b| b.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b)));
                ok("RSI_MEASUREMENT_READ", &[success].into_iter().chain(words).collect::<Vec<_>>())
            }
            RsiCall::MeasurementExtend { index, size, value } => {
                let value = usize::try_from(size).ok().and_then(|size| value.as_bytes().get(..size));
                let slot = usize::try_from(index)
                    .ok()
                    .filter(|i| *i > 0)
                    .and_then(|i| realm.measurements.get_mut(i));
                let (Some(value), Some(slot)) = (value, slot) else {
                    return vec![error_input("RSI_MEASUREMENT_EXTEND, input", regs)];
                };
                *slot = extend_rem(realm.hash_algo, slot, value);
                ok("RSI_MEASUREMENT_EXTEND", &[success])
            }
            RsiCall::AttestationTokenInit { .. } => {
                vec![Alternative::answer_with(
                    "RSI_ATTESTATION_TOKEN_INIT",
                    regs,
                    &[success, 0],
                    Rule::TokenInit,
                )]
            }
            RsiCall::AttestationTokenContinue { addr, offset, size } => {
                let end = offset.checked_add(size);
                let wrong = !aligned(addr)
                    || !realm.protected(addr)
                    || offset >= GRANULE_SIZE
                    || end.is_none_or(|end| end > GRANULE_SIZE);
                self.token_continue(owner, regs, addr, size, wrong, token.is_some())
            }
            RsiCall::RealmConfig { addr } => {
                if !aligned(addr) || !realm.protected(addr) {
                    return vec![error_input("RSI_REALM_CONFIG, input", regs)];
                }
                let mut config = RealmConfig::default();
                config.ipa_width = realm.ipa_width.into();
                config.hash_algo = realm.hash_algo;
                config.rpv = realm.rpv;
                match self.buffer(owner, addr) {
                    Buffer::Data(pa) => {
                        self.write_data(pa, 0, config.as_bytes());
                        ok("RSI_REALM_CONFIG", &[success])
                    }
                    Buffer::Empty => vec![error_input("RSI_REALM_CONFIG, EMPTY", regs)],
                    Buffer::Missing(level) => {
                        vec![missing("RSI_REALM_CONFIG, not mapped", addr, level, regs)]
                    }
                }
            }
            RsiCall::IpaStateSet { base, top, ripas, flags } => {
                vec![ipa_state_set(realm, regs, base, top, ripas, flags)]
            }
            RsiCall::IpaStateGet { base, top } => {
                if !range_valid(realm, base, top) {
                    return vec![error_input("RSI_IPA_STATE_GET, input", regs)];
                }
                let rule = Rule::StateGet { base, top };
                vec![Alternative::answer_with("RSI_IPA_STATE_GET", regs, &[success, 0, 0], rule)]
            }
            RsiCall::HostCall { addr } => {
                if !addr.is_multiple_of(256) || !realm.protected(addr) {
                    return vec![error_input("RSI_HOST_CALL, input", regs)];
                }
                match self.buffer(owner, addr) {
                    Buffer::Data(pa) => vec![self.host_call(regs, addr, pa)],
                    Buffer::Empty => vec![error_input("RSI_HOST_CALL, EMPTY", regs)],
                    Buffer::Missing(level) => vec![missing("RSI_HOST_CALL, not mapped", addr, level, regs)],
                }
            }
            RsiCall::Unknown { .. } => vec![not_supported(regs)],
        }
    }

    fn host_call(&self, regs: &Registers, addr: u64, pa: u64) -> Alternative {
        let mut exit = exit_of(ExitReason::HOST_CALL);
        let offset = usize::try_from(addr & 0xfff).unwrap_or(0);
        let call = self.read_data(pa, offset, 256).and_then(|bytes| HostCall::read_from_bytes(bytes).ok());
        if let Some(call) = &call {
            exit.imm = call.imm;
            exit.gprs = call.gprs;
        }
        Alternative::Exit(Exit {
            name: "RSI_HOST_CALL",
            exit: Box::new(exit),
            any_call: call.is_none(),
            registers: *regs,
            last_exit: LastExit::HostCall { ipa: addr },
            cpu_off: false,
            system_off: false,
        })
    }

    /// No order is given among the conditions, so each that holds is an alternative.
    fn token_continue(
        &self,
        owner: u64,
        regs: &Registers,
        addr: u64,
        size: u64,
        wrong: bool,
        started: bool,
    ) -> Vec<Alternative> {
        let mut out = Vec::new();
        if wrong {
            out.push(error_input("RSI_ATTESTATION_TOKEN_CONTINUE, input", regs));
        }
        if !started {
            let state = RsiStatus::ERROR_STATE.0;
            out.push(Alternative::answer("RSI_ATTESTATION_TOKEN_CONTINUE, state", regs, &[state]));
        }
        if wrong {
            return out;
        }
        match self.buffer(owner, addr) {
            Buffer::Empty => out.push(error_input("RSI_ATTESTATION_TOKEN_CONTINUE, EMPTY", regs)),
            Buffer::Missing(level) => {
                out.push(missing("RSI_ATTESTATION_TOKEN_CONTINUE, not mapped", addr, level, regs));
            }
            Buffer::Data(pa) if started => {
                let rule = Rule::TokenContinue { size, pa };
                out.push(Alternative::answer_with("RSI_ATTESTATION_TOKEN_CONTINUE", regs, &[0, 0], rule));
            }
            Buffer::Data(_) => {}
        }
        out
    }
}

fn missing(name: &'static str, ipa: u64, level: i64, regs: &Registers) -> Alternative {
    data_abort_exit(name, ipa, level, regs, LastExit::Other)
}

fn range_valid(realm: &Realm, base: u64, top: u64) -> bool {
    aligned(base) && aligned(top) && base < top && realm.range_protected(base, top)
}

fn ipa_state_set(
    realm: &Realm,
    regs: &Registers,
    base: u64,
    top: u64,
    ripas: u64,
    flags: u64,
) -> Alternative {
    let value = Ripas((ripas & 0xff) as u8);
    if !range_valid(realm, base, top) || !matches!(value, Ripas::EMPTY | Ripas::RAM) {
        return error_input("RSI_IPA_STATE_SET, input", regs);
    }
    let mut exit = exit_of(ExitReason::RIPAS_CHANGE);
    (exit.ripas_base, exit.ripas_top, exit.ripas_value) = (base, top, value);
    let last = LastExit::Ripas { addr: base, top, value, destroyed: flags & 1 == 1 };
    Alternative::exit("RSI_IPA_STATE_SET", exit, regs, last)
}
