//! Kernel, firmware and initial RAM disk files: what they are, and where their bytes go.
//!
//! Nothing here trusts a file: a header decides only after it was checked against the file's length and the machine's
//! RAM.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accel::Architecture;
use accel::memory::GuestMemory;
use object::LittleEndian;
use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// How much of a file's beginning tells what it is, bytes.
pub const HEADER_LENGTH: usize = 0x240;

/// `e_machine` of RISC-V.
pub const EM_RISCV: u16 = elf::EM_RISCV.0;
/// `e_machine` of x86-64.
pub const EM_X86_64: u16 = elf::EM_X86_64.0;
/// `e_machine` of 32-bit x86.
pub const EM_386: u16 = elf::EM_386.0;
const EM_ARM: u16 = elf::EM_ARM.0;
const EM_AARCH64: u16 = elf::EM_AARCH64.0;

/// Most program headers that an ELF file may have.
const MOST_SEGMENTS: usize = 1024;

/// A file that is no regular one (a pipe) is read whole, if it is not longer than this.
const MOST_STREAMED: u64 = 1 << 30;

/// What a kernel or firmware file is, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A RISC-V Linux `Image` (Linux documentation, "Boot image header in RISC-V Linux").
    RiscvLinux {
        /// Where it wants to be, counted from the start of RAM.
        text_offset: u64,
        /// Memory that it occupies from there on, bytes; 0: unknown.
        image_size: u64,
    },
    /// An AArch64 Linux `Image` (Linux documentation, "Booting AArch64 Linux").
    Arm64Linux,
    /// An x86 Linux `bzImage` (Linux documentation, "The Linux/x86 Boot Protocol").
    BzImage,
    /// An ELF file.
    Elf {
        /// Its `e_machine`.
        machine: u16,
        /// It is of the 64-bit class.
        is_64_bit: bool,
    },
    /// None of these: bytes to be executed.
    Raw,
}

impl ImageKind {
    /// What the first bytes of a file, at least [`HEADER_LENGTH`] if it is that long, make it.
    pub fn of(header: &[u8]) -> ImageKind {
        let at = |offset: usize, length: usize| header.get(offset..offset + length).unwrap_or_default();
        let number = |offset: usize, length: usize| {
            at(offset, length).iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte))
        };
        if at(0, 4) == b"\x7fELF" {
            let big_endian = at(5, 1) == [2];
            let machine = number(0x12, 2) as u16;
            let machine = if big_endian { machine.swap_bytes() } else { machine };
            return ImageKind::Elf { machine, is_64_bit: at(4, 1) == [2] };
        }
        if at(0x38, 4) == b"RSC\x05" {
            return ImageKind::RiscvLinux { text_offset: number(0x08, 8), image_size: number(0x10, 8) };
        }
        if at(0x38, 4) == b"ARM\x64" {
            return ImageKind::Arm64Linux;
        }
        if at(0x202, 4) == b"HdrS" && at(0x1fe, 2) == [0x55, 0xaa] {
            return ImageKind::BzImage;
        }
        ImageKind::Raw
    }

    /// The name of the architecture that it is for, where it tells: also of ones that Brolga does not know.
    pub fn architecture_name(self) -> Option<&'static str> {
        match self {
            ImageKind::RiscvLinux { .. } => Some("riscv64"),
            ImageKind::Arm64Linux => Some("aarch64"),
            ImageKind::BzImage => Some("x86_64"),
            ImageKind::Elf { machine: EM_X86_64 | EM_386, .. } => Some("x86_64"),
            ImageKind::Elf { machine: EM_RISCV, is_64_bit: true } => Some("riscv64"),
            ImageKind::Elf { machine: EM_RISCV, is_64_bit: false } => Some("riscv32"),
            ImageKind::Elf { machine: EM_AARCH64, .. } => Some("aarch64"),
            ImageKind::Elf { machine: EM_ARM, .. } => Some("arm"),
            ImageKind::Elf { .. } | ImageKind::Raw => None,
        }
    }

    /// The architecture that it is for, if the header tells and Brolga knows it.
    pub fn architecture(self) -> Option<Architecture> {
        [Architecture::X86_64, Architecture::Riscv64]
            .into_iter()
            .find(|architecture| self.architecture_name() == Some(architecture.name()))
    }
}

