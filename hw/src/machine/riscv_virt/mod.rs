//! `virt`: the RISC-V board that QEMU users and Linux know under that name, at the same addresses.
//!
//! QEMU documentation, "'virt' Generic Virtual Platform (virt)". Left out: PCI Express, flash and fw_cfg.

mod device_tree;

use std::path::PathBuf;
use std::sync::Arc;

use accel::memory::{GuestMemory, MemorySlot, allocate};
use accel::state::CpuState;
use host::chardev::NullBackend;

use super::{Board, BuildError, Config, Firmware, Parts, virtio_device};
use crate::aclint::{self, Aclint, HartLines};
use crate::device::Device;
use crate::goldfish_rtc::{self, GoldfishRtc};
use crate::interrupt::InterruptLine;
use crate::load::{BootFile, EM_RISCV, Image, ImageKind, LoadError, check_overlaps};
use crate::ns16550::{self, Ns16550};
use crate::plic::{self, Plic};
use crate::sifive_test::{self, SifiveTest};
use crate::virtio::mmio::{self, VirtioMmio};

/// Most harts.
pub const CPU_MAX: u32 = 512;

const NAME: &str = "virt";

const ROM: u64 = 0x1000;
const ROM_SIZE: u64 = 0xf000;
const TEST: u64 = 0x10_0000;
const RTC: u64 = 0x10_1000;
const CLINT: u64 = 0x200_0000;
const PLIC: u64 = 0xc00_0000;
const UART: u64 = 0x1000_0000;
const VIRTIO: u64 = 0x1000_1000;
const VIRTIO_STEP: u64 = 0x1000;
const VIRTIO_COUNT: u64 = 8;
const DRAM: u64 = 0x8000_0000;

const VIRTIO_IRQ: u32 = 1;
const UART_IRQ: u32 = 10;
const RTC_IRQ: u32 = 11;
/// Interrupt sources of the PLIC, with source 0, which does not exist.
const PLIC_SOURCES: u32 = 96;

/// Positions in `mip` of a hart's interrupt inputs.
const MSIP: u32 = 3;
const MTIP: u32 = 7;
const SEIP: u32 = 9;
const MEIP: u32 = 11;

const LEAST_MEMORY: u64 = 1 << 20;
/// The physical address space of a hart ends at 2^56; half of that is more than enough.
const MOST_MEMORY: u64 = 1 << 55;

const TWO_MIB: u64 = 2 << 20;
/// The device tree stays where 32-bit code can reach it.
const DEVICE_TREE_LIMIT: u64 = 3 << 30;
/// How far after the kernel the initial RAM disk is put at most.
const INITRD_DISTANCE: u64 = 512 << 20;

const FIRMWARE_FILE: &str = "fw_dynamic.bin";

pub(super) fn build(config: &Config, parts: &Parts<'_>) -> Result<Board, BuildError> {
    if !(LEAST_MEMORY..=MOST_MEMORY).contains(&config.memory) || !config.memory.is_multiple_of(4096) {
        let (least, most, size) = (LEAST_MEMORY, MOST_MEMORY, config.memory);
        return Err(BuildError::Memory { machine: NAME, least, most, size });
    }
    let ram_region = allocate(DRAM, config.memory)?;
    let rom_region = allocate(ROM, ROM_SIZE)?;
    let memory_of = |regions| {
        GuestMemory::from_arc_regions(regions)
            .map(Arc::new)
            .map_err(|error| BuildError::Host { what: "set up guest memory", source: std::io::Error::other(error) })
    };
    let ram = memory_of(vec![ram_region.clone()])?;
    let physical = memory_of(vec![rom_region.clone(), ram_region.clone()])?;

    let devices = add_devices(config, parts, &ram)?;
    let (images, entry) = plan_images(config, parts.vcpus.len() as u32)?;
    for image in &images {
        image.check(&physical)?;
    }
    check_overlaps(&images)?;
    debug_assert_eq!(entry, ROM);

    Ok(Board {
        ram,
        physical,
        slots: vec![
            MemorySlot { region: rom_region, read_only: true },
            MemorySlot { region: ram_region, read_only: false },
        ],
        shadow: None,
        smram: None,
        sleep: None,
        devices,
        images,
        start_state: Box::new(|index, state| {
            if let CpuState::Riscv64(hart) = state {
                hart.hart_id = u64::from(index);
                hart.pc = ROM;
            }
        }),
        // The board has no button; a guest learns nothing.
        power_button: None,
        local_apics: None,
        processor_buses: Vec::new(),
        carry_over: None,
    })
}

