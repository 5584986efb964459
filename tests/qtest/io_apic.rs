//! The I/O APIC (Intel 82093AA), seen through the local APIC to which it sends.

use crate::support::qtest::Machine;

const SELECT: u64 = 0xfec0_0000;
const WINDOW: u64 = SELECT + 0x10;
const LOCAL: u64 = 0xfee0_0000;

fn read(machine: &mut Machine, register: u32) -> u32 {
    machine.writel(SELECT, register);
    machine.readl(WINDOW)
}

fn write(machine: &mut Machine, register: u32, value: u32) {
    machine.writel(SELECT, register);
    machine.writel(WINDOW, value);
}

fn entry(machine: &mut Machine, input: u32, value: u32) {
    write(machine, 0x11 + 2 * input, 0);
    write(machine, 0x10 + 2 * input, value);
}

fn set(machine: &mut Machine, input: u32, level: bool) {
    machine.execute(&format!("set_irq_in ioapic in {input} {}", u8::from(level)));
}

/// Vectors that the local APIC was asked for.
fn requested(machine: &mut Machine) -> Vec<u32> {
    (0..256)
        .filter(|vector| machine.readl(LOCAL + 0x200 + u64::from(vector / 32) * 0x10) >> (vector % 32) & 1 != 0)
        .collect()
}

fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.writel(LOCAL + 0xf0, 0x1ff);
    machine
}

#[test]
fn registers_are_reached_through_the_window() {
    let mut machine = machine();
    assert_eq!((read(&mut machine, 1), machine.readl(SELECT)), (0x0017_0020, 1));
    write(&mut machine, 0, 0xffff_ffff);
    assert_eq!((read(&mut machine, 0), read(&mut machine, 2)), (0x0f00_0000, 0x0f00_0000));
    for input in 0..24 {
        assert_eq!(read(&mut machine, 0x10 + 2 * input), 0x0001_0000);
        write(&mut machine, 0x10 + 2 * input, 0xffff_ffff);
        write(&mut machine, 0x11 + 2 * input, 0xffff_ffff);
        assert_eq!(
            (read(&mut machine, 0x10 + 2 * input), read(&mut machine, 0x11 + 2 * input)),
            (0x0001_afff, 0xff00_0000)
        );
    }
    assert_eq!(read(&mut machine, 0x40), 0);
}

#[test]
fn edges_are_sent_once_and_masked_ones_are_lost() {
    let mut machine = machine();
    entry(&mut machine, 5, 0x45);
    entry(&mut machine, 6, 0x1_0046);
    for input in [5, 6] {
        set(&mut machine, input, true);
    }
    assert_eq!(requested(&mut machine), [0x45]);
    entry(&mut machine, 6, 0x46);
    assert_eq!(requested(&mut machine), [0x45]);
    // The timer's line 0 is input 2.
    entry(&mut machine, 2, 0x42);
    set(&mut machine, 0, false);
    set(&mut machine, 0, true);
    assert_eq!(requested(&mut machine), [0x42, 0x45]);
}

#[test]
fn a_level_waits_for_the_end_of_its_interrupt() {
    let mut machine = machine();
    entry(&mut machine, 10, 0x8050);
    set(&mut machine, 10, true);
    assert_eq!((requested(&mut machine), read(&mut machine, 0x24) & 0x4000), (vec![0x50], 0x4000));
    // The trigger mode register of the local APIC has it as a level.
    assert_eq!(machine.readl(LOCAL + 0x180 + 0x20) >> 16 & 1, 1);
    set(&mut machine, 10, false);
    assert_eq!(read(&mut machine, 0x24) & 0x4000, 0x4000);
    machine.writel(SELECT + 0x40, 0x50);
    assert_eq!(read(&mut machine, 0x24) & 0x4000, 0);
}

#[test]
fn logical_destinations_are_matched() {
    let mut machine = machine();
    machine.writel(LOCAL + 0xe0, 0xffff_ffff);
    machine.writel(LOCAL + 0xd0, 0x0200_0000);
    for (input, destination) in [(3, 0x0100_0000), (4, 0x0600_0000)] {
        write(&mut machine, 0x11 + 2 * input, destination);
        write(&mut machine, 0x10 + 2 * input, 0x860 + input);
        set(&mut machine, input, true);
    }
    assert_eq!(requested(&mut machine), [0x64]);
}
