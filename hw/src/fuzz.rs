//! Entry points for fuzzers: plain functions that must neither panic nor hang, whatever bytes they are given.

use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::memory::{GuestMemory, allocate};
use accel::{AddressSpace, IoBus, LocalApicRegister, VcpuHandle};
use block::{Backend, MemoryDisk, Node};
use host::chardev::NullBackend;
use vm_memory::{Bytes, GuestAddress};

use crate::aclint::{self, Aclint, HartLines};
use crate::bus::{Bus, Effect, MmioDevice, Width};
use crate::cmos::Cmos;
use crate::debug_port::{DebugConsole, DebugExit};
use crate::device::Device;
use crate::floppy::{self, FloppyController};
use crate::fw_cfg::{self, FwCfg, Items};
use crate::goldfish_rtc::{self, GoldfishRtc};
use crate::hpet::{self, Hpet};
use crate::i8042::I8042;
use crate::i8237::{self, I8237};
use crate::i8254::I8254;
use crate::i8259::{self, I8259};
use crate::ide;
use crate::interrupt::InterruptLine;
use crate::io_apic::{self, IoApic};
use crate::local_apic::{LINT0, LocalApics};
use crate::ns16550::{self, Ns16550};
use crate::pc_testdev::{self, PcTestdev};
use crate::pci::host_bridge::{self, HostBridge};
use crate::pci::isa_bridge::IsaBridge;
use crate::pci::piix3_ide::Piix3Ide;
use crate::pci::power_management::{self, PowerManagement};
use crate::pci::testdev::PciTestdev;
use crate::pci::{PciBus, PciDevice, Slot};
use crate::plic::{self, Plic};
use crate::sifive_test::{self, SifiveTest};
use crate::vga::{self, Vga};
use crate::virtio::VirtioDevice;
use crate::virtio::blk::VirtioBlk;
use crate::virtio::console::VirtioConsole;
use crate::virtio::mmio::{self, VirtioMmio};
use crate::virtio::pci::VirtioPci;
use crate::virtio::rng::VirtioRng;

/// Most operations that one input leads to.
const MOST_OPERATIONS: usize = 4096;
/// Length of the guest memory of virtio devices, bytes.
const MEMORY: u64 = 0x1_0000;
/// Length of the disk, bytes.
const DISK: usize = 0x4000;

/// Where the devices are in [`fuzz_device_registers`]: each at a multiple of this.
const SLOT: u64 = 0x100_0000;

/// Takes values out of a fuzzer's bytes, zeroes after their end.
struct Input<'a> {
    bytes: &'a [u8],
}

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    fn take<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        let mut taken = [0; COUNT];
        let count = COUNT.min(self.bytes.len());
        let (now, later) = self.bytes.split_at(count);
        taken[..count].copy_from_slice(now);
        self.bytes = later;
        taken
    }
    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }
    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

/// A disk in memory.
fn disk() -> Arc<Backend> {
    Backend::new(Node::new("disk", MemoryDisk::new(vec![0; DISK], false)))
}

fn memory() -> Option<Arc<GuestMemory>> {
    let region = allocate(0, MEMORY).ok()?;
    GuestMemory::from_arc_regions(vec![region]).ok().map(Arc::new)
}

fn virtio_device(kind: u8) -> Option<Arc<dyn VirtioDevice>> {
    Some(match kind % 3 {
        0 => VirtioBlk::new(disk(), "fuzz").ok()?,
        1 => VirtioConsole::new(Arc::new(NullBackend)).ok()?,
        _ => VirtioRng::new(),
    })
}

