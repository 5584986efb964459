//! How the `pc` machine starts a kernel without firmware.
//!
//! Linux documentation, "The Linux/x86 Boot Protocol" (64-bit entry) and "The zero page"; Xen's "x86/HVM direct boot
//! ABI" (PVH) for ELF kernels with its note.

use accel::state::x86_64::{CpuState, DescriptorTable, Segment, cr0, cr4, efer, gpr};

use super::{Layout, multiboot};
use crate::load::{BootFile, EM_386, EM_X86_64, Image, ImageKind, LoadError};
use crate::machine::{BuildError, Config};

// Where the loader puts its structures, all in the first 640 KiB.
pub(super) const GDT: u64 = 0x500;
pub(super) const START_INFO: u64 = 0x6000;
pub(super) const MEMORY_MAP: u64 = 0x6100;
const MODULES: u64 = 0x60c0;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line with its final zero, bytes.
pub(super) const COMMAND_LINE_ROOM: u64 = 0x1_0000;
/// A stack for code that wants one at once.
pub(super) const STACK: u64 = 0x8ff0;

/// Where a kernel goes that can go anywhere.
pub(super) const KERNEL: u64 = 0x10_0000;

// Offsets in the zero page and the set-up header.
const ACPI_RSDP: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_SECTS: usize = 0x1f1;
const HEADER: usize = 0x1f1;
const JUMP: usize = 0x201;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const RELOCATABLE_KERNEL: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820_TABLE: usize = 0x2d0;

const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// Oldest boot protocol with everything used here, 2.12.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// Loader type of loaders without a number of their own.
const LOADER_UNDEFINED: u8 = 0xff;

/// How far from its start the 64-bit entry of a bzImage is.
const ENTRY_64: u64 = 0x200;

/// How the bootstrap processor begins.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// In 64-bit mode with the zero page in RSI.
    Linux64(u64),
    /// In 32-bit protected mode without paging, with the start information in EBX.
    Pvh(u64),
    /// As [`Entry::Pvh`], with the magic number of Multiboot in EAX.
    Multiboot(u64),
}

impl Entry {
    /// Address of the first instruction.
    pub(super) fn address(&self) -> u64 {
        match self {
            Entry::Linux64(address) | Entry::Pvh(address) | Entry::Multiboot(address) => *address,
        }
    }
}

/// What to load, and where to begin.
pub(super) struct Kernel {
    pub(super) images: Vec<Image>,
    pub(super) entry: Entry,
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u64, length: usize) {
    if let Some(place) = bytes.get_mut(at..at + length) {
        place.copy_from_slice(&value.to_le_bytes()[..length]);
    }
}

