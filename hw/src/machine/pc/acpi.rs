//! ACPI tables of the `pc` machine: in place for kernels that are booted without firmware, and for firmware as files with
//! a script that says what to do with them.
//!
//! ACPI Specification 6.5, chapters 5 and 6; PCI Firmware Specification 3.0 for the host bridge's resources; for the script
//! QEMU's description of its BIOS linker/loader interface.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as RegisterSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::{IO_APIC, LOCAL_APIC, PCI_DEVICES, PCI_WINDOW_END};
use crate::hpet;
use crate::pci::isa_bridge::FIRMWARE_ROUTES;
use crate::pci::power_management as pm;

/// Where the tables are: in the read-only part of the first mebibyte, where kernels look for the root pointer.
pub(super) const ADDRESS: u64 = 0xe_0000;
/// Where the firmware ACPI control structure is, after the root pointer.
pub(super) const CONTROL_STRUCTURE: u64 = ADDRESS + 64;
/// How much room there is for them, bytes.
const ROOM: usize = (super::smbios::ADDRESS - ADDRESS) as usize;

const OEM: [u8; 6] = *b"BROLGA";
const TABLE: [u8; 8] = *b"BROLGAPC";

/// ISA interrupts that PCI lines and ACPI itself use: level-triggered and active high, unlike others.
const LEVEL_INTERRUPTS: [u8; 4] = [5, 9, 10, 11];

/// Bytes of a table.
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytes(Vec::new());
    table.to_aml_bytes(&mut sink);
    sink.0
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

/// What differs from one `pc` to another.
pub(super) struct Machine {
    pub(super) cpus: u32,
    /// First address of the memory window of PCI devices.
    pub(super) pci_window: u32,
    /// There is a graphics card.
    pub(super) vga: bool,
    /// Ports and interrupts of the serial ports that there are.
    pub(super) serial: Vec<(u16, u8)>,
}

fn dsdt(machine: &Machine) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);

    let bus = AddressSpace::<u16>::new_bus_number(0, 0);
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::<u16>::new_io(0, 0xcf7, None);
    let high_ports = AddressSpace::<u16>::new_io(0xd00, 0xffff, None);
    let window = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        machine.pci_window,
        PCI_WINDOW_END - 1,
        None,
    );
    let display = AddressSpace::<u32>::new_memory(AddressSpaceCacheable::Cacheable, true, 0xa_0000, 0xb_ffff, None);
    let resources = ResourceTemplate::new(vec![&bus, &configuration, &low_ports, &high_ports, &display, &window]);
    let resources = name("_CRS", &resources);

    // INTA# of each device, wired straight to a global interrupt.
    let zero = 0u8;
    let routes: Vec<(u32, u8)> = (1..PCI_DEVICES)
        .map(|device| ((u32::from(device) << 16) | 0xffff, FIRMWARE_ROUTES[(usize::from(device) + 3) % 4]))
        .collect();
    let packages: Vec<Package<'_>> = routes
        .iter()
        .map(|(address, interrupt)| Package::new(vec![address as &dyn Aml, &zero, &zero, interrupt]))
        .collect();
    let routing = Package::new(packages.iter().map(|package| package as &dyn Aml).collect());
    let routing = name("_PRT", &routing);

    let bridge_id = name("_HID", &EISAName::new("PNP0A03"));
    let bridge_number = name("_UID", &0u8);

    let serial: Vec<[Name; 3]> = (0u8..)
        .zip(&machine.serial)
        .map(|(index, (port, interrupt))| {
            let interrupt = Interrupt::new(true, true, false, false, u32::from(*interrupt));
            let io = IO::new(*port, *port, 1, 8);
            let resources = ResourceTemplate::new(vec![&io, &interrupt]);
            [name("_HID", &EISAName::new("PNP0501")), name("_UID", &index), name("_CRS", &resources)]
        })
        .collect();
    let rtc_interrupt = Interrupt::new(true, true, false, false, 8);
    let rtc_io = IO::new(0x70, 0x70, 1, 2);
    let rtc_resources = ResourceTemplate::new(vec![&rtc_io, &rtc_interrupt]);
    let rtc = [name("_HID", &EISAName::new("PNP0B00")), name("_CRS", &rtc_resources)];
    let keyboard_interrupt = Interrupt::new(true, true, false, false, 1);
    let (data, command) = (IO::new(0x60, 0x60, 1, 1), IO::new(0x64, 0x64, 1, 1));
    let keyboard_resources = ResourceTemplate::new(vec![&data, &command, &keyboard_interrupt]);
    let keyboard = [name("_HID", &EISAName::new("PNP0303")), name("_CRS", &keyboard_resources)];
    let mouse_interrupt = Interrupt::new(true, true, false, false, 12);
    let mouse_resources = ResourceTemplate::new(vec![&mouse_interrupt]);
    let mouse = [name("_HID", &EISAName::new("PNP0F13")), name("_CRS", &mouse_resources)];

    let serial: Vec<Device<'_>> = (1..)
        .zip(&serial)
        .map(|(number, parts): (u32, _)| {
            Device::new(Path::new(&format!("COM{number}")), parts.iter().map(|part| part as &dyn Aml).collect())
        })
        .collect();
    let rtc = Device::new(Path::new("RTC_"), rtc.iter().map(|part| part as &dyn Aml).collect());
    let keyboard = Device::new(Path::new("KBD_"), keyboard.iter().map(|part| part as &dyn Aml).collect());
    let mouse = Device::new(Path::new("MOU_"), mouse.iter().map(|part| part as &dyn Aml).collect());
    let isa_address = name("_ADR", &0x0001_0000u32);
    let mut isa: Vec<&dyn Aml> = vec![&isa_address, &rtc, &keyboard, &mouse];
    isa.extend(serial.iter().map(|device| device as &dyn Aml));
    let isa = Device::new(Path::new("ISA_"), isa);

    let bridge = Device::new(Path::new("PCI0"), vec![&bridge_id, &bridge_number, &resources, &routing, &isa]);
    table.append_slice(&bytes(&Scope::new(Path::new("_SB_"), vec![&bridge])));

    let (off, suspend) = (pm::SLEEP_TYPE_OFF as u8, pm::SLEEP_TYPE_SUSPEND as u8);
    table.append_slice(&bytes(&name("_S3_", &Package::new(vec![&suspend, &suspend, &zero, &zero]))));
    table.append_slice(&bytes(&name("_S5_", &Package::new(vec![&off, &off, &zero, &zero]))));
    table.as_slice().to_vec()
}

