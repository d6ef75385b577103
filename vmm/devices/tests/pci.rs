//! The host bridge, configuration space, base address registers and MSI-X as a driver sees them.

mod driver;

use driver::{BASIC, CONSOLE, Driver, EVENT_IDX, FRAME, Machine, RNG, WINDOWS};

#[test]
fn the_bus_has_two_functions_and_all_bits_set_elsewhere() {
    let machine = Machine::new();
    assert_eq!(machine.read(Machine::config(CONSOLE, 0), 4), 0x1043_1af4);
    assert_eq!(machine.read(Machine::config(RNG, 0), 4), 0x1044_1af4);
    assert_eq!(machine.read(Machine::config(RNG, 0x2c), 4), 0x1044_1af4);
    assert_eq!(machine.read(Machine::config(CONSOLE, 8), 4), 0x0780_0001);
    assert_eq!(machine.read(Machine::config(CONSOLE, 0x3c), 2), 0, "no interrupt pin");
    assert_eq!(machine.read(Machine::config(RNG, 0xe), 1), 0, "one function");
    for function in 1..8 {
        assert_eq!(machine.read(Machine::config(CONSOLE, function << 12), 4), 0xffff_ffff);
    }
    for device in 2..32 {
        assert_eq!(machine.read(Machine::config(device, 0), 4), 0xffff_ffff);
        machine.write(Machine::config(device, 4), 2, 6);
    }
    assert_eq!(machine.read(Machine::config(CONSOLE, 0x100), 4), 0xffff_ffff, "256 bytes");
    let mut byte = [0];
    assert!(!machine.host.read(WINDOWS.config_base - 1, &mut byte));
    assert!(!machine.host.read(WINDOWS.config_base + (1 << 20), &mut byte), "one bus");
    let mut word = [0; 4];
    assert!(!machine.host.read(WINDOWS.memory_base + WINDOWS.memory_size - 2, &mut word));
    assert!(!machine.host.read(u64::MAX, &mut word));
}

#[test]
fn memory_answers_where_the_register_points_while_the_command_says_so() {
    let machine = Machine::new();
    let common = WINDOWS.memory_base;
    assert_eq!(machine.read(common + 0x12, 2), 0xffff, "memory space is off");
    machine.write(Machine::config(CONSOLE, 4), 2, 2);
    assert_eq!(machine.read(common + 0x12, 2), 6, "queues of two ports and control");
    machine.write(Machine::config(CONSOLE, 0x10), 4, common + 0x10_0000);
    assert_eq!(machine.read(common + 0x12, 2), 0xffff);
    assert_eq!(machine.read(common + 0x10_0000 + 0x12, 2), 6);
    machine.write(Machine::config(CONSOLE, 0x10), 4, 0xffff_ffff);
    assert_eq!(machine.read(Machine::config(CONSOLE, 0x10), 4), 0xffff_c000, "16 KiB of 32-bit memory");
    assert_eq!(machine.read(Machine::config(CONSOLE, 0x14), 4), WINDOWS.memory_base + 0x4000);
    machine.write(Machine::config(CONSOLE, 0x14), 4, 0xffff_ffff);
    assert_eq!(machine.read(Machine::config(CONSOLE, 0x14), 4), 0xffff_f000);
    for bar in [0x18, 0x1c, 0x20, 0x24, 0x30] {
        machine.write(Machine::config(CONSOLE, bar), 4, 0xffff_ffff);
        assert_eq!(machine.read(Machine::config(CONSOLE, bar), 4), 0);
    }
}

#[test]
fn an_access_across_the_end_of_a_register_is_nobodys() {
    let machine = Machine::new();
    machine.write(Machine::config(CONSOLE, 4), 2, 2);
    assert_eq!(machine.read(WINDOWS.memory_base + 0x3ffe, 4), 0xffff_ffff, "its other half is MSI-X");
    assert_eq!(machine.read(WINDOWS.memory_base + 0x3ffc, 4), 0);
}

#[test]
fn a_request_ends_in_the_interrupt_of_its_vector() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let buffer = machine.allocate(64);
    driver.send(&mut rings[0], &[(buffer, 64, true)]);
    assert_eq!(machine.take_spis(), [driver.spi(0)]);
    assert_eq!(machine.read(driver.isr, 1), 0, "messages need no status");
}

#[test]
fn a_masked_vector_waits_in_the_pending_bits() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let buffer = machine.allocate(64);
    machine.write(driver.msix_table + 16 + 12, 4, 1);
    driver.send(&mut rings[0], &[(buffer, 64, true)]);
    assert_eq!((machine.take_spis(), machine.read(driver.pending, 8)), (vec![], 2));
    machine.write(driver.msix_table + 16 + 12, 4, 0);
    assert_eq!((machine.take_spis(), machine.read(driver.pending, 8)), (vec![driver.spi(0)], 0));

    machine.write(driver.msix_control, 2, 0xc000);
    driver.send(&mut rings[0], &[(buffer, 64, true)]);
    assert_eq!((machine.take_spis(), machine.read(driver.pending, 8)), (vec![], 2));
    machine.write(driver.msix_control, 2, 0x8000);
    assert_eq!(machine.take_spis(), [driver.spi(0)]);
}

