//! What runs in the realm: a short program instead of the kernel's instructions. It looks at everything the realm was
//! promised, through its own stage 2 and the RSI and PSCI calls a kernel makes.

use crate::realm_options::hash_name;
use realm_abi::kvm::vcpu_mpidr;
use realm_abi::psci::{AffinityState, PsciCall, PsciStatus};
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE, Ripas, Version};
use realm_abi::rsi::{HostCall, RealmConfig, RsiCall, RsiResponse, RsiStatus};
use realm_abi::{GRANULE_SIZE, smccc};
use realm_machine::Guest as Cpu;
use realm_vmm::{Guest, Region};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// The program works in the last MiB of RAM, where no image is.
const WORK: u64 = 1 << 20;
/// Offsets in it.
const CONFIG: u64 = 0;
const HOST_CALL: u64 = 0x1000;
const TOKEN: u64 = 0x2000;
const FLAGS: u64 = 0x3000;
const SHARED: u64 = 0x8000;
const MAILBOX: u64 = 0x1_0000;
/// Bytes of the mailbox: a length, and the token.
const MAILBOX_SIZE: u64 = 0x1_0000;
const FRESH: u64 = 0x4_0000;
/// A block: what the Host maps at once where it can.
const BLOCK: u64 = 0x20_0000;
/// How long another virtual CPU may take before the program gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the program needs to know, as a kernel would from its image and device tree.
pub struct Plan {
    ram: Region,
    alias: u64,
    uart: u64,
    cpus: u32,
    ipa_bits: u8,
    hash: HashAlgorithm,
    rpv: [u8; RPV_SIZE],
    challenge: [u8; 64],
    /// The first bytes of the kernel.
    header: [u8; 64],
    /// A block of RAM that nothing has been loaded to.
    fresh_block: Option<u64>,
}

/// What the program found.
#[derive(Default)]
pub struct Findings {
    /// One line each.
    pub lines: Vec<String>,
    /// The initial measurement as the RMM told it to the realm.
    pub rim: Vec<u8>,
    /// Why the program gave up.
    pub error: Option<String>,
}

type Result<T = ()> = std::result::Result<T, String>;

impl Plan {
    /// The plan of a guest.
    pub fn new(guest: &Guest, hash: HashAlgorithm, rpv: [u8; RPV_SIZE], challenge: [u8; 64]) -> Self {
        let layout = &guest.layout;
        let kernel = guest.parts.iter().find(|part| part.region.contains(guest.entry(), 64));
        let header = kernel.and_then(|part| {
            part.content.get((guest.entry() - part.region.base) as usize..)?.first_chunk().copied()
        });
        let taken = |block: u64| {
            let end = block + BLOCK;
            end > layout.ram.end() - WORK
                || guest.parts.iter().any(|part| part.region.base < end && block < part.region.end())
        };
        let blocks = (layout.ram.base..layout.ram.end()).step_by(BLOCK as usize);
        Self {
            ram: layout.ram,
            alias: layout.alias_bit(),
            uart: layout.uart.base,
            cpus: layout.cpus,
            ipa_bits: layout.ipa_bits,
            hash,
            rpv,
            challenge,
            header: header.unwrap_or([0; 64]),
            fresh_block: blocks.into_iter().find(|block| !taken(*block)),
        }
    }

    const fn work(&self, offset: u64) -> u64 {
        self.ram.end() - WORK + offset
    }

    /// The VMM's side of the mailbox: the token, empty if the program left none.
    pub fn receive<E>(
        &self,
        read: impl Fn(u64, &mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<u8>, E> {
        let mut length = [0; 8];
        read(self.work(MAILBOX), &mut length)?;
        let length = u64::from_le_bytes(length);
        // The realm is not trusted: its length is cut to what the mailbox holds.
        let mut token = vec![0; length.min(MAILBOX_SIZE - 8) as usize];
        read(self.work(MAILBOX) + 8, &mut token)?;
        Ok(token)
    }
}

/// The program of every virtual CPU. The first one does the work; when it returns, the realm is switched off.
pub fn run(cpu: &mut Cpu, plan: &Plan, findings: &Mutex<Findings>) {
    let mut program = Program { cpu, plan, lines: Vec::new(), rim: Vec::new() };
    let result = if program.cpu.mpidr() == 0 { program.boot_cpu() } else { program.secondary_cpu() };
    let Program { mut lines, rim, .. } = program;
    let mut findings = findings.lock().unwrap_or_else(PoisonError::into_inner);
    findings.lines.append(&mut lines);
    findings.rim.extend(rim);
    if let Err(error) = result {
        findings.error.get_or_insert(error);
    }
}

struct Program<'a> {
    cpu: &'a mut Cpu,
    plan: &'a Plan,
    lines: Vec<String>,
    rim: Vec<u8>,
}

impl Program<'_> {
    fn boot_cpu(&mut self) -> Result {
        self.version()?;
        self.config()?;
        self.images()?;
        self.ripas()?;
        self.measurements()?;
        self.console()?;
        self.secondaries()?;
        self.fresh_memory()?;
        self.share_and_unshare()?;
        let token = self.attestation_token()?;
        self.hand_out(&token)
    }