fn madt(machine: &Machine) -> Vec<u8> {
    const PCAT_COMPATIBLE: u32 = 1;
    let mut table = Sdt::new(*b"APIC", 44, 5, OEM, TABLE, 1);
    table.write_u32(36, LOCAL_APIC);
    table.write_u32(40, PCAT_COMPATIBLE);
    for cpu in 0..machine.cpus {
        // Type 0: processor and its local APIC, enabled.
        table.append_slice(&[0, 8, cpu as u8, cpu as u8, 1, 0, 0, 0]);
    }
    // Type 1: I/O APIC 0 from global interrupt 0 on.
    let address = IO_APIC.to_le_bytes();
    table.append_slice(&[1, 12, 0, 0, address[0], address[1], address[2], address[3], 0, 0, 0, 0]);
    // Type 2: ISA interrupt 0 is global interrupt 2; the level-triggered ones are active high.
    table.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    for interrupt in LEVEL_INTERRUPTS {
        table.append_slice(&[2, 10, 0, interrupt, interrupt, 0, 0, 0, 0x0d, 0]);
    }
    // Type 4: LINT1 of all processors is the NMI.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

/// Length and alignment of the firmware ACPI control structure, bytes.
const CONTROL_STRUCTURE_LENGTH: usize = 64;

/// The firmware ACPI control structure: where a sleeping system leaves the address at which it wakes.
fn control_structure() -> Vec<u8> {
    let mut structure = vec![0; CONTROL_STRUCTURE_LENGTH];
    structure[..4].copy_from_slice(b"FACS");
    structure[4..8].copy_from_slice(&(CONTROL_STRUCTURE_LENGTH as u32).to_le_bytes());
    // Version 1: the 64-bit vector is there.
    structure[32] = 1;
    structure
}

/// Boot architecture flags of the FADT.
const ISA_DEVICES: u16 = 1 << 0;
const KEYBOARD: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;

fn fadt(machine: &Machine, control_structure: u64, dsdt: u64) -> Vec<u8> {
    let ports = u32::from(pm::PORTS);
    let register =
        |width: u8, size: AccessSize, port: u32| GAS::new(RegisterSpace::SystemIo, width, 0, size, u64::from(port));
    let mut table = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::RtcS4)
        .flag(Flags::ResetRegSup);
    table.dsdt = (dsdt as u32).into();
    table.firmware_ctrl = (control_structure as u32).into();
    table.sci_int = u16::from(pm::INTERRUPT).into();
    table.smi_cmd = u32::from(pm::COMMAND_PORT).into();
    table.acpi_enable = pm::ACPI_ENABLE;
    table.acpi_disable = pm::ACPI_DISABLE;
    table.pm1a_evt_blk = ports.into();
    table.pm1a_cnt_blk = (ports + 4).into();
    table.pm_tmr_blk = (ports + 8).into();
    table.pm1_evt_len = 4;
    table.pm1_cnt_len = 2;
    table.pm_tmr_len = 4;
    // No C2 or C3.
    table.p_lvl2_lat = 0x0fff.into();
    table.p_lvl3_lat = 0x0fff.into();
    table.century = 0x32;
    table.iapc_boot_arch = (ISA_DEVICES | KEYBOARD | if machine.vga { 0 } else { NO_VGA }).into();
    table.reset_reg = register(8, AccessSize::ByteAccess, 0xcf9);
    table.reset_value = 0x06;
    table.x_pm1a_evt_blk = register(32, AccessSize::WordAccess, ports);
    table.x_pm1a_cnt_blk = register(16, AccessSize::WordAccess, ports + 4);
    table.x_pm_tmr_blk = register(32, AccessSize::DwordAccess, ports + 8);
    bytes(&table.finalize())
}

