//! Segment registers and descriptors (SDM volume 3, chapters 3 and 5).

use crate::cpu::Cpu;
use crate::ir::Width;

use super::event::{Fault, general_protection, not_present, stack_fault};
use super::registers;
use super::state::{CR0_PE, EFER_LMA, X86_64};

/// The segment registers, in the order of instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentName {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// Extra.
    Fs = 4,
    /// Extra.
    Gs = 5,
}

impl SegmentName {
    /// All of them.
    pub const ALL: [SegmentName; 6] =
        [SegmentName::Es, SegmentName::Cs, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs];

    /// The segment with this number.
    pub fn from_number(number: u64) -> SegmentName {
        SegmentName::ALL.get(number as usize).copied().unwrap_or(SegmentName::Ds)
    }
}

/// Bits of [`Segment::attributes`]: bits 8 to 23 of a descriptor's upper half.
pub mod attribute {
    /// Type: the segment was used.
    pub const ACCESSED: u16 = 1;
    /// Type of data: writable. Of code: readable.
    pub const WRITABLE_OR_READABLE: u16 = 2;
    /// Type of data: expands down. Of code: conforming.
    pub const EXPAND_DOWN_OR_CONFORMING: u16 = 4;
    /// Type: code.
    pub const CODE: u16 = 8;
    /// A code or data segment.
    pub const CODE_OR_DATA: u16 = 0x10;
    /// Lowest bit of the privilege level.
    pub const PRIVILEGE_SHIFT: u32 = 5;
    /// Present.
    pub const PRESENT: u16 = 0x80;
    /// Available to software.
    pub const AVAILABLE: u16 = 0x1000;
    /// 64-bit code.
    pub const LONG: u16 = 0x2000;
    /// 32-bit operands, addresses, stack pointer; upper bound of 4 GiB.
    pub const BIG: u16 = 0x4000;
    /// The limit is in units of 4 KiB.
    pub const GRANULARITY: u16 = 0x8000;
}
use attribute::*;

/// A segment register but for its base, which is [`registers::segment_base`] for those that address memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Visible part.
    pub selector: u16,
    /// Highest offset in bytes.
    pub limit: u32,
    /// Bits of [`attribute`]; without [`PRESENT`], the segment may not be used.
    pub attributes: u16,
}

impl Segment {
    /// Descriptor privilege level.
    pub fn privilege(&self) -> u8 {
        (self.attributes >> PRIVILEGE_SHIFT & 3) as u8
    }

    /// All the bits are set.
    pub fn has(&self, attributes: u16) -> bool {
        self.attributes & attributes == attributes
    }

    /// The segment that real mode and virtual-8086 mode make of a selector, for loads into `name`.
    fn real(selector: u16, before: &Segment) -> Segment {
        Segment { selector, limit: before.limit, attributes: before.attributes }
    }
}

/// A system segment register: LDTR or TR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemSegment {
    /// Selector, limit and attributes.
    pub segment: Segment,
    /// First linear address.
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// First linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// A descriptor as memory holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Its eight bytes.
    pub(super) word: u64,
    /// Where it is.
    pub(super) address: u64,
}

impl Descriptor {
    pub(super) fn base(&self) -> u64 {
        self.word >> 16 & 0xff_ffff | (self.word >> 56) << 24
    }

    pub(super) fn limit(&self) -> u32 {
        let limit = (self.word & 0xffff | self.word >> 32 & 0xf_0000) as u32;
        if self.attributes() & GRANULARITY != 0 { limit << 12 | 0xfff } else { limit }
    }

    pub(super) fn attributes(&self) -> u16 {
        (self.word >> 40) as u16 & 0xf0ff
    }

    pub(super) fn segment(&self, selector: u16) -> Segment {
        Segment { selector, limit: self.limit(), attributes: self.attributes() }
    }
}

/// Reads the descriptor that `selector`, which is not null, names; `fault` makes the exception if the table ends before it.
pub(super) fn descriptor(
    cpu: &mut Cpu<X86_64>,
    selector: u16,
    fault: impl Fn(u16) -> Fault,
) -> Result<Descriptor, Fault> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.guest.gdt.base, u32::from(cpu.guest.gdt.limit))
    } else {
        let ldt = &cpu.guest.ldt;
        if ldt.segment.selector & !3 == 0 || !ldt.segment.has(PRESENT) {
            return Err(fault(selector));
        }
        (ldt.base, ldt.segment.limit)
    };
    let offset = u32::from(selector & !7);
    if offset + 7 > limit {
        return Err(fault(selector));
    }
    let address = cpu.guest.linear(base.wrapping_add(u64::from(offset)));
    let word = cpu.system_load(address, Width::Double)?;
    Ok(Descriptor { word, address })
}

/// Sets the accessed bit of a code or data descriptor in memory.
pub(super) fn mark_accessed(cpu: &mut Cpu<X86_64>, descriptor: &mut Descriptor) -> Result<(), Fault> {
    let accessed = u64::from(ACCESSED) << 40;
    if descriptor.word & accessed == 0 {
        descriptor.word |= accessed;
        cpu.system_store(descriptor.address + 5, Width::Byte, descriptor.word >> 40 & 0xff)?;
    }
    Ok(())
}