    fn found(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// An RSI call that has to succeed: X1 onwards.
    fn rsi(&mut self, call: &RsiCall) -> Result<[u64; 8]> {
        let (status, out) = self.cpu.rsi(call);
        if status == RsiStatus::SUCCESS { Ok(out) } else { Err(format!("{}: {status}", name(call))) }
    }

    fn read(&mut self, ipa: u64, len: usize) -> Result<Vec<u8>> {
        self.cpu.read_bytes(ipa, len).map_err(|exception| format!("reading {ipa:#x}: {exception}"))
    }

    fn write(&mut self, ipa: u64, bytes: &[u8]) -> Result {
        self.cpu.write_bytes(ipa, bytes).map_err(|exception| format!("writing {ipa:#x}: {exception}"))
    }

    fn version(&mut self) -> Result {
        let out = self.rsi(&RsiCall::Version { req: Version::V1_0 })?;
        self.found(format!("RSI {}", Version(out[0])));
        Ok(())
    }

    fn config(&mut self) -> Result {
        let addr = self.plan.work(CONFIG);
        // The RMM writes only to memory that is there.
        self.write(addr, &[0; GRANULE_SIZE as usize])?;
        self.rsi(&RsiCall::RealmConfig { addr })?;
        let page = self.read(addr, GRANULE_SIZE as usize)?;
        let config =
            RealmConfig::read_from_bytes(&page).map_err(|_| "RSI_REALM_CONFIG: a page of another size")?;
        let expected = (u64::from(self.plan.ipa_bits), self.plan.hash, self.plan.rpv);
        if (config.ipa_width, config.hash_algo, config.rpv) != expected {
            return Err("RSI_REALM_CONFIG: not what the realm was configured with".into());
        }
        self.found(format!("{} IPA bits, {}", config.ipa_width, hash_name(config.hash_algo)));
        Ok(())
    }

    fn images(&mut self) -> Result {
        let entry = self.cpu.entry();
        let header = self.read(entry, self.plan.header.len())?;
        if header != self.plan.header || header.get(56..60) != Some(b"ARM\x64") {
            return Err(format!("the kernel's header at {entry:#x} is not what was loaded"));
        }
        self.cpu.exec(entry).map_err(|exception| format!("executing at {entry:#x}: {exception}"))?;
        let dtb = self.cpu.start_regs()[0];
        if self.read(dtb, 4)? != [0xd0, 0x0d, 0xfe, 0xed] {
            return Err(format!("there is no device tree at X0, {dtb:#x}"));
        }
        self.found(format!("kernel at {entry:#x}, device tree at {dtb:#x}"));
        Ok(())
    }

    fn ripas(&mut self) -> Result {
        let (mut base, top) = (self.plan.ram.base, self.plan.ram.end());
        while base < top {
            let out = self.rsi(&RsiCall::IpaStateGet { base, top })?;
            if out[1] != u64::from(Ripas::RAM.0) {
                return Err(format!("{base:#x} has RIPAS {:#x}, not RAM", out[1]));
            }
            if out[0] <= base || out[0] > top {
                return Err(format!("RSI_IPA_STATE_GET: top {:#x} for {base:#x}..{top:#x}", out[0]));
            }
            base = out[0];
        }
        let bytes = self.plan.ram.size;
        self.found(format!("{} of RAM", crate::output::bytes(bytes)));
        Ok(())
    }

    fn measurement(&mut self, index: u64) -> Result<Vec<u8>> {
        let out = self.rsi(&RsiCall::MeasurementRead { index })?;
        let len = if self.plan.hash == HashAlgorithm::SHA_256 { 32 } else { 64 };
        Ok(out.as_bytes()[..len].to_vec())
    }

    fn measurements(&mut self) -> Result {
        self.rim = self.measurement(0)?;
        let value = *b"The program of `realm run` extends a measurement: here it goes..";
        let words = std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|j| value[8 * i + j])));
        let before = self.measurement(1)?;
        self.rsi(&RsiCall::MeasurementExtend { index: 1, size: 64, value: words })?;
        let after = self.measurement(1)?;
        if after == before {
            return Err("RSI_MEASUREMENT_EXTEND: the measurement has not changed".into());
        }
        self.found("extended REM 0");
        Ok(())
    }

    /// A line on the UART, which the VMM emulates: it is in the unprotected half, so every access leaves the realm.
    fn console(&mut self) -> Result {
        let uart = self.plan.uart + self.plan.alias;
        for byte in b"hello from the realm\n" {
            self.cpu
                .write(uart, *byte)
                .map_err(|exception| format!("writing to the UART at {uart:#x}: {exception}"))?;
        }
        self.found("wrote to the UART");
        Ok(())
    }

    fn secondaries(&mut self) -> Result {
        let flags = self.plan.work(FLAGS);
        self.write(flags, &vec![0; self.plan.cpus as usize])?;
        for id in 1..self.plan.cpus {
            let target_cpu = vcpu_mpidr(id);
            let entry_point = self.cpu.entry();
            let call = PsciCall::CpuOn { smc64: true, target_cpu, entry_point, context_id: id.into() };
            match self.cpu.psci(&call) {
                PsciStatus::SUCCESS => {}
                status => return Err(format!("PSCI_CPU_ON of CPU {id}: {status}")),
            }
        }
        for id in 1..self.plan.cpus {
            let flag = flags + u64::from(id);
            self.wait_for(&format!("CPU {id} to start"), |program| Ok(program.read(flag, 1)? != [0]))?;
            let target_affinity = vcpu_mpidr(id);
            let call = PsciCall::AffinityInfo { smc64: true, target_affinity, lowest_affinity_level: 0 };
            self.wait_for(&format!("CPU {id} to go off"), |program| {
                match AffinityState(program.cpu.psci(&call).0.cast_unsigned()) {
                    AffinityState::OFF => Ok(true),
                    AffinityState::ON | AffinityState::ON_PENDING => Ok(false),
                    other => Err(format!("PSCI_AFFINITY_INFO of CPU {id}: {other}")),
                }
            })?;
        }
        if self.plan.cpus > 1 {
            self.found(format!("all {} CPUs were up", self.plan.cpus));
        }
        Ok(())
    }

    /// What the other CPUs do: say that they are here, in memory, and go off.
    fn secondary_cpu(&mut self) -> Result {
        let id = self.cpu.start_regs()[0];
        if self.cpu.mpidr() != u32::try_from(id).map_or(u64::MAX, vcpu_mpidr) {
            return Err(format!("a CPU with MPIDR {:#x} was started as CPU {id}", self.cpu.mpidr()));
        }
        self.write(self.plan.work(FLAGS) + id, &[1])
    }

    /// Asks until the answer is yes. Other CPUs are threads that may take their time.
    fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Result<bool>) -> Result {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self)? {
            if Instant::now() > deadline {
                return Err(format!("waiting for {what} took more than {} seconds", PATIENCE.as_secs()));
            }
            self.cpu.context(|_| std::thread::yield_now());
        }
        Ok(())
    }

    /// Memory nobody has touched: the Host gives it when the realm first does, a page or a block at a time.
    fn fresh_memory(&mut self) -> Result {
        let pages = (0..16).map(|page| self.plan.work(FRESH) + page * GRANULE_SIZE);
        let block = self.plan.fresh_block.into_iter().flat_map(|block| [block, block + BLOCK - GRANULE_SIZE]);
        let all: Vec<u64> = pages.chain(block).collect();
        for &ipa in &all {
            if self.read(ipa, 64)? != [0; 64] {
                return Err(format!("fresh memory at {ipa:#x} is not zero"));
            }
            self.write(ipa, &ipa.to_le_bytes())?;
        }
        for &ipa in &all {
            if self.read(ipa, 8)? != ipa.to_le_bytes() {
                return Err(format!("memory at {ipa:#x} has lost what was written"));
            }
        }
        self.found(format!("used {} fresh pages", all.len()));
        Ok(())
    }

    /// Asks the Host to change the RIPAS of a range, piece by piece.
    fn set_ripas(&mut self, mut base: u64, top: u64, ripas: Ripas) -> Result {
        while base < top {
            let call = RsiCall::IpaStateSet { base, top, ripas: u64::from(ripas.0), flags: 1 };
            let [new_base, response, ..] = self.rsi(&call)?;
            if RsiResponse(response) != RsiResponse::ACCEPT || new_base <= base || new_base > top {
                return Err(format!("RSI_IPA_STATE_SET of {base:#x} to {ripas}: refused"));
            }
            base = new_base;
        }
        Ok(())
    }

    fn share_and_unshare(&mut self) -> Result {
        let page = self.plan.work(SHARED);
        let secret = *b"secret..";
        self.write(page, &secret)?;
        self.set_ripas(page, page + GRANULE_SIZE, Ripas::EMPTY)?;
        let shared = page + self.plan.alias;
        if self.read(shared, 8)? == secret {
            return Err(format!("what was private at {page:#x} can be read from outside"));
        }
        self.write(shared, b"in plain")?;
        if self.cpu.read_bytes(page, 8).is_ok() {
            return Err(format!("{page:#x} can still be read although it was given away"));
        }
        self.set_ripas(page, page + GRANULE_SIZE, Ripas::RAM)?;
        if self.read(page, 8)? == *b"in plain" {
            return Err(format!("what the Host could write is now private memory at {page:#x}"));
        }
        self.found("shared a page and took it back");
        Ok(())
    }

    fn attestation_token(&mut self) -> Result<Vec<u8>> {
        let addr = self.plan.work(TOKEN);
        self.write(addr, &[0])?;
        let challenge = std::array::from_fn(|i| {
            u64::from_le_bytes(std::array::from_fn(|j| self.plan.challenge[8 * i + j]))
        });
        let max = self.rsi(&RsiCall::AttestationTokenInit { challenge })?[0];
        let mut token = Vec::new();
        loop {
            let (status, more) = self.token_page(addr, &mut token)?;
            if token.len() as u64 > max {
                return Err(format!(
                    "the attestation token is longer than the {max} bytes it was announced with"
                ));
            }
            if status == RsiStatus::SUCCESS {
                break;
            }
            if !more {
                return Err("RSI_ATTESTATION_TOKEN_CONTINUE: no end".into());
            }
        }
        self.found(format!("attestation token of {} bytes", token.len()));
        Ok(token)
    }

    /// Fills one page with what comes next of the token. Calls that give nothing were interrupted.
    fn token_page(&mut self, addr: u64, token: &mut Vec<u8>) -> Result<(RsiStatus, bool)> {
        let mut offset = 0;
        loop {
            let size = GRANULE_SIZE - offset;
            let (status, out) = self.cpu.rsi(&RsiCall::AttestationTokenContinue { addr, offset, size });
            if status != RsiStatus::SUCCESS && status != RsiStatus::INCOMPLETE {
                return Err(format!("RSI_ATTESTATION_TOKEN_CONTINUE: {status}"));
            }
            offset += out[0].min(size);
            if status == RsiStatus::SUCCESS || offset == GRANULE_SIZE {
                token.extend(self.read(addr, offset as usize)?);
                return Ok((status, offset > 0));
            }
        }
    }

    /// Puts the token where the VMM can read it, and calls the Host.
    fn hand_out(&mut self, token: &[u8]) -> Result {
        let mailbox = self.plan.work(MAILBOX);
        if token.len() as u64 > MAILBOX_SIZE - 8 {
            return Err(format!("a token of {} bytes does not fit in the mailbox", token.len()));
        }
        self.set_ripas(mailbox, mailbox + MAILBOX_SIZE, Ripas::EMPTY)?;
        let shared = mailbox + self.plan.alias;
        self.write(shared + 8, token)?;
        self.write(shared, &(token.len() as u64).to_le_bytes())?;
        let addr = self.plan.work(HOST_CALL);
        let mut call = HostCall::default();
        call.gprs[0] = smccc::VERSION;
        self.write(addr, call.as_bytes())?;
        self.rsi(&RsiCall::HostCall { addr })?;
        let answer = self.read(addr, size_of::<HostCall>())?;
        let answer =
            HostCall::read_from_bytes(&answer).map_err(|_| "a host call structure of another size")?;
        self.found(format!("handed the token out; the host call answered {:#x}", answer.gprs[0]));
        Ok(())
    }
}

fn name(call: &RsiCall) -> &'static str {
    call.name().unwrap_or("an unknown RSI call")
}
