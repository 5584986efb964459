//! Whole machines under real accelerators, with guest programs of a few instructions.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use accel::clock::VirtualClock;
use accel::memory::MemorySlot;
use accel::{Accelerator, Architecture, Capabilities, IoEvent, Msi, Vcpu};
use block::{Backend, FileOptions, Format, ImageOptions};
use host::chardev::FileBackend;
use hw::ide::{Drive, DriveKind};
use hw::machine::{Config, Firmware};
use hw::vm::{Cause, Event, Vm};
use parking_lot::Mutex;

/// More than any of these programs takes, also where an accelerator is slow.
const LIMIT: Duration = Duration::from_secs(60);

/// A raw image as a disk that cannot be written.
fn raw_disk(path: &std::path::Path) -> Arc<Backend> {
    let file = FileOptions { read_only: true, ..FileOptions::default() };
    let options = ImageOptions { format: Some(Format::Raw), file, ..ImageOptions::default() };
    Backend::new(futures_executor::block_on(block::open(path, options)).unwrap())
}

/// Runs `program` to its end: exit status, serial output, events.
fn run(
    accelerator: Arc<dyn Accelerator>,
    clock: Arc<VirtualClock>,
    program: &[u8],
    vcpus: u32,
    change: impl FnOnce(&mut Config),
) -> (Option<i32>, String, Vec<Event>) {
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(program).unwrap();
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut config = Config { vcpus, memory: 16 << 20, ..Config::default() };
    config.boot.firmware = Firmware::None;
    config.boot.kernel = Some(kernel.path().into());
    config.serial.push(Arc::new(FileBackend::open(output.path(), false).unwrap()));
    change(&mut config);
    let vm = Vm::new(config, accelerator, clock).unwrap();
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let log = events.clone();
    let _subscription = vm.subscribe(move |event| log.lock().push(event.clone()));
    vm.cont().unwrap();
    let status = vm.wait_for_exit_at_most(LIMIT);
    let events = events.lock().clone();
    (status, std::fs::read_to_string(output.path()).unwrap(), events)
}