pub(super) fn get(bytes: &[u8], at: usize, length: usize) -> u64 {
    let part = bytes.get(at..at + length).unwrap_or_default();
    part.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// Loads the kernel that the user named.
pub(super) fn load(config: &Config, path: &std::path::Path, layout: &Layout) -> Result<Kernel, BuildError> {
    let file = BootFile::open("kernel", path)?;
    if let Some(kernel) = multiboot::load(config, &file, layout)? {
        return Ok(kernel);
    }
    match file.kind {
        ImageKind::BzImage => bz_image(config, &file, layout),
        ImageKind::Elf { machine: EM_X86_64, is_64_bit: true } => elf(config, &file, layout),
        ImageKind::Elf { machine: EM_386 | EM_X86_64, .. } => {
            Err(file.wrong("is a 32-bit ELF file without a Multiboot header").into())
        }
        kind => Err(file
            .wrong(match kind.architecture_name() {
                Some(name) => format!("is for {name}, not for x86_64"),
                None => {
                    "is neither a bzImage, nor an ELF kernel, nor one with a Multiboot header; name firmware with -bios"
                        .into()
                }
            })
            .into()),
    }
}

/// Places the initial RAM disk as high as it may be, below `limit`.
fn initrd(config: &Config, kernel_end: u64, limit: u64, layout: &Layout) -> Result<Option<Image>, BuildError> {
    let Some(path) = &config.boot.initrd else { return Ok(None) };
    let file = BootFile::open("initrd", path)?;
    let address = limit.min(layout.low_end).saturating_sub(file.length) & !0xfff;
    if address < kernel_end.max(KERNEL) {
        return Err(LoadError::Space { what: "the initrd".into(), address, length: file.length }.into());
    }
    Ok(Some(file.whole(address)))
}

/// The command line and its final zero.
fn command_line(config: &Config, file: &BootFile, room: u64) -> Result<Image, BuildError> {
    let mut line = config.boot.command_line.clone().into_bytes();
    line.push(0);
    if line.len() as u64 > room.min(COMMAND_LINE_ROOM) {
        return Err(file.wrong(format!("takes a command line of at most {} bytes", room - 1)).into());
    }
    Ok(Image::bytes("the kernel command line", COMMAND_LINE, line))
}

/// A bzImage in the parts that firmware loads by itself.
pub(super) struct KernelParts {
    /// Boot sector and real-mode part, with what the loader notes in the header.
    pub(super) setup: Image,
    pub(super) kernel: Image,
    pub(super) command_line: Image,
    pub(super) initrd: Option<Image>,
}

// Where firmware puts the real-mode part, and how far its stack and heap reach from there.
const SETUP: u64 = 0x1_0000;
const SETUP_HEAP_END: u64 = 0xfe00;
const CAN_USE_HEAP: u8 = 0x80;
const HEAP_END_PTR: usize = 0x224;
/// Largest real-mode part: the boot sector and 64 sectors.
const MOST_SETUP: u64 = 65 * 512;

/// The kernel that the user named, for firmware to boot by the 16-bit or the 32-bit boot protocol.
pub(super) fn parts(config: &Config, path: &std::path::Path, layout: &Layout) -> Result<KernelParts, BuildError> {
    let file = BootFile::open("kernel", path)?;
    if file.kind != ImageKind::BzImage {
        return Err(file.wrong("is no bzImage; firmware starts no other kernels").into());
    }
    let mut start = vec![0; file.length.min(MOST_SETUP) as usize];
    file.read_exact_at(0, &mut start)?;
    let sectors = match get(&start, SETUP_SECTS, 1) {
        0 => 4,
        sectors => sectors,
    };
    let length = (sectors + 1) * 512;
    if length > MOST_SETUP || length >= file.length || get(&start, VERSION, 2) < 0x202 {
        return Err(file
            .wrong("has no usable set-up header; a kernel with boot protocol 2.02 or later is needed")
            .into());
    }
    start.truncate(length as usize);
    let limit = match get(&start, INITRD_ADDR_MAX, 4) {
        0 => 0x3800_0000,
        last => last.saturating_add(1),
    };
    let size = get(&start, INIT_SIZE, 4).max(file.length - length);
    // A kernel that unpacks itself may do so at the address it prefers.
    let end = get(&start, PREF_ADDRESS, 8).max(KERNEL).saturating_add(size);
    let initrd = initrd(config, end, limit, layout)?;
    let room = match get(&start, CMDLINE_SIZE, 4) {
        0 => 256,
        longest => longest.saturating_add(1),
    };
    let command_line = command_line(config, &file, room)?;
    put(&mut start, TYPE_OF_LOADER, u64::from(LOADER_UNDEFINED), 1);
    put(&mut start, HEAP_END_PTR, SETUP_HEAP_END - 0x200, 2);
    put(&mut start, CMD_LINE_PTR, COMMAND_LINE, 4);
    start[LOADFLAGS] |= CAN_USE_HEAP;
    if let Some(initrd) = &initrd {
        put(&mut start, RAMDISK_IMAGE, initrd.address, 4);
        put(&mut start, RAMDISK_SIZE, initrd.size(), 4);
    }
    Ok(KernelParts {
        setup: Image::bytes("the kernel's real-mode part", SETUP, start),
        kernel: file.part(length, file.length - length, KERNEL),
        command_line,
        initrd,
    })
}

fn zero_page(config: &Config, layout: &Layout, initrd: Option<&Image>) -> Vec<u8> {
    let mut page = vec![0; 4096];
    put(&mut page, ACPI_RSDP, layout.acpi, 8);
    put(&mut page, 0x1fe, 0xaa55, 2);
    put(&mut page, 0x202, u64::from(u32::from_le_bytes(*b"HdrS")), 4);
    put(&mut page, VERSION, u64::from(OLDEST_PROTOCOL), 2);
    put(&mut page, TYPE_OF_LOADER, u64::from(LOADER_UNDEFINED), 1);
    put(&mut page, CMD_LINE_PTR, COMMAND_LINE, 4);
    put(&mut page, CMDLINE_SIZE, config.boot.command_line.len() as u64, 4);
    if let Some(initrd) = initrd {
        put(&mut page, RAMDISK_IMAGE, initrd.address, 4);
        put(&mut page, RAMDISK_SIZE, initrd.size(), 4);
    }
    put(&mut page, E820_ENTRIES, layout.e820.len() as u64, 1);
    for (index, (start, length, kind)) in layout.e820.iter().enumerate() {
        let at = E820_TABLE + 20 * index;
        put(&mut page, at, *start, 8);
        put(&mut page, at + 8, *length, 8);
        put(&mut page, at + 16, u64::from(*kind), 4);
    }
    page
}

fn bz_image(config: &Config, file: &BootFile, layout: &Layout) -> Result<Kernel, BuildError> {
    let mut start = vec![0; file.length.min(0x1000) as usize];
    file.read_exact_at(0, &mut start)?;
    let version = get(&start, VERSION, 2) as u16;
    if version < OLDEST_PROTOCOL || get(&start, XLOADFLAGS, 2) as u16 & XLF_KERNEL_64 == 0 {
        return Err(file.wrong("has no 64-bit entry point; a 64-bit kernel from Linux 3.8 on is needed").into());
    }
    let sectors = match get(&start, SETUP_SECTS, 1) {
        0 => 4,
        sectors => sectors,
    };
    let offset = (sectors + 1) * 512;
    let Some(length) = file.length.checked_sub(offset).filter(|length| *length > ENTRY_64) else {
        return Err(file.wrong("ends before its protected-mode part").into());
    };
    let relocatable = get(&start, RELOCATABLE_KERNEL, 1) != 0;
    let preferred = get(&start, PREF_ADDRESS, 8);
    let size = get(&start, INIT_SIZE, 4).max(length);
    let fits = |address: u64| address >= KERNEL && address.checked_add(size).is_some_and(|end| end <= layout.low_end);
    let address = match (fits(preferred), relocatable && fits(KERNEL)) {
        (true, _) => preferred,
        (false, true) => KERNEL,
        (false, false) => {
            return Err(LoadError::Space { what: "the kernel".into(), address: preferred, length: size }.into());
        }
    };
    let limit = get(&start, INITRD_ADDR_MAX, 4).saturating_add(1);
    let initrd = initrd(config, address + size, limit, layout)?;
    let mut page = zero_page(config, layout, initrd.as_ref());
    // The set-up header is the kernel's own; its length is in its jump instruction.
    let end = (JUMP + 1 + get(&start, JUMP, 1) as usize).min(E820_TABLE).min(start.len());
    let mut header = start.get(HEADER..end).unwrap_or_default().to_vec();
    for (at, length) in [(TYPE_OF_LOADER, 1), (RAMDISK_IMAGE, 4), (RAMDISK_SIZE, 4), (CMD_LINE_PTR, 4)] {
        put(&mut header, at - HEADER, get(&page, at, length), length);
    }
    if let Some(flags) = header.get_mut(LOADFLAGS - HEADER) {
        *flags |= LOADED_HIGH;
    }
    page[HEADER..HEADER + header.len()].copy_from_slice(&header);
    let mut images = vec![file.part(offset, length, address)];
    images.push(command_line(config, file, get(&start, CMDLINE_SIZE, 4).saturating_add(1))?);
    images.push(Image::bytes("the zero page", ZERO_PAGE, page));
    images.extend(initrd);
    images.extend(long_mode_tables());
    Ok(Kernel { images, entry: Entry::Linux64(address + ENTRY_64) })
}

fn elf(config: &Config, file: &BootFile, layout: &Layout) -> Result<Kernel, BuildError> {
    let elf = file.elf(EM_X86_64)?;
    if elf.lowest < KERNEL || elf.end > layout.low_end {
        let length = elf.end.saturating_sub(elf.lowest);
        return Err(LoadError::Space { what: "the kernel".into(), address: elf.lowest, length }.into());
    }
    let initrd = initrd(config, elf.end, 1 << 31, layout)?;
    let mut images = elf.images;
    images.push(command_line(config, file, COMMAND_LINE_ROOM)?);
    let entry = match elf.pvh_entry {
        Some(entry) => {
            images.extend(start_info(layout, initrd.as_ref()));
            images.push(flat_descriptor_table());
            Entry::Pvh(entry)
        }
        None => {
            images.push(Image::bytes("the zero page", ZERO_PAGE, zero_page(config, layout, initrd.as_ref())));
            images.extend(long_mode_tables());
            Entry::Linux64(elf.entry)
        }
    };
    images.extend(initrd);
    Ok(Kernel { images, entry })
}

/// `struct hvm_start_info`, its module list and its memory map.
fn start_info(layout: &Layout, initrd: Option<&Image>) -> Vec<Image> {
    const MAGIC: u64 = 0x336e_c578;
    let mut info = vec![0; 56];
    put(&mut info, 0, MAGIC, 4);
    put(&mut info, 4, 1, 4);
    put(&mut info, 12, u64::from(initrd.is_some()), 4);
    put(&mut info, 16, if initrd.is_some() { MODULES } else { 0 }, 8);
    put(&mut info, 24, COMMAND_LINE, 8);
    put(&mut info, 32, layout.acpi, 8);
    put(&mut info, 40, MEMORY_MAP, 8);
    put(&mut info, 48, layout.e820.len() as u64, 4);
    let mut map = vec![0; 24 * layout.e820.len()];
    for (index, (start, length, kind)) in layout.e820.iter().enumerate() {
        put(&mut map, 24 * index, *start, 8);
        put(&mut map, 24 * index + 8, *length, 8);
        put(&mut map, 24 * index + 16, u64::from(*kind), 4);
    }
    let mut images =
        vec![Image::bytes("the start information", START_INFO, info), Image::bytes("the memory map", MEMORY_MAP, map)];
    if let Some(initrd) = initrd {
        let mut module = vec![0; 32];
        put(&mut module, 0, initrd.address, 8);
        put(&mut module, 8, initrd.size(), 8);
        images.push(Image::bytes("the module list", MODULES, module));
    }
    images
}

/// Selectors 0x10 (code) and 0x18 (data), flat.
fn descriptor_table(long: bool) -> Vec<u8> {
    let code = if long { 0x00af_9b00_0000_ffff_u64 } else { 0x00cf_9b00_0000_ffff };
    [0, 0, code, 0x00cf_9300_0000_ffff].iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect()
}

/// A descriptor table for protected mode.
pub(super) fn flat_descriptor_table() -> Image {
    Image::bytes("the descriptor table", GDT, descriptor_table(false))
}

/// A descriptor table, and page tables that map the first 4 GiB to themselves in pages of 2 MiB.
fn long_mode_tables() -> Vec<Image> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    let mut tables = vec![0; 6 * 4096];
    put(&mut tables, 0, (PAGE_TABLES + 0x1000) | PRESENT_WRITABLE, 8);
    for gib in 0..4u64 {
        let directory = PAGE_TABLES + 0x2000 + 0x1000 * gib;
        put(&mut tables, 0x1000 + 8 * gib as usize, directory | PRESENT_WRITABLE, 8);
    }
    for page in 0..2048u64 {
        put(&mut tables, 0x2000 + 8 * page as usize, (page << 21) | LARGE | PRESENT_WRITABLE, 8);
    }
    vec![
        Image::bytes("the descriptor table", GDT, descriptor_table(true)),
        Image::bytes("the page tables", PAGE_TABLES, tables),
    ]
}

