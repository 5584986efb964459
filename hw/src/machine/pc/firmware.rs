//! What the firmware of a `pc` is told, and the firmware itself.
//!
//! The items are those that SeaBIOS and OVMF look for under QEMU.

use std::path::{Path, PathBuf};

use accel::memory::GuestMemory;

use super::boot::{self, KernelParts};
use super::option_rom::{self, Start};
use super::{Layout, acpi, multiboot, smbios};
use crate::fw_cfg::{Items, key};
use crate::load::{BootFile, LoadError, check_overlaps};
use crate::machine::{BuildError, Config, Firmware, Vga};
use crate::vga::LARGEST_ROM;

const FILE: &str = "bios-256k.bin";
const VGA_FILE: &str = "vgabios-stdvga.bin";

/// Largest firmware, which must stay clear of the APICs.
const MOST: u64 = 16 << 20;

/// The serial port that firmware uses as its screen and keyboard where there is no graphics card.
const SERIAL_CONSOLE: u16 = 0x3f8;

const E820_RAM: u32 = 1;

/// Folders where firmware is looked for.
fn folders(config: &Config) -> Vec<PathBuf> {
    let usual = ["/usr/share/seabios", "/usr/share/qemu"].map(PathBuf::from);
    config.boot.firmware_folders.iter().cloned().chain(usual).collect()
}

/// The error where firmware is needed and there is none.
pub(super) fn missing(config: &Config) -> BuildError {
    let folders: Vec<String> = folders(config).iter().map(|folder| folder.display().to_string()).collect();
    BuildError::Firmware { wanted: FILE, folders: folders.join(", "), package: "seabios" }
}

/// The firmware, if it is to start: it does unless a kernel can be booted without it. A relative name is looked for in the usual
/// folders where there is no such file.
pub(super) fn find(config: &Config) -> Result<Option<BootFile>, BuildError> {
    let in_folders =
        |name: &Path| folders(config).into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    let path = match &config.boot.firmware {
        Firmware::File(path) if !path.exists() && path.is_relative() => {
            Some(in_folders(path).unwrap_or_else(|| path.clone()))
        }
        Firmware::File(path) => Some(path.clone()),
        Firmware::None => None,
        Firmware::Default => match &config.boot.kernel {
            // A kernel of that kind expects what firmware leaves behind, and is started by it where it is installed.
            Some(kernel) if multiboot::is_kernel(&BootFile::open("kernel", kernel)?)? => in_folders(FILE.as_ref()),
            Some(_) => None,
            None => Some(in_folders(FILE.as_ref()).ok_or_else(|| missing(config))?),
        },
    };
    let Some(path) = path else { return Ok(None) };
    let file = BootFile::open("firmware", &path)?;
    if file.length == 0 || file.length > MOST || !file.length.is_multiple_of(0x1_0000) {
        return Err(LoadError::Form {
            role: "firmware",
            path,
            problem: format!("has {} bytes; 64 KiB to 16 MiB in steps of 64 KiB are possible", file.length),
        }
        .into());
    }
    Ok(Some(file))
}

/// The program by which firmware starts the graphics card; empty where it is not installed.
pub(super) fn vga_rom(config: &Config) -> Result<Vec<u8>, BuildError> {
    let Some(path) = folders(config).into_iter().map(|folder| folder.join(VGA_FILE)).find(|path| path.is_file()) else {
        tracing::info!("{VGA_FILE} of Debian's package seabios is not there: firmware shows nothing on the screen");
        return Ok(Vec::new());
    };
    let file = BootFile::open("the graphics card's ROM", &path)?;
    if file.length > LARGEST_ROM {
        let problem = format!("has {} bytes; a ROM has at most {LARGEST_ROM}", file.length);
        return Err(LoadError::Form { role: "the graphics card's ROM", path, problem }.into());
    }
    let mut rom = vec![0; file.length as usize];
    let read = file.whole(0).read_at(0, &mut rom);
    read.map_err(|source| BuildError::Host { what: "read the graphics card's ROM", source })?;
    Ok(rom)
}

/// Ranges of RAM: start and length, 64 bits each, and type.
fn e820(layout: &Layout) -> Vec<u8> {
    let ranges = [(0, layout.low_end), (super::FOUR_GIB, layout.high)];
    let present = ranges.into_iter().filter(|(_, length)| *length > 0);
    present
        .flat_map(|(start, length)| [&start.to_le_bytes()[..], &length.to_le_bytes(), &E820_RAM.to_le_bytes()].concat())
        .collect()
}