/// The upper half of the base in the second eight bytes of a 64-bit system descriptor.
pub(super) fn upper_base(cpu: &mut Cpu<X86_64>, descriptor: &Descriptor, selector: u16) -> Result<u64, Fault> {
    let limit = if selector & 4 == 0 { u32::from(cpu.guest.gdt.limit) } else { cpu.guest.ldt.segment.limit };
    if u32::from(selector & !7) + 15 > limit {
        return Err(general_protection(selector));
    }
    let word = cpu.system_load(descriptor.address + 8, Width::Double)?;
    if word >> 40 & 0x1f != 0 {
        return Err(general_protection(selector));
    }
    Ok(word << 32)
}

/// Loads the segment register `name`, other than CS, as MOV and POP do.
pub(super) fn load(cpu: &mut Cpu<X86_64>, name: SegmentName, selector: u16) -> Result<(), Fault> {
    if cpu.guest.is_real_or_virtual() {
        let segment = Segment::real(selector, &cpu.guest.segments[name as usize]);
        set(cpu, name, segment, u64::from(selector) << 4);
        return Ok(());
    }
    let privilege = cpu.guest.privilege();
    if selector & !3 == 0 {
        if name == SegmentName::Ss {
            let allowed = cpu.guest.is_64_bit() && privilege != 3 && (selector & 3) as u8 == privilege;
            if !allowed {
                return Err(general_protection(0));
            }
        }
        load_null(cpu, name, selector);
        return Ok(());
    }
    let mut found = descriptor(cpu, selector, general_protection)?;
    let segment = found.segment(selector);
    let requested = (selector & 3) as u8;
    if name == SegmentName::Ss {
        let fits = segment.has(CODE_OR_DATA | WRITABLE_OR_READABLE) && !segment.has(CODE);
        if !fits || requested != privilege || segment.privilege() != privilege {
            return Err(general_protection(selector));
        }
        if !segment.has(PRESENT) {
            return Err(stack_fault(selector));
        }
    } else {
        let readable = !segment.has(CODE) || segment.has(WRITABLE_OR_READABLE);
        let conforming = segment.has(CODE | EXPAND_DOWN_OR_CONFORMING);
        let permitted = conforming || segment.privilege() >= privilege.max(requested);
        if !segment.has(CODE_OR_DATA) || !readable || !permitted {
            return Err(general_protection(selector));
        }
        if !segment.has(PRESENT) {
            return Err(not_present(selector));
        }
    }
    mark_accessed(cpu, &mut found)?;
    set(cpu, name, found.segment(selector), found.base());
    Ok(())
}

/// Makes a segment unusable.
pub(super) fn load_null(cpu: &mut Cpu<X86_64>, name: SegmentName, selector: u16) {
    // SS keeps a privilege level, as returns look at it; the base stays as makers other than Intel have it cleared.
    let attributes = if name == SegmentName::Ss { u16::from(cpu.guest.privilege()) << PRIVILEGE_SHIFT } else { 0 };
    set(cpu, name, Segment { selector, limit: 0, attributes }, 0);
}

/// Puts a checked segment into its register.
pub(super) fn set(cpu: &mut Cpu<X86_64>, name: SegmentName, segment: Segment, base: u64) {
    cpu.guest.segments[name as usize] = segment;
    cpu.context.registers[usize::from(registers::segment_base(name).0)] = base;
}

/// The base of a segment.
pub fn base(cpu: &Cpu<X86_64>, name: SegmentName) -> u64 {
    cpu.context.registers[usize::from(registers::segment_base(name).0)]
}

/// The linear address of an access of `bytes` at `offset`, outside 64-bit mode, with the checks of limit and type.
pub(super) fn linear_address(
    cpu: &Cpu<X86_64>,
    name: SegmentName,
    offset: u64,
    bytes: u64,
    write: bool,
) -> Result<u64, Fault> {
    let segment = &cpu.guest.segments[name as usize];
    let linear = base(cpu, name).wrapping_add(offset) & 0xffff_ffff;
    let fault = || if name == SegmentName::Ss { stack_fault(0) } else { general_protection(0) };
    let protected = cpu.guest.cr0 & CR0_PE != 0 && !cpu.guest.is_virtual_8086();
    if protected {
        if !segment.has(PRESENT) {
            return Err(general_protection(0));
        }
        let allowed = match (segment.has(CODE), write) {
            (true, true) => false,
            (true, false) => segment.has(WRITABLE_OR_READABLE),
            (false, true) => segment.has(WRITABLE_OR_READABLE),
            (false, false) => true,
        };
        if !allowed {
            return Err(general_protection(0));
        }
    }
    let within = if protected {
        limit_allows(segment, offset, bytes)
    } else {
        offset.wrapping_add(bytes.max(1) - 1) <= u64::from(segment.limit)
    };
    if within { Ok(linear) } else { Err(fault()) }
}

/// The bytes from `offset` on lie within the segment.
pub(super) fn limit_allows(segment: &Segment, offset: u64, bytes: u64) -> bool {
    let last = offset.wrapping_add(bytes.max(1) - 1);
    let limit = u64::from(segment.limit);
    if !segment.has(CODE) && segment.has(EXPAND_DOWN_OR_CONFORMING) {
        let top = if segment.has(BIG) { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

/// True while 64-bit code runs: segments other than FS and GS have no base, and none has a limit.
pub(super) fn is_64_bit(guest: &X86_64) -> bool {
    guest.efer & EFER_LMA != 0 && guest.segments[SegmentName::Cs as usize].has(LONG)
}