/// Puts the bootstrap processor where the kernel begins.
pub(super) fn set_entry(state: &mut CpuState, entry: &Entry) {
    let data = Segment::flat_data(0x18);
    (state.ds, state.es, state.fs, state.gs, state.ss) = (data, data, data, data, data);
    state.gdt = DescriptorTable { base: GDT, limit: 31 };
    state.idt = DescriptorTable { base: 0, limit: 0 };
    state.gpr[gpr::RSP] = STACK;
    match entry {
        Entry::Linux64(address) => {
            state.cs = Segment::flat_code_64(0x10);
            state.tr = Segment::empty_task_state_64();
            state.cr0 = cr0::PE | cr0::PG | cr0::ET;
            state.cr3 = PAGE_TABLES;
            state.cr4 = cr4::PAE;
            state.efer = efer::LME | efer::LMA;
            state.gpr[gpr::RSI] = ZERO_PAGE;
            state.rip = *address;
        }
        Entry::Pvh(address) | Entry::Multiboot(address) => {
            state.cs = Segment { kind: 11, ..Segment::flat_data(0x10) };
            state.cr0 = cr0::PE | cr0::ET;
            state.gpr[gpr::RBX] = START_INFO;
            if let Entry::Multiboot(_) = entry {
                state.gpr[gpr::RAX] = multiboot::LOADER_MAGIC;
            }
            state.rip = *address;
        }
    }
}
