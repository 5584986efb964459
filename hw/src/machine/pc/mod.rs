//! `pc`: an x86-64 machine around the i440FX host bridge and the PIIX3 and PIIX4 south bridges.
//!
//! Its interrupt controllers and its interval timer are the accelerator's own where it has some, and else devices. It boots
//! a kernel directly, or firmware; USB is left out so far.

mod acpi;
mod boot;
mod firmware;
mod interrupts;
mod multiboot;
mod option_rom;
pub(crate) mod shadow;
pub(crate) mod sleep;
mod smbios;
pub(crate) mod smram;

use std::sync::{Arc, OnceLock};

use accel::memory::{GuestMemory, MemorySlot, Region, allocate};
use accel::state::CpuState;
use vm_memory::GuestMemoryRegion;

use super::{Board, BootDevice, BuildError, Config, DeviceModel, Parts, Vga as VgaModel, virtio_device};
use crate::bus::MmioDevice;
use crate::cmos::Cmos;
use crate::debug_port::{DebugConsole, DebugExit};
use crate::device::Device;
use crate::floppy::{self, FloppyController};
use crate::fw_cfg::{self, FwCfg};
use crate::hpet::{self, Hpet};
use crate::i8042::{self, I8042};
use crate::i8237::{self, I8237};
use crate::ide;
use crate::interrupt::InterruptLine;
use crate::load::{Image, check_overlaps};
use crate::ns16550::{self, Ns16550};
use crate::pc_testdev::{self, PcTestdev};
use crate::pci::host_bridge::{self, HostBridge};
use crate::pci::isa_bridge::IsaBridge;
use crate::pci::piix3_ide::{CHANNELS, Piix3Ide};
use crate::pci::power_management::{self as pm, PowerManagement};
use crate::pci::testdev::PciTestdev;
use crate::pci::{PciBus, PciDevice, Slot};
use crate::vga::{self, Vga};
use crate::virtio::pci::VirtioPci;
use interrupts::Interrupts;
use shadow::Shadow;
use sleep::{Sleep, WakingLine};
use smram::Smram;

/// Most processors: APIC ids have eight bits, and one of them means all.
pub const CPU_MAX: u32 = 255;

const NAME: &str = "pc";

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// RAM ends here, and display memory begins; behind it is [`smram`].
const CONVENTIONAL_END: u64 = 0xa_0000;
/// Here RAM may go on, see [`shadow`]: option ROMs and firmware.
const SHADOW: u64 = 0xc_0000;
const MIB: u64 = 0x10_0000;
const FOUR_GIB: u64 = 1 << 32;
/// With this much RAM or more, some of it goes above 4 GiB, and that below ends at [`LOW_END_SPLIT`].
const LOW_END_MOST: u64 = 0xe000_0000;
const LOW_END_SPLIT: u64 = 0xc000_0000;
/// First address after the memory window of PCI devices.
const PCI_WINDOW_END: u32 = IO_APIC;
/// The extended BIOS data area that a kernel may look for.
const CONVENTIONAL_USABLE: u64 = 0x9_fc00;

const LEAST_MEMORY: u64 = 2 * MIB;
const MOST_MEMORY: u64 = 1 << 45;
/// How much of the firmware's end is seen below 1 MiB.
const FIRMWARE_SHADOW: u64 = 0x2_0000;

/// Number of PCI devices on the bus.
const PCI_DEVICES: u8 = 32;
/// Device number of the graphics card.
const VGA_DEVICE: u8 = 2;
/// First device number for devices that the user adds; 1 is the south bridge, 3 would be the network card.
const FIRST_FREE_DEVICE: u8 = 4;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Largest disk with 1024 cylinders of 16 heads and 63 sectors, bytes.
const UNTRANSLATED: u64 = 1024 * 16 * 63 * 512;

/// CMOS equipment byte: a coprocessor and a mouse.
const EQUIPMENT: u8 = 0x06;

/// Ports and interrupts of the serial ports.
const SERIAL: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
const CMOS_PORT: u64 = 0x70;
const KEYBOARD_PORT: u64 = 0x60;
const KEYBOARD_COMMAND_PORT: u64 = 0x64;
const KEYBOARD_INTERRUPT: u32 = 1;
const MOUSE_INTERRUPT: u32 = 12;
const SYSTEM_CONTROL_PORT: u64 = 0x92;