/// RISC-V: `lui rd, value >> 12`; `value` must have zeroes in its low 12 bits.
fn lui(rd: u32, value: u32) -> u32 {
    value | (rd << 7) | 0x37
}
fn addi(rd: u32, rs: u32, value: u32) -> u32 {
    (value << 20) | (rs << 15) | (rd << 7) | 0x13
}
/// `funct3` 0 stores a byte, 2 a word, at the address in `rs1`.
fn store(funct3: u32, rs1: u32, rs2: u32) -> u32 {
    (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | 0x23
}
fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn jit() -> (Arc<dyn Accelerator>, Arc<VirtualClock>) {
    let clock = VirtualClock::new();
    (Arc::new(accel::jit::Jit::open(Architecture::Riscv64, clock.clone()).unwrap()), clock)
}

#[test]
fn a_riscv64_program_prints_and_switches_off() {
    let (accelerator, clock) = jit();
    let program = bytes(&[
        lui(5, 0x1000_0000),
        addi(6, 0, u32::from(b'o')),
        store(0, 5, 6),
        addi(6, 0, u32::from(b'k')),
        store(0, 5, 6),
        lui(5, 0x10_0000),
        lui(6, 0x5000),
        addi(6, 6, 0x555),
        store(2, 5, 6),
        0x0000_006f,
    ]);
    let (status, output, events) = run(accelerator, clock, &program, 1, |_| {});
    assert_eq!((status, output.as_str()), (Some(0), "ok"));
    assert_eq!(events, [Event::Resume, Event::Shutdown(Cause::GuestShutdown)]);
}

#[test]
fn a_riscv64_program_is_started_again_by_a_reset() {
    let (accelerator, clock) = jit();
    // It counts its starts in RAM that no image covers: the first ends with a reset, the second with a failure.
    let program = bytes(&[
        0x0010_0397, // auipc x7, 0x100: 1 MiB from here
        0x0003_a303, // lw x6, 0(x7)
        addi(28, 6, 1),
        store(2, 7, 28),
        lui(5, 0x10_0000),
        lui(29, 0x7000),
        addi(29, 29, 0x777),
        0x0003_1463, // bne x6, x0, +8
        store(2, 5, 29),
        lui(30, 0x2_3000),
        addi(30, 30, 0x333),
        0x0003_0063, // beq x6, x0, 0
        store(2, 5, 30),
        0x0000_006f,
    ]);
    let (status, _, events) = run(accelerator, clock, &program, 1, |_| {});
    assert_eq!(status, Some(2));
    assert_eq!(events, [Event::Resume, Event::Reset(Cause::GuestReset), Event::Shutdown(Cause::GuestPanic)]);
}

/// An ELF file with `code` at 1 MiB, where it is entered in 64-bit mode.
fn x86_elf(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 120];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, value: u64, length: usize| {
        file[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    for (at, value, length) in [
        (16, 2, 2),
        (18, 62, 2),
        (20, 1, 4),
        (24, 0x10_0000, 8),
        (32, 64, 8),
        (52, 64, 2),
        (54, 56, 2),
        (56, 1, 2),
        (64, 1, 4),
        (72, 120, 8),
        (80, 0x10_0000, 8),
        (88, 0x10_0000, 8),
        (96, code.len() as u64, 8),
        (104, code.len() as u64, 8),
    ] {
        put(at, value, length);
    }
    file.extend(code);
    file
}

#[test]
fn an_x86_64_program_prints_finds_the_pci_bus_and_leaves_through_the_debug_exit() {
    let kvm = match accel::kvm::Kvm::open(Architecture::X86_64) {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: an_x86_64_program_prints_finds_the_pci_bus_and_leaves_through_the_debug_exit: {error}");
            return;
        }
    };
    let code = [
        &[0x66, 0xba, 0xf8, 0x03][..],         // mov dx, 0x3f8
        &[0xb0, b'o', 0xee],                   // mov al, 'o'; out dx, al
        &[0xb0, b'k', 0xee],                   // mov al, 'k'; out dx, al
        &[0x66, 0xba, 0xf8, 0x0c],             // mov dx, 0xcf8
        &[0xb8, 0x00, 0x00, 0x00, 0x80, 0xef], // mov eax, 0x80000000; out dx, eax
        &[0x66, 0xba, 0xfc, 0x0c, 0xed],       // mov dx, 0xcfc; in eax, dx
        &[0x66, 0xba, 0x01, 0x05, 0xee],       // mov dx, 0x501; out dx, al
        &[0xf4],                               // hlt
    ]
    .concat();
    let (status, output, events) = run(Arc::new(kvm), VirtualClock::new(), &x86_elf(&code), 2, |config| {
        config.debug_exit = Some((0x501, 2));
    });
    // The low byte of the host bridge's vendor id is 0x86.
    assert_eq!((status, output.as_str()), (Some((0x86 << 1 | 1) & 0xff), "ok"));
    assert_eq!(events, [Event::Resume, Event::Shutdown(Cause::GuestShutdown)]);
}

/// The first start masks interrupts in the controller and resets; the second must not find the mask.
#[test]
fn a_reset_reaches_the_interrupt_controllers_of_kvm() {
    let kvm = match accel::kvm::Kvm::open(Architecture::X86_64) {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: a_reset_reaches_the_interrupt_controllers_of_kvm: {error}");
            return;
        }
    };
    let code = [
        &[0xe4, 0x21, 0x3c, 0x5a][..], // in al, 0x21 (mask of the first controller); cmp al, 0x5a
        &[0x74, 0x27],                 // je failed: an earlier start's mask is still there
        &[0xa0, 0, 0, 0x40, 0, 0, 0, 0, 0], // mov al, [0x400000]: RAM that no reset clears
        &[0x3c, 0x77, 0x74, 0x16],     // cmp al, 0x77; je good
        &[0xb0, 0x77, 0xa2, 0, 0, 0x40, 0, 0, 0, 0, 0], // mov al, 0x77; mov [0x400000], al
        &[0xb0, 0x5a, 0xe6, 0x21],     // mov al, 0x5a; out 0x21, al
        &[0xb0, 0xfe, 0xe6, 0x64],     // mov al, 0xfe; out 0x64, al: reset
        &[0xeb, 0xfe, 0x90],           // wait for it
        &[0xb0, 0x01, 0xeb, 0x02],     // good: mov al, 1; jmp leave
        &[0xb0, 0x02],                 // failed: mov al, 2
        &[0x66, 0xba, 0x01, 0x05, 0xee, 0xf4], // leave: mov dx, 0x501; out dx, al; hlt
    ]
    .concat();
    let (status, _, events) = run(Arc::new(kvm), VirtualClock::new(), &x86_elf(&code), 1, |config| {
        config.debug_exit = Some((0x501, 2));
    });
    assert_eq!(status, Some(3));
    assert_eq!(events, [Event::Resume, Event::Reset(Cause::GuestReset), Event::Shutdown(Cause::GuestShutdown)]);
}

