//! What a realm does next: calls and accesses that mostly mean something in the state of the model.

use crate::oracle::addresses::interesting_ipas;
use crate::oracle::driver::Shared;
use crate::oracle::guest::{GuestOp, mpidr_of};
use crate::oracle::random::Choice;
use realm_abi::psci::PsciCall;
use realm_abi::rmi::{DataFlags, RmiCommand, Version};
use realm_abi::rsi::{HostCall, RsiCall};
use realm_abi::smccc::SVE_HINT;
use realm_machine::program::{Access, SmcRegs};
use realm_model::{Access as Reach, AccessKind};
use zerocopy::IntoBytes;

impl Shared {
    pub(crate) fn choose(&mut self, rec: u64) -> GuestOp {
        let owner = self.model.recs()[&rec].owner;
        let mut choice = Choice::new(self.choice.next());
        let ipas = interesting_ipas(&self.model, owner);
        let realm = &self.model.realms()[&owner];
        let works = |ipa: &u64| matches!(realm.access(*ipa, AccessKind::Read), Reach::Data(_) | Reach::Ns(_));
        let working: Vec<u64> = ipas.iter().copied().filter(works).collect();
        let ipas = if choice.one_in(2) && !working.is_empty() { working } else { ipas };
        let page = choice.of(&ipas) & !0xfff;
        if self.model.recs()[&rec].token.is_some() && choice.one_in(2) {
            let call = RsiCall::AttestationTokenContinue { addr: page, offset: 0, size: 4096 };
            return smc(&call.to_regs());
        }
        let kind = if self.guest_ops > 12 { 99 } else { choice.below(24) };
        match kind {
            0..=2 => GuestOp::Load(access(&mut choice, page)),
            3..=5 => {
                let value = choice.next();
                GuestOp::Store(access(&mut choice, page), value)
            }
            6 if choice.one_in(3) => GuestOp::Hvc,
            6 => GuestOp::Fetch(page),
            7 => {
                let timeout = choice.one_in(2).then(|| choice.below(9));
                let event = choice.one_in(2);
                // A WFI that nobody traps would wait for an interrupt that never comes.
                if event || timeout.is_some() || self.trap_wfi {
                    return GuestOp::Wait { event, timeout };
                }
                GuestOp::Fetch(page)
            }
            8 => {
                let mut call = HostCall::default();
                call.imm = choice.next() as u16;
                call.gprs = std::array::from_fn(|_| choice.next());
                GuestOp::Write(page, call.as_bytes().to_vec())
            }
            9..=17 => {
                let mut regs = RsiOp(choice.next()).call(&ipas).to_regs();
                if choice.one_in(16) {
                    regs[0] |= SVE_HINT;
                }
                smc(&regs)
            }
            18..=21 => smc(&self.psci_call(rec, &mut choice, &ipas).to_regs()),
            22 => smc(&unknown_call(&mut choice)),
            _ => match choice.below(3) {
                0 => {
                    smc(&PsciCall::CpuSuspend { smc64: true, power_state: 1, entry_point: 2, context_id: 3 }
                        .to_regs())
                }
                1 => smc(&RsiCall::IpaStateSet { base: 0, top: 0x1000, ripas: 1, flags: 1 }.to_regs()),
                _ => {
                    smc(&PsciCall::CpuSuspend { smc64: false, power_state: 9, entry_point: 0, context_id: 0 }
                        .to_regs())
                }
            },
        }
    }

    fn psci_call(&self, rec: u64, choice: &mut Choice, ipas: &[u64]) -> PsciCall {
        let state = &self.model.recs()[&rec];
        let known = self.model.realms()[&state.owner].rec_index;
        let beyond = if choice.one_in(4) { 2 } else { 0 };
        let target = mpidr_of(choice.below(known + beyond));
        match choice.below(14) {
            0 => PsciCall::Version,
            1 => PsciCall::Features {
                function: choice.of(&[
                    0x8400_0000,
                    0x8400_0001,
                    0xC400_0003,
                    0xC400_0004,
                    0x8400_0008,
                    0x8400_0005,
                    0x8000_0000,
                    0xC400_0000,
                ]),
            },
            2 => PsciCall::CpuSuspend {
                smc64: choice.one_in(2),
                power_state: choice.next() & 0xffff,
                entry_point: choice.next() & 0xffff_f000,
                context_id: choice.next() & 0xffff,
            },
            3..=7 => PsciCall::CpuOn {
                smc64: true,
                target_cpu: target,
                // Its low bits keep it apart from every PC a program can be at.
                entry_point: choice.of(ipas) & !0xfff | 0x800,
                context_id: choice.next(),
            },
            8..=10 => PsciCall::AffinityInfo {
                smc64: choice.one_in(2),
                target_affinity: target,
                lowest_affinity_level: u64::from(choice.one_in(5)),
            },
            11 => PsciCall::CpuOff,
            12 if choice.one_in(4) => PsciCall::SystemReset,
            13 if choice.one_in(4) => PsciCall::SystemOff,
            _ => PsciCall::Unknown { regs: [0x8400_0000 | choice.of(&[5, 6, 0x0b, 0x1f]), 1, 2, 3] },
        }
    }
}

