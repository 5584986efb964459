//! A client of the qtest protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use super::{LIMIT, brolga};

/// A machine without a processor, and the connection through which it is driven. It ends when dropped.
pub(crate) struct Machine {
    child: Child,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Interrupts that were told: line and level.
    interrupts: Vec<(u32, bool)>,
    folder: tempfile::TempDir,
}

impl Machine {
    /// Starts a `pc` with `arguments` added.
    pub(crate) fn pc(arguments: &[&str]) -> Machine {
        Machine::start("x86_64", arguments, |_| {})
    }

    /// Starts a riscv64 `virt` with `arguments` added.
    pub(crate) fn riscv64(arguments: &[&str]) -> Machine {
        Machine::start("riscv64", arguments, |_| {})
    }

    /// Starts a machine; `more` may add arguments.
    pub(crate) fn start(architecture: &str, arguments: &[&str], more: impl FnOnce(&mut Command)) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qtest");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = brolga();
        command.args(["-arch", architecture, "-accel", "qtest", "-m", "64", "-display", "none", "-qtest-log", "none"]);
        command.arg("-qtest").arg(format!("unix:{}", socket.display())).args(arguments).stdin(Stdio::null());
        more(&mut command);
        let child = command.spawn().unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Machine { child, reader, writer: stream, interrupts: Vec::new(), folder }
    }

    /// The program's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A folder for the test's files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Sends a line and gives the answer; interrupts that are told before it are kept.
    pub(crate) fn send(&mut self, line: &str) -> String {
        self.writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.answer()
    }

    /// Sends bytes that are no answered line.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// Waits for an answer.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let line = self.line();
            match line.strip_prefix("IRQ ") {
                Some(interrupt) => self.note(interrupt),
                None => return line,
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the machine goes on");
        assert!(line.ends_with('\n'), "the machine ended: {line:?}");
        line.trim_end().to_owned()
    }

    fn note(&mut self, interrupt: &str) {
        let (level, number) = interrupt.split_once(' ').unwrap();
        self.interrupts.push((number.parse().unwrap(), level == "raise"));
    }

    /// Sends a command that must succeed; what follows `OK`.
    pub(crate) fn execute(&mut self, line: &str) -> String {
        let answer = self.send(line);
        let rest = answer.strip_prefix("OK").unwrap_or_else(|| panic!("{line}: {answer}"));
        rest.trim_start().to_owned()
    }

    fn value(&mut self, line: &str) -> u64 {
        let text = self.execute(line);
        u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
    }

    pub(crate) fn inb(&mut self, port: u16) -> u8 {
        self.value(&format!("inb {port:#x}")) as u8
    }
    pub(crate) fn inw(&mut self, port: u16) -> u16 {
        self.value(&format!("inw {port:#x}")) as u16
    }
    pub(crate) fn inl(&mut self, port: u16) -> u32 {
        self.value(&format!("inl {port:#x}")) as u32
    }
    pub(crate) fn outb(&mut self, port: u16, value: u8) {
        self.execute(&format!("outb {port:#x} {value:#x}"));
    }
    pub(crate) fn outw(&mut self, port: u16, value: u16) {
        self.execute(&format!("outw {port:#x} {value:#x}"));
    }
    pub(crate) fn outl(&mut self, port: u16, value: u32) {
        self.execute(&format!("outl {port:#x} {value:#x}"));
    }
    pub(crate) fn readb(&mut self, address: u64) -> u8 {
        self.value(&format!("readb {address:#x}")) as u8
    }
    pub(crate) fn readw(&mut self, address: u64) -> u16 {
        self.value(&format!("readw {address:#x}")) as u16
    }
    pub(crate) fn readl(&mut self, address: u64) -> u32 {
        self.value(&format!("readl {address:#x}")) as u32
    }
    pub(crate) fn readq(&mut self, address: u64) -> u64 {
        self.value(&format!("readq {address:#x}"))
    }
    pub(crate) fn writeb(&mut self, address: u64, value: u8) {
        self.execute(&format!("writeb {address:#x} {value:#x}"));
    }
    pub(crate) fn writew(&mut self, address: u64, value: u16) {
        self.execute(&format!("writew {address:#x} {value:#x}"));
    }
    pub(crate) fn writel(&mut self, address: u64, value: u32) {
        self.execute(&format!("writel {address:#x} {value:#x}"));
    }
    pub(crate) fn writeq(&mut self, address: u64, value: u64) {
        self.execute(&format!("writeq {address:#x} {value:#x}"));
    }

    /// Reads memory.
    pub(crate) fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let text = self.execute(&format!("read {address:#x} {length}"));
        let digits = text.strip_prefix("0x").unwrap().as_bytes();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// Writes memory.
    pub(crate) fn write(&mut self, address: u64, data: &[u8]) {
        let digits: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.execute(&format!("write {address:#x} {} 0x{digits}", data.len()));
    }

    /// Lets time pass.
    pub(crate) fn step(&mut self, nanoseconds: u64) {
        self.execute(&format!("clock_step {nanoseconds}"));
    }

    /// Has interrupts of the inputs of `device` told from now on instead of given to it.
    pub(crate) fn listen_to(&mut self, device: &str) {
        self.execute(&format!("irq_intercept_in {device}"));
    }

    /// The interrupts that were told up to now; they are forgotten.
    pub(crate) fn interrupts(&mut self) -> Vec<(u32, bool)> {
        // What was told before this answer came before it.
        self.execute("endianness");
        std::mem::take(&mut self.interrupts)
    }

    /// Waits until `condition` holds; devices with threads of their own take a moment.
    pub(crate) fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Machine) -> bool) {
        let deadline = std::time::Instant::now() + LIMIT;
        while !condition(self) {
            assert!(std::time::Instant::now() < deadline, "{what} did not happen");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Reads a register of the PCI configuration space of function `function` of device `device`.
    pub(crate) fn pci_read(&mut self, device: u8, function: u8, register: u8) -> u32 {
        self.outl(0xcf8, pci_address(device, function, register));
        self.inl(0xcfc)
    }
    pub(crate) fn pci_write(&mut self, device: u8, function: u8, register: u8, value: u32) {
        self.outl(0xcf8, pci_address(device, function, register));
        self.outl(0xcfc, value);
    }
    pub(crate) fn pci_write_byte(&mut self, device: u8, function: u8, register: u8, value: u8) {
        self.outl(0xcf8, pci_address(device, function, register));
        self.outb(0xcfc + u16::from(register & 3), value);
    }
    pub(crate) fn pci_read_byte(&mut self, device: u8, function: u8, register: u8) -> u8 {
        self.outl(0xcf8, pci_address(device, function, register));
        self.inb(0xcfc + u16::from(register & 3))
    }

    /// Waits until the program has ended by itself; its exit status.
    pub(crate) fn wait_for_end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Sends a command after which the machine may end before it answers.
    pub(crate) fn send_last(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn pci_address(device: u8, function: u8, register: u8) -> u32 {
    0x8000_0000 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register & 0xfc)
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
