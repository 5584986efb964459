//! The `pc` machine, on an accelerator without a CPU.

use super::*;
use crate::bus::Bus;
use crate::machine::DeviceConfig;
use crate::machine::Firmware;
use crate::test_support::{FakeAccelerator, TestBackend};
use accel::clock::VirtualClock;
use accel::state::x86_64::gpr;
use accel::{Accelerator, AddressSpace, Architecture, IoBus};
use std::path::PathBuf;
use vm_memory::{Bytes, GuestAddress};

fn built(config: &Config) -> Result<(Board, Arc<Bus>), BuildError> {
    built_on(FakeAccelerator::new(Architecture::X86_64), config)
}

fn built_on(accelerator: Arc<FakeAccelerator>, config: &Config) -> Result<(Board, Arc<Bus>), BuildError> {
    let accelerator: Arc<dyn Accelerator> = accelerator;
    let bus = Arc::new(Bus::new(Arc::new(|_| {})));
    let vcpus: Vec<_> = (0..config.vcpus).map(|index| accelerator.create_vcpu(index).unwrap().handle()).collect();
    let clock = VirtualClock::new();
    let taps = crate::interrupt::Taps::default();
    let parts = Parts { accelerator: &accelerator, clock: &clock, bus: &bus, vcpus: &vcpus, taps: &taps };
    let board = build(config, &parts)?;
    board.images.iter().for_each(|image| image.load(&board.physical).unwrap());
    Ok((board, bus))
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A bzImage with one set-up sector and `length` bytes of kernel.
fn bz_image(length: usize) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image.extend(vec![0xf4; length]);
    let mut put = |at: usize, value: u64, length: usize| {
        image[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    put(0x1f1, 1, 1);
    put(0x1fe, 0xaa55, 2);
    put(0x200, 0x6aeb, 2);
    put(0x202, u64::from(u32::from_le_bytes(*b"HdrS")), 4);
    put(0x206, 0x20f, 2);
    put(0x22c, 0x7fff_ffff, 4);
    put(0x234, 1, 1);
    put(0x236, 1, 2);
    put(0x238, 2047, 4);
    put(0x258, 0x100_0000, 8);
    put(0x260, 0x20_0000, 4);
    image
}

fn with_kernel(kernel: &tempfile::NamedTempFile) -> Config {
    let mut config = Config { memory: 64 << 20, ..Config::default() };
    config.boot.kernel = Some(kernel.path().into());
    config
}

fn start_state(board: &Board, index: u32) -> accel::state::x86_64::CpuState {
    let mut state = CpuState::X86_64(Box::new(accel::state::x86_64::CpuState::reset(index)));
    (board.start_state)(index, &mut state);
    let CpuState::X86_64(state) = state else { panic!("not an x86-64 processor") };
    *state
}

#[test]
fn a_bz_image_starts_in_64_bit_mode_with_a_zero_page() {
    let (kernel, initrd) = (file(&bz_image(0x1000)), file(&[7; 5000]));
    let mut config = with_kernel(&kernel);
    config.boot.initrd = Some(initrd.path().into());
    config.boot.command_line = "console=ttyS0".into();
    let (board, _) = built(&config).unwrap();
    let state = start_state(&board, 0);
    assert_eq!(state.program_counter(), 0x100_0200);
    assert!(state.in_64_bit_code());
    let page = state.gpr[gpr::RSI];
    let read = |offset: u64| board.physical.read_obj::<u32>(GuestAddress(page + offset)).unwrap();
    assert_eq!((read(0x202), read(0x218), read(0x21c)), (u32::from_le_bytes(*b"HdrS"), (64 << 20) - 0x2000, 5000));
    assert_eq!((read(0x70), read(0x1e8) & 0xff), (0xe_0000, 4));
    let mut line = [0; 14];
    board.physical.read_slice(&mut line, GuestAddress(u64::from(read(0x228)))).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    // The page tables map what the processor needs first.
    for address in [state.rip, page, state.gdt.base, state.gpr[gpr::RSP]] {
        let mut table = state.cr3;
        for shift in [39, 30, 21] {
            let entry: u64 =
                board.physical.read_obj(GuestAddress((table & !0xfff) + 8 * ((address >> shift) & 0x1ff))).unwrap();
            assert_eq!(entry & 1, 1);
            table = entry;
        }
        assert_eq!(table & !0x1f_ffff, address & !0x1f_ffff);
    }
    assert_eq!(start_state(&board, 1).program_counter(), 0xffff_fff0);
}

#[test]
fn the_root_pointer_of_acpi_is_where_kernels_look() {
    let kernel = file(&bz_image(0x1000));
    let (board, _) = built(&with_kernel(&kernel)).unwrap();
    let mut signature = [0; 8];
    board.physical.read_slice(&mut signature, GuestAddress(0xe_0000)).unwrap();
    assert_eq!(&signature, b"RSD PTR ");
}

#[test]
fn firmware_ends_at_4_gib_and_at_1_mib_and_processors_start_there() {
    let mut bytes = vec![0; 0x4_0000];
    bytes[0x3_fff0..].fill(0xea);
    let firmware = file(&bytes);
    let mut config = Config { memory: 8 << 20, ..Config::default() };
    config.boot.firmware = Firmware::File(firmware.path().into());
    let (board, _) = built(&config).unwrap();
    for address in [0xffff_fff0, 0xf_fff0] {
        assert_eq!(board.physical.read_obj::<u8>(GuestAddress(address)).unwrap(), 0xea);
    }
    assert!(board.ram.read_obj::<u8>(GuestAddress(0xffff_fff0)).is_err());
    assert_eq!(start_state(&board, 0).program_counter(), 0xffff_fff0);
}

#[test]
fn what_cannot_boot_is_refused_with_a_reason() {
    let nothing = Config { memory: 8 << 20, ..Config::default() };
    if !PathBuf::from("/usr/share/seabios/bios-256k.bin").exists() {
        assert!(matches!(built(&nothing), Err(BuildError::Firmware { .. })));
    }
    for (bytes, expected) in [
        (vec![1; 100], "neither a bzImage, nor an ELF kernel"),
        (bz_image(64 << 20), "does not fit"),
        (bz_image(16), "ends before"),
    ] {
        let kernel = file(&bytes);
        let error = built(&with_kernel(&kernel)).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let kernel = file(&bz_image(0x1000));
    let mut config = with_kernel(&kernel);
    config.boot.command_line = "x".repeat(2048);
    let error = built(&config).err().unwrap().to_string();
    assert!(error.contains("at most 2047 bytes"), "{error}");
    let odd = file(&[0; 1000]);
    config.boot.firmware = Firmware::File(odd.path().into());
    assert!(built(&config).err().unwrap().to_string().contains("steps of 64 KiB"));
}

#[test]
fn memory_beyond_3_gib_goes_above_4_gib() {
    let layout = Layout::new(6 << 30);
    assert_eq!((layout.low_end, layout.high), (3 << 30, 3 << 30));
    let usable: u64 = layout.e820.iter().filter(|(.., kind)| *kind == E820_RAM).map(|(_, length, _)| length).sum();
    assert_eq!(usable, (6 << 30) - MIB + CONVENTIONAL_USABLE);
    let layout = Layout::new(3 << 30);
    assert_eq!((layout.low_end, layout.high, layout.e820.len()), (3 << 30, 0, 4));
}

#[test]
fn devices_answer_at_their_ports_and_in_their_slots() {
    let kernel = file(&bz_image(0x1000));
    let mut config = with_kernel(&kernel);
    config.vcpus = 2;
    config.serial.push(TestBackend::new(10));
    config.debug_exit = Some((0x501, 2));
    config.debug_console = Some((0xe9, TestBackend::new(10)));
    config.devices.push(DeviceConfig { id: None, model: DeviceModel::VirtioRng });
    let (_board, bus) = built(&config).unwrap();
    let read = |port, length: usize| {
        let mut data = [0; 4];
        bus.read(AddressSpace::Port, port, &mut data[..length]).map(|()| u32::from_le_bytes(data))
    };
    let write = |port, length: usize, value: u32| {
        bus.write(AddressSpace::Port, port, &value.to_le_bytes()[..length]).unwrap();
    };
    assert_eq!((read(0x3fd, 1), read(0xe9, 1), read(0x501, 1), read(0x64, 1)), (Ok(0x60), Ok(0xe9), Ok(0), Ok(0x14)));
    assert!(read(0x2fd, 1).is_err());
    write(0x70, 1, 0x5f);
    assert_eq!(read(0x71, 1), Ok(1));
    let id = |device: u32, function: u32| {
        write(0xcf8, 4, 0x8000_0000 | device << 11 | function << 8);
        read(0xcfc, 4)
    };
    assert_eq!((id(0, 0), id(1, 0), id(1, 3)), (Ok(0x1237_8086), Ok(0x7000_8086), Ok(0x7113_8086)));
    assert_eq!((id(4, 0), id(5, 0)), (Ok(0x1044_1af4), Ok(0xffff_ffff)));
    // The region of the virtio device appears once it has an address and is switched on.
    let config = |register: u32, value| {
        write(0xcf8, 4, 0x8000_2000 | register);
        write(0xcfc, 4, value);
    };
    let mut status = [0xff];
    assert!(bus.read(AddressSpace::Memory, 0xe000_0014, &mut status).is_err());
    config(0x20, 0xe000_0000);
    config(0x04, 2);
    bus.read(AddressSpace::Memory, 0xe000_0014, &mut status).unwrap();
    assert_eq!(status, [0]);
    config(0x04, 0);
    assert!(bus.read(AddressSpace::Memory, 0xe000_0014, &mut status).is_err());
}

/// A board whose interrupt controllers are devices, and the bus of each processor.
fn with_own_controllers(config: &Config) -> (Board, Arc<FakeAccelerator>) {
    let accelerator = FakeAccelerator::without_controllers(Architecture::X86_64);
    let (board, _) = built_on(accelerator.clone(), config).unwrap();
    (board, accelerator)
}

fn out(bus: &Arc<dyn IoBus>, port: u64, values: &[u8]) {
    values.iter().for_each(|value| bus.write(AddressSpace::Port, port, &[*value]).unwrap());
}

fn input(bus: &Arc<dyn IoBus>, port: u64) -> u8 {
    let mut data = [0];
    bus.read(AddressSpace::Port, port, &mut data).unwrap();
    data[0]
}

fn word(bus: &Arc<dyn IoBus>, address: u64, value: u32) {
    bus.write(AddressSpace::Memory, address, &value.to_le_bytes()).unwrap();
}

#[test]
fn own_controllers_carry_a_device_interrupt_to_the_bootstrap_processor() {
    let kernel = file(&bz_image(0x1000));
    let mut config = with_kernel(&kernel);
    config.vcpus = 2;
    config.serial.push(TestBackend::new(10));
    let (board, accelerator) = with_own_controllers(&config);
    let buses = &board.processor_buses;
    assert_eq!(buses.len(), 2);
    let interrupted = || accelerator.vcpus.lock().iter().map(|vcpu| vcpu.inputs()).collect::<Vec<_>>();
    for (port, words) in [(0x20, [0x11]), (0xa0, [0x11])] {
        out(&buses[0], port, &words);
    }
    out(&buses[0], 0x21, &[0x30, 0x04, 0x01, 0xef]);
    out(&buses[0], 0xa1, &[0x38, 0x02, 0x01, 0xff]);
    // The serial port's transmitter is empty: ISA interrupt 4.
    out(&buses[0], 0x3fc, &[0x08]);
    out(&buses[0], 0x3f9, &[0x02]);
    assert_eq!(interrupted(), [1, 0]);
    assert_eq!((buses[0].acknowledge_interrupt(), buses[1].acknowledge_interrupt()), (Some(0x34), None));
    assert_eq!(interrupted(), [0, 0]);
    // The same interrupt through the I/O APIC to the other processor.
    out(&buses[0], 0x21, &[0xff]);
    word(&buses[1], 0xfee0_00f0, 0x1ff);
    for (register, value) in [(0x18, 0x41), (0x19, 1 << 24)] {
        word(&buses[0], 0xfec0_0000, register);
        word(&buses[0], 0xfec0_0010, value);
    }
    input(&buses[0], 0x3fa);
    out(&buses[0], 0x3f9, &[0x00, 0x02]);
    assert_eq!((interrupted(), buses[1].acknowledge_interrupt()), (vec![0, 1], Some(0x41)));
}

#[test]
fn the_timer_is_isa_interrupt_0_and_input_2_of_the_io_apic() {
    let kernel = file(&bz_image(0x1000));
    let (board, accelerator) = with_own_controllers(&with_kernel(&kernel));
    let bus = &board.processor_buses[0];
    out(bus, 0x21, &[0xff]);
    word(bus, 0xfee0_00f0, 0x1ff);
    word(bus, 0xfec0_0000, 0x14);
    word(bus, 0xfec0_0010, 0x50);
    // Mode 0 is low until its count ends, mode 2 high from the start.
    out(bus, 0x43, &[0x30]);
    out(bus, 0x43, &[0x34]);
    assert_eq!((accelerator.vcpus.lock()[0].inputs(), bus.acknowledge_interrupt()), (1, Some(0x50)));
    assert_eq!(input(bus, 0x61) & 1, 0);
    for device in &board.devices {
        device.reset();
    }
    assert_eq!(accelerator.vcpus.lock()[0].inputs(), 0);
}

#[test]
fn a_state_of_own_controllers_has_the_form_of_those_of_an_accelerator() {
    let kernel = file(&bz_image(0x1000));
    let (own, _) = with_own_controllers(&with_kernel(&kernel));
    let (board, _) = built(&with_kernel(&kernel)).unwrap();
    let find = |board: &Board| {
        board.devices.iter().find(|device| device.debug_label() == "interrupt-controllers").unwrap().clone()
    };
    let (own, backends) = (find(&own), find(&board));
    backends.restore(&own.save()).unwrap();
    own.restore(&backends.save()).unwrap();
    assert!(own.restore(&serde_json::json!({ "machine": "pc" })).is_err());
}
