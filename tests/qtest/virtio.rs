//! A disk behind both transports of virtio: registers, negotiation, one request.

use std::os::unix::fs::FileExt;

use crate::support::qtest::Machine;

/// Reads sector 1 by the split queue at 0x10000 of RAM: sets the rings up and gives the address of the status byte.
fn prepare(machine: &mut Machine, ram: u64) -> u64 {
    let (table, available, header, data, status) = (ram, ram + 0x1000, ram + 0x3000, ram + 0x4000, ram + 0x5000);
    machine.write(header, &[&0u32.to_le_bytes()[..], &[0; 4], &1u64.to_le_bytes()].concat());
    machine.writeb(status, 0xff);
    for (index, (address, length, flags)) in [(header, 16, 1), (data, 512, 3), (status, 1, 2)].into_iter().enumerate() {
        let at = table + 16 * index as u64;
        machine.writeq(at, address);
        machine.writel(at + 8, length);
        machine.writew(at + 12, flags);
        machine.writew(at + 14, index as u16 + 1);
    }
    machine.writew(available + 4, 0);
    machine.writew(available + 2, 1);
    status
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&[0x5a; 1024], 512).unwrap();
    file
}

fn check(machine: &mut Machine, ram: u64, status: u64) {
    machine.wait_until("the request", |machine| machine.readw(ram + 0x2002) == 1);
    assert_eq!((machine.readb(status), machine.readl(ram + 0x2008)), (0, 513));
    assert_eq!(machine.read(ram + 0x4000, 512), [0x5a; 512]);
}

#[test]
fn a_disk_on_riscv64s_memory_mapped_transport() {
    let image = image();
    let drive = format!("if=virtio,format=raw,file={}", image.path().display());
    let mut machine = Machine::riscv64(&["-drive", &drive]);
    machine.listen_to("plic");
    // The first device is in the last slot.
    let base = 0x1000_8000;
    let registers = [0, 4, 8].map(|offset| machine.readl(base + offset));
    assert_eq!(registers, [0x7472_6976, 2, 2]);
    assert_eq!((machine.readl(0x1000_1008), machine.readl(base + 0x100)), (0, 3));
    // Acknowledge, driver, version 1, features kept.
    for value in [0, 1, 3] {
        machine.writel(base + 0x70, value);
    }
    machine.writel(base + 0x14, 1);
    assert_eq!(machine.readl(base + 0x10) & 1, 1);
    machine.writel(base + 0x24, 1);
    machine.writel(base + 0x20, 1);
    machine.writel(base + 0x70, 0xb);
    assert_eq!(machine.readl(base + 0x70), 0xb);
    let ram = 0x8001_0000;
    machine.writel(base + 0x30, 0);
    assert!(machine.readl(base + 0x34) >= 8 && machine.readl(base + 0x44) == 0);
    machine.writel(base + 0x38, 8);
    for (register, address) in [(0x80, ram), (0x90, ram + 0x1000), (0xa0, ram + 0x2000)] {
        machine.writel(base + register, address as u32);
        machine.writel(base + register + 4, 0);
    }
    machine.writel(base + 0x44, 1);
    machine.writel(base + 0x70, 0xf);
    let status = prepare(&mut machine, ram);
    machine.writel(base + 0x50, 0);
    check(&mut machine, ram, status);
    machine.wait_until("the interrupt", |machine| machine.readl(base + 0x60) & 1 != 0);
    machine.writel(base + 0x64, 1);
    assert_eq!((machine.readl(base + 0x60), machine.interrupts()), (0, vec![(8, true), (8, false)]));
    // A reset forgets all.
    machine.writel(base + 0x70, 0);
    assert_eq!((machine.readl(base + 0x70), machine.readl(base + 0x44)), (0, 0));
}

#[test]
fn a_disk_on_pci() {
    let image = image();
    let drive = format!("if=virtio,format=raw,file={}", image.path().display());
    let mut machine = Machine::pc(&["-drive", &drive]);
    machine.listen_to("ioapic");
    assert_eq!(machine.pci_read(4, 0, 0), 0x1042_1af4);
    // Capabilities: where the structures are, by type.
    let mut places = [(0, 0, 0); 6];
    let mut at = machine.pci_read_byte(4, 0, 0x34);
    let mut notify_step = 0;
    while at != 0 {
        if machine.pci_read_byte(4, 0, at) == 0x09 {
            let kind = usize::from(machine.pci_read_byte(4, 0, at + 3));
            let bar = machine.pci_read_byte(4, 0, at + 4);
            if kind < 6 {
                places[kind] = (bar, machine.pci_read(4, 0, at + 8), machine.pci_read(4, 0, at + 12));
            }
            if kind == 2 {
                notify_step = machine.pci_read(4, 0, at + 16);
            }
        }
        at = machine.pci_read_byte(4, 0, at + 1);
    }
    let memory = 0xe000_0000u32;
    let bar = places[1].0;
    assert!(places[1..5].iter().all(|place| place.0 == bar && place.2 > 0), "{places:?}");
    machine.pci_write(4, 0, 0x10 + 4 * bar, memory);
    machine.pci_write(4, 0, 0x14 + 4 * bar, 0);
    machine.pci_write(4, 0, 4, 6);
    let place = |kind: usize| u64::from(memory + places[kind].1);
    let common = place(1);
    for value in [0, 1, 3] {
        machine.writeb(common + 0x14, value);
    }
    machine.writel(common, 1);
    assert_eq!(machine.readl(common + 4) & 1, 1);
    machine.writel(common + 8, 1);
    machine.writel(common + 0x0c, 1);
    machine.writeb(common + 0x14, 0xb);
    assert_eq!((machine.readb(common + 0x14), machine.readw(common + 0x12)), (0xb, 1));
    let ram = 0x1_0000;
    machine.writew(common + 0x16, 0);
    machine.writew(common + 0x18, 8);
    for (register, address) in [(0x20, ram), (0x28, ram + 0x1000), (0x30, ram + 0x2000)] {
        machine.writel(common + register, address as u32);
        machine.writel(common + register + 4, 0);
    }
    machine.writew(common + 0x1c, 1);
    machine.writeb(common + 0x14, 0xf);
    let status = prepare(&mut machine, ram);
    let notify = place(2) + u64::from(machine.readw(common + 0x1e)) * u64::from(notify_step);
    machine.writew(notify, 0);
    check(&mut machine, ram, status);
    // Reading the interrupt status acknowledges. The capacity is in the device's own structure.
    machine.wait_until("the interrupt", |machine| machine.readb(place(3)) & 1 != 0);
    let line = u32::from(machine.pci_read_byte(4, 0, 0x3c));
    machine.wait_until("the line's fall", |machine| machine.interrupts().ends_with(&[(line, false)]));
    assert_eq!((machine.readb(place(3)), machine.readq(place(4))), (0, 3));
}