fn hpet() -> Vec<u8> {
    let mut table = Sdt::new(*b"HPET", 56, 1, OEM, TABLE, 1);
    table.write_u32(36, hpet::BLOCK_ID);
    let address = bytes(&GAS::new(RegisterSpace::SystemMemory, 64, 0, AccessSize::Undefined, hpet::ADDRESS));
    for (offset, byte) in (40..).zip(address) {
        table.write_u8(offset, byte);
    }
    table.as_slice().to_vec()
}

/// Checksum of a table, where every table has it.
const CHECKSUM: usize = 9;

/// All tables but the root pointer, with what must be known to move them.
struct Tables {
    bytes: Vec<u8>,
    /// Where pointers to tables are, and how many bytes they have.
    pointers: Vec<(usize, u8)>,
    /// Start and length of the tables with pointers.
    with_pointers: Vec<(usize, usize)>,
    /// Where the root system description tables are, with pointers of 32 and of 64 bits.
    rsdt: usize,
    xsdt: usize,
}

impl Tables {
    /// The tables for guest-physical address `base`.
    fn new(machine: &Machine, base: u64) -> Tables {
        let mut bytes = Vec::new();
        let mut place = |table: Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            let start = bytes.len();
            bytes.extend(&table);
            (start, table.len())
        };
        let address = |(start, _): (usize, usize)| base + start as u64;
        // First, as it is aligned most.
        let control_structure = place(control_structure());
        let dsdt = place(dsdt(machine));
        let fadt = place(fadt(machine, address(control_structure), address(dsdt)));
        let madt = place(madt(machine));
        let hpet = place(hpet());
        let listed = [fadt, madt, hpet];
        let mut xsdt = XSDT::new(OEM, TABLE, 1);
        let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM, TABLE, 1);
        for table in listed {
            xsdt.add_entry(address(table));
            rsdt.append_slice(&(address(table) as u32).to_le_bytes());
        }
        let xsdt = place(self::bytes(&xsdt));
        let rsdt = place(rsdt.as_slice().to_vec());

        // FACS, DSDT and X_DSDT of the FADT, then the entries of the two root tables.
        let mut pointers = vec![(fadt.0 + 36, 4), (fadt.0 + 40, 4), (fadt.0 + 140, 8)];
        pointers.extend((0..listed.len()).map(|index| (xsdt.0 + 36 + 8 * index, 8)));
        pointers.extend((0..listed.len()).map(|index| (rsdt.0 + 36 + 4 * index, 4)));
        Tables { bytes, pointers, with_pointers: vec![fadt, xsdt, rsdt], rsdt: rsdt.0, xsdt: xsdt.0 }
    }

    /// The root pointer to tables at `base`.
    fn root(&self, base: u64) -> Vec<u8> {
        let mut root = bytes(&Rsdp::new(OEM, base + self.xsdt as u64));
        root[16..20].copy_from_slice(&((base + self.rsdt as u64) as u32).to_le_bytes());
        for (checksum, length) in [(ROOT_CHECKSUM, ROOT_LENGTH_1), (ROOT_CHECKSUM_2, root.len())] {
            root[checksum] = 0;
            root[checksum] = root[..length].iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
        }
        root
    }
}

