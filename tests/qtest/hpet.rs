//! The high-precision event timers.

use crate::support::qtest::Machine;

const BASE: u64 = 0xfed0_0000;
const COUNTER: u64 = BASE + 0xf0;

fn timer(number: u64) -> u64 {
    BASE + 0x100 + 0x20 * number
}

fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    // The interval timer is silent.
    machine.outb(0x43, 0x30);
    machine.interrupts();
    machine
}

#[test]
fn it_tells_what_it_is_and_counts_while_it_is_on() {
    let mut machine = machine();
    assert_eq!(machine.readq(BASE), 10_000_000 << 32 | 0x8086_a201);
    machine.step(1000);
    assert_eq!(machine.readq(COUNTER), 0);
    machine.writeq(COUNTER, 0xffff_ffff);
    machine.writel(BASE + 0x10, 1);
    machine.step(1000);
    assert_eq!(machine.readq(COUNTER), 0xffff_ffff + 100);
    assert_eq!((machine.readl(COUNTER), machine.readl(COUNTER + 4)), (99, 1));
    machine.writel(BASE + 0x10, 0);
    machine.step(1000);
    assert_eq!(machine.readq(COUNTER), 0xffff_ffff + 100);
}

#[test]
fn a_comparator_interrupts_once_or_periodically() {
    let mut machine = machine();
    // Timer 1, edge, to input 2, once at 500 ticks.
    machine.writel(timer(1), 2 << 9 | 4);
    machine.writeq(timer(1) + 8, 500);
    machine.writel(BASE + 0x10, 1);
    machine.step(4_999);
    assert_eq!(machine.interrupts(), []);
    machine.step(1);
    assert!(machine.interrupts().contains(&(2, true)));
    machine.step(100_000_000);
    assert!(!machine.interrupts().contains(&(2, true)));
    // Timer 0, periodic, every 100000 ticks.
    machine.writel(BASE + 0x10, 0);
    machine.writel(timer(1), 0);
    machine.writeq(COUNTER, 0);
    // With 32 bits.
    machine.writel(timer(0), 1 << 8 | 2 << 9 | 1 << 6 | 8 | 4);
    machine.writel(timer(0) + 8, 100_000);
    machine.writel(timer(0) + 8, 100_000);
    machine.writel(BASE + 0x10, 1);
    machine.interrupts();
    let mut rises = 0;
    for _ in 0..5 {
        machine.step(1_000_000);
        rises += machine.interrupts().into_iter().filter(|interrupt| *interrupt == (2, true)).count();
    }
    assert_eq!(rises, 5);
}

#[test]
fn a_level_stays_until_it_is_acknowledged() {
    let mut machine = machine();
    machine.writel(timer(2), 2 << 9 | 4 | 2);
    machine.writeq(timer(2) + 8, 10);
    machine.writel(BASE + 0x10, 1);
    machine.interrupts();
    machine.step(100);
    assert_eq!((machine.interrupts(), machine.readl(BASE + 0x20)), (vec![(2, true)], 4));
    machine.writel(BASE + 0x20, 4);
    assert_eq!((machine.interrupts(), machine.readl(BASE + 0x20)), (vec![(2, false)], 0));
}

#[test]
fn legacy_replacement_takes_the_other_timers_lines() {
    let mut machine = machine();
    // The interval timer's periodic interrupt, and the real-time clock's.
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 4), (0x70, 0x0b), (0x71, 0x42)] {
        machine.outb(port, value);
    }
    machine.writel(timer(0), 4);
    machine.writeq(timer(0) + 8, 1_000_000);
    machine.writel(timer(1), 4);
    machine.writeq(timer(1) + 8, 2_000_000);
    machine.writel(BASE + 0x10, 3);
    machine.interrupts();
    machine.step(9_000_000);
    assert_eq!(machine.interrupts(), []);
    machine.step(1_000_000);
    assert!(machine.interrupts().contains(&(0, true)));
    machine.step(10_000_000);
    assert!(machine.interrupts().contains(&(8, true)));
    // They have their lines again.
    machine.writel(BASE + 0x10, 0);
    machine.interrupts();
    machine.step(10_000_000);
    assert!(machine.interrupts().contains(&(0, true)));
}
