//! Devices that only the riscv64 machine has: PLIC, ACLINT, the Goldfish clock and the test finisher.

use crate::support::qtest::Machine;

const PLIC: u64 = 0xc00_0000;
const CLINT: u64 = 0x200_0000;
const RTC: u64 = 0x10_1000;

fn source(machine: &mut Machine, number: u32, level: bool) {
    machine.execute(&format!("set_irq_in plic in {number} {}", u8::from(level)));
}

/// Machine-mode context of hart 0: outputs 0; its threshold and claim registers.
const CONTEXT: u64 = PLIC + 0x20_0000;

fn plic() -> Machine {
    let mut machine = Machine::riscv64(&[]);
    machine.execute("irq_intercept_out plic");
    machine
}

#[test]
fn the_plic_gives_the_highest_priority_first() {
    let mut machine = plic();
    for (number, priority) in [(3, 1), (5, 7), (6, 7), (40, 2)] {
        machine.writel(PLIC + 4 * number, priority);
        assert_eq!(machine.readl(PLIC + 4 * number), priority);
    }
    machine.writel(PLIC + 0x2000, 1 << 3 | 1 << 5 | 1 << 6);
    machine.writel(PLIC + 0x2004, 1 << 8);
    for number in [3, 40, 6, 5] {
        source(&mut machine, number, true);
    }
    assert_eq!(machine.interrupts(), [(0, true)]);
    assert_eq!((machine.readl(PLIC + 0x1000), machine.readl(PLIC + 0x1004)), (0x68, 0x100));
    // Equal priorities: the lower number. Claimed ones are no longer pending.
    for number in [5, 6, 40, 3, 0] {
        assert_eq!(machine.readl(CONTEXT + 4), number);
    }
    assert_eq!((machine.interrupts(), machine.readl(PLIC + 0x1000)), (vec![(0, false)], 0));
    // Completed while the line is up: again.
    machine.writel(CONTEXT + 4, 5);
    assert_eq!(machine.interrupts(), [(0, true)]);
    source(&mut machine, 5, false);
    assert_eq!(machine.readl(CONTEXT + 4), 5);
    machine.writel(CONTEXT + 4, 5);
    assert_eq!(machine.readl(CONTEXT + 4), 0);
}

#[test]
fn the_plics_threshold_and_enables_hold_back() {
    let mut machine = plic();
    machine.writel(PLIC + 4 * 9, 3);
    machine.writel(CONTEXT, 3);
    machine.writel(PLIC + 0x2000, 1 << 9);
    source(&mut machine, 9, true);
    assert_eq!(machine.interrupts(), []);
    machine.writel(CONTEXT, 2);
    assert_eq!(machine.interrupts(), [(0, true)]);
    machine.writel(PLIC + 0x2000, 0);
    assert_eq!(machine.interrupts(), [(0, false)]);
    // The supervisor's context of the hart has enables of its own.
    machine.writel(PLIC + 0x2080, 1 << 9);
    assert_eq!(machine.interrupts(), [(1, true)]);
    // Source 0 does not exist.
    machine.writel(PLIC, 7);
    machine.writel(PLIC + 0x2000, 1);
    assert_eq!((machine.readl(PLIC), machine.readl(PLIC + 0x2000) & 1), (0, 0));
}

#[test]
fn the_aclint_has_software_interrupts_and_timers_of_each_hart() {
    let mut machine = Machine::riscv64(&["-smp", "2"]);
    machine.execute("irq_intercept_out aclint");
    // Outputs: software and timer of hart 0, then of hart 1.
    machine.writel(CLINT + 4, 0xffff_ffff);
    assert_eq!((machine.readl(CLINT + 4), machine.interrupts()), (1, vec![(2, true)]));
    machine.writel(CLINT + 4, 0);
    assert_eq!(machine.interrupts(), [(2, false)]);
    machine.execute("clock_set 1000000");
    assert_eq!((machine.readq(CLINT + 0xbff8), machine.readl(CLINT + 0xbffc)), (10_000, 0));
    machine.writeq(CLINT + 0x4008, 20_000);
    assert_eq!(machine.readq(CLINT + 0x4008), 20_000);
    machine.step(999_999);
    assert_eq!(machine.interrupts(), []);
    machine.step(1);
    assert_eq!(machine.interrupts(), [(3, true)]);
    // By halves.
    machine.writel(CLINT + 0x400c, 1);
    assert_eq!(machine.interrupts(), [(3, false)]);
    machine.writel(CLINT + 0x4000, 5);
    machine.writel(CLINT + 0x4004, 0);
    assert_eq!(machine.interrupts(), [(1, true)]);
}

#[test]
fn the_clock_tells_time_and_alarms() {
    let mut machine = Machine::riscv64(&[]);
    machine.listen_to("plic");
    let time = |machine: &mut Machine| {
        let low = u64::from(machine.readl(RTC));
        u64::from(machine.readl(RTC + 4)) << 32 | low
    };
    let before = time(&mut machine);
    machine.step(1_000_000_000);
    assert_eq!(time(&mut machine), before + 1_000_000_000);
    // Set it, and an alarm.
    machine.writel(RTC + 4, 0x100);
    machine.writel(RTC, 0);
    assert_eq!(time(&mut machine), 0x100_0000_0000);
    machine.writel(RTC + 0x10, 1);
    machine.writel(RTC + 0x0c, 0x100);
    machine.writel(RTC + 0x08, 5000);
    assert_eq!(machine.readl(RTC + 0x18), 1);
    machine.step(4999);
    assert_eq!(machine.interrupts(), []);
    machine.step(1);
    assert_eq!((machine.interrupts(), machine.readl(RTC + 0x18)), (vec![(11, true)], 0));
    machine.writel(RTC + 0x1c, 1);
    assert_eq!(machine.interrupts(), [(11, false)]);
    // An alarm that is taken back.
    machine.writel(RTC + 0x0c, 0x100);
    machine.writel(RTC + 0x08, 50_000);
    machine.writel(RTC + 0x14, 1);
    machine.step(100_000);
    assert_eq!(machine.interrupts(), []);
}

#[test]
fn the_finisher_resets_and_ends() {
    let mut machine = Machine::riscv64(&[]);
    machine.writel(CLINT + 0x4000, 5);
    machine.writel(0x10_0000, 0x7777);
    assert_eq!(machine.readl(CLINT + 0x4000), u32::MAX);
    machine.send_last("writel 0x100000 0x5555");
    assert_eq!(machine.wait_for_end(), Some(0));
    let mut machine = Machine::riscv64(&[]);
    machine.send_last("writel 0x100000 0x73333");
    assert_eq!(machine.wait_for_end(), Some(7));
}
