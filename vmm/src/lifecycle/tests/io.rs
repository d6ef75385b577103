//! Devices as a vCPU's exits and a person reach them.

use super::*;

#[test]
fn a_read_of_a_device_is_answered_in_its_size() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    for len in [1, 2, 4, 8] {
        kernel.script(Ok(0), access(0x4010_0000, len, None));
    }
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!(lock(&kernel.state).entered_with, [0, 0xf4, 0x1af4, 0x1043_1af4, 0x0010_0000_1043_1af4]);
    kernel.script(Ok(0), access(0x4010_0000, 3, None));
    assert!(matches!(vm.run_vcpu(0), Err(VmError::Exit { vcpu: 0, .. })));
    kernel.script(Ok(0), access(0x4010_0000, 9, Some(0)));
    assert!(matches!(vm.run_vcpu(0), Err(VmError::Exit { vcpu: 0, .. })));
}

#[test]
fn a_message_is_an_edge_of_its_interrupt() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Ok(0), access(0x4000_0040, 4, Some(70)));
    kernel.script(Ok(0), access(0x4000_0040, 4, Some(32)));
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    let calls = ["KVM_RUN", "KVM_IRQ_LINE 0x1000046=1", "KVM_IRQ_LINE 0x1000046=0", "KVM_RUN", "KVM_RUN"];
    assert_eq!(kernel.take_calls(), calls, "32 is the UART's, not a message's");
}

#[test]
fn an_interrupt_that_cannot_be_raised_ends_the_vcpu() {
    let kernel = FakeKernel::new(Some(31));
    let vm = RealmVm::build(&kernel, &guest(), &SETTINGS, &mut ()).unwrap();
    kernel.script(Ok(0), access(0x4000_0040, 4, Some(70)));
    assert!(matches!(
        vm.run_vcpu(0),
        Err(VmError::Ioctl { call: Call { ioctl: Ioctl::IrqLine, .. }, errno: Errno::ENOMEM })
    ));
}

/// Where the test of hvc0 has its queues, with the bit that says shared.
const RINGS: u64 = 0x8030_0000 | 1 << 32;

/// What a driver does to have hvc0: memory and bus mastering, MSI-X for two queues, features, two queues of 4 descriptors.
fn bring_up_hvc(kernel: &FakeKernel) {
    let (config, common, msix) = (0x4010_0000, 0x5000_0000_u64, 0x5000_4000_u64);
    let mut writes = vec![(config + 4, 2, 6), (config + 0x42, 2, 0x8000)];
    for vector in 0..2 {
        let entry = msix + 16 * vector;
        writes.extend([(entry, 4, 0x4000_0040), (entry + 8, 4, 64 + vector), (entry + 12, 4, 0)]);
    }
    writes.extend([(common + 0x14, 1, 3), (common + 8, 4, 1), (common + 12, 4, 3), (common + 0x14, 1, 11)]);
    for queue in 0..2 {
        let at = RINGS + 0x1000 * queue;
        writes.extend([(common + 0x16, 2, queue), (common + 0x18, 2, 4), (common + 0x1a, 2, queue)]);
        writes.extend([
            (common + 0x20, 8, at),
            (common + 0x28, 8, at + 0x100),
            (common + 0x30, 8, at + 0x200),
        ]);
        writes.push((common + 0x1c, 2, 1));
    }
    writes.push((common + 0x14, 1, 15));
    for (address, len, value) in writes {
        kernel.script(Ok(0), access(address, len, Some(value)));
    }
    kernel.script(Ok(0), shutdown);
}

#[test]
fn hvc0_reaches_from_a_persons_keys_to_the_screen() {
    #[derive(Clone, Default)]
    struct Screen(std::sync::Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    let screen = Screen::default();
    vm.show_hvc(Box::new(screen.clone()));
    let place = |queue: u64, offset: u64| vm.shared_ram + 0x30_0000 + 0x1000 * queue + offset;
    // A buffer of 16 bytes to the realm, and "# " from it.
    for (queue, len, flags) in [(0_u64, 16_u32, 2_u16), (1, 2, 0)] {
        let buffer = (RINGS + 0x1000 * queue + 0x800).to_le_bytes();
        let descriptor = [&buffer[..], &len.to_le_bytes(), &flags.to_le_bytes(), &[0; 2]].concat();
        kernel.write(place(queue, 0), &descriptor).unwrap();
        kernel.write(place(queue, 0x102), &[1, 0]).unwrap();
    }
    kernel.write(place(1, 0x800), b"# ").unwrap();

    bring_up_hvc(&kernel);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!((vm.hvc_output(), lock(&screen.0).clone()), (b"# ".to_vec(), b"# ".to_vec()));
    let interrupts = |calls: Vec<String>| {
        let lines = calls.into_iter().filter_map(|call| Some(call.strip_prefix("KVM_IRQ_LINE ")?.to_owned()));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(interrupts(kernel.take_calls()), ["0x1000041=1", "0x1000041=0"]);

    assert_eq!(vm.type_in_hvc(b"ls\n"), Ok(3));
    assert_eq!(interrupts(kernel.take_calls()), ["0x1000040=1", "0x1000040=0"]);
    let (mut used, mut text) = ([0; 8], [0; 3]);
    kernel.read(place(0, 0x204), &mut used).unwrap();
    kernel.read(place(0, 0x800), &mut text).unwrap();
    assert_eq!((used, &text), ([0, 0, 0, 0, 3, 0, 0, 0], b"ls\n"));
    assert_eq!((vm.resize_hvc(100, 40), vm.resume_hvc(), vm.verdict()), (Ok(()), Ok(()), vec![]));
    assert!(vm.output().is_empty(), "the UART is another");
}

#[test]
fn what_a_device_has_left_is_done_before_the_vcpu_goes_on() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    bring_up_hvc(&kernel);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    let output = vm.shared_ram + 0x30_1000;
    let descriptor = [&RINGS.to_le_bytes()[..], &[1, 0, 0, 0], &[0; 4]].concat();
    kernel.write(output, &descriptor).unwrap();
    // The first chain, and one more for each that is given back, more than a device takes at once.
    kernel.write(output + 0x102, &[1, 0]).unwrap();
    lock(&kernel.state).refill = (output + 0x202, output + 0x102, 999);
    kernel.script(Ok(0), access(0x5000_3004, 2, Some(1)));
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!(vm.hvc_output().len(), 1000);
}
