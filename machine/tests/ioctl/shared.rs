//! Memory of the process in the realm's hands: 2 MiB with one entry where the process maps them as one, page by page
//! otherwise; and what is left of a block when a part of it goes.

use crate::run::run_to_the_end;
use crate::vmm::{RAM, SHARED, Stage, Vmm};
use realm_abi::Errno;
use realm_abi::kvm::{ExitReason, UserMemoryRegion2};
use realm_abi::rmi::{ReturnCode, RmiCommand, RttEntryState};
use realm_machine::config::ClockKind;
use realm_machine::fault::Point;
use realm_machine::memory::Pas;
use realm_machine::trace::HostEvent;
use realm_machine::{Guest, Machine, MachineConfig};
use realm_vmm::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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
fn a_block_loses_pages_while_the_realm_reads_the_rest() {
    /// Pages the process discards.
    const ROUNDS: u64 = 24;
    static GONE: AtomicU64 = AtomicU64::new(0);
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for shift in SHIFTS {
        let page = 1_u64 << shift;
        GONE.store(0, Ordering::SeqCst);
        SEEN.store(0, Ordering::SeqCst);
        let vmm = active(shift, move |guest| {
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC));
            step(guest);
            for round in 1..=ROUNDS {
                let at = SHARED + PART + round * page;
                while GONE.load(Ordering::SeqCst) < round {
                    assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC));
                    let either = guest.read::<u64>(at).expect("shared");
                    assert!(either == round || either == 0, "{either}");
                }
                assert_eq!(guest.read::<u64>(at), Ok(0), "the old page is out of reach");
                guest.write::<u64>(at, MAGIC + round).expect("the new one is not");
                SEEN.store(round, Ordering::SeqCst);
            }
        });
        let memory = vmm.ram + (PART - RAM);
        vmm.set_private(PART, BLOCK, false).expect("shared");
        vmm.write_u64(memory, MAGIC);
        (1..=ROUNDS).for_each(|round| vmm.write_u64(memory + round * page, round));
        vmm.run_a_step();
        assert_eq!(vmm.entry(PART).0, 2);
        thread::scope(|scope| {
            scope.spawn(|| run_to_the_end(&vmm, 0));
            for round in 1..=ROUNDS {
                while SEEN.load(Ordering::SeqCst) < round - 1 {
                    thread::yield_now();
                }
                vmm.process.discard(memory + round * page, page).expect("a page goes");
                GONE.store(round, Ordering::SeqCst);
            }
        });
        for round in 1..=ROUNDS {
            assert_eq!(vmm.read_u64(memory + round * page), MAGIC + round);
        }
        vmm.end();
    }
}

#[test]
fn a_block_goes_as_a_whole_when_there_is_no_memory_to_split_it() {
    for shift in SHIFTS {
        let page = 1_u64 << shift;
        let vmm = active(shift, move |guest| {
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC));
            step(guest);
            assert_eq!(guest.read::<u64>(SHARED + PART), Ok(MAGIC), "it comes back");
            assert_eq!(guest.read::<u64>(SHARED + PART + page), Ok(0), "what was dropped does not");
            step(guest);
        });
        let memory = vmm.ram + (PART - RAM);
        vmm.set_private(PART, BLOCK, false).expect("shared");
        vmm.write_u64(memory, MAGIC);
        vmm.write_u64(memory + page, 1);
        vmm.run_a_step();
        assert_eq!(vmm.entry(PART).0, 2);
        let create = RmiCommand::RttCreate { rd: 0, rtt: 0, ipa: 0, level: 3 };
        vmm.machine.faults().reset();
        vmm.machine.faults().fail_from(Point::Alloc, 0, 0);
        // Granules the Host core has in reserve must not help.
        vmm.machine.faults().fail_from(Point::RmiCommandBefore(create.fid()), 0, 1);
        vmm.process.discard(memory + page, page).expect("the page goes all the same");
        assert!(vmm.machine.faults().fired() > 0);
        vmm.machine.faults().disarm();
        assert_eq!(vmm.entry(PART), (2, None));
        vmm.run_a_step();
        assert_eq!(vmm.entry(PART).0, 3, "the huge page is split");
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
    vmm.process.discard(vmm.ram + (PART - RAM), BLOCK).expect("the block goes");
    assert_eq!(vmm.entry(PART).1, None);
    vmm.run_a_step();
    assert_eq!(vmm.entry(PART).0, 2);
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_part_that_may_not_be_written_is_not_shared_any_more() {
    let vmm = active(12, |guest| {
        guest.write::<u64>(SHARED + PART + BLOCK - 8, MAGIC).expect("shared");
        step(guest);
        assert_eq!(guest.read::<u64>(SHARED + PART + BLOCK - 8), Ok(MAGIC), "the rest");
        guest.read::<u64>(SHARED + PART).expect("when it may be written again");
    });
    let memory = vmm.ram + (PART - RAM);
    vmm.set_private(PART, BLOCK, false).expect("shared");
    vmm.run_a_step();
    assert_eq!(vmm.entry(PART).0, 2);
    vmm.process.protect(memory, 0x1000, false).expect("a page is protected");
    assert_eq!(vmm.run(0), Err(Errno::EFAULT));
    let fault = vmm.exit(0).memory_fault();
    assert_eq!((fault.gpa, fault.size, fault.flags), (PART, 0x1000, 0));
    assert_eq!((vmm.entry(PART), vmm.entry(PART + 0x1000).0), ((3, None), 3));
    vmm.process.protect(memory, 0x1000, true).expect("and not any more");
    run_to_the_end(&vmm, 0);
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
fn a_realm_that_keeps_memory_of_the_process_never_runs_again() {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    for shift in SHIFTS {
        let page = 1_u64 << shift;
        WRITTEN.store(0, Ordering::SeqCst);
        let vmm = active(shift, |guest| {
            for value in 1.. {
                guest.write::<u64>(SHARED + PART, value).expect("shared");
                WRITTEN.store(value, Ordering::SeqCst);
            }
        });
        vmm.set_private(PART, BLOCK, false).expect("shared");
        thread::scope(|scope| {
            let runner = scope.spawn(|| vmm.run(0));
            while WRITTEN.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let pa = vmm.entry(PART).1.expect("it is mapped");
            let content = || {
                let mut bytes = [0; 8];
                let memory = vmm.machine.memory();
                memory.read(Pas::NonSecure, Pas::NonSecure, pa, &mut bytes).expect("Non-secure memory");
                bytes
            };
            let unmap = RmiCommand::RttUnmapUnprotected { rd: 0, ipa: 0, level: 3 };
            vmm.machine.faults().fail_from(
                Point::RmiCommandBefore(unmap.fid()),
                0,
                ReturnCode::ERROR_INPUT.0,
            );
            vmm.process.discard(vmm.ram + (PART - RAM), page).expect("the process is not asked");
            let left = content();
            assert_eq!(vmm.entry(PART), (2, Some(pa)), "the RMM did not let go");
            assert_eq!(runner.join().expect("the thread ends"), Err(Errno::EIO));
            assert_eq!(content(), left, "nobody wrote since");
        });
        let entries = || vmm.machine.trace().commands()["RMI_REC_ENTER"];
        let before = entries();
        assert_eq!((vmm.run(0), entries()), (Err(Errno::EIO), before));
        vmm.machine.faults().disarm();
        vmm.end();
    }
}
