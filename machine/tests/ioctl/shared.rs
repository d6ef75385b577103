//! Memory of the process in the realm's hands: 2 MiB with one entry where the process maps them as one, page by page
//! otherwise; and what is left of a block when a part of it goes.

use crate::run::run_to_the_end;
use crate::vmm::{RAM, SHARED, Stage, Vmm};
use realm_abi::Errno;
use realm_abi::kvm::{ExitReason, UserMemoryRegion2};
use realm_abi::rmi::{ReturnCode, RmiCommand, RttEntryState};
use realm_host::Limits;
use realm_host::host::Owner;
use realm_machine::config::ClockKind;
use realm_machine::fault::Point;
use realm_machine::host::MachineHost;
use realm_machine::trace::HostEvent;
use realm_machine::{Guest, Machine, MachineConfig};
use realm_vmm::System;
use std::sync::Arc;

const BLOCK: u64 = 2 << 20;
/// A block of RAM that these tests make shared.
const PART: u64 = RAM + 2 * BLOCK;
/// Memory without a private side.
const SLOT: u64 = 0x1000_0000;
const SLOT_SIZE: u64 = 2 * BLOCK;
/// An address no slot covers: an access is the realm's word that it got so far.
const DEVICE: u64 = 0x0100_0000;
const MAGIC: u64 = 0x5eed;
/// log2 of the Host's pages: granules, and as large as they come.
const SHIFTS: [u32; 2] = [12, 16];

/// An active realm on a Host with pages of `1 << shift` bytes.
fn active(shift: u32, body: impl Fn(&mut Guest) + Send + Sync + 'static) -> Vmm {
    let config = MachineConfig {
        clock: ClockKind::Manual,
        host_page_shift: shift,
        record_host_view: true,
        ..MachineConfig::new(64 << 20, 4)
    };
    let machine = Machine::new(config).expect("a valid size");
    machine.set_guest(body);
    Vmm::at(&machine, Stage::Active, 1)
}

fn step(guest: &mut Guest) {
    guest.write::<u8>(SHARED + DEVICE, 0).expect("the VMM sees this");
}

impl Vmm {
    fn page_size(&self) -> u64 {
        1 << self.machine.config().host_page_shift
    }

    /// Adds the slot at [`SLOT`].
    fn add_shared_slot(&self, userspace_addr: u64) {
        let slot = UserMemoryRegion2 { userspace_addr, ..self.slot(1, SLOT, SLOT_SIZE, None) };
        self.set_slot(&slot).expect("a slot without a private side");
    }

    /// Runs the realm up to its next [`step`].
    fn run_a_step(&self) {
        assert_eq!(self.run(0), Ok(0));
        let exit = self.exit(0);
        assert_eq!((exit.exit_reason, exit.mmio().phys_addr), (ExitReason::MMIO, DEVICE));
    }

    fn rd(&self) -> u64 {
        let realm_create = |event: &HostEvent| match event {
            HostEvent::Smc { regs, .. } => match RmiCommand::from_regs(regs) {
                RmiCommand::RealmCreate { rd, .. } => Some(rd),
                _ => None,
            },
            _ => None,
        };
        self.machine.trace().events().iter().find_map(realm_create).expect("a realm was created")
    }

    /// The level of the entry for the unprotected alias of `ipa` and the physical address it maps `ipa` to, if it does
    /// (RMI_RTT_READ_ENTRY).
    fn entry(&self, ipa: u64) -> (i64, Option<u64>) {
        let reply =
            self.machine.rmi(&RmiCommand::RttReadEntry { rd: self.rd(), ipa: SHARED + ipa, level: 3 });
        let (level, state, desc, _) = reply.read_entry();
        let size = if level == 2 { BLOCK } else { 0x1000 };
        let base = desc & 0xffff_ffff_f000;
        (level, (state == RttEntryState::ASSIGNED).then_some(base + ipa % size))
    }

    fn read_u64(&self, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        self.process.read(addr, &mut bytes).expect("the process's memory");
        u64::from_le_bytes(bytes)
    }