fn add_devices(config: &Config, parts: &Parts<'_>, ram: &Arc<GuestMemory>) -> Result<Vec<Arc<dyn Device>>, BuildError> {
    let bus = parts.bus;
    let input = |vcpu: &Arc<dyn accel::VcpuHandle>, number| InterruptLine::to_vcpu(vcpu.clone(), number);
    let output = |device: &str, line| parts.taps.output(device, line);
    let contexts = parts.vcpus.iter().flat_map(|vcpu| [input(vcpu, MEIP), input(vcpu, SEIP)]);
    let contexts = contexts.map(|line| output("plic", line)).collect();
    let plic = Plic::new(PLIC_SOURCES, contexts);
    bus.map_memory(PLIC, plic::size(2 * u64::from(CPU_MAX)), plic.clone())?;
    let sources = parts.taps.inputs("plic", plic.clone());
    let line = |number| InterruptLine::new(sources.clone(), number);

    let harts = parts.vcpus.iter().map(|vcpu| HartLines {
        software: output("aclint", input(vcpu, MSIP)),
        timer: output("aclint", input(vcpu, MTIP)),
    });
    let aclint = Aclint::new(parts.clock.clone(), harts.collect());
    bus.map_memory(CLINT, aclint::SIZE, aclint.clone())?;

    let test = SifiveTest::new();
    bus.map_memory(TEST, sifive_test::SIZE, test.clone())?;
    let rtc = GoldfishRtc::new(parts.clock.clone(), output("goldfish-rtc", line(RTC_IRQ)));
    bus.map_memory(RTC, goldfish_rtc::SIZE, rtc.clone())?;

    let serial = config.serial.first().cloned().unwrap_or_else(|| Arc::new(NullBackend));
    if config.serial.len() > 1 {
        let problem = "the machine has one serial port".to_string();
        return Err(BuildError::Device { device: "serial", problem });
    }
    let uart = Ns16550::new("serial0", output("serial0", line(UART_IRQ)), serial);
    bus.map_memory(UART, ns16550::SIZE, uart.clone())?;

    let mut devices: Vec<Arc<dyn Device>> = vec![test, rtc, uart];
    if config.devices.len() as u64 > VIRTIO_COUNT {
        let problem = format!("the machine has {VIRTIO_COUNT} virtio slots");
        return Err(BuildError::Device { device: config.devices[VIRTIO_COUNT as usize].model.name(), problem });
    }
    for slot in 0..VIRTIO_COUNT {
        // Devices fill the slots from the last one on, which is also the first one in the device tree, so that a
        // guest finds them in the order of the command line.
        let position = (VIRTIO_COUNT - 1 - slot) as usize;
        let device = config.devices.get(position).map(|device| virtio_device(&device.model)).transpose()?;
        let address = VIRTIO + slot * VIRTIO_STEP;
        let label = format!("virtio-mmio@{address:x}");
        let interrupt = output(&label, line(VIRTIO_IRQ + slot as u32));
        let transport = VirtioMmio::new(label, device, ram.clone(), interrupt);
        bus.map_memory(address, mmio::SIZE, transport.clone())?;
        devices.push(transport);
    }
    // Controllers come last, so that a reset of the devices does not leave lines up.
    devices.push(aclint);
    devices.push(plic);
    Ok(devices)
}

