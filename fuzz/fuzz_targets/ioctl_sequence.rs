//! A VMM that builds, runs and ends a realm, and in between makes any ioctl with any argument on any of its files,
//! changes arguments, closes files, unmaps memory, and has its requests fail. The Host core must neither panic nor
//! lose anything.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use realm_abi::Errno;
use realm_abi::kvm::reg::RegId;
use realm_abi::kvm::{
    EnableCap, FileKind, Generation, Ioctl, MemoryAttributes, OneReg, PsciComplete, RealmCommand,
    RmeInitRipas, RmePopulate, UserMemoryRegion2,
};
use realm_machine::Process;
use realm_machine::fault::Point;
use realm_vmm::{Fd, RealmVm, System};
use realmkit_fuzz::structured;
use realmkit_fuzz::world::{
    GuestOp, Ipa, RAM, RAM_SIZE, SETTINGS, World, guest, run_for_a_while, system_off,
};
use std::sync::Mutex;
use zerocopy::IntoBytes;

/// Where arguments of injected ioctls are, in a page of their own.
const INNER: u64 = 0x800;

#[derive(Arbitrary, Debug)]
struct Input {
    two_vcpus: bool,
    /// One in so many allocations fails; below 4 none does.
    failing_allocations: u8,
    steps: Vec<Step>,
    guest: Vec<GuestOp>,
}

/// Something before one of the VMM's own ioctls.
#[derive(Arbitrary, Debug)]
struct Step {
    /// How many of its ioctls pass before, modulo 8.
    after: u8,
    action: Action,
}

#[derive(Arbitrary, Debug)]
enum Action {
    /// Any ioctl of the table.
    Known {
        ioctl: u8,
        file: u8,
        argument: Argument,
    },
    /// Any number.
    Any {
        cmd: u32,
        file: u8,
        argument: Argument,
    },
    Realm {
        command: u8,
        base: Ipa,
        size: u32,
        flags: u8,
        reserved: bool,
    },
    Attributes {
        base: Ipa,
        pages: u16,
        attributes: u8,
    },
    Slot {
        slot: u8,
        flags: u8,
        base: Ipa,
        pages: u16,
        memfd: u8,
        offset: u16,
    },
    Register {
        file: u8,
        register: u8,
        value: u64,
    },
    Finalize {
        file: u8,
        feature: u8,
    },
    PsciComplete {
        file: u8,
        target: u8,
        status: i8,
    },
    CreateVm {
        ipa_bits: u8,
    },
    Close {
        file: u8,
    },
    Discard {
        offset: u16,
        pages: u8,
    },
    /// Changes the argument of the VMM's next ioctl.
    Corrupt {
        offset: u8,
        mask: u8,
    },
    Fault {
        point: u8,
        nth: u8,
    },
    /// A signal for the thread that runs a vCPU.
    Signal {
        file: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Argument {
    Value(u64),
    Bytes(Vec<u8>),
}

/// The VMM's system with steps in between.
struct Meddler<'a> {
    process: &'a Process,
    world: &'a World,
    state: Mutex<State>,
}

struct State {
    steps: std::vec::IntoIter<Step>,
    next: Option<Step>,
    files: Vec<Fd>,
    maps: Vec<u64>,
    scratch: u64,
    /// A fault was armed that can lose granules.
    losing: bool,
}

impl State {
    fn file(&self, index: u8) -> Option<Fd> {
        let count = self.files.len().max(1);
        self.files.get(usize::from(index) % count).copied()
    }
}

impl Meddler<'_> {
    fn ioctl_now(&self, state: &mut State, fd: Option<Fd>, cmd: u32, arg: u64) {
        let Some(fd) = fd else { return };
        // A vCPU that is off would wait forever for somebody to turn it on.
        if cmd == realm_abi::kvm::numbers::RUN {
            self.process.kick(fd);
        }
        let returns_file = [FileKind::Device, FileKind::Vm].into_iter().any(|kind| {
            let ioctl = Ioctl::parse(&Generation::V8, kind, cmd);
            matches!(ioctl, Ioctl::CreateVm | Ioctl::CreateVcpu | Ioctl::CreateGuestMemfd)
        });
        if let (Ok(new), true) = (self.process.ioctl(fd, cmd, arg), returns_file) {
            state.files.push(Fd(new as i32));
        }
    }

    fn put(&self, state: &State, offset: u64, bytes: &[u8]) -> u64 {
        let len = bytes.len().min(INNER as usize);
        // The page may have been given away by an earlier step; then the kernel finds nothing there.
        let _ = self.process.write(state.scratch + offset, &bytes[..len]);
        state.scratch + offset
    }

    fn structure<T: IntoBytes + zerocopy::Immutable>(
        &self,
        state: &mut State,
        fd: Option<Fd>,
        ioctl: Ioctl,
        value: &T,
    ) {
        let arg = self.put(state, 0, value.as_bytes());
        self.ioctl_now(state, fd, ioctl.number(&Generation::V8).expect("version 8 has it"), arg);
    }