/// Gives a virtio device, chosen by the first byte, arbitrary registers, rings and buffers, as a hostile driver would.
///
/// The rest of `data` is a list of operations: writes of registers, writes of guest memory, notifications, resets, and
/// a well-behaved set-up that lets later operations reach the device itself.
pub fn fuzz_virtio_queue(data: &[u8]) {
    let mut input = Input { bytes: data };
    let (Some(memory), Some(device)) = (memory(), virtio_device(input.byte())) else { return };
    let queues = device.queue_sizes().len() as u8;
    let slot = VirtioMmio::new("fuzz".into(), Some(device), memory.clone(), InterruptLine::disconnected());
    let set = |offset: u64, value: u64| {
        let _ = MmioDevice::write(&*slot, offset, Width::Word, value);
    };
    for _ in 0..MOST_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 6 {
            0 => set(u64::from(input.byte()) * 4, u64::from(input.word())),
            1 => {
                let (offset, width) = (input.half(), Width::ALL[usize::from(input.byte() % 4)]);
                let _ = MmioDevice::read(&*slot, u64::from(offset % 0x200), width);
            }
            2 => {
                let (address, length) = (u64::from(input.half()), usize::from(input.byte()));
                let bytes: Vec<u8> = (0..length).map(|_| input.byte()).collect();
                // What would go beyond the end of memory stays away.
                let _ = memory.write_slice(&bytes, GuestAddress(address));
            }
            3 => set(0x50, u64::from(input.byte() % (queues + 1))),
            4 => set(0x70, 0),
            _ => {
                // All that a driver must do, with rings at places of the fuzzer's.
                set(0x70, 3);
                for (half, features) in [(0, u64::from(input.byte()) << 24), (1, 1)] {
                    set(0x24, half);
                    set(0x20, features);
                }
                set(0x70, 0xb);
                for queue in 0..queues {
                    set(0x30, u64::from(queue));
                    set(0x38, 1 << (input.byte() % 9));
                    for register in [0x80, 0x90, 0xa0] {
                        set(register, u64::from(input.half() & !0xf));
                    }
                    set(0x44, 1);
                }
                set(0x70, 0xf);
            }
        }
    }
    // Waits until the device has finished, so that what it does at the end counts, too.
    slot.pause();
    let state = slot.save();
    let _ = slot.restore(&state);
    slot.reset();
}

/// Reads and writes the registers of every device that has some, at arbitrary offsets and widths.
///
/// `data` is a list of accesses: which device, where, how wide, and what.
pub fn fuzz_device_registers(data: &[u8]) {
    let mut input = Input { bytes: data };
    let Some((bus, devices)) = all_devices() else { return };
    for _ in 0..MOST_OPERATIONS {
        if input.is_empty() {
            break;
        }
        let [device, operation] = input.take();
        let length = 1 << (operation & 3);
        let (space, address) = if operation & 0x08 != 0 {
            (AddressSpace::Port, u64::from(input.half()))
        } else {
            let slot = u64::from(device % 16) * SLOT;
            (AddressSpace::Memory, slot + u64::from(input.word()) % SLOT)
        };
        if operation & 0x04 != 0 {
            let _ = bus.read(space, address, &mut [0; 8][..length]);
        } else {
            let _ = bus.write(space, address, &input.take::<8>()[..length]);
        }
        if operation & 0xf0 == 0x80 {
            let _ = bus.acknowledge_interrupt();
        }
        if operation == 0xff {
            devices.iter().for_each(|device| device.reset());
        }
    }
    for device in &devices {
        device.pause();
        let state = device.save();
        let _ = device.restore(&state);
    }
}

/// A processor that hears nothing.
struct NoProcessor;

impl VcpuHandle for NoProcessor {
    fn kick(&self) {}
    fn set_interrupt(&self, _input: u32, _level: bool) {}
    fn inject_nmi(&self) -> Result<(), accel::Error> {
        Ok(())
    }
    fn is_halted(&self) -> bool {
        false
    }
}

/// A processor's view of a bus, and the devices on it.
type BusAndDevices = (Arc<dyn IoBus>, Vec<Arc<dyn Device>>);

