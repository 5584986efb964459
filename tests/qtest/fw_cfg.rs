//! The firmware configuration device.

use crate::support::qtest::Machine;

fn read(machine: &mut Machine, key: u16, length: usize) -> Vec<u8> {
    machine.outw(0x510, key);
    (0..length).map(|_| machine.inb(0x511)).collect()
}

/// Key and length of a named item.
fn find(machine: &mut Machine, name: &str) -> (u16, u32) {
    let count = u32::from_be_bytes(read(machine, 0x19, 4).try_into().unwrap());
    for _ in 0..count {
        let entry: Vec<u8> = (0..64).map(|_| machine.inb(0x511)).collect();
        if entry[8..].starts_with(name.as_bytes()) {
            return (u16::from_be_bytes([entry[4], entry[5]]), u32::from_be_bytes(entry[..4].try_into().unwrap()));
        }
    }
    panic!("there is no item {name}");
}

/// A DMA access: control word, length, address; what is left of the control word.
fn dma(machine: &mut Machine, control: u32, length: u32, address: u64) -> u32 {
    let access = [&control.to_be_bytes()[..], &length.to_be_bytes(), &address.to_be_bytes()].concat();
    machine.write(0x1000, &access);
    machine.outl(0x514, 0);
    machine.outl(0x518, 0x1000u32.to_be());
    u32::from_be_bytes(machine.read(0x1000, 4).try_into().unwrap())
}

#[test]
fn items_are_read_by_ports() {
    let mut machine = Machine::pc(&["-smp", "3", "-uuid", "5ab2d25b-b5f4-4c6c-8ad8-ba4c1b2f5a7e"]);
    assert_eq!(read(&mut machine, 0, 6), b"QEMU\0\0");
    assert_eq!(read(&mut machine, 1, 4), [3, 0, 0, 0]);
    assert_eq!(read(&mut machine, 2, 4), [0x5a, 0xb2, 0xd2, 0x5b]);
    assert_eq!(read(&mut machine, 3, 8), (64u64 << 20).to_le_bytes());
    assert_eq!((read(&mut machine, 5, 2), read(&mut machine, 0x0f, 2)), (vec![3, 0], vec![3, 0]));
    assert_eq!(read(&mut machine, 0x7fff, 2), [0, 0]);
    // A display is there unless it is switched off.
    assert_eq!(read(&mut machine, 4, 2), [0, 0]);
    let (key, length) = find(&mut machine, "etc/e820\0");
    assert_eq!(length, 20);
    assert_eq!(read(&mut machine, key, 16)[8..], (64u64 << 20).to_le_bytes());
}

#[test]
fn items_are_read_by_dma() {
    let mut machine = Machine::pc(&[]);
    assert_eq!((machine.inl(0x514).to_be(), machine.inl(0x518).to_be()), (0x5145_4d55, 0x2043_4647));
    // Select and read; skip and read; beyond the end there are zeroes.
    assert_eq!(dma(&mut machine, 0x0000_000a, 4, 0x2000), 0);
    assert_eq!(machine.read(0x2000, 4), b"QEMU");
    assert_eq!(dma(&mut machine, 0x0000_000c, 2, 0), 0);
    assert_eq!(dma(&mut machine, 0x0000_0002, 4, 0x2000), 0);
    assert_eq!(machine.read(0x2000, 4), b"MU\0\0");
    // Memory that there is not, and writing to what cannot be written.
    assert_eq!(dma(&mut machine, 0x0000_000a, 4, 1 << 60) & 1, 1);
    assert_eq!(dma(&mut machine, 0x0000_0018, 4, 0x2000) & 1, 1);
}