    fn write_u64(&self, addr: u64, value: u64) {
        self.process.write(addr, &value.to_le_bytes()).expect("the process's memory");
    }
}

#[test]
fn a_huge_page_is_shared_as_a_block() {
    for shift in SHIFTS {
        let vmm = active(shift, |guest| {
            step(guest);
            guest.write::<u64>(SHARED + SLOT + 0x1_3008, MAGIC).expect("a first access");
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + SLOT + BLOCK - 8), Ok(MAGIC + 1));
        });
        vmm.run_a_step();
        let memory = vmm.process.map(SLOT_SIZE).expect("memory");
        vmm.add_shared_slot(memory);
        vmm.run_a_step();
        let (level, first) = vmm.entry(SLOT);
        assert_eq!((level, vmm.entry(SLOT + BLOCK - 0x1000)), (2, (2, first.map(|pa| pa + BLOCK - 0x1000))));
        assert_eq!(vmm.read_u64(memory + 0x1_3008), MAGIC);
        assert_eq!(vmm.entry(SLOT + BLOCK).1, None, "the next block was not touched");
        vmm.write_u64(memory + BLOCK - 8, MAGIC + 1);
        run_to_the_end(&vmm, 0);
        assert_eq!(vmm.machine.trace().commands()["RMI_RTT_MAP_UNPROTECTED"], 1);
        vmm.end();
    }
}

/// A reason why [`SLOT`] is not shared by blocks.
struct Obstacle {
    name: &'static str,
    prepare: fn(&Vmm),
}

const OBSTACLES: &[Obstacle] = &[
    Obstacle {
        name: "the process maps pages",
        prepare: |vmm| vmm.add_shared_slot(vmm.process.map_without_huge_pages(SLOT_SIZE).expect("memory")),
    },
    Obstacle {
        name: "the user address is aligned otherwise",
        prepare: |vmm| {
            let memory = vmm.process.map(SLOT_SIZE + BLOCK).expect("memory");
            vmm.add_shared_slot(memory + vmm.page_size());
        },
    },
    Obstacle {
        name: "the slot begins in the block",
        prepare: |vmm| {
            let page = vmm.page_size();
            let userspace_addr = vmm.process.map(SLOT_SIZE).expect("memory") + page;
            let slot = vmm.slot(1, SLOT + page, SLOT_SIZE - page, None);
            vmm.set_slot(&UserMemoryRegion2 { userspace_addr, ..slot }).expect("a slot");
        },
    },
    Obstacle {
        name: "the slot ends in the block",
        prepare: |vmm| {
            let userspace_addr = vmm.process.map(SLOT_SIZE).expect("memory");
            let slot = vmm.slot(1, SLOT, BLOCK - vmm.page_size(), None);
            vmm.set_slot(&UserMemoryRegion2 { userspace_addr, ..slot }).expect("a slot");
        },
    },
    Obstacle {
        name: "the last page is private",
        prepare: |vmm| {
            let userspace_addr = vmm.process.map(SLOT_SIZE).expect("memory");
            let slot = vmm.slot(1, SLOT, SLOT_SIZE, Some(vmm.memfd(SLOT_SIZE)));
            vmm.set_slot(&UserMemoryRegion2 { userspace_addr, ..slot }).expect("a slot");
            let page = vmm.page_size();
            vmm.set_private(SLOT + BLOCK - page, page, true).expect("private");
        },
    },
    Obstacle {
        name: "the process discarded a page of it",
        prepare: |vmm| {
            let memory = vmm.process.map(SLOT_SIZE).expect("memory");
            vmm.write_u64(memory, 1);
            vmm.process.discard(memory + BLOCK / 2, vmm.page_size()).expect("a page goes");
            vmm.add_shared_slot(memory);
        },
    },
    Obstacle {
        name: "the process write-protected a page of it",
        prepare: |vmm| {
            let memory = vmm.process.map(SLOT_SIZE).expect("memory");
            vmm.process.protect(memory + BLOCK / 2, 1, false).expect("a page is protected");
            vmm.add_shared_slot(memory);
        },
    },
];