#[test]
fn without_bus_mastering_nothing_reaches_memory() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let buffer = machine.allocate(8);
    machine.write(Machine::config(RNG, 4), 2, 2);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!((rings[0].take(), machine.peek(buffer, 8)), (None, vec![0; 8]));
    machine.write(Machine::config(RNG, 4), 2, 6);
    assert_eq!(rings[0].take(), Some((0, 8)), "it is done as soon as it may");
    assert_eq!(machine.take_spis(), [driver.spi(0)]);
}

#[test]
fn without_msix_the_status_says_what_happened_and_no_interrupt_comes() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    machine.write(driver.msix_control, 2, 0);
    let buffer = machine.allocate(8);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert!(machine.take_spis().is_empty());
    assert_eq!(machine.read(Machine::config(RNG, 6), 2), 0x18, "interrupt status");
    assert_eq!(machine.read(driver.isr, 1), 1);
    assert_eq!(machine.read(driver.isr, 1), 0, "a read clears it");
    assert_eq!(machine.read(Machine::config(RNG, 6), 2), 0x10);
}

#[test]
fn a_message_to_elsewhere_or_of_another_interrupt_is_lost() {
    let machine = Machine::new();
    let (driver, mut rings) = Driver::start(&machine, RNG, BASIC);
    let (entry, buffer) = (driver.msix_table + 16, machine.allocate(8));
    for (address, data) in
        [(FRAME.base, 65), (FRAME.base + 0x40, 27), (FRAME.base + 0x40, 33), (0x8000_0000, 65)]
    {
        machine.write(entry, 8, address);
        machine.write(entry + 8, 4, data);
        driver.send(&mut rings[0], &[(buffer, 8, true)]);
        assert!(rings[0].take().is_some() && machine.take_spis().is_empty());
    }
    machine.write(entry, 8, (FRAME.base + 0x40) | driver::RAM.alias_bit);
    machine.write(entry + 8, 4, 100);
    driver.send(&mut rings[0], &[(buffer, 8, true)]);
    assert_eq!(machine.take_spis(), [100], "the shared alias is the frame, too");
}

#[test]
fn a_vector_that_is_not_there_reads_back_as_none() {
    let machine = Machine::new();
    let mut driver = Driver::probe(&machine, RNG);
    driver.negotiate(BASIC);
    for (offset, vector, expected) in [(0x10, 1, 1), (0x10, 2, 0xffff), (0x1a, 0, 0), (0x1a, 0x8001, 0xffff)]
    {
        driver.set(offset, 2, vector);
        assert_eq!(driver.get(offset, 2), expected);
    }
}

#[test]
fn the_window_in_configuration_space_reaches_the_structures() {
    let machine = Machine::new();
    let driver = Driver::probe(&machine, CONSOLE);
    let at = |offset| Machine::config(CONSOLE, driver.window + offset);
    let point = |bar, offset, len| {
        machine.write(at(4), 1, bar);
        machine.write(at(8), 4, offset);
        machine.write(at(12), 4, len);
    };
    point(0, 0x12, 2);
    assert_eq!(machine.read(at(16), 4), 6, "num_queues");
    point(0, 0x14, 1);
    machine.write(at(16), 1, 3);
    assert_eq!((driver.status(), machine.read(at(16), 4)), (3, 3));
    point(0, 0x2000, 4);
    assert_eq!(machine.read(at(16), 4), 80 | 24 << 16, "the console's size");
    point(1, 4, 4);
    machine.write(at(16), 4, 0x1234);
    assert_eq!(machine.read(driver.msix_table + 4, 4), 0x1234);
    for (bar, offset, len) in
        [(0, 0x4000, 4), (1, 0x1000, 1), (2, 0, 4), (0, 1, 2), (0, 0x14, 3), (0, u32::MAX.into(), 4)]
    {
        point(bar, offset, len);
        machine.write(at(16), 4, 0x8080_8080);
        assert_eq!(machine.read(at(16), 4), 0x8080_8080, "it is nothing but memory");
    }
    assert_eq!(driver.status(), 3);
}

#[test]
fn suppressed_interrupts_do_not_come() {
    for features in [BASIC, BASIC | EVENT_IDX] {
        let machine = Machine::new();
        let (driver, mut rings) = Driver::start(&machine, RNG, features);
        let buffer = machine.allocate(8);
        rings[0].set_interrupts(false);
        driver.send(&mut rings[0], &[(buffer, 8, true)]);
        assert!(rings[0].take().is_some() && machine.take_spis().is_empty());
        rings[0].set_interrupts(true);
        driver.send(&mut rings[0], &[(buffer, 8, true)]);
        assert_eq!(machine.take_spis(), [driver.spi(0)]);
    }
}