    /// All VMs there are, the VMM's own first.
    fn vm(&self, state: &State) -> Option<Fd> {
        state.files.get(1).copied()
    }

    /// Does a step; for [`Action::Corrupt`] it returns what to change.
    fn act(&self, state: &mut State, action: &Action) -> Option<(u8, u8)> {
        match action {
            Action::Known { ioctl, file, argument } => {
                let cmd = Ioctl::TABLE[usize::from(*ioctl) % Ioctl::TABLE.len()].1;
                self.with_argument(state, cmd, *file, argument);
            }
            Action::Any { cmd, file, argument } => self.with_argument(state, *cmd, *file, argument),
            Action::Realm { command, base, size, flags, reserved } => {
                let (base, reserved) = (base.address(), u32::from(*reserved));
                let size = if flags & 0x80 == 0 { u64::from(*size) & !0xfff } else { u64::from(*size) };
                let command = RealmCommand(u64::from(command % 6));
                let inner = match command {
                    RealmCommand::POPULATE_REALM => {
                        let flags = u32::from(flags & 0x3);
                        let populate =
                            RmePopulate { base: base & !0xfff, size, flags, reserved: [reserved, 0, 0] };
                        self.put(state, INNER, populate.as_bytes())
                    }
                    _ => {
                        let init = RmeInitRipas { base: base & !0xfff, size, reserved: [reserved.into(), 0] };
                        self.put(state, INNER, init.as_bytes())
                    }
                };
                let vm = self.vm(state);
                self.structure(
                    state,
                    vm,
                    Ioctl::EnableCap,
                    &EnableCap::realm(&Generation::V8, command, inner),
                );
            }
            Action::Attributes { base, pages, attributes } => {
                let (address, size) = (base.address() & !0xfff, u64::from(*pages) << 12);
                let set =
                    MemoryAttributes { address, size, attributes: u64::from(attributes & 0xf), flags: 0 };
                let vm = self.vm(state);
                self.structure(state, vm, Ioctl::SetMemoryAttributes, &set);
            }
            Action::Slot { slot, flags, base, pages, memfd, offset } => {
                let region = UserMemoryRegion2 {
                    slot: u32::from(slot % 4),
                    flags: u32::from(flags & 7),
                    guest_phys_addr: base.address() & !0xfff,
                    memory_size: u64::from(*pages) << 12,
                    userspace_addr: state.maps.get(1).copied().unwrap_or(0),
                    guest_memfd: state.file(*memfd).map_or(0, |fd| fd.0 as u32),
                    guest_memfd_offset: u64::from(*offset) << 12,
                    ..Default::default()
                };
                let vm = self.vm(state);
                self.structure(state, vm, Ioctl::SetUserMemoryRegion2, &region);
            }
            Action::Register { file, register, value } => {
                let id = match register % 36 {
                    n @ 0..=30 => RegId::x(n).expect("X0 to X30"),
                    31 => RegId::PC,
                    32 => RegId::PMCR_EL0,
                    33 => RegId::ID_AA64DFR0_EL1,
                    34 => RegId::SVE_VLS,
                    _ => RegId::SP,
                };
                let addr = self.put(state, INNER, &value.to_le_bytes());
                let fd = state.file(*file);
                self.structure(state, fd, Ioctl::SetOneReg, &OneReg { id: id.0, addr });
            }
            Action::Finalize { file, feature } => {
                let fd = state.file(*file);
                self.structure(state, fd, Ioctl::ArmVcpuFinalize, &u32::from(feature % 12));
            }
            Action::PsciComplete { file, target, status } => {
                let complete = PsciComplete {
                    target_mpidr: u64::from(target % 4),
                    psci_status: i32::from(*status).cast_unsigned(),
                    padding: [0; 3],
                };
                let fd = state.file(*file);
                self.structure(state, fd, Ioctl::ArmVcpuRmmPsciComplete, &complete);
            }
            Action::CreateVm { ipa_bits } => {
                let (device, cmd) = (state.files.first().copied(), realm_abi::kvm::numbers::CREATE_VM);
                self.ioctl_now(state, device, cmd, 0x100 | u64::from(ipa_bits % 64));
            }
            Action::Close { file } => {
                if let Some(fd) = state.file(*file) {
                    self.process.close(fd);
                }
            }
            Action::Discard { offset, pages } => {
                if let Some(ram) = state.maps.get(1) {
                    let offset = u64::from(*offset) << 12 & (RAM_SIZE - 1);
                    let _ = self.process.discard(ram + offset, u64::from(*pages) << 12);
                }
            }
            Action::Signal { file } => {
                if let Some(file) = state.file(*file) {
                    self.process.kick(file);
                }
            }
            Action::Corrupt { offset, mask } => return Some((*offset, *mask)),
            Action::Fault { point, nth } => {
                let (point, value) = match point % 7 {
                    0 => (Point::Alloc, 0),
                    1 => (Point::Pin, Errno::EFAULT.0 as u64),
                    2 => (Point::UserRead, Errno::EFAULT.0 as u64),
                    3 => (Point::UserWrite, Errno::EFAULT.0 as u64),
                    4 => (Point::GtsiDelegate, -3_i64 as u64),
                    5 => (Point::RmiBefore, 1),
                    _ => (Point::GtsiUndelegate, -3_i64 as u64),
                };
                state.losing |= matches!(point, Point::GtsiUndelegate | Point::RmiBefore);
                let faults = self.world.machine.faults();
                faults.fail_nth(point, faults.count(point) + u64::from(*nth), value);
            }
        }
        None
    }