/// Where RAM is.
#[derive(Clone)]
struct Layout {
    /// First address after the RAM below 4 GiB.
    low_end: u64,
    /// Length of the RAM from 4 GiB on.
    high: u64,
    /// Start, length and type of each range of the memory map that kernels are given.
    e820: Vec<(u64, u64, u32)>,
    /// Address of ACPI's root pointer.
    acpi: u64,
}

impl Layout {
    fn new(memory: u64) -> Layout {
        let low_end = if memory >= LOW_END_MOST { LOW_END_SPLIT } else { memory };
        let high = memory - low_end;
        let mut e820 = vec![
            (0, CONVENTIONAL_USABLE, E820_RAM),
            (CONVENTIONAL_USABLE, CONVENTIONAL_END - CONVENTIONAL_USABLE, E820_RESERVED),
            (acpi::ADDRESS, MIB - acpi::ADDRESS, E820_RESERVED),
            (MIB, low_end - MIB, E820_RAM),
        ];
        if high > 0 {
            e820.push((FOUR_GIB, high, E820_RAM));
        }
        Layout { low_end, high, e820, acpi: acpi::ADDRESS }
    }
}

pub(super) fn build(config: &Config, parts: &Parts<'_>) -> Result<Board, BuildError> {
    if !(LEAST_MEMORY..=MOST_MEMORY).contains(&config.memory) || !config.memory.is_multiple_of(4096) {
        let (least, most, size) = (LEAST_MEMORY, MOST_MEMORY, config.memory);
        return Err(BuildError::Memory { machine: NAME, least, most, size });
    }
    let layout = Layout::new(config.memory);
    let shadow_regions = shadow::allocate_ram()?;
    let mut ram_regions = vec![allocate(0, CONVENTIONAL_END)?, allocate(MIB, layout.low_end - MIB)?];
    if layout.high > 0 {
        ram_regions.push(allocate(FOUR_GIB, layout.high)?);
    }
    let firmware = firmware::find(config)?;
    let mut slots: Vec<MemorySlot> =
        ram_regions.iter().map(|region| MemorySlot { region: region.clone(), read_only: false }).collect();
    ram_regions.extend(shadow_regions.iter().cloned());
    let mut all_regions = ram_regions.clone();
    let mut images = Vec::new();
    let mut firmware_end = None;
    if let Some(firmware) = &firmware {
        let length = firmware.length;
        let region = allocate(FOUR_GIB - length, length)?;
        all_regions.push(region.clone());
        slots.push(MemorySlot { region, read_only: true });
        images.push(firmware.whole(FOUR_GIB - length));
        // RAM in its shadow's place: firmware that copies itself there finds itself already copied.
        let seen = shadow::seen(length);
        let end = firmware.part(length - seen, seen, MIB - seen);
        images.push(end.clone());
        firmware_end = Some(end);
    }
    let shadow = Shadow::new(shadow_regions, firmware_end.as_ref())?;
    shadow.map(parts.bus)?;
    let memory_of = |mut regions: Vec<Arc<Region>>| {
        regions.sort_by_key(|region| region.start_addr());
        GuestMemory::from_arc_regions(regions)
            .map(Arc::new)
            .map_err(|error| BuildError::Host { what: "set up guest memory", source: std::io::Error::other(error) })
    };
    let ram = memory_of(ram_regions)?;
    let physical = memory_of(all_regions)?;

    let mut entry = None;
    let machine = acpi::Machine {
        cpus: parts.vcpus.len() as u32,
        pci_window: layout.low_end.max(LOW_END_SPLIT) as u32,
        vga: config.vga != VgaModel::None,
        serial: SERIAL[..config.serial.len().min(SERIAL.len())].to_vec(),
    };
    let items = firmware::items(config, &layout, &machine, &ram, firmware.is_some())?;
    // With neither firmware nor a kernel, processors find nothing where they start.
    if let Some(path) = config.boot.kernel.as_ref().filter(|_| firmware.is_none()) {
        let kernel = boot::load(config, path, &layout)?;
        images.extend(kernel.images);
        entry = Some(kernel.entry);
        let tables = acpi::tables(&machine)
            .ok_or_else(|| BuildError::Unsupported { machine: NAME, problem: "its ACPI tables are too long".into() })?;
        images.push(Image::bytes("the ACPI tables", acpi::ADDRESS, tables));
        if let Some(tables) = smbios::tables(config, &layout) {
            images.push(Image::bytes("the SMBIOS tables", smbios::ADDRESS, tables));
        }
    }
    for image in &images {
        image.check(&physical)?;
    }
    check_overlaps(&images)?;

    let interrupts = Interrupts::new(parts)?;
    let Devices { all: mut devices, power, bridge, cmos, smram } =
        add_devices(config, parts, &interrupts, &ram, &layout, entry.is_some())?;
    let control_structure = entry.is_some().then_some(acpi::CONTROL_STRUCTURE);
    let sleep = Sleep { cmos, power: power.clone(), bridge: bridge.clone(), memory: ram.clone(), control_structure };
    let (follows, smram_follows) = (shadow.clone(), smram.clone());
    bridge.on_memory_control(Box::new(move |control| {
        follows.set(control.attributes);
        smram_follows.set(control.smram);
    }));
    let fw_cfg = FwCfg::new(items, ram.clone());
    parts.bus.map_ports(fw_cfg::PORTS, fw_cfg::PORT_COUNT, 0, fw_cfg.clone())?;
    devices.insert(0, fw_cfg);
    Ok(Board {
        ram,
        physical,
        slots,
        shadow: Some(shadow),
        smram: Some(smram),
        sleep: Some(sleep),
        devices,
        images,
        start_state: Box::new(move |index, state| {
            if let (0, CpuState::X86_64(state), Some(entry)) = (index, state, &entry) {
                boot::set_entry(state, entry);
            }
        }),
        power_button: Some(Box::new(move || power.press_button())),
        local_apics: interrupts.local_apics,
        processor_buses: interrupts.processor_buses,
        carry_over: interrupts.carry_over,
    })
}