#[test]
fn pages_are_shared_where_a_block_is_not_possible() {
    for (shift, Obstacle { name, prepare }) in
        SHIFTS.iter().flat_map(|shift| OBSTACLES.iter().map(move |o| (*shift, o)))
    {
        let page = 1 << shift;
        let touched = SLOT + page;
        let vmm = active(shift, move |guest| {
            step(guest);
            guest.write::<u64>(SHARED + touched + 8, MAGIC).expect("a first access");
            step(guest);
        });
        vmm.run_a_step();
        prepare(&vmm);
        vmm.run_a_step();
        let (level, pa) = vmm.entry(touched);
        assert_eq!((level, pa.is_some()), (3, true), "{name}");
        assert_eq!(
            vmm.entry(touched + page - 0x1000),
            (3, pa.map(|pa| pa + page - 0x1000)),
            "{name}: a whole page"
        );
        for other in [touched - page, touched + page] {
            assert_eq!(vmm.entry(other).1, None, "{name}: and no other");
        }
        run_to_the_end(&vmm, 0);
        vmm.end();
    }
}

#[test]
fn a_page_of_a_block_becomes_private_and_shared_again() {
    for shift in SHIFTS {
        let page = 1 << shift;
        let there_and_back = PART + 5 * page;
        let vmm = active(shift, move |guest| {
            guest.write::<u64>(SHARED + PART, MAGIC).expect("shared");
            guest.write::<u64>(SHARED + there_and_back, MAGIC + 1).expect("shared");
            step(guest);
            guest.write::<u64>(there_and_back, MAGIC + 2).expect("private");
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC), "the rest is there");
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + there_and_back), Ok(MAGIC + 1), "what the process has");
            step(guest);
        });
        vmm.set_private(PART, BLOCK, false).expect("shared");
        vmm.run_a_step();
        let (level, whole) = vmm.entry(PART);
        assert!(level == 2 && whole.is_some());
        vmm.set_private(there_and_back, page, true).expect("private");
        for at in (PART..PART + BLOCK).step_by(0x1000) {
            let stays = !(there_and_back..there_and_back + page).contains(&at);
            let expected = whole.filter(|_| stays).map(|pa| pa + at - PART);
            assert_eq!(vmm.entry(at), (3, expected), "{at:#x}");
        }
        vmm.run_a_step();
        vmm.set_private(there_and_back, page, false).expect("shared again");
        vmm.run_a_step();
        assert_eq!(vmm.entry(there_and_back), (2, whole.map(|pa| pa + 5 * page)), "a block again");
        run_to_the_end(&vmm, 0);
        vmm.end();
    }
}

#[test]
fn what_the_process_drops_stays_the_realms_until_it_is_unshared() {
    for (shift, huge) in SHIFTS.iter().flat_map(|shift| [(*shift, true), (*shift, false)]) {
        let page = 1_u64 << shift;
        let vmm = active(shift, move |guest| {
            guest.write::<u64>(SHARED + SLOT, MAGIC).expect("shared");
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + SLOT), Ok(MAGIC), "its memory is held");
            guest.write::<u64>(SHARED + SLOT, MAGIC + 1).expect("and can be written");
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + SLOT), Ok(MAGIC + 2), "what the process has now");
        });
        let size = SLOT_SIZE;
        let memory = if huge { vmm.process.map(size) } else { vmm.process.map_without_huge_pages(size) }
            .expect("memory");
        let slot = vmm.slot(1, SLOT, size, Some(vmm.memfd(size)));
        vmm.set_slot(&UserMemoryRegion2 { userspace_addr: memory, ..slot }).expect("a slot");
        vmm.run_a_step();
        let held = if huge { BLOCK / page } else { 1 };
        assert_eq!((vmm.device.host().pinned(), vmm.entry(SLOT).0), (held, if huge { 2 } else { 3 }));
        vmm.process.discard(memory, page).expect("the process drops it");
        vmm.write_u64(memory, MAGIC + 2);
        vmm.run_a_step();
        assert_eq!(vmm.read_u64(memory), MAGIC + 2, "the realm writes where its memory is");
        vmm.set_private(SLOT, page, true).expect("unshared");
        assert_eq!((vmm.device.host().pinned(), vmm.entry(SLOT).1), (held - 1, None), "only that page goes");
        vmm.set_private(SLOT, page, false).expect("shared again");
        run_to_the_end(&vmm, 0);
        vmm.end();
    }
}