#[test]
fn an_x86_64_triple_fault_resets() {
    let kvm = match accel::kvm::Kvm::open(Architecture::X86_64) {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: an_x86_64_triple_fault_resets: {error}");
            return;
        }
    };
    // There is no interrupt table: the exception of UD2 cannot be delivered.
    let (status, _, events) = run(Arc::new(kvm), VirtualClock::new(), &x86_elf(&[0x0f, 0x0b]), 1, |config| {
        config.no_reboot = true;
    });
    assert_eq!((status, events), (Some(0), vec![Event::Resume, Event::Shutdown(Cause::GuestReset)]));
}

/// KVM without its interrupt controllers, so that the machine brings its own.
struct WithoutControllers {
    kvm: accel::kvm::Kvm,
    capabilities: Capabilities,
}

impl WithoutControllers {
    fn new(kvm: accel::kvm::Kvm) -> WithoutControllers {
        let capabilities = Capabilities { in_kernel_interrupt_controller: false, ..kvm.capabilities().clone() };
        WithoutControllers { kvm, capabilities }
    }
}

impl Accelerator for WithoutControllers {
    fn name(&self) -> &'static str {
        self.kvm.name()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn map_memory(&self, slot: MemorySlot) -> Result<(), accel::Error> {
        self.kvm.map_memory(slot)
    }
    fn unmap_memory(&self, address: u64) -> Result<(), accel::Error> {
        self.kvm.unmap_memory(address)
    }
    fn set_dirty_logging(&self, address: u64, enabled: bool) -> Result<(), accel::Error> {
        self.kvm.set_dirty_logging(address, enabled)
    }
    fn dirty_log(&self, address: u64) -> Result<Vec<u64>, accel::Error> {
        self.kvm.dirty_log(address)
    }
    fn create_interrupt_controller(&self) -> Result<(), accel::Error> {
        Err(accel::Error::Unsupported { name: self.name(), what: "interrupt controllers in this test" })
    }
    fn set_interrupt_line(&self, line: u32, level: bool) -> Result<(), accel::Error> {
        self.kvm.set_interrupt_line(line, level)
    }
    fn signal_msi(&self, msi: Msi) -> Result<(), accel::Error> {
        self.kvm.signal_msi(msi)
    }
    fn register_io_event(&self, event: IoEvent, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        self.kvm.register_io_event(event, fd)
    }
    fn unregister_io_event(&self, event: IoEvent, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        self.kvm.unregister_io_event(event, fd)
    }
    fn register_interrupt_event(&self, line: u32, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        self.kvm.register_interrupt_event(line, fd)
    }
    fn unregister_interrupt_event(&self, line: u32, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        self.kvm.unregister_interrupt_event(line, fd)
    }
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, accel::Error> {
        self.kvm.create_vcpu(index)
    }
}

/// What SeaBIOS runs on.
#[derive(Clone, Copy, Debug)]
enum On {
    Jit,
    Kvm,
    /// KVM, with the machine's own interrupt controllers.
    KvmWithoutControllers,
}

/// The file of SeaBIOS of Debian's package, and what it runs on; `None` if one of them is missing.
fn seabios(test: &str, on: On) -> Option<(Config, Arc<dyn Accelerator>, Arc<VirtualClock>)> {
    const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";
    let firmware = std::env::var_os("BROLGA_SEABIOS").unwrap_or_else(|| FIRMWARE.into());
    if !std::path::Path::new(&firmware).is_file() {
        eprintln!("SKIPPED: {test}: there is no {}; Debian's package seabios has it", firmware.display());
        return None;
    }
    let clock = VirtualClock::new();
    let kvm = || {
        let kvm = accel::kvm::Kvm::open(Architecture::X86_64);
        kvm.inspect_err(|error| eprintln!("SKIPPED: {test} on {on:?}: {error}")).ok()
    };
    let accelerator: Arc<dyn Accelerator> = match on {
        On::Jit => Arc::new(accel::jit::Jit::open(Architecture::X86_64, clock.clone()).unwrap()),
        On::Kvm => Arc::new(kvm()?),
        On::KvmWithoutControllers => Arc::new(WithoutControllers::new(kvm()?)),
    };
    let mut config = Config { memory: 64 << 20, ..Config::default() };
    config.boot.firmware = Firmware::File(firmware.into());
    Some((config, accelerator, clock))
}

