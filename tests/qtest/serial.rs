//! The serial ports (16550A) of both machines.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::qtest::Machine;

/// How the registers of a port are reached, and its interrupt.
struct Port {
    machine: Machine,
    base: u64,
    is_memory: bool,
    interrupt: u32,
    peer: UnixStream,
    _folder: tempfile::TempDir,
}

impl Port {
    fn read(&mut self, register: u64) -> u8 {
        let at = self.base + register;
        if self.is_memory { self.machine.readb(at) } else { self.machine.inb(at as u16) }
    }
    fn write(&mut self, register: u64, value: u8) {
        let at = self.base + register;
        if self.is_memory { self.machine.writeb(at, value) } else { self.machine.outb(at as u16, value) }
    }
    fn wait_for(&mut self, register: u64, bits: u8) {
        let deadline = std::time::Instant::now() + crate::support::LIMIT;
        while self.read(register) & bits != bits {
            assert!(std::time::Instant::now() < deadline);
        }
    }
}

fn ports() -> [Port; 2] {
    let port = |architecture: &str, controller: &str, base, is_memory, interrupt| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut machine = Machine::start(architecture, &[], |command| {
            command.arg("-serial").arg(format!("unix:{}", path.display()));
        });
        machine.listen_to(controller);
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(crate::support::LIMIT)).unwrap();
        Port { machine, base, is_memory, interrupt, peer, _folder: folder }
    };
    [port("x86_64", "ioapic", 0x3f8, false, 4), port("riscv64", "plic", 0x1000_0000, true, 10)]
}

#[test]
fn bytes_go_out_and_come_in_with_interrupts() {
    for mut port in ports() {
        port.write(0, b'h');
        port.write(0, b'i');
        let mut out = [0; 2];
        port.peer.read_exact(&mut out).unwrap();
        assert_eq!(&out, b"hi");
        assert_eq!(port.read(5) & 0x60, 0x60);
        // Received data, with FIFO.
        port.write(2, 7);
        port.write(1, 1);
        port.machine.interrupts();
        port.peer.write_all(b"abc").unwrap();
        for byte in *b"abc" {
            port.wait_for(5, 1);
            assert_eq!(port.read(2) & 0x07, 0x04);
            assert_eq!(port.read(0), byte);
        }
        assert_eq!((port.read(5) & 1, port.read(2) & 0x0f), (0, 1));
        let interrupts = port.machine.interrupts();
        assert_eq!(
            (interrupts.first(), interrupts.last()),
            (Some(&(port.interrupt, true)), Some(&(port.interrupt, false)))
        );
        // An empty transmitter, told once.
        port.write(1, 2);
        assert_eq!(port.machine.interrupts(), [(port.interrupt, true)]);
        assert_eq!((port.read(2) & 0x0f, port.read(2) & 0x0f), (2, 1));
        assert_eq!(port.machine.interrupts(), [(port.interrupt, false)]);
    }
}

#[test]
fn the_divisor_scratch_and_loopback() {
    for mut port in ports() {
        port.write(3, 0x83);
        port.write(0, 12);
        port.write(1, 0x34);
        port.write(3, 0x03);
        port.write(7, 0xa5);
        assert_eq!((port.read(3), port.read(7)), (3, 0xa5));
        port.write(3, 0x83);
        assert_eq!((port.read(0), port.read(1)), (12, 0x34));
        port.write(3, 0x03);
        // What is sent comes back, and so do the modem's lines.
        port.write(4, 0x1f);
        port.write(0, 0x5a);
        assert_eq!((port.read(5) & 1, port.read(0), port.read(6) & 0xf0), (1, 0x5a, 0xf0));
        port.write(4, 0x10);
        assert_eq!(port.read(6) & 0xf0, 0);
        port.write(4, 0);
        assert_eq!(port.read(6) & 0xb0, 0xb0);
        // A FIFO shows in the identification.
        port.write(2, 1);
        assert_eq!(port.read(2) & 0xc0, 0xc0);
        port.write(2, 0);
        assert_eq!(port.read(2) & 0xc0, 0);
    }
}