// The two checksums of the root pointer: over its first part, and over all of it.
const ROOT_CHECKSUM: usize = 8;
const ROOT_LENGTH_1: usize = 20;
const ROOT_CHECKSUM_2: usize = 32;

/// All tables, to be put at [`ADDRESS`]; the root pointer comes first. `None` if there is no room.
pub(super) fn tables(machine: &Machine) -> Option<Vec<u8>> {
    let tables = Tables::new(machine, CONTROL_STRUCTURE);
    let mut image = tables.root(CONTROL_STRUCTURE);
    image.resize((CONTROL_STRUCTURE - ADDRESS) as usize, 0);
    image.extend(tables.bytes);
    (image.len() <= ROOM).then_some(image)
}

/// Name of the file with the root pointer.
pub(super) const ROOT_FILE: &str = "etc/acpi/rsdp";
/// Name of the file with all other tables.
pub(super) const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file with the script.
pub(super) const SCRIPT_FILE: &str = "etc/table-loader";

/// What firmware is given.
pub(super) struct Files {
    pub(super) root: Vec<u8>,
    pub(super) tables: Vec<u8>,
    pub(super) script: Vec<u8>,
}

/// The script: commands of 128 bytes each.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    const COMMAND: usize = 128;
    const NAME: usize = 56;
    const HIGH_MEMORY: u8 = 1;
    const LOW_MEMORY: u8 = 2;

    fn command(&mut self, command: u32, names: &[&str], numbers: &[u8]) {
        let end = self.0.len() + Script::COMMAND;
        self.0.extend(command.to_le_bytes());
        for name in names {
            let mut field = [0; Script::NAME];
            field[..name.len()].copy_from_slice(name.as_bytes());
            self.0.extend(field);
        }
        self.0.extend(numbers);
        self.0.resize(end, 0);
    }

    /// Puts a file into memory.
    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        self.command(1, &[file], &[&alignment.to_le_bytes()[..], &[zone]].concat());
    }

    /// Adds the address of file `of` to the pointer at `offset` in file `within`.
    fn add_pointer(&mut self, within: &str, of: &str, offset: usize, size: u8) {
        self.command(2, &[within, of], &[&(offset as u32).to_le_bytes()[..], &[size]].concat());
    }

    /// Computes the checksum at `offset` over a part of the file.
    fn add_checksum(&mut self, file: &str, offset: usize, start: usize, length: usize) {
        let numbers: Vec<u8> =
            [offset, start, length].iter().flat_map(|number| (*number as u32).to_le_bytes()).collect();
        self.command(3, &[file], &numbers);
    }
}