/// A choice of an RSI call.
struct RsiOp(u64);

impl RsiOp {
    fn call(self, ipas: &[u64]) -> RsiCall {
        let mut choice = Choice::new(self.0);
        let ipa = choice.of(ipas);
        let page = ipa & !0xfff;
        let unaligned = choice.one_in(12);
        let addr = if unaligned { page | 0x10 } else { page };
        let top = match choice.below(8) {
            0 => page.wrapping_sub(0x1000),
            1 => page,
            2 => page.wrapping_add(0x20_0000),
            3 => page.wrapping_add(0x4000_0000),
            n => page.wrapping_add((n - 3) * 0x1000),
        };
        match choice.below(20) {
            0 => RsiCall::Version {
                req: choice.of(&[Version::V1_0, Version::new(1, 1), Version::new(2, 0), Version::new(0, 9)]),
            },
            1 => RsiCall::Features { index: choice.below(3) },
            2 => RsiCall::MeasurementRead { index: choice.of(&[0, 1, 2, 3, 4, 5, u64::MAX]) },
            3 => RsiCall::MeasurementExtend {
                index: choice.of(&[0, 1, 2, 3, 4, 5, 1 << 32]),
                size: choice.of(&[0, 1, 8, 31, 32, 63, 64, 65, u64::MAX]),
                value: std::array::from_fn(|_| choice.next()),
            },
            4 => RsiCall::AttestationTokenInit { challenge: std::array::from_fn(|_| choice.next()) },
            5..=7 => {
                let offset = choice.of(&[0, 0, 8, 4088, 4095, 4096, u64::MAX]);
                let size = choice.of(&[
                    4096,
                    4096,
                    4096u64.wrapping_sub(offset),
                    4096u64.wrapping_sub(offset),
                    0,
                    1,
                    u64::MAX,
                ]);
                RsiCall::AttestationTokenContinue { addr, offset, size }
            }
            8 => RsiCall::RealmConfig { addr },
            9..=12 => RsiCall::IpaStateSet {
                base: addr,
                top,
                ripas: choice.of(&[0, 0, 1, 1, 1, 2, 3]),
                flags: choice.below(2),
            },
            13..=14 => RsiCall::IpaStateGet { base: addr, top },
            15..=18 => RsiCall::HostCall { addr: page | choice.of(&[0, 0, 0x100, 0xf00, 0x80]) },
            _ => RsiCall::Unknown {
                regs: [0xC400_0190 + choice.of(&[10, 0x1f]), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            },
        }
    }
}

/// Calls that are not for a realm.
fn unknown_call(choice: &mut Choice) -> [u64; 8] {
    match choice.below(4) {
        0 => RmiCommand::GranuleUndelegate { addr: 0x8000_0000 }.to_regs(),
        1 => RmiCommand::DataCreate { rd: 1, data: 2, ipa: 3, src: 4, flags: DataFlags(1) }.to_regs(),
        2 => [realm_abi::smccc::VERSION, 1, 2, 3, 4, 5, 6, 7],
        _ => [0xC600_0000 | choice.below(9), 1, 2, 3, 4, 5, 6, 7],
    }
}

fn smc(regs: &[u64]) -> GuestOp {
    let mut all: SmcRegs = std::array::from_fn(|i| 0xabcd_0000 + i as u64);
    all[..regs.len()].copy_from_slice(regs);
    GuestOp::Smc(Box::new(all))
}

fn access(choice: &mut Choice, page: u64) -> Access {
    let size = choice.of(&[1u8, 2, 4, 8]);
    let offset = choice.below(3) * 8 + if size == 8 { 0 } else { u64::from(size) };
    let rt = choice.of(&[0, 1, 9, 30, 31]);
    Access {
        ipa: page | offset,
        size,
        rt,
        sign_extend: choice.one_in(3),
        wide: choice.one_in(2) || size == 8,
    }
}