/// All items. The kernel is among them where firmware is to start it; without firmware, it may ask for the rest.
pub(super) fn items(
    config: &Config,
    layout: &Layout,
    machine: &acpi::Machine,
    memory: &GuestMemory,
    with_kernel: bool,
) -> Result<Items, BuildError> {
    let mut items = Items::default();
    let cpus = (config.vcpus as u16).to_le_bytes();
    items.add_bytes(key::UUID, config.uuid.unwrap_or(uuid::Uuid::nil()).as_bytes());
    items.add_bytes(key::RAM_SIZE, &config.memory.to_le_bytes());
    // Firmware's texts go to the serial port where nobody sees the screen.
    let shown = config.graphics && config.vga != Vga::None;
    items.add_bytes(key::NO_GRAPHICS, &[u8::from(!config.graphics), 0]);
    items.add_bytes(key::CPU_COUNT, &cpus);
    items.add_bytes(key::MOST_CPUS, &cpus);
    items.add_bytes(key::NUMA, &[0; 8]);
    items.add_bytes(key::BOOT_MENU, &[0; 2]);
    items.add_bytes(key::TIMER_OVERRIDE, &[1]);
    items.add_file_bytes("etc/e820", e820(layout));
    if !config.serial.is_empty() && !shown {
        items.add_file_bytes("etc/sercon-port", SERIAL_CONSOLE.to_le_bytes());
    }
    let tables = acpi::files(machine);
    items.add_file_bytes(acpi::ROOT_FILE, tables.root);
    items.add_file_bytes(acpi::TABLES_FILE, tables.tables);
    items.add_file_bytes(acpi::SCRIPT_FILE, tables.script);
    let (structures, entry) = smbios::files(config, layout);
    items.add_file_bytes(smbios::TABLES_FILE, structures);
    items.add_file_bytes(smbios::ENTRY_FILE, entry);
    if let Some(path) = config.boot.kernel.as_ref().filter(|_| with_kernel) {
        add_kernel(config, &mut items, path, layout, memory)?;
    }
    Ok(items)
}

/// How much RAM at its end firmware may keep for itself, bytes.
const FIRMWARE_MEMORY: u64 = 0x2_0000;

/// Adds the kernel in parts, and the ROM by which SeaBIOS starts it. OVMF takes the parts of a bzImage by itself.
fn add_kernel(
    config: &Config,
    items: &mut Items,
    path: &Path,
    layout: &Layout,
    memory: &GuestMemory,
) -> Result<(), BuildError> {
    let mut layout = layout.clone();
    layout.low_end -= FIRMWARE_MEMORY;
    for (start, length, _) in &mut layout.e820 {
        if *start == boot::KERNEL {
            *length -= FIRMWARE_MEMORY;
        }
    }
    let kernel = BootFile::open("kernel", path)?;
    let (parts, start) = if let Some(kernel) = multiboot::load(config, &kernel, &layout)? {
        // The ROM has a descriptor table of its own, and firmware's data is where the other would go.
        let parts = kernel.images.into_iter().filter(|part| part.address != boot::GDT).collect();
        let (entry, stack) = (kernel.entry.address() as u32, boot::STACK as u32);
        let (eax, ebx) = (multiboot::LOADER_MAGIC as u32, boot::START_INFO as u32);
        (parts, Start::Protected { entry, stack, eax, ebx })
    } else {
        let parts = boot::parts(config, path, &layout)?;
        add_parts(items, &parts);
        let KernelParts { setup, kernel, command_line, initrd } = parts;
        ([setup, kernel, command_line].into_iter().chain(initrd).collect::<Vec<_>>(), Start::RealMode)
    };
    for part in &parts {
        part.check(memory)?;
    }
    check_overlaps(&parts)?;
    option_rom::add(items, parts, &start);
    Ok(())
}

fn add_parts(items: &mut Items, parts: &KernelParts) {
    let number = |number: u64| (number as u32).to_le_bytes();
    for (address, size, data, image) in [
        (key::SETUP_ADDRESS, key::SETUP_SIZE, key::SETUP_DATA, Some(&parts.setup)),
        (key::KERNEL_ADDRESS, key::KERNEL_SIZE, key::KERNEL_DATA, Some(&parts.kernel)),
        (key::COMMAND_LINE_ADDRESS, key::COMMAND_LINE_SIZE, key::COMMAND_LINE_DATA, Some(&parts.command_line)),
        (key::INITRD_ADDRESS, key::INITRD_SIZE, key::INITRD_DATA, parts.initrd.as_ref()),
    ] {
        let Some(image) = image else { continue };
        items.add_bytes(address, &number(image.address));
        items.add_bytes(size, &number(image.size()));
        items.add(data, image.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_told_below_and_above_4_gib() {
        let bytes = e820(&Layout::new(6 << 30));
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[8..20], [0, 0, 0, 0xc0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(e820(&Layout::new(64 << 20)).len(), 20);
    }
}