/// Runs SeaBIOS until its log has `last`, or to the end of `config`'s machine.
fn run_seabios(
    (mut config, accelerator, clock): (Config, Arc<dyn Accelerator>, Arc<VirtualClock>),
    last: &str,
) -> (Option<i32>, String) {
    let output = tempfile::NamedTempFile::new().unwrap();
    config.debug_console = Some((0x402, Arc::new(FileBackend::open(output.path(), false).unwrap())));
    let vm = Vm::new(config, accelerator, clock).unwrap();
    vm.cont().unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let status = vm.wait_for_exit_at_most(Duration::from_millis(100));
        let log = std::fs::read_to_string(output.path()).unwrap();
        if status.is_some() || log.contains(last) || std::time::Instant::now() > deadline {
            return (status, log);
        }
    }
}

#[test]
fn seabios_sets_up_the_machine_and_finds_nothing_to_boot() {
    for on in [On::Jit, On::Kvm, On::KvmWithoutControllers] {
        let test = "seabios_sets_up_the_machine_and_finds_nothing_to_boot";
        let Some((mut config, accelerator, clock)) = seabios(test, on) else { continue };
        // Processors of the KVM without controllers cannot be started.
        config.vcpus = if matches!(on, On::Jit) { 4 } else { 1 };
        let cpus = format!("Found {} cpu(s)", config.vcpus);
        let (_, log) = run_seabios((config, accelerator, clock), "No bootable device");
        for expected in [
            "QEMU fw_cfg DMA interface supported",
            "e820 map has",
            "Copying SMBIOS",
            "ACPI: parse DSDT",
            &cpus,
            "PS2 keyboard initialized",
            "No bootable device",
        ] {
            assert!(log.contains(expected), "{on:?}: {expected:?} is missing in:\n{log}");
        }
    }
}

/// The boot sector reads the disk's second sector through firmware, and leaves with what it finds there.
#[test]
fn seabios_boots_an_ide_disk() {
    let code = [
        &[0x31, 0xc0, 0x8e, 0xc0][..],         // xor ax, ax; mov es, ax
        &[0xbb, 0x00, 0x7e, 0xb6, 0x00],       // mov bx, 0x7e00; mov dh, 0
        &[0xb9, 0x02, 0x00, 0xb8, 0x01, 0x02], // mov cx, 2; mov ax, 0x0201
        &[0xcd, 0x13, 0x72, 0x0a],             // int 0x13; jc failed
        &[0x26, 0xa0, 0x00, 0x7e],             // mov al, es:[0x7e00]
        &[0xba, 0x01, 0x05, 0xee, 0xf4, 0xf4], // mov dx, 0x501; out dx, al; hlt
        &[0xb0, 0x7f, 0xeb, 0xf6],             // failed: mov al, 0x7f; jmp out
    ]
    .concat();
    let mut image = vec![0; 1 << 20];
    image[..code.len()].copy_from_slice(&code);
    image[510..513].copy_from_slice(&[0x55, 0xaa, 0x15]);
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.write_all(&image).unwrap();
    for on in [On::Jit, On::KvmWithoutControllers] {
        let Some((mut config, accelerator, clock)) = seabios("seabios_boots_an_ide_disk", on) else { continue };
        config.debug_exit = Some((0x501, 2));
        let medium = raw_disk(disk.path());
        let (kind, serial) = (DriveKind::Disk, String::new());
        config.ide[0] = Some(Drive { kind, medium, serial });
        let (status, log) = run_seabios((config, accelerator, clock), "No bootable device");
        assert_eq!(status, Some(0x2b), "{on:?}: {log}");
    }
}

/// A Multiboot kernel of a few instructions: it leaves with what it finds at the start of its command line, if it was given
/// the loader's magic number.
#[test]
fn a_multiboot_kernel_is_started_by_seabios() {
    let code = [
        &[0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0x07][..], // cmp eax, 0x2badb002; jne failed
        &[0x8b, 0x43, 0x10, 0x8a, 0x00, 0xeb, 0x02],     // mov eax, [ebx + 16]; mov al, [eax]; jmp leave
        &[0xb0, 0x01],                                   // failed: mov al, 1
        &[0x66, 0xba, 0x01, 0x05, 0xee, 0xf4],           // leave: mov dx, 0x501; out dx, al; hlt
    ]
    .concat();
    // It says itself where it goes: header, then code, at 1 MiB.
    let header = [0x1bad_b002_u32, 0x1_0000, 0xe451_4ffe, 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code);
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(&image).unwrap();
    let test = "a_multiboot_kernel_is_started_by_seabios";
    let Some((mut config, accelerator, clock)) = seabios(test, On::Jit) else { return };
    config.debug_exit = Some((0x501, 2));
    config.boot.kernel = Some(kernel.path().into());
    let (status, log) = run_seabios((config, accelerator, clock), "No bootable device");
    // The command line begins with the kernel's path, that with a slash.
    assert_eq!(status, Some(i32::from(b'/') * 2 + 1), "{log}");
}

