//! Kernels of the Multiboot specification, version 0.6.96.
//!
//! They are ELF files of 32 bits, or files whose header itself says where they go. The initial RAM disk is a list of
//! modules: `FILE[ TEXT][,FILE[ TEXT]]...`.

use std::path::Path;

use super::boot::{self, COMMAND_LINE, COMMAND_LINE_ROOM, Entry, KERNEL, Kernel, MEMORY_MAP, START_INFO, get, put};
use super::{E820_RAM, Layout};
use crate::load::{BootFile, EM_386, Image, ImageKind, LoadError};
use crate::machine::{BuildError, Config};

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// The header is among this many first bytes.
const HEADER_ROOM: u64 = 8192;

/// What the kernel finds in EAX.
pub(super) const LOADER_MAGIC: u64 = 0x2bad_b002;

/// The kernel wants something of the first half that the loader must know: bits 0 and 1 are met always.
const REQUIRED_UNKNOWN: u32 = 0xfff8;
/// The header says where the file goes.
const HAS_ADDRESSES: u32 = 1 << 16;

/// Most modules.
const MOST_MODULES: usize = 64;
const MODULE_LIST: u64 = 0x6800;
/// Most bytes of a file that says where it goes.
const MOST_FLAT: u64 = 1 << 30;

/// A header, and where it is in the file.
struct Header {
    at: u64,
    flags: u32,
    /// Addresses of the header, the first byte loaded, the end of what is loaded, of the zeroes after it, and the entry.
    addresses: [u64; 5],
}

fn find(file: &BootFile) -> Result<Option<Header>, LoadError> {
    let mut start = vec![0; file.length.min(HEADER_ROOM) as usize];
    file.read_exact_at(0, &mut start)?;
    let word = |at: usize| get(&start, at, 4) as u32;
    let is_header = |at: &usize| {
        let (magic, flags, checksum) = (word(*at), word(at + 4), word(at + 8));
        magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0
    };
    let found = (0..start.len().saturating_sub(11)).step_by(4).find(is_header);
    Ok(found.map(|at| {
        let address = |index: usize| get(&start, at + 12 + 4 * index, 4);
        Header { at: at as u64, flags: word(at + 4), addresses: [0, 1, 2, 3, 4].map(address) }
    }))
}

/// True if `file` is such a kernel.
pub(super) fn is_kernel(file: &BootFile) -> Result<bool, LoadError> {
    // One of 64 bits has another way in, if any.
    let has_other = matches!(file.kind, ImageKind::Elf { is_64_bit: true, .. } | ImageKind::BzImage);
    Ok(!has_other && find(file)?.is_some())
}