#[test]
fn memory_that_is_shared_is_not_moved_and_not_given_to_others() {
    let config = MachineConfig { clock: ClockKind::Manual, reclaim: true, ..MachineConfig::new(64 << 20, 1) };
    let machine = Machine::new(config).expect("a valid size");
    machine.set_guest(|guest| {
        guest.write::<u64>(SHARED + SLOT, MAGIC).expect("shared");
        step(guest);
        assert_eq!(guest.read::<u64>(SHARED + SLOT), Ok(MAGIC + 1), "both see the same page");
    });
    let vmm = Vmm::at(&machine, Stage::Active, 1);
    let memory = vmm.process.map_without_huge_pages(SLOT_SIZE).expect("memory");
    vmm.add_shared_slot(memory);
    vmm.run_a_step();
    // Each of these allocates, and the Host then moves what it may.
    for _ in 0..3 {
        vmm.memfd(BLOCK);
    }
    vmm.process.ioctl(vmm.vm, realm_abi::kvm::numbers::CREATE_VCPU, 7).expect_err("the GIC runs");
    vmm.set_private(PART, BLOCK, false).expect("shared");
    vmm.write_u64(memory, MAGIC + 1);
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_block_goes_as_a_whole_when_there_is_no_memory_to_split_it() {
    for shift in SHIFTS {
        let page = 1_u64 << shift;
        let vmm = active(shift, move |guest| {
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC));
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC), "it comes back");
            step(guest);
        });
        let memory = vmm.ram + (PART - RAM);
        vmm.set_private(PART, BLOCK, false).expect("shared");
        vmm.write_u64(memory, MAGIC);
        vmm.run_a_step();
        assert_eq!(vmm.entry(PART).0, 2);
        vmm.machine.faults().reset();
        vmm.machine.faults().fail_from(Point::Alloc, 0, 0);
        // The table the Host core has in reserve must not help.
        let create = RmiCommand::RttCreate { rd: 0, rtt: 0, ipa: 0, level: 3 };
        vmm.machine.faults().fail_from(Point::RmiCommandBefore(create.fid()), 0, 1);
        let unshared = vmm.set_private(PART + page, page, true);
        assert!(vmm.machine.faults().fired() > 0);
        vmm.machine.faults().disarm();
        if unshared.is_err() {
            // The RMM refused the table: nothing else was wrong, so it can be tried again.
            vmm.set_private(PART + page, page, true).expect("with memory");
        } else {
            assert_eq!(vmm.entry(PART), (2, None));
        }
        assert_eq!(vmm.entry(PART + page).1, None);
        vmm.run_a_step();
        assert_eq!(vmm.entry(PART).0, 3, "a part of the block is private");
        run_to_the_end(&vmm, 0);
        vmm.end();
    }
}