/// The firmware, if there is to be one.
fn firmware(config: &Config) -> Result<Option<BootFile>, BuildError> {
    match &config.boot.firmware {
        Firmware::None => Ok(None),
        Firmware::File(path) => Ok(Some(BootFile::open("firmware", path)?)),
        Firmware::Default => {
            let usual = ["/usr/lib/riscv64-linux-gnu/opensbi/generic", "/usr/share/qemu"].map(PathBuf::from);
            let folders: Vec<PathBuf> = config.boot.firmware_folders.iter().cloned().chain(usual).collect();
            let names = [FIRMWARE_FILE, "opensbi-riscv64-generic-fw_dynamic.bin"];
            let found =
                folders.iter().flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.is_file());
            match found {
                Some(path) => Ok(Some(BootFile::open("firmware", &path)?)),
                None => {
                    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                    let (wanted, package) = (FIRMWARE_FILE, "opensbi");
                    Err(BuildError::Firmware { wanted, folders: folders.join(", "), package })
                }
            }
        }
    }
}

/// A program in memory.
struct Program {
    images: Vec<Image>,
    entry: u64,
    /// First address after it, with what it needs beyond its file.
    end: u64,
}

fn program(file: &BootFile, address: u64) -> Result<Program, BuildError> {
    match file.kind {
        ImageKind::Elf { .. } => {
            let elf = file.elf(EM_RISCV)?;
            Ok(Program { images: elf.images, entry: elf.entry, end: elf.end })
        }
        ImageKind::Arm64Linux | ImageKind::BzImage => {
            let name = file.kind.architecture_name().unwrap_or("another architecture");
            Err(file.wrong(format!("is for {name}, not for riscv64")).into())
        }
        ImageKind::RiscvLinux { image_size, .. } => {
            // A kernel clears memory after its file by itself; only its place must be there.
            let size = file.length.max(image_size);
            let end = address.checked_add(size).ok_or_else(|| file.wrong("says that it is larger than memory"))?;
            Ok(Program { images: vec![file.whole(address)], entry: address, end })
        }
        ImageKind::Raw => {
            let end = address.checked_add(file.length).ok_or_else(|| file.wrong("is larger than memory"))?;
            Ok(Program { images: vec![file.whole(address)], entry: address, end })
        }
    }
}

/// Everything that goes into memory before the first instruction, and the address of that instruction.
fn plan_images(config: &Config, harts: u32) -> Result<(Vec<Image>, u64), BuildError> {
    let ram_end = DRAM + config.memory;
    let mut images = Vec::new();

    let firmware = firmware(config)?.map(|file| program(&file, DRAM)).transpose()?;
    let firmware_end = firmware.as_ref().map_or(DRAM, |firmware| firmware.end);
    let kernel_address = match firmware {
        Some(_) => firmware_end.checked_next_multiple_of(TWO_MIB).unwrap_or(u64::MAX).max(DRAM + TWO_MIB),
        None => DRAM,
    };
    let kernel = match &config.boot.kernel {
        Some(path) => Some(program(&BootFile::open("kernel", path)?, kernel_address)?),
        None => None,
    };
    if let Some(kernel) = &kernel
        && kernel.end > ram_end
    {
        let (address, length) = (kernel.entry, kernel.end.saturating_sub(kernel.entry));
        return Err(LoadError::Space { what: "the kernel".into(), address, length }.into());
    }
    let initrd = match &config.boot.initrd {
        Some(path) => {
            let file = BootFile::open("initrd", path)?;
            let after = kernel.as_ref().map_or(kernel_address, |kernel| kernel.entry);
            let place = after.saturating_add((config.memory / 2).min(INITRD_DISTANCE));
            let end = kernel.as_ref().map_or(0, |kernel| kernel.end).checked_next_multiple_of(TWO_MIB);
            Some(file.whole(place.max(end.unwrap_or(u64::MAX))))
        }
        None => None,
    };
    let next_mode = u64::from(firmware.is_some());
    let (start, next) = match (&firmware, &kernel) {
        (Some(firmware), kernel) => (firmware.entry, kernel.as_ref().map_or(0, |kernel| kernel.entry)),
        (None, Some(kernel)) => (kernel.entry, kernel.entry),
        (None, None) => (DRAM, DRAM),
    };

    let initrd_range = initrd.as_ref().map(|initrd| (initrd.address, initrd.address.saturating_add(initrd.size())));
    let mut seed = [0; 32];
    host::random::fill(&mut seed).map_err(|source| BuildError::Host { what: "give random numbers", source })?;
    let tree = device_tree::write(&device_tree::Machine {
        memory: config.memory,
        harts,
        cpu: &config.riscv,
        command_line: &config.boot.command_line,
        initrd: initrd_range,
        seed,
    })?;
    let tree_length = tree.len() as u64;
    let tree_address = ram_end.min(DEVICE_TREE_LIMIT).saturating_sub(tree_length) & !(TWO_MIB - 1);
    if tree_address < firmware_end.max(kernel.as_ref().map_or(0, |kernel| kernel.end)) {
        let what = "the device tree".into();
        return Err(LoadError::Space { what, address: tree_address, length: tree_length }.into());
    }

    images.push(Image::bytes("the reset vector", ROM, reset_vector(start, tree_address, next, next_mode)));
    images.extend(firmware.into_iter().chain(kernel).flat_map(|program| program.images));
    images.extend(initrd);
    images.push(Image::bytes("the device tree", tree_address, tree));
    Ok((images, ROM))
}