/// What firmware reads from the CMOS RAM.
fn cmos_contents(config: &Config, layout: &Layout) -> Vec<(u8, u8)> {
    let mut order = config.boot.order.iter().map(|device| match device {
        BootDevice::Floppy => 1,
        BootDevice::Disk => 2,
        BootDevice::CdRom => 3,
        BootDevice::Network => 4,
    });
    let [first, second, third] = [(); 3].map(|()| order.next().unwrap_or(0));
    let mut contents = vec![(0x15, 0x80), (0x16, 0x02), (0x3d, (second << 4) | first), (0x38, third << 4)];
    // What there is: a coprocessor, a mouse, and floppy drives with their number less one; kinds of drives.
    let kinds = config
        .floppies
        .each_ref()
        .map(|drive| drive.as_ref().and_then(floppy::Drive::geometry).map_or(0, |geometry| geometry.kind as u8));
    contents.push((0x10, (kinds[0] << 4) | kinds[1]));
    contents.push((
        0x14,
        EQUIPMENT
            | match kinds.iter().filter(|kind| **kind != 0).count() {
                0 => 0,
                1 => 0x01,
                _ => 0x41,
            },
    ));
    // Two bits a disk: whether firmware translates its geometry, as it must beyond 1024 cylinders.
    let translation = |drive: &Option<ide::Drive>| match drive {
        Some(ide::Drive { kind: ide::DriveKind::Disk, medium, .. }) => u8::from(medium.length() > UNTRANSLATED),
        _ => 0,
    };
    contents.push((0x39, config.ide.iter().rev().fold(0, |bits, drive| (bits << 2) | translation(drive))));
    let mut put = |first: u8, value: u64, length: u8| {
        contents.extend((0..length).map(|index| (first + index, (value >> (8 * index)) as u8)));
    };
    // Memory above 1 MiB in KiB, above 16 MiB in 64 KiB, and above 4 GiB in 64 KiB.
    let extended = ((layout.low_end - MIB) >> 10).min(0xffff);
    put(0x17, extended, 2);
    put(0x30, extended, 2);
    put(0x34, (layout.low_end.saturating_sub(16 * MIB) >> 16).min(0xffff), 2);
    put(0x5b, (layout.high >> 16).min(0xff_ffff), 3);
    put(0x5f, u64::from(config.vcpus.saturating_sub(1)), 1);
    contents
}

/// The devices of a machine.
struct Devices {
    /// All of them, in the order of reset.
    all: Vec<Arc<dyn Device>>,
    power: Arc<PowerManagement>,
    bridge: Arc<HostBridge>,
    cmos: Arc<Cmos>,
    smram: Arc<Smram>,
}

