//! Power management: timer, power button, soft power-off.

use serde_json::json;

use crate::support::qmp::Client;
use crate::support::qtest::Machine;

const BASE: u16 = 0x600;

#[test]
fn the_timer_counts_at_3579545_hz_with_24_bits() {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    assert_eq!(machine.pci_read(1, 3, 0), 0x7113_8086);
    machine.execute("clock_set 1000000000");
    assert_eq!(machine.inl(BASE + 8), 3_579_545);
    // ACPI mode; the timer's interrupt.
    machine.outb(0xb2, 0xf1);
    machine.outw(BASE + 2, 1);
    assert_eq!((machine.inw(BASE + 4) & 1, machine.inw(BASE)), (1, 0));
    machine.execute("clock_set 2343480000");
    assert!(machine.interrupts().contains(&(9, false)) || machine.inw(BASE) == 0);
    machine.execute("clock_set 2400000000");
    assert_eq!(machine.inw(BASE), 1);
    assert!(machine.interrupts().contains(&(9, true)));
    machine.outw(BASE, 1);
    assert_eq!((machine.inw(BASE), machine.interrupts()), (0, vec![(9, false)]));
    machine.execute("clock_set 5000000000");
    assert!(machine.inl(BASE + 8) < 1 << 24);
    machine.outb(0xb2, 0xf0);
    assert_eq!((machine.inw(BASE + 4) & 1, machine.inb(0xb2)), (0, 0xf0));
}

#[test]
fn the_power_button_and_power_off() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let mut machine = Machine::start("x86_64", &[], |command| {
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
    });
    machine.listen_to("ioapic");
    let mut client = Client::connect(&socket);
    machine.outb(0xb2, 0xf1);
    machine.outw(BASE + 2, 0x100);
    client.execute("system_powerdown", json!({}));
    assert_eq!(machine.interrupts(), [(9, true)]);
    assert_eq!(machine.inw(BASE), 0x100);
    machine.outw(BASE, 0x100);
    assert_eq!(machine.interrupts(), [(9, false)]);
    machine.send_last(&format!("outw {:#x} 0x2000", BASE + 4));
    assert_eq!(machine.wait_for_end(), Some(0));
}

/// Asks the machine to sleep, and waits until it does.
fn sleep(machine: &mut Machine, client: &mut Client) {
    machine.outb(0xb2, 0xf1);
    machine.outw(BASE + 4, 0x2000 | 1 << 10);
    client.wait_for("SUSPEND");
    assert_eq!(client.execute("query-status", json!({}))["status"], "suspended");
}

#[test]
fn a_sleeping_machine_keeps_its_memory_and_is_woken() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let mut machine = Machine::start("x86_64", &[], |command| {
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
    });
    let mut client = Client::connect(&socket);
    let answer = client.send("system_wakeup", json!({}));
    assert_eq!(answer["error"]["desc"], "Unable to wake up: guest is not in suspended state");
    machine.writel(0x1000, 0x1234_5678);
    machine.outb(0x21, 0xa5);
    machine.pci_write_byte(0, 0, 0x59, 0x30);
    machine.writel(0xf_1000, 0x55aa);
    sleep(&mut machine, &mut client);
    // It goes on sleeping.
    client.execute("cont", json!({}));
    client.execute("system_wakeup", json!({}));
    assert_eq!(client.events_so_far(), ["WAKEUP"]);
    assert_eq!(client.execute("query-status", json!({}))["status"], "running");
    // Devices were reset; firmware learns that the machine slept, and the system that it woke.
    assert_eq!((machine.readl(0x1000), machine.inb(0x21)), (0x1234_5678, 0xff));
    // Firmware's RAM is still in its place.
    assert_eq!((machine.readl(0xf_1000), machine.pci_read_byte(0, 0, 0x59)), (0x55aa, 0x30));
    machine.outb(0x70, 0x0f);
    assert_eq!((machine.inb(0x71), machine.inw(BASE), machine.inw(BASE + 4) & 1), (0xfe, 0x8000, 1));
    // The clock's alarm, each second.
    for (index, value) in [(1, 0xff), (3, 0xff), (5, 0xff), (0x0b, 0x22)] {
        machine.outb(0x70, index);
        machine.outb(0x71, value);
    }
    sleep(&mut machine, &mut client);
    machine.step(1_000_000_000);
    client.wait_for("WAKEUP");
    assert_eq!((machine.inw(BASE) & 0x8400, machine.readl(0x1000)), (0x8400, 0x1234_5678));
    // A reset of a sleeping machine starts it again.
    sleep(&mut machine, &mut client);
    client.execute("system_reset", json!({}));
    client.wait_for("RESET");
    assert_eq!(client.execute("query-status", json!({}))["status"], "running");
}