/// Firmware has moved SMBASE to memory that only system-management mode sees. The boot sector opens that memory, puts a handler
/// there, closes it, and calls the handler, which answers with a byte of that memory.
#[test]
fn seabios_sets_up_system_management_mode() {
    let handler = [0x2e, 0xa0, 0x08, 0x80, 0xe6, 0xb3, 0x0f, 0xaa, 0x15]; // mov al, cs:[0x8008]; out 0xb3, al; rsm
    let code = [
        &[0x31, 0xc0, 0x8e, 0xd8][..],               // xor ax, ax; mov ds, ax
        &[0x66, 0xb8, 0x70, 0x00, 0x00, 0x80],       // mov eax, 0x80000070
        &[0xba, 0xf8, 0x0c, 0x66, 0xef],             // mov dx, 0xcf8; out dx, eax
        &[0xba, 0xfe, 0x0c, 0xb0, 0x4a, 0xee],       // mov dx, 0xcfe; mov al, 0x4a; out dx, al
        &[0xb8, 0x00, 0xa8, 0x8e, 0xc0, 0x31, 0xff], // mov ax, 0xa800; mov es, ax; xor di, di
        &[0xbe, 0x80, 0x7c, 0xb9, 0x09, 0x00],       // mov si, 0x7c80; mov cx, 9
        &[0xfc, 0xf3, 0xa4],                         // cld; rep movsb
        &[0xb0, 0x0a, 0xee],                         // mov al, 0x0a; out dx, al
        &[0x30, 0xc0, 0xe6, 0xb3],                   // xor al, al; out 0xb3, al
        &[0xb0, 0x02, 0xe6, 0xb2],                   // mov al, 2; out 0xb2, al
        &[0xe4, 0xb3, 0x84, 0xc0, 0x74, 0xfa],       // wait: in al, 0xb3; test al, al; jz wait
        &[0x26, 0x80, 0x3e, 0x00, 0x00, 0xff],       // cmp byte es:[0], 0xff: nobody answers
        &[0x74, 0x02, 0xb0, 0x01],                   // je leave; mov al, 1
        &[0xba, 0x01, 0x05, 0xee, 0xf4],             // leave: mov dx, 0x501; out dx, al; hlt
    ]
    .concat();
    let mut image = vec![0; 1 << 20];
    image[..code.len()].copy_from_slice(&code);
    image[0x80..0x80 + handler.len()].copy_from_slice(&handler);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.write_all(&image).unwrap();
    let Some((mut config, accelerator, clock)) = seabios("seabios_sets_up_system_management_mode", On::Jit) else {
        return;
    };
    config.debug_exit = Some((0x501, 2));
    let medium = raw_disk(disk.path());
    let (kind, serial) = (DriveKind::Disk, String::new());
    config.ide[0] = Some(Drive { kind, medium, serial });
    let (status, log) = run_seabios((config, accelerator, clock), "No bootable device");
    assert_eq!(status, Some(0x2b), "{log}");
}

/// Changes of the memory map that follow each other faster than the machine carries them out; the other processors wait to be
/// started, and leave the guest only when they are asked to.
#[test]
fn a_guest_changes_the_memory_map_many_times() {
    let code = [
        &[0x66, 0xba, 0xf8, 0x0c][..],               // mov dx, 0xcf8
        &[0xb8, 0x58, 0x00, 0x00, 0x80, 0xef],       // mov eax, 0x80000058; out dx, eax
        &[0x66, 0xba, 0xfd, 0x0c],                   // mov dx, 0xcfd: PAM0
        &[0xb9, 0xd0, 0x07, 0x00, 0x00],             // mov ecx, 2000
        &[0xb0, 0x30, 0xee, 0xb0, 0x10, 0xee],       // again: mov al, 0x30; out dx, al; mov al, 0x10; out dx, al
        &[0xff, 0xc9, 0x75, 0xf6],                   // dec ecx; jnz again
        &[0x66, 0xba, 0x01, 0x05, 0xb0, 0x15, 0xee], // mov dx, 0x501; mov al, 0x15; out dx, al
        &[0xf4],                                     // hlt
    ]
    .concat();
    let clock = VirtualClock::new();
    let jit = accel::jit::Jit::open(Architecture::X86_64, clock.clone()).unwrap();
    let (status, _, _) = run(Arc::new(jit), clock, &x86_elf(&code), 4, |config| {
        config.debug_exit = Some((0x501, 2));
    });
    assert_eq!(status, Some(0x2b));
}