/// Loads `file` if it is such a kernel.
pub(super) fn load(config: &Config, file: &BootFile, layout: &Layout) -> Result<Option<Kernel>, BuildError> {
    if !is_kernel(file)? {
        return Ok(None);
    }
    let Some(header) = find(file)? else { return Ok(None) };
    if header.flags & REQUIRED_UNKNOWN != 0 {
        return Err(file.wrong(format!("asks its loader for unknown things (flags {:#x})", header.flags)).into());
    }
    let (mut images, entry, end) = match (header.flags & HAS_ADDRESSES != 0, file.kind) {
        (true, _) => flat(file, &header)?,
        (false, ImageKind::Elf { .. }) => {
            let elf = file.elf(EM_386)?;
            (elf.images, elf.entry, elf.end)
        }
        (false, _) => return Err(file.wrong("has a Multiboot header without addresses and is no ELF file").into()),
    };
    let mut strings = Strings::default();
    let line = format!("{} {}", file.path().display(), config.boot.command_line);
    let command_line = strings.add(line.trim_end());
    let loader = strings.add("brolga");
    let modules = modules(config, end.max(KERNEL), layout, &mut strings, &mut images)?;
    if strings.bytes.len() as u64 > COMMAND_LINE_ROOM {
        return Err(file.wrong(format!("takes command lines of {COMMAND_LINE_ROOM} bytes altogether")).into());
    }

    let mut map = Vec::new();
    for (start, length, kind) in &layout.e820 {
        map.extend(20u32.to_le_bytes());
        map.extend(start.to_le_bytes());
        map.extend(length.to_le_bytes());
        map.extend(kind.to_le_bytes());
    }
    let upper = layout.e820.iter().find(|(start, _, kind)| *start == KERNEL && *kind == E820_RAM);
    let upper = upper.map_or(0, |(_, length, _)| length >> 10);
    let mut info = vec![0; 96];
    // Memory, boot device, command line, modules, memory map and the loader's name are there.
    for (at, value) in [
        (0, 0x24f),
        (4, super::CONVENTIONAL_USABLE >> 10),
        (8, upper.min(u64::from(u32::MAX))),
        (12, 0x8000_ffff),
        (16, command_line),
        (20, modules.len() as u64 / 16),
        (24, MODULE_LIST),
        (44, map.len() as u64),
        (48, MEMORY_MAP),
        (64, loader),
    ] {
        put(&mut info, at, value, 4);
    }
    images.push(Image::bytes("the Multiboot information", START_INFO, info));
    images.push(Image::bytes("the memory map", MEMORY_MAP, map));
    images.push(Image::bytes("the module list", MODULE_LIST, modules));
    images.push(Image::bytes("the kernel command line", COMMAND_LINE, strings.bytes));
    images.push(boot::flat_descriptor_table());
    Ok(Some(Kernel { images, entry: Entry::Multiboot(entry) }))
}

/// A file whose header says where it goes: its image, entry and end.
fn flat(file: &BootFile, header: &Header) -> Result<(Vec<Image>, u64, u64), LoadError> {
    let [own, first, loaded_end, zero_end, entry] = header.addresses;
    let wrong = || file.wrong("has a Multiboot header with impossible addresses");
    let before = own.checked_sub(first).ok_or_else(wrong)?;
    let offset = header.at.checked_sub(before).ok_or_else(wrong)?;
    let there = file.length - offset;
    let length = match loaded_end {
        0 => there,
        end => end.checked_sub(first).filter(|length| *length <= there).ok_or_else(wrong)?,
    };
    let end = zero_end.max(first + length);
    let zeroes = end - first - length;
    if length > MOST_FLAT || zeroes > MOST_FLAT {
        return Err(wrong());
    }
    Ok((vec![file.part(offset, length, first).with_zeroes(zeroes)], entry, end))
}

/// Texts, one after the other in memory.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    /// Adds a text; its address.
    fn add(&mut self, text: &str) -> u64 {
        let address = COMMAND_LINE + self.bytes.len() as u64;
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
        address
    }
}