    fn with_argument(&self, state: &mut State, cmd: u32, file: u8, argument: &Argument) {
        let arg = match argument {
            Argument::Value(value) => *value,
            Argument::Bytes(bytes) => self.put(state, 0, bytes),
        };
        let fd = state.file(file);
        self.ioctl_now(state, fd, cmd, arg);
    }

    /// Does the steps that are due before an ioctl of the VMM.
    fn meddle(&self, arg: u64) {
        let mut state = self.state.lock().expect("no panic was survived");
        let state = &mut *state;
        while let Some(step) = &mut state.next {
            if step.after % 8 > 0 {
                step.after -= 1;
                return;
            }
            let step = std::mem::replace(&mut state.next, state.steps.next()).expect("a step is due");
            if let Some((offset, mask)) = self.act(state, &step.action) {
                let mut byte = [0];
                let at = arg.wrapping_add(offset.into());
                if self.process.read(at, &mut byte).is_ok() {
                    let _ = self.process.write(at, &[byte[0] ^ mask]);
                }
            }
        }
    }
}

impl System for Meddler<'_> {
    fn map(&self, size: u64) -> Result<u64, Errno> {
        let addr = self.process.map(size)?;
        self.state.lock().expect("no panic was survived").maps.push(addr);
        Ok(addr)
    }
    fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno> {
        self.process.unmap(addr, size)
    }
    fn discard(&self, addr: u64, size: u64) -> Result<(), Errno> {
        self.process.discard(addr, size)
    }
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        self.process.read(addr, out)
    }
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.process.write(addr, bytes)
    }
    fn open_device(&self) -> Result<Fd, Errno> {
        let fd = self.process.open_device()?;
        self.state.lock().expect("no panic was survived").files.push(fd);
        Ok(fd)
    }
    fn ioctl(&self, fd: Fd, cmd: u32, arg: u64) -> Result<i64, Errno> {
        self.meddle(arg);
        let result = self.process.ioctl(fd, cmd, arg)?;
        let ioctl = Ioctl::TABLE.iter().find(|(_, known, _)| *known == cmd).map(|(_, _, ioctl)| *ioctl);
        if let Some(Ioctl::CreateVm | Ioctl::CreateVcpu | Ioctl::CreateGuestMemfd) = ioctl {
            self.state.lock().expect("no panic was survived").files.push(Fd(result as i32));
        }
        Ok(result)
    }
    fn map_run(&self, vcpu: Fd, size: u64) -> Result<u64, Errno> {
        self.process.map_run(vcpu, size)
    }
    fn kick(&self, vcpu: Fd) {
        self.process.kick(vcpu);
    }
    fn close(&self, fd: Fd) {
        self.process.close(fd);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(input) = structured::<Input>(data) else { return };
    let world = World::default();
    let ops = input.guest;
    world.machine.set_guest(move |guest| {
        for op in &ops {
            op.run(guest);
        }
        system_off(guest);
    });
    if input.failing_allocations >= 4 {
        world.machine.faults().fail_one_in(Point::Alloc, input.failing_allocations.into(), 0);
    }
    let process = world.process();
    let scratch = process.map(0x1000).expect("a page");
    let mut steps = input.steps.into_iter();
    let state =
        State { next: steps.next(), steps, files: Vec::new(), maps: Vec::new(), scratch, losing: false };
    let meddler = Meddler { process: &process, world: &world, state: Mutex::new(state) };
    let plan = guest(if input.two_vcpus { 2 } else { 1 });
    assert!(plan.layout.ram.contains(RAM, RAM_SIZE));
    match RealmVm::build(&meddler, &plan, &SETTINGS, &mut ()) {
        Ok(vm) => {
            let _ = run_for_a_while(&vm);
            let _ = vm.destroy(&mut ());
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    let losing = meddler.state.lock().expect("no panic was survived").losing;
    world.machine.faults().disarm();
    drop(meddler);
    drop(process);
    world.check(losing);
});
