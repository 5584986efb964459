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