#[test]
fn a_block_comes_with_new_memory_after_the_process_dropped_all_of_it() {
    let vmm = active(12, |guest| {
        guest.write::<u64>(SHARED + PART, MAGIC).expect("shared");
        step(guest);
        assert_eq!(guest.read::<u64>(SHARED + PART), Ok(0));
        step(guest);
    });
    vmm.set_private(PART, BLOCK, false).expect("shared");
    vmm.run_a_step();
    vmm.set_private(PART, BLOCK, true).expect("unshared");
    vmm.process.discard(vmm.ram + (PART - RAM), BLOCK).expect("the block goes");
    vmm.set_private(PART, BLOCK, false).expect("shared");
    assert_eq!(vmm.entry(PART).1, None);
    vmm.run_a_step();
    assert_eq!(vmm.entry(PART).0, 2);
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_page_that_may_not_be_written_is_not_shared() {
    let vmm = active(12, |guest| {
        guest.write::<u64>(SHARED + PART + BLOCK - 8, MAGIC).expect("shared");
        step(guest);
        guest.read::<u64>(SHARED + PART).expect("when it may be written");
    });
    let memory = vmm.ram + (PART - RAM);
    vmm.set_private(PART, BLOCK, false).expect("shared");
    vmm.write_u64(memory, 1);
    vmm.process.protect(memory, 0x1000, false).expect("a page is protected");
    vmm.run_a_step();
    assert_eq!(vmm.run(0), Err(Errno::EFAULT));
    let fault = vmm.exit(0).memory_fault();
    assert_eq!((fault.gpa, fault.size, fault.flags), (PART, 0x1000, 0));
    assert_eq!((vmm.entry(PART), vmm.entry(PART + 0x1000).0), ((3, None), 3));
    vmm.process.protect(memory, 0x1000, true).expect("and not any more");
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_realm_shares_no_more_than_a_vm_may_hold() {
    let machine = Machine::new(MachineConfig {
        clock: ClockKind::Manual,
        record_host_view: true,
        ..MachineConfig::new(64 << 20, 1)
    })
    .expect("a valid size");
    machine.set_guest(|guest| {
        for page in 0..4 {
            guest.write::<u64>(SHARED + SLOT + page * 0x1000, MAGIC).expect("shared");
        }
        step(guest);
    });
    let limits = Limits { pinned: 3 * 0x1000, ..Limits::default() };
    let vmm = Vmm::with_limits(&machine, Stage::Active, 1, limits);
    let memory = vmm.process.map_without_huge_pages(SLOT_SIZE).expect("memory");
    vmm.add_shared_slot(memory);
    assert_eq!(vmm.run(0), Err(Errno::ENOMEM));
    assert_eq!(vmm.device.host().pinned(), 3);
    let why = vmm.device.host().explanations().pop().expect("it says why");
    assert!(why.contains("a VM may hold in place"), "{why}");
    // The VMM takes some away: there is room again.
    vmm.set_slot(&vmm.slot(1, SLOT, 0, None)).expect("the slot goes");
    assert_eq!(vmm.device.host().pinned(), 0);
    vmm.add_shared_slot(memory);
    vmm.run_a_step();
    vmm.end();
}

#[test]
fn realms_of_a_user_share_no_more_than_a_user_may_hold() {
    let config = MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(128 << 20, 1) };
    let machine = Machine::new(config).expect("a valid size");
    machine.set_guest(|guest| {
        for page in 0..4 {
            guest.write::<u64>(SHARED + SLOT + page * 0x1000, MAGIC).expect("shared");
        }
        step(guest);
    });
    let device = MachineHost::boot_with(
        Arc::clone(&machine),
        Limits { pinned_by_user: 6 * 0x1000, ..Limits::default() },
    );
    let of_user = |user| {
        let owner = Owner { user, privileged: false };
        let vmm = Vmm::of(&machine, device.clone(), owner, Stage::Active, 1);
        vmm.add_shared_slot(vmm.process.map_without_huge_pages(SLOT_SIZE).expect("memory"));
        vmm
    };
    let [first, second, other] = [1000, 1000, 1001].map(of_user);
    first.run_a_step();
    assert_eq!(second.run(0), Err(Errno::ENOMEM), "two pages are left of the user's six");
    let why = device.host().explanations().pop().expect("it says why");
    assert!(why.contains("a user may hold in place"), "{why}");
    other.run_a_step();
    assert_eq!(
        (device.host().pinned(), device.pinned_by(1000), device.pinned_by(1001)),
        (10, 6 << 12, 4 << 12)
    );
    // The first VM goes: there is room again.
    first.process.exit();
    assert_eq!((device.host().pinned(), device.pinned_by(1000)), (6, 2 << 12));
    second.run_a_step();
    other.process.exit();
    assert_eq!((device.host().pinned(), device.pinned_by(1000), device.pinned_by(1001)), (4, 4 << 12, 0));
    drop((device, first, other));
    second.end();
}

#[test]
fn a_range_that_begins_and_ends_inside_of_blocks_is_converted_both_ways() {
    const HALF: u64 = BLOCK / 2;
    const FIRST: u64 = RAM + BLOCK;
    let vmm = active(12, |guest| {
        for block in [0, BLOCK, 2 * BLOCK] {
            guest.write::<u64>(FIRST + block, MAGIC + block).expect("private");
        }
        step(guest);
        let whole = guest.read::<u64>(FIRST);
        assert_eq!((whole, guest.read::<u64>(FIRST + 2 * BLOCK + HALF)), (Ok(MAGIC), Ok(0)), "what stays");
        for block in [0, BLOCK, 2 * BLOCK] {
            guest
                .write::<u64>(SHARED + FIRST + block + if block == 0 { HALF } else { 0 }, 1)
                .expect("shared");
        }
        step(guest);
    });
    vmm.run_a_step();
    // Each of the three blocks is one entry: the first and the last of them have to be split at once.
    let private =
        |ipa| vmm.machine.rmi(&RmiCommand::RttReadEntry { rd: vmm.rd(), ipa, level: 3 }).read_entry();
    for block in [0, BLOCK, 2 * BLOCK] {
        assert_eq!(private(FIRST + block).0, 2, "folded");
    }
    assert_eq!(vmm.set_private(FIRST + HALF, 2 * BLOCK, false), Ok(0));
    assert_eq!([private(FIRST).0, private(FIRST + 2 * BLOCK).0], [3, 3], "split");
    vmm.run_a_step();
    assert_eq!(vmm.set_private(FIRST + HALF, 2 * BLOCK, true), Ok(0));
    vmm.end();
}

#[test]
fn a_slot_that_goes_takes_its_blocks_with_it() {
    let vmm = active(12, |guest| {
        step(guest);
        guest.write::<u64>(SHARED + SLOT, MAGIC).expect("shared");
        step(guest);
        guest.write::<u64>(SHARED + SLOT, MAGIC).expect("a device now");
    });
    vmm.run_a_step();
    let memory = vmm.process.map(SLOT_SIZE).expect("memory");
    vmm.add_shared_slot(memory);
    vmm.run_a_step();
    assert_eq!(vmm.entry(SLOT).0, 2);
    vmm.set_slot(&vmm.slot(1, SLOT, 0, None)).expect("the slot goes");
    assert_eq!(vmm.entry(SLOT).1, None);
    assert_eq!(vmm.run(0), Ok(0));
    assert_eq!((vmm.exit(0).exit_reason, vmm.exit(0).mmio().phys_addr), (ExitReason::MMIO, SLOT));
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn memory_the_rmm_does_not_let_go_of_stays_held() {
    for shift in SHIFTS {
        let page = 1_u64 << shift;
        let vmm = active(shift, |guest| {
            guest.write::<u64>(SHARED + PART, MAGIC).expect("shared");
            step(guest);
        });
        vmm.set_private(PART, BLOCK, false).expect("shared");
        vmm.run_a_step();
        let (entry, held) = (vmm.entry(PART), vmm.device.host().pinned());
        assert_eq!((entry.0, held), (2, BLOCK / page));
        let unmap = RmiCommand::RttUnmapUnprotected { rd: 0, ipa: 0, level: 3 };
        let refusal = ReturnCode::ERROR_INPUT.0;
        vmm.machine.faults().fail_from(Point::RmiCommandBefore(unmap.fid()), 0, refusal);
        assert_eq!(vmm.set_private(PART, BLOCK, true), Err(Errno::ENXIO));
        assert_eq!((vmm.entry(PART), vmm.device.host().pinned()), (entry, held));
        vmm.machine.faults().disarm();
        assert_eq!(vmm.set_private(PART, BLOCK, true), Ok(0));
        assert_eq!((vmm.entry(PART).1, vmm.device.host().pinned()), (None, 0));
        vmm.end();
    }
}