/// Places the modules after the kernel, each on a page of its own; their list.
fn modules(
    config: &Config,
    end: u64,
    layout: &Layout,
    strings: &mut Strings,
    images: &mut Vec<Image>,
) -> Result<Vec<u8>, BuildError> {
    let mut list = Vec::new();
    let Some(text) = &config.boot.initrd else { return Ok(list) };
    let text = text.to_string_lossy();
    let mut next = end;
    for module in text.split(',').filter(|module| !module.is_empty()).take(MOST_MODULES) {
        let path = module.split(' ').next().unwrap_or_default();
        let file = BootFile::open("initrd", Path::new(path))?;
        let start = next.next_multiple_of(4096);
        next = start.saturating_add(file.length);
        if next > layout.low_end {
            return Err(LoadError::Space { what: "the initrd".into(), address: start, length: file.length }.into());
        }
        for value in [start, next, strings.add(module), 0] {
            list.extend((value as u32).to_le_bytes());
        }
        images.push(file.whole(start));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    /// A kernel of 32 bits with `header` in its one segment, at 4 MiB.
    fn elf(header: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 84];
        bytes[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        for (at, value, length) in [
            (16, 2, 2),
            (18, 3, 2),
            (20, 1, 4),
            (24, 0x40_0040, 4),
            (28, 52, 4),
            (40, 52, 2),
            (42, 32, 2),
            (44, 1, 2),
            (52, 1, 4),
            (56, 84, 4),
            (60, 0x40_0000, 4),
            (64, 0x40_0000, 4),
            (68, 128, 4),
            (72, 256, 4),
        ] {
            put(&mut bytes, at, value, length);
        }
        bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(84 + 128, 0x90);
        bytes
    }
    fn header(flags: u32) -> Vec<u32> {
        vec![HEADER_MAGIC, flags, 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags)]
    }
    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, BootFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let opened = BootFile::open("kernel", file.path()).unwrap();
        (file, opened)
    }

    #[test]
    fn a_kernel_finds_its_command_line_memory_map_and_modules() {
        let (kernel, opened) = file(&elf(&header(3)));
        let (module, _) = file(b"module");
        let mut config = Config { memory: 64 << 20, ..Config::default() };
        config.boot.command_line = "one two".into();
        config.boot.initrd = Some(format!("{} text", module.path().display()).into());
        let loaded = load(&config, &opened, &Layout::new(config.memory)).unwrap().unwrap();
        let Entry::Multiboot(0x40_0040) = loaded.entry else { panic!("{:?}", loaded.entry) };
        let memory = crate::test_support::memory(8 << 20);
        loaded.images.iter().for_each(|image| image.load(&memory).unwrap());
        let word = |address: u64| memory.read_obj::<u32>(GuestAddress(address)).unwrap();
        let text = |address: u32, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(u64::from(address))).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!((word(START_INFO) & 0x4f, word(START_INFO + 4), word(START_INFO + 8)), (0x4f, 639, 63 << 10));
        let expected = format!("{} one two\0", kernel.path().display());
        assert_eq!(text(word(START_INFO + 16), expected.len()), expected);
        assert_eq!(word(START_INFO + 20), 1);
        let list = u64::from(word(START_INFO + 24));
        assert_eq!((word(list), word(list + 4), text(word(list), 6)), (0x40_1000, 0x40_1006, "module".into()));
        assert!(text(word(list + 8), 200).contains(" text\0"));
        let map = u64::from(word(START_INFO + 48));
        assert_eq!((word(START_INFO + 44) % 24, word(map), word(map + 20)), (0, 20, 1));
        assert_eq!(word(0x40_0000), HEADER_MAGIC);
    }

    #[test]
    fn a_file_can_say_where_it_goes() {
        let mut words = header(HAS_ADDRESSES);
        words.extend([0x20_0010, 0x20_0000, 0x20_0040, 0x20_0100, 0x20_0020]);
        let mut bytes = vec![0xaa; 16];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(256, 0xbb);
        let (_guard, opened) = file(&bytes);
        let config = Config { memory: 64 << 20, ..Config::default() };
        let loaded = load(&config, &opened, &Layout::new(config.memory)).unwrap().unwrap();
        assert!(matches!(loaded.entry, Entry::Multiboot(0x20_0020)));
        assert_eq!((loaded.images[0].address, loaded.images[0].size()), (0x20_0000, 0x100));
        for (index, value) in [(3, 0x1f_ffff), (3, 0x30_0000), (5, 0x1f_0000), (5, 0x2f_0000), (6, u32::MAX)] {
            let mut bad = words.clone();
            bad[index] = value;
            let mut bytes = vec![0xaa; 16];
            bytes.extend(bad.iter().flat_map(|word| word.to_le_bytes()));
            bytes.resize(256, 0xbb);
            let (_guard, opened) = file(&bytes);
            assert!(load(&config, &opened, &Layout::new(config.memory)).is_err(), "{index}: {value:#x}");
        }
    }

    #[test]
    fn what_is_no_such_kernel_is_left_to_others() {
        let config = Config::default();
        let layout = Layout::new(config.memory);
        for bytes in [elf(&[HEADER_MAGIC, 0, 0]), vec![0; 100], Vec::new()] {
            let (_guard, opened) = file(&bytes);
            assert!(load(&config, &opened, &layout).unwrap().is_none());
        }
        let (_guard, opened) = file(&elf(&header(8)));
        assert!(load(&config, &opened, &layout).is_err());
    }
}