/// Which architecture the kernel or firmware at `path` is for, if its header tells.
pub fn kernel_architecture(path: &Path) -> Result<Option<Architecture>, LoadError> {
    Ok(BootFile::open("kernel", path)?.kind.architecture())
}

/// Why a file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host cannot open or read it.
    #[error("cannot read {role} {path}: {source}")]
    Read {
        /// What the file is for: kernel, firmware, initrd.
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// It is not what it must be.
    #[error("{role} {path} {problem}")]
    Form {
        /// What the file is for.
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it, as a verb phrase.
        problem: String,
    },
    /// It does not fit into the machine's RAM.
    #[error(
        "{what} (at {address:#x}, {length} bytes) does not fit into the machine's RAM; give the machine more with -m"
    )]
    Space {
        /// What does not fit.
        what: String,
        /// Guest-physical address where it would begin.
        address: u64,
        /// Its length.
        length: u64,
    },
}

/// A file that the user named for booting.
pub struct BootFile {
    role: &'static str,
    path: PathBuf,
    content: Content,
    /// Length in bytes.
    pub length: u64,
    /// What its header makes it.
    pub kind: ImageKind,
}

#[derive(Clone)]
enum Content {
    Bytes(Arc<[u8]>),
    File(Arc<File>),
}

impl Content {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Content::File(file) => file.read_exact_at(buffer, offset),
            Content::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

impl BootFile {
    /// Opens the file that is the machine's `role`.
    pub fn open(role: &'static str, path: &Path) -> Result<BootFile, LoadError> {
        let failed = |source| LoadError::Read { role, path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let (content, length) = if metadata.is_file() {
            (Content::File(Arc::new(file)), metadata.len())
        } else {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, MOST_STREAMED + 1), &mut bytes).map_err(failed)?;
            if bytes.len() as u64 > MOST_STREAMED {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            let length = bytes.len() as u64;
            (Content::Bytes(bytes.into()), length)
        };
        let mut header = vec![0; length.min(HEADER_LENGTH as u64) as usize];
        content.read_exact_at(0, &mut header).map_err(failed)?;
        let kind = ImageKind::of(&header);
        Ok(BootFile { role, path: path.into(), content, length, kind })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a part of it.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LoadError> {
        let failed = |source| LoadError::Read { role: self.role, path: self.path.clone(), source };
        self.content.read_exact_at(offset, buffer).map_err(failed)
    }

    /// An error about the form of this file; `problem` is a verb phrase.
    pub fn wrong(&self, problem: impl Into<String>) -> LoadError {
        LoadError::Form { role: self.role, path: self.path.clone(), problem: problem.into() }
    }

    /// The `length` bytes from `offset` on as an image for guest-physical `address`.
    pub fn part(&self, offset: u64, length: u64, address: u64) -> Image {
        let name = format!("{} {}", self.role, self.path.display());
        Image { name, address, content: self.content.clone(), offset, length, zeroes: 0 }
    }

    /// The whole file as an image for guest-physical `address`.
    pub fn whole(&self, address: u64) -> Image {
        self.part(0, self.length, address)
    }

    /// The loadable segments of an ELF file for `machine`, at their physical addresses.
    pub fn elf(&self, machine: u16) -> Result<ElfImage, LoadError> {
        match self.kind {
            ImageKind::Elf { is_64_bit: false, .. } => self.elf_of::<elf::FileHeader32<LittleEndian>>(machine),
            _ => self.elf_of::<elf::FileHeader64<LittleEndian>>(machine),
        }
    }

    fn elf_of<H: FileHeader<Endian = LittleEndian>>(&self, machine: u16) -> Result<ElfImage, LoadError> {
        let data = FileContent { content: &self.content, length: self.length, position: 0 };
        let cache = ReadCache::new(data);
        let malformed = |error: object::Error| self.wrong(format!("is a malformed ELF file: {error}"));
        let header = H::parse(&cache).map_err(malformed)?;
        let endian = LittleEndian;
        if header.e_machine(endian).0 != machine {
            return Err(self.wrong("is an ELF file for another architecture"));
        }
        if usize::from(header.e_phnum(endian)) > MOST_SEGMENTS {
            return Err(self.wrong(format!("has more than {MOST_SEGMENTS} program headers")));
        }
        let segments = header.program_headers(endian, &cache).map_err(malformed)?;
        let entry = header.e_entry(endian).into();
        let mut elf = ElfImage { images: Vec::new(), entry, lowest: u64::MAX, end: 0, pvh_entry: None };
        for segment in segments {
            match segment.p_type(endian) {
                elf::PT_LOAD => {}
                elf::PT_NOTE => {
                    elf.pvh_entry = elf.pvh_entry.or(self.pvh_note(segment, &cache));
                    continue;
                }
                _ => continue,
            }
            let (offset, length) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
            let (address, size) = (segment.p_paddr(endian).into(), segment.p_memsz(endian).into());
            let virtual_address = segment.p_vaddr(endian).into();
            if size == 0 {
                continue;
            }
            let in_file = offset.checked_add(length).is_some_and(|end| end <= self.length);
            let end = address.checked_add(size);
            let (true, true, Some(end)) = (in_file, length <= size, end) else {
                return Err(self.wrong("has a segment that lies outside of the file or of the address space"));
            };
            let mut image = self.part(offset, length, address);
            image.zeroes = size - length;
            elf.images.push(image);
            elf.lowest = elf.lowest.min(address);
            elf.end = elf.end.max(end);
            if let Some(within) = entry.checked_sub(virtual_address).filter(|within| *within < size) {
                elf.entry = address + within;
            }
        }
        if elf.images.is_empty() {
            return Err(self.wrong("is an ELF file with nothing to load"));
        }
        Ok(elf)
    }

    /// The 32-bit entry point that a kernel offers for the x86/HVM direct boot ABI (Xen's ELF note 18).
    fn pvh_note<P: ProgramHeader<Endian = LittleEndian>>(
        &self,
        segment: &P,
        cache: &ReadCache<FileContent<'_>>,
    ) -> Option<u64> {
        const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
        if segment.p_filesz(LittleEndian).into() > 1 << 20 {
            return None;
        }
        let mut notes = segment.notes(LittleEndian, cache).ok()??;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(LittleEndian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
                return note
                    .desc()
                    .get(..4)
                    .map(|bytes| bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)));
            }
        }
        None
    }
}