/// The tables as files for firmware, which moves them and reckons their checksums.
pub(super) fn files(machine: &Machine) -> Files {
    let mut tables = Tables::new(machine, 0);
    let mut root = tables.root(0);
    let mut script = Script::default();
    script.allocate(TABLES_FILE, 64, Script::HIGH_MEMORY);
    script.allocate(ROOT_FILE, 16, Script::LOW_MEMORY);
    for (offset, size) in &tables.pointers {
        script.add_pointer(TABLES_FILE, TABLES_FILE, *offset, *size);
    }
    // Firmware expects zero where it puts a checksum.
    for (start, length) in &tables.with_pointers {
        tables.bytes[start + CHECKSUM] = 0;
        script.add_checksum(TABLES_FILE, start + CHECKSUM, *start, *length);
    }
    script.add_pointer(ROOT_FILE, TABLES_FILE, 16, 4);
    script.add_pointer(ROOT_FILE, TABLES_FILE, 24, 8);
    (root[ROOT_CHECKSUM], root[ROOT_CHECKSUM_2]) = (0, 0);
    script.add_checksum(ROOT_FILE, ROOT_CHECKSUM, 0, ROOT_LENGTH_1);
    script.add_checksum(ROOT_FILE, ROOT_CHECKSUM_2, 0, root.len());
    Files { root, tables: tables.bytes, script: script.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(image: &[u8], at: usize, length: usize) -> u64 {
        image[at..at + length].iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_from_the_root_and_its_checksum_is_right() {
        let machine = Machine { cpus: 255, pci_window: 0xe000_0000, vga: true, serial: vec![(0x3f8, 4), (0x2f8, 3)] };
        let image = tables(&machine).unwrap();
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let table = |address: u64| {
            let start = (address - ADDRESS) as usize;
            let length = number(&image, start + 4, 4) as usize;
            let table = &image[start..start + length];
            assert_eq!(sum(table), 0, "{:?}", &table[..4]);
            table
        };
        let xsdt = table(number(&image, 24, 8));
        let (fadt, madt) = (table(number(xsdt, 36, 8)), table(number(xsdt, 44, 8)));
        let hpet = table(number(xsdt, 52, 8));
        assert_eq!((&hpet[..4], number(hpet, 44, 8), hpet.len()), (&b"HPET"[..], 0xfed0_0000, 56));
        assert_eq!((&xsdt[..4], &fadt[..4], &madt[..4]), (&b"XSDT"[..], &b"FACP"[..], &b"APIC"[..]));
        assert_eq!(number(fadt, 40, 4), number(fadt, 140, 8));
        let dsdt = table(number(fadt, 140, 8));
        assert_eq!(&dsdt[..4], b"DSDT");
        // The one structure without a checksum.
        assert_eq!((number(fadt, 36, 4), CONTROL_STRUCTURE % 64), (CONTROL_STRUCTURE, 0));
        assert_eq!(&image[(CONTROL_STRUCTURE - ADDRESS) as usize..][..8], b"FACS\x40\0\0\0");
        for wanted in [&b"PCI0"[..], b"_PRT", b"_CRS", b"COM2", b"_S3_", b"_S5_"] {
            assert!(dsdt.windows(4).any(|window| window == wanted), "{wanted:?}");
        }
        let mut entries = &madt[44..];
        let mut kinds = Vec::new();
        while !entries.is_empty() {
            kinds.push(entries[0]);
            entries = &entries[usize::from(entries[1])..];
        }
        assert_eq!(kinds.iter().filter(|kind| **kind == 0).count(), 255);
        assert_eq!(kinds[255..], [1, 2, 2, 2, 2, 2, 4]);
    }

    /// Does what firmware does: puts the files into memory and carries the script out.
    fn carry_out(files: &Files, addresses: &[(&str, u64)]) -> [Vec<u8>; 2] {
        let mut memory = [files.root.clone(), files.tables.clone()];
        let index = |name: &[u8]| usize::from(name.starts_with(TABLES_FILE.as_bytes()));
        let address = |name: &[u8]| {
            addresses.iter().find(|(file, _)| name.starts_with(file.as_bytes())).expect("a file that was allocated").1
        };
        for command in files.script.chunks(128) {
            let at = |start: usize| number(command, start, 4) as usize;
            match command[0] {
                1 => assert!(address(&command[4..]).is_multiple_of(number(command, 60, 4))),
                2 => {
                    let (offset, size) = (at(116), usize::from(command[120]));
                    let file = &mut memory[index(&command[4..])];
                    let pointer = number(file, offset, size) + address(&command[60..]);
                    file[offset..offset + size].copy_from_slice(&pointer.to_le_bytes()[..size]);
                }
                3 => {
                    let (offset, start, length) = (at(60), at(64), at(68));
                    let file = &mut memory[index(&command[4..])];
                    assert_eq!(file[offset], 0);
                    file[offset] = sum(&file[start..start + length]).wrapping_neg();
                }
                command => panic!("{command} is no command"),
            }
        }
        memory
    }

    #[test]
    fn the_script_makes_of_the_files_what_is_at_a_fixed_address() {
        let machine = Machine { cpus: 2, pci_window: 0xe000_0000, vga: true, serial: vec![(0x3f8, 4)] };
        let files = files(&machine);
        let base = ADDRESS + 64;
        let [root, tables] = carry_out(&files, &[(ROOT_FILE, ADDRESS), (TABLES_FILE, base)]);
        let fixed = Tables::new(&machine, base);
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
        assert_eq!((root, tables), (fixed.root(base), fixed.bytes));
    }
}