/// True if processors are to have system-management mode.
fn has_management(config: &Config, parts: &Parts<'_>) -> Result<bool, BuildError> {
    let accelerator = parts.accelerator;
    // A machine that can change its accelerator has what all of them have.
    let available = accelerator.capabilities().system_management && accelerator.choices().is_empty();
    if config.system_management == Some(true) && !available {
        let problem = if accelerator.choices().is_empty() {
            format!(
                "smm=on: accelerator {} has no system-management mode; valid are smm=off and smm=auto",
                accelerator.name()
            )
        } else {
            "smm=on and switchable=on exclude each other: not every accelerator has system-management mode".into()
        };
        return Err(BuildError::Unsupported { machine: NAME, problem });
    }
    Ok(config.system_management.unwrap_or(available))
}

fn add_devices(
    config: &Config,
    parts: &Parts<'_>,
    interrupts: &Interrupts,
    ram: &Arc<GuestMemory>,
    layout: &Layout,
    acpi_mode: bool,
) -> Result<Devices, BuildError> {
    let bus = parts.bus;
    let line = |number: u32| InterruptLine::new(interrupts.inputs.clone(), number);
    let output = |device: &str, number: u32| parts.taps.output(device, line(number));
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();

    let hpet = Hpet::new(parts.clock.clone(), interrupts.inputs.clone(), interrupts.replace_timer.clone());
    bus.map_memory(hpet::ADDRESS, hpet::SIZE, hpet.clone())?;
    let sleeper = Arc::new(OnceLock::new());
    let waking = WakingLine::between(hpet.clock_line(), bus, sleeper.clone());
    let waking = parts.taps.output("cmos", waking);
    let cmos = Cmos::new(parts.clock.clone(), waking, &cmos_contents(config, layout));
    bus.map_ports(CMOS_PORT, 2, 0, cmos.clone())?;
    devices.push(cmos.clone());
    devices.push(hpet);

    let keyboard = I8042::new(output("i8042", KEYBOARD_INTERRUPT), output("i8042", MOUSE_INTERRUPT));
    bus.map_ports(KEYBOARD_PORT, 1, i8042::DATA, keyboard.clone())?;
    bus.map_ports(KEYBOARD_COMMAND_PORT, 1, i8042::COMMAND, keyboard.clone())?;
    bus.map_ports(SYSTEM_CONTROL_PORT, 1, i8042::SYSTEM_CONTROL, keyboard.clone())?;
    devices.push(keyboard);

    if config.serial.len() > SERIAL.len() {
        let problem = format!("the machine has {} serial ports", SERIAL.len());
        return Err(BuildError::Device { device: "serial", problem });
    }
    for (index, (backend, (port, interrupt))) in config.serial.iter().zip(SERIAL).enumerate() {
        let uart = {
            let label = format!("serial{index}");
            let line = output(&label, u32::from(interrupt));
            Ns16550::new(label, line, backend.clone())
        };
        bus.map_ports(u64::from(port), ns16550::SIZE, 0, uart.clone())?;
        devices.push(uart);
    }
    if let Some((port, backend)) = &config.debug_console {
        let console = DebugConsole::new(backend.clone());
        bus.map_ports(u64::from(*port), 1, 0, console.clone())?;
        devices.push(console);
    }
    if let Some((port, count)) = config.debug_exit {
        let exit = Arc::new(DebugExit);
        bus.map_ports(u64::from(port), u64::from(count), 0, exit.clone())?;
        devices.push(exit);
    }

    if config.test_device {
        let device = PcTestdev::new(interrupts.inputs.clone());
        let (first, count) = pc_testdev::PORTS;
        bus.map_ports(first, count, 0, device.clone())?;
        let (first, count) = pc_testdev::INTERRUPT_PORTS;
        bus.map_ports(first, count, pc_testdev::INTERRUPTS, device.clone())?;
        bus.map_memory(pc_testdev::ADDRESS, pc_testdev::SIZE, device.clone())?;
        devices.push(device);
    }

    let pci = PciBus::new(bus);
    let isa = IsaBridge::with_lines((0..16).map(line).collect());
    let management = has_management(config, parts)?;
    let management_interrupt = parts.vcpus.first().filter(|_| management).map(|first| {
        let first = first.clone();
        Box::new(move || first.inject_smi()) as pm::ManagementInterrupt
    });
    let line_of_power = output("piix4-pm", u32::from(pm::INTERRUPT));
    let power = PowerManagement::new(parts.clock.clone(), line_of_power, acpi_mode, management_interrupt);
    // Set once, here.
    let _ = sleeper.set(power.clone());
    bus.map_ports(u64::from(pm::PORTS), pm::PORT_COUNT, 0, power.clone())?;
    bus.map_ports(u64::from(pm::COMMAND_PORT), pm::COMMAND_PORT_COUNT, pm::COMMAND_OFFSET, power.clone())?;

    let mut display: Option<Arc<dyn MmioDevice>> = None;
    if config.vga == VgaModel::Std {
        let vga = Vga::new(parts.clock.clone(), firmware::vga_rom(config)?);
        for (port, count) in vga::PORTS {
            bus.map_ports(port, count, port, vga.clone())?;
        }
        display = Some(vga.clone());
        pci.insert(Slot::new(VGA_DEVICE, 0), &(vga.clone() as Arc<dyn PciDevice>));
        devices.push(vga);
    }
    let smram = Smram::new(display, management)?;
    smram.map(bus)?;
    for (device, number) in config.devices.iter().zip(FIRST_FREE_DEVICE..) {
        let model: &DeviceModel = &device.model;
        if number >= PCI_DEVICES {
            let problem = format!("the PCI bus has {PCI_DEVICES} devices");
            return Err(BuildError::Device { device: model.name(), problem });
        }
        let label = format!("{}@{number:02x}.0", model.name());
        if let DeviceModel::PciTestdev = model {
            let function = PciTestdev::new(label);
            pci.insert(Slot::new(number, 0), &(function.clone() as Arc<dyn PciDevice>));
            devices.push(function);
            continue;
        }
        let pin = isa.pin(number);
        let function = VirtioPci::new(label, virtio_device(model)?, ram.clone(), pin, interrupts.messages.clone());
        pci.insert(Slot::new(number, 0), &(function.clone() as Arc<dyn PciDevice>));
        devices.push(function);
    }

    let dma = I8237::new(ram.clone());
    for (port, count, offset) in i8237::PORTS {
        bus.map_ports(port, count, offset, dma.clone())?;
    }
    if let Some(drive) = config.floppies.iter().flatten().find(|drive| drive.geometry().is_none()) {
        let problem = format!("a floppy disk of {} bytes is too long; 2.88 MB are possible", drive.medium.length());
        return Err(BuildError::Device { device: "floppy", problem });
    }
    let line = output("floppy", u32::from(floppy::INTERRUPT));
    let floppies = FloppyController::new(config.floppies.clone(), line, dma.clone())
        .map_err(|source| BuildError::Host { what: "start a thread for the floppy disk controller", source })?;
    for (port, count, offset) in floppy::PORTS {
        bus.map_ports(port, count, offset, floppies.clone())?;
    }
    devices.extend([dma as Arc<dyn Device>, floppies]);

    let channel = |number: usize| {
        let (command, control, interrupt) = CHANNELS[number];
        let drives = [config.ide[2 * number].clone(), config.ide[2 * number + 1].clone()];
        let label = format!("ide{number}");
        let line = output(&label, u32::from(interrupt));
        let channel = ide::Channel::new(label, drives, line, ram.clone())
            .map_err(|source| BuildError::Host { what: "start a thread for ide", source })?;
        bus.map_ports(command, ide::COMMAND_PORTS, 0, channel.clone())?;
        bus.map_ports(control, 1, ide::CONTROL, channel.clone())?;
        Ok::<_, BuildError>(channel)
    };
    let channels = [channel(0)?, channel(1)?];
    devices.extend(channels.iter().map(|channel| channel.clone() as Arc<dyn Device>));
    let ide = Piix3Ide::new(channels);
    // Without firmware, a kernel finds RAM where firmware would have switched it on.
    let bridge = HostBridge::new(pci.clone(), acpi_mode);
    bus.map_ports(host_bridge::PORTS, host_bridge::PORT_COUNT, 0, bridge.clone())?;
    let functions: [(Slot, Arc<dyn PciDevice>); 4] = [
        (Slot::new(0, 0), bridge.clone()),
        (Slot::new(1, 0), isa.clone()),
        (Slot::new(1, 1), ide.clone()),
        (Slot::new(1, 3), power.clone()),
    ];
    for (slot, function) in functions {
        pci.insert(slot, &function);
    }
    devices.extend([isa as Arc<dyn Device>, ide, power.clone(), bridge.clone()]);
    // Controllers come last, so that a reset of the devices does not leave lines up.
    devices.push(interrupts.device.clone());
    Ok(Devices { all: devices, power, bridge, cmos, smram })
}

#[cfg(test)]
mod tests;