/// A bus with every device of this crate on it.
fn all_devices() -> Option<BusAndDevices> {
    let bus = Arc::new(Bus::new(Arc::new(|_: Effect| {})));
    let (clock, memory) = (VirtualClock::new(), memory()?);
    let line = InterruptLine::disconnected;
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();

    let harts = || (0..4).map(|_| HartLines { software: line(), timer: line() }).collect();
    let aclint = Aclint::new(clock.clone(), harts());
    bus.map_memory(0, aclint::SIZE, aclint.clone()).ok()?;
    let plic = Plic::new(96, (0..8).map(|_| line()).collect());
    bus.map_memory(SLOT, plic::size(16), plic.clone()).ok()?;
    let uart = Ns16550::new("uart", line(), Arc::new(NullBackend));
    bus.map_memory(2 * SLOT, ns16550::SIZE, uart.clone()).ok()?;
    bus.map_ports(0x3f8, ns16550::SIZE, 0, uart.clone()).ok()?;
    let rtc = GoldfishRtc::new(clock.clone(), line());
    bus.map_memory(3 * SLOT, goldfish_rtc::SIZE, rtc.clone()).ok()?;
    let test = SifiveTest::new();
    bus.map_memory(4 * SLOT, sifive_test::SIZE, test.clone()).ok()?;
    devices.extend([aclint as Arc<dyn Device>, plic, uart, rtc, test]);
    for kind in 0..3 {
        let slot = VirtioMmio::new(format!("virtio{kind}"), Some(virtio_device(kind)?), memory.clone(), line());
        bus.map_memory((5 + u64::from(kind)) * SLOT, mmio::SIZE, slot.clone()).ok()?;
        devices.push(slot);
    }

    let cmos = Cmos::new(clock.clone(), line(), &[]);
    bus.map_ports(0x70, 2, 0, cmos.clone()).ok()?;
    let keyboard = I8042::new(line(), line());
    bus.map_ports(0x60, 9, 0, keyboard.clone()).ok()?;
    let exit = Arc::new(DebugExit);
    bus.map_ports(0x501, 2, 0, exit.clone()).ok()?;
    let console = DebugConsole::new(Arc::new(NullBackend));
    bus.map_ports(0xe9, 1, 0, console.clone()).ok()?;
    let pci = PciBus::new(&bus);
    let isa = IsaBridge::with_lines((0..16).map(|_| line()).collect());
    let power = PowerManagement::new(clock.clone(), line(), true, Some(Box::new(|| {})));
    bus.map_ports(0x600, power_management::PORT_COUNT, 0, power.clone()).ok()?;
    bus.map_ports(0xb2, 1, power_management::COMMAND_OFFSET, power.clone()).ok()?;
    let bridge = HostBridge::new(pci.clone(), false);
    bus.map_ports(host_bridge::PORTS, host_bridge::PORT_COUNT, 0, bridge.clone()).ok()?;
    for kind in 0..3 {
        let label = format!("virtio-pci{kind}");
        let pin = isa.pin(4 + kind);
        let function = VirtioPci::new(label, virtio_device(kind)?, memory.clone(), pin, Arc::new(|_| {}));
        pci.insert(Slot::new(4 + kind, 0), &(function.clone() as Arc<dyn PciDevice>));
        devices.push(function);
    }
    let functions: [(u8, Arc<dyn PciDevice>); 3] = [(0, bridge.clone()), (8, isa.clone()), (11, power.clone())];
    for (slot, function) in functions {
        pci.insert(Slot(slot), &function);
    }
    devices.extend([cmos as Arc<dyn Device>, keyboard, exit, console, isa, power, bridge]);

    let processors: [Arc<dyn VcpuHandle>; 2] = [Arc::new(NoProcessor), Arc::new(NoProcessor)];
    let apics = LocalApics::new(&processors, &clock, 1_000_000);
    let pics = I8259::new(InterruptLine::new(apics.clone(), LINT0));
    for (port, offset) in [(0x20, i8259::FIRST), (0xa0, i8259::SECOND), (0x4d0, i8259::LEVEL)] {
        bus.map_ports(port, 2, offset, pics.clone()).ok()?;
    }
    let io_apic = IoApic::new(apics.clone());
    bus.map_memory(8 * SLOT, io_apic::SIZE, io_apic.clone()).ok()?;
    let pit = I8254::new(clock.clone(), InterruptLine::new(pics.clone(), 0));
    bus.map_ports(0x40, 5, 0, pit.clone()).ok()?;
    let hpet = Hpet::new(clock.clone(), io_apic.clone(), Arc::new(|_| {}));
    bus.map_memory(9 * SLOT, hpet::SIZE, hpet.clone()).ok()?;
    let test = PcTestdev::new(io_apic.clone());
    bus.map_memory(10 * SLOT, pc_testdev::SIZE, test.clone()).ok()?;
    bus.map_ports(0x2000, 24, pc_testdev::INTERRUPTS, test.clone()).ok()?;
    let mut items = Items::default();
    items.add_file_bytes("fuzz", vec![1; 1000]);
    let fw_cfg = FwCfg::new(items, memory.clone());
    bus.map_ports(fw_cfg::PORTS, fw_cfg::PORT_COUNT, 0, fw_cfg.clone()).ok()?;
    let disk = disk();
    let drive = |kind| Some(ide::Drive { kind, medium: disk.clone(), serial: String::new() });
    let drives = [drive(ide::DriveKind::Disk), drive(ide::DriveKind::CdRom)];
    let dma_memory = memory.clone();
    let channel = ide::Channel::new("ide".into(), drives, line(), memory).ok()?;
    bus.map_ports(0x1f0, ide::COMMAND_PORTS, 0, channel.clone()).ok()?;
    bus.map_ports(0x3f6, 1, ide::CONTROL, channel.clone()).ok()?;
    let function = Piix3Ide::new([channel.clone(), channel.clone()]);
    pci.insert(Slot(9), &(function.clone() as Arc<dyn PciDevice>));
    let vga = Vga::new(clock.clone(), vec![1; 0x1000]);
    for (port, count) in vga::PORTS {
        bus.map_ports(port, count, port, vga.clone()).ok()?;
    }
    bus.map_memory(11 * SLOT + 0x10_0000, vga::WINDOW.1, vga.clone()).ok()?;
    pci.insert(Slot::new(2, 0), &(vga.clone() as Arc<dyn PciDevice>));
    let dma = I8237::new(dma_memory);
    for (port, count, offset) in i8237::PORTS {
        bus.map_ports(port, count, offset, dma.clone()).ok()?;
    }
    let floppy = Some(floppy::Drive { medium: disk });
    let floppies = FloppyController::new([floppy, None], line(), dma.clone()).ok()?;
    for (port, count, offset) in floppy::PORTS {
        bus.map_ports(port, count, offset, floppies.clone()).ok()?;
    }
    devices.extend([vga as Arc<dyn Device>, dma, floppies]);
    let pci_test = PciTestdev::new("pci-testdev".into());
    pci.insert(Slot::new(7, 0), &(pci_test.clone() as Arc<dyn PciDevice>));
    devices.extend([pit as Arc<dyn Device>, pics.clone(), io_apic, apics.clone(), hpet, test, fw_cfg]);
    devices.extend([channel as Arc<dyn Device>, function, pci_test]);
    let view = apics.processor_bus(1, bus, Arc::new(move || pics.acknowledge()))?;
    view.write_local_apic(LocalApicRegister::Base, (11 * SLOT) | 0x800)?;
    Some((view, devices))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_driver_breaks_a_virtio_device(data in prop::collection::vec(any::<u8>(), 0..4096)) {
            fuzz_virtio_queue(&data);
        }

        #[test]
        fn no_access_breaks_a_device(data in prop::collection::vec(any::<u8>(), 0..8192)) {
            fuzz_device_registers(&data);
        }

        /// What a device saves, a fresh one takes over, and saves again the same.
        #[test]
        fn every_device_survives_saving_and_restoring(data in prop::collection::vec(any::<u8>(), 0..4096)) {
            let (Some((bus, devices)), Some((_other_bus, others))) = (all_devices(), all_devices()) else {
                panic!("the host refuses the devices");
            };
            let mut input = Input { bytes: &data };
            while !input.is_empty() {
                let [device, operation] = input.take();
                let bytes = input.take::<8>();
                let (space, address) = if operation & 0x08 != 0 {
                    (AddressSpace::Port, u64::from(input.half()))
                } else {
                    (AddressSpace::Memory, u64::from(device % 12) * SLOT + u64::from(input.half() % 0x4200))
                };
                let _ = bus.write(space, address, &bytes[..1 << (operation & 3)]);
            }
            for (device, other) in devices.iter().zip(&others) {
                device.pause();
                other.pause();
                let saved = device.save();
                let text = serde_json::to_string(&saved).unwrap();
                let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
                other.restore(&parsed).unwrap_or_else(|error| panic!("{}: {error}", device.debug_label()));
                prop_assert_eq!(&other.save(), &saved, "{}", device.debug_label());
                other.restore(&parsed).unwrap();
                prop_assert_eq!(&other.save(), &saved, "{} twice", device.debug_label());
            }
        }

        /// A state from nowhere is refused or taken, and never breaks anything.
        #[test]
        fn no_saved_state_breaks_a_device(data in prop::collection::vec(any::<u8>(), 64)) {
            let Some((_bus, devices)) = all_devices() else { panic!("the host refuses the devices") };
            for (device, bytes) in devices.iter().zip(data.chunks(3).cycle()) {
                device.pause();
                let mut text = serde_json::to_string(&device.save()).unwrap().into_bytes();
                // Digits become other digits, so that the form stays and the numbers change.
                let digits: Vec<usize> = (0..text.len()).filter(|at| text[*at].is_ascii_digit()).collect();
                for byte in bytes {
                    if let Some(at) = digits.get(usize::from(*byte) * 7919 % digits.len().max(1)) {
                        text[*at] = b'0' + byte % 10;
                    }
                }
                if let Ok(state) = serde_json::from_slice(&text) {
                    let _ = device.restore(&state);
                }
                device.reset();
            }
        }
    }
}