/// The first instructions: a0 = hart, a1 = device tree, a2 = what OpenSBI's dynamic firmware is to start
/// (`struct fw_dynamic_info`, version 2); then a jump to `start`.
fn reset_vector(start: u64, tree: u64, next: u64, next_mode: u64) -> Vec<u8> {
    const CODE: [u32; 6] = [
        0x0000_0297, // auipc t0, 0
        0x0282_8613, // addi a2, t0, 40
        0xf140_2573, // csrr a0, mhartid
        0x0202_b583, // ld a1, 32(t0)
        0x0182_b283, // ld t0, 24(t0)
        0x0002_8067, // jr t0
    ];
    const FW_DYNAMIC_MAGIC: u64 = 0x4942_534f;
    const FW_DYNAMIC_VERSION: u64 = 2;
    let boot_hart = 0;
    let options = 0;
    let data = [start, tree, FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next, next_mode, options, boot_hart];
    let code = CODE.iter().flat_map(|word| word.to_le_bytes());
    code.chain(data.iter().flat_map(|word| word.to_le_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::DeviceModel;
    use crate::test_support::FakeAccelerator;
    use accel::AddressSpace;
    use accel::clock::VirtualClock;
    use vm_memory::{Bytes, GuestAddress};

    fn board(config: &Config) -> Result<(Board, Arc<crate::bus::Bus>), BuildError> {
        let accelerator: Arc<dyn accel::Accelerator> = FakeAccelerator::new(accel::Architecture::Riscv64);
        let bus = Arc::new(crate::bus::Bus::new(Arc::new(|_| {})));
        let vcpus: Vec<_> = (0..config.vcpus).map(|index| accelerator.create_vcpu(index).unwrap().handle()).collect();
        let clock = VirtualClock::new();
        let taps = crate::interrupt::Taps::default();
        let parts = Parts { accelerator: &accelerator, clock: &clock, bus: &bus, vcpus: &vcpus, taps: &taps };
        Ok((build(config, &parts)?, bus))
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn kernel_image(image_size: u64, length: usize) -> Vec<u8> {
        let mut image = vec![0x5a; length];
        image[0x08..0x10].copy_from_slice(&0x20_0000u64.to_le_bytes());
        image[0x10..0x18].copy_from_slice(&image_size.to_le_bytes());
        image[0x38..0x3c].copy_from_slice(b"RSC\x05");
        image
    }

    fn word(board: &Board, address: u64) -> u64 {
        board.physical.read_obj(GuestAddress(address)).unwrap()
    }

    #[test]
    fn firmware_kernel_initrd_and_device_tree_are_where_qemu_puts_them() {
        let (firmware, kernel, initrd) =
            (file(&[1; 0x5_0001]), file(&kernel_image(0x100_0000, 0x1000)), file(&[3; 77]));
        let mut config = Config { memory: 512 << 20, ..Config::default() };
        config.boot.firmware = Firmware::File(firmware.path().into());
        config.boot.kernel = Some(kernel.path().into());
        config.boot.initrd = Some(initrd.path().into());
        let (board, _) = board(&config).unwrap();
        for image in &board.images {
            image.load(&board.physical).unwrap();
        }
        let addresses: Vec<u64> = board.images.iter().map(|image| image.address).collect();
        assert_eq!(addresses, [0x1000, 0x8000_0000, 0x8020_0000, 0x9020_0000, 0x9fe0_0000]);
        assert_eq!(word(&board, 0x1018), 0x8000_0000);
        assert_eq!(word(&board, 0x1020), 0x9fe0_0000);
        let info: Vec<u64> = (0..6).map(|index| word(&board, 0x1028 + 8 * index)).collect();
        assert_eq!(info, [0x4942_534f, 2, 0x8020_0000, 1, 0, 0]);
        let tree = word(&board, 0x9fe0_0000).to_le_bytes();
        assert_eq!(tree[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    }

    #[test]
    fn without_firmware_the_kernel_starts_in_machine_mode_at_the_start_of_ram() {
        let kernel = file(&[0x13; 64]);
        let mut config = Config::default();
        config.boot.firmware = Firmware::None;
        config.boot.kernel = Some(kernel.path().into());
        let (board, _) = board(&config).unwrap();
        board.images.iter().for_each(|image| image.load(&board.physical).unwrap());
        assert_eq!(word(&board, 0x1018), 0x8000_0000);
        assert_eq!(word(&board, 0x8000_0000), 0x1313_1313_1313_1313);
    }

    #[test]
    fn a_kernel_that_needs_more_than_the_ram_or_is_for_another_machine_is_refused() {
        let mut config = Config::default();
        config.boot.firmware = Firmware::None;
        let mut pc = vec![0; 0x240];
        pc[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        pc[0x202..0x206].copy_from_slice(b"HdrS");
        for (bytes, expected) in [
            (kernel_image(1 << 30, 0x100), "does not fit"),
            (kernel_image(u64::MAX, 0x100), "larger than memory"),
            (pc, "is for x86_64"),
        ] {
            let kernel = file(&bytes);
            config.boot.kernel = Some(kernel.path().into());
            let error = board(&config).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn impossible_machines_are_refused_with_the_limits() {
        for memory in [0, 4096, (128 << 20) + 1, u64::MAX] {
            let config = Config { memory, ..Config::default() };
            assert!(matches!(board(&config), Err(BuildError::Memory { .. })), "{memory}");
        }
        let mut config = Config::default();
        config.boot.firmware = Firmware::None;
        config.devices.extend((0..9).map(|_| super::super::DeviceConfig { id: None, model: DeviceModel::VirtioRng }));
        assert!(board(&config).err().unwrap().to_string().contains("8 virtio slots"));
    }

    #[test]
    fn each_device_answers_at_its_address_and_the_first_virtio_device_is_in_the_last_slot() {
        let mut config = Config { vcpus: 2, ..Config::default() };
        config.boot.firmware = Firmware::None;
        config.devices.push(super::super::DeviceConfig { id: None, model: DeviceModel::VirtioRng });
        let (_board, bus) = board(&config).unwrap();
        use accel::IoBus;
        let read = |address| {
            let mut data = [0; 4];
            bus.read(AddressSpace::Memory, address, &mut data).map(|()| u32::from_le_bytes(data))
        };
        assert_eq!(read(0x10_0000), Ok(0));
        assert_eq!(read(0x10_1010), Ok(0));
        assert_eq!(read(0x200_4000), Ok(u32::MAX));
        assert_eq!(read(0xc00_0004), Ok(0));
        assert!(read(0xc5f_fffc).is_ok() && read(0xc60_0000).is_err());
        assert_eq!(read(0x1000_0004), Ok(0));
        assert_eq!((read(0x1000_8008), read(0x1000_7008), read(0x1000_1000)), (Ok(4), Ok(0), Ok(0x7472_6976)));
    }
}