/// What there is to load of an ELF file.
pub struct ElfImage {
    /// Its segments.
    pub images: Vec<Image>,
    /// Guest-physical address of its first instruction.
    pub entry: u64,
    /// Lowest guest-physical address of a segment.
    pub lowest: u64,
    /// First guest-physical address after all segments.
    pub end: u64,
    /// Entry point for x86/HVM direct boot, if it has that note.
    pub pvh_entry: Option<u64>,
}

/// A file's content as the ELF reader wants it.
struct FileContent<'a> {
    content: &'a Content,
    length: u64,
    position: u64,
}

impl io::Read for FileContent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.length.saturating_sub(self.position).min(buffer.len() as u64) as usize;
        self.content.read_exact_at(self.position, &mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl io::Seek for FileContent<'_> {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        let position = match position {
            io::SeekFrom::Start(position) => Some(position),
            io::SeekFrom::End(delta) => self.length.checked_add_signed(delta),
            io::SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Bytes that a reset puts into guest memory.
#[derive(Clone)]
pub struct Image {
    name: String,
    /// Guest-physical address of the first byte.
    pub address: u64,
    content: Content,
    offset: u64,
    length: u64,
    /// How many zero bytes follow.
    zeroes: u64,
}

impl Image {
    /// An image called `name` of bytes that the machine made itself.
    pub fn bytes(name: impl Into<String>, address: u64, bytes: impl Into<Arc<[u8]>>) -> Image {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Image { name: name.into(), address, content: Content::Bytes(bytes), offset: 0, length, zeroes: 0 }
    }

    /// The image with `zeroes` zero bytes after it.
    pub fn with_zeroes(self, zeroes: u64) -> Image {
        Image { zeroes, ..self }
    }

    /// Number of bytes it occupies in memory.
    pub fn size(&self) -> u64 {
        self.length.saturating_add(self.zeroes)
    }

    /// Reads from `offset` on; what lies after the image's end reads as zero.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inside = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (start, rest) = buffer.split_at_mut(inside);
        rest.fill(0);
        if start.is_empty() { Ok(()) } else { self.content.read_exact_at(self.offset + offset, start) }
    }

    /// Checks that all of it is in `memory`.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), LoadError> {
        let space = || LoadError::Space { what: self.name.clone(), address: self.address, length: self.size() };
        let size = usize::try_from(self.size()).map_err(|_| space())?;
        if GuestMemoryBackend::check_range(memory, GuestAddress(self.address), size) { Ok(()) } else { Err(space()) }
    }

    /// Writes it into `memory`.
    pub fn load(&self, memory: &GuestMemory) -> Result<(), LoadError> {
        const PART: usize = 1 << 20;
        self.check(memory)?;
        let failed = |error: String| LoadError::Form { role: "image", path: (&self.name).into(), problem: error };
        let mut buffer = vec![0; PART.min(self.size() as usize)];
        let mut done = 0;
        while done < self.length {
            let part = &mut buffer[..(self.length - done).min(PART as u64) as usize];
            let read = self.content.read_exact_at(self.offset + done, part);
            read.map_err(|error| failed(format!("cannot be read: {error}")))?;
            memory
                .write_slice(part, GuestAddress(self.address + done))
                .map_err(|error| failed(format!("cannot be written: {error}")))?;
            done += part.len() as u64;
        }
        buffer.fill(0);
        while done < self.size() {
            let part = &buffer[..(self.size() - done).min(PART as u64) as usize];
            memory
                .write_slice(part, GuestAddress(self.address + done))
                .map_err(|error| failed(format!("cannot be written: {error}")))?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

/// Checks that no two images lie on each other.
pub fn check_overlaps(images: &[Image]) -> Result<(), LoadError> {
    let mut sorted: Vec<&Image> = images.iter().filter(|image| image.size() > 0).collect();
    sorted.sort_by_key(|image| image.address);
    for pair in sorted.windows(2) {
        if pair[0].address + pair[0].size() > pair[1].address {
            let problem = format!("overlaps {} at {:#x}", pair[1].name, pair[1].address);
            return Err(LoadError::Form { role: "image", path: (&pair[0].name).into(), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::memory;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, BootFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let opened = BootFile::open("kernel", file.path()).unwrap();
        (file, opened)
    }

    /// An ELF file with one segment: file bytes `data`, `extra` zero bytes after.
    fn elf(machine: u16, entry: u64, vaddr: u64, paddr: u64, data: &[u8], extra: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, value: u64, length: usize| {
            bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
        };
        put(16, 2, 2);
        put(18, u64::from(machine), 2);
        put(20, 1, 4);
        put(24, entry, 8);
        put(32, 64, 8);
        put(52, 64, 2);
        put(54, 56, 2);
        put(56, 1, 2);
        put(64, 1, 4);
        put(64 + 8, 120, 8);
        put(64 + 16, vaddr, 8);
        put(64 + 24, paddr, 8);
        put(64 + 32, data.len() as u64, 8);
        put(64 + 40, data.len() as u64 + extra, 8);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn headers_tell_kind_and_architecture() {
        let mut riscv = vec![0; 0x40];
        riscv[0x0a] = 0x20;
        riscv[0x12] = 0x30;
        riscv[0x38..0x3c].copy_from_slice(b"RSC\x05");
        assert_eq!(ImageKind::of(&riscv), ImageKind::RiscvLinux { text_offset: 0x20_0000, image_size: 0x30_0000 });
        assert_eq!(ImageKind::of(&riscv).architecture(), Some(Architecture::Riscv64));
        let mut arm = vec![0; 0x40];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(ImageKind::of(&arm).architecture_name(), Some("aarch64"));
        assert_eq!(ImageKind::of(&arm).architecture(), None);
        let mut pc = vec![0; 0x240];
        pc[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        pc[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(ImageKind::of(&pc).architecture(), Some(Architecture::X86_64));
        let kind = ImageKind::of(&elf(243, 0, 0, 0, &[], 1));
        assert_eq!(kind, ImageKind::Elf { machine: 243, is_64_bit: true });
        assert_eq!(kind.architecture(), Some(Architecture::Riscv64));
        for length in 0..riscv.len() {
            assert_eq!(ImageKind::of(&riscv[..length.min(0x3b)]), ImageKind::Raw);
        }
    }

    #[test]
    fn an_elf_segment_goes_to_its_physical_address_with_zeroes_after_it() {
        let (_guard, opened) = file(&elf(243, 0xffff_8000_0000_0004, 0xffff_8000_0000_0000, 0x1000, b"abcdefgh", 8));
        let elf = opened.elf(243).unwrap();
        assert_eq!((elf.entry, elf.lowest, elf.end), (0x1004, 0x1000, 0x1010));
        let memory = memory(0x2000);
        memory.write_slice(&[0xff; 0x2000], GuestAddress(0)).unwrap();
        elf.images[0].load(&memory).unwrap();
        let mut bytes = [0; 18];
        memory.read_slice(&mut bytes, GuestAddress(0xfff)).unwrap();
        assert_eq!(&bytes, b"\xffabcdefgh\0\0\0\0\0\0\0\0\xff");
        assert!(opened.elf(62).is_err());
    }

    #[test]
    fn hostile_elf_files_are_errors() {
        let good = elf(243, 0, 0, 0x1000, b"abcd", 0);
        for (at, length, value) in [
            (32, 8, u64::MAX),
            (32, 8, 200),
            (54, 2, 1),
            (56, 2, 0xffff),
            (64 + 8, 8, u64::MAX),
            (64 + 8, 8, 121),
            (64 + 24, 8, u64::MAX - 1),
            (64 + 32, 8, u64::MAX),
            (64 + 40, 8, 2),
        ] {
            let mut bad = good.clone();
            bad[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            let (_guard, opened) = file(&bad);
            assert!(opened.elf(243).is_err(), "{value:#x} at {at}");
        }
        for length in 0..good.len() {
            let (_guard, opened) = file(&good[..length]);
            assert!(opened.elf(243).is_err(), "cut to {length}");
        }
        let mut huge = good;
        huge[64 + 40..64 + 48].copy_from_slice(&(1u64 << 60).to_le_bytes());
        let (_guard, opened) = file(&huge);
        let elf = opened.elf(243).unwrap();
        assert!(matches!(elf.images[0].load(&memory(0x2000)), Err(LoadError::Space { .. })));
    }

    #[test]
    fn overlapping_images_are_named() {
        let images = [Image::bytes("b", 0x1004, vec![0; 4]), Image::bytes("a", 0x1000, vec![0; 5])];
        let error = check_overlaps(&images).unwrap_err();
        assert!(error.to_string().contains("overlaps b at 0x1004"), "{error}");
        assert!(check_overlaps(&images[1..]).is_ok());
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = kernel_architecture(Path::new("/nonexistent/Image")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/Image"), "{error}");
    }
}
