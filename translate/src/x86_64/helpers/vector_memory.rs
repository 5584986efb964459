//! AVX instructions that access single elements of vectors in memory: masked moves and gathers.

use crate::cpu::{Cpu, Stopped};
use crate::ir::{MemoryMode, Width};

use super::super::event::Fault;
use super::super::registers::vector_part;
use super::super::segment::{self, SegmentName};
use super::super::state::X86_64;

/// A masked move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct MaskedMove {
    /// Number of the register that is loaded or stored.
    pub(in super::super) register: u8,
    /// Number of the register whose sign bits say which elements are moved.
    pub(in super::super) mask: u8,
    /// Elements have 8 bytes, not 4.
    pub(in super::super) double: bool,
    /// How many elements there are.
    pub(in super::super) count: u8,
    pub(in super::super) mode: MemoryMode,
}

impl MaskedMove {
    pub(in super::super) fn encode(self) -> u64 {
        u64::from(self.register)
            | u64::from(self.mask) << 8
            | u64::from(self.count) << 16
            | u64::from(self.double) << 24
            | u64::from(self.mode.0) << 32
    }

    fn decode(word: u64) -> MaskedMove {
        MaskedMove {
            register: word as u8,
            mask: (word >> 8) as u8,
            count: (word >> 16) as u8 & 15,
            double: word >> 24 & 1 != 0,
            mode: MemoryMode((word >> 32) as u8),
        }
    }

    fn width(self) -> Width {
        width(self.double)
    }

    fn wanted(self, cpu: &Cpu<X86_64>, element: u8) -> bool {
        read_element(cpu, self.mask, element, self.double) >> (8 * self.width().bytes() - 1) & 1 != 0
    }
}

fn width(double: bool) -> Width {
    if double { Width::Double } else { Width::Word }
}

/// An element of 4 or 8 bytes of a register.
fn read_element(cpu: &Cpu<X86_64>, number: u8, element: u8, double: bool) -> u64 {
    if double {
        return cpu.register(vector_part(number, element & 3));
    }
    cpu.register(vector_part(number, element / 2 % 4)) >> (32 * (element % 2)) & 0xffff_ffff
}

fn write_element(cpu: &mut Cpu<X86_64>, number: u8, element: u8, double: bool, value: u64) {
    if double {
        return cpu.set_register(vector_part(number, element & 3), value);
    }
    let register = vector_part(number, element / 2 % 4);
    let shift = 32 * (element % 2);
    let kept = cpu.register(register) & !(0xffff_ffff << shift);
    cpu.set_register(register, kept | (value & 0xffff_ffff) << shift);
}

/// VMASKMOVPS and its kin from a linear address.
pub(super) extern "C" fn masked_load(cpu: &mut Cpu<X86_64>, address: u64, how: u64, _: u64) -> u64 {
    // The helper's end looks at the status.
    let _ = try_masked_load(cpu, address, MaskedMove::decode(how));
    0
}

fn try_masked_load(cpu: &mut Cpu<X86_64>, address: u64, how: MaskedMove) -> Result<(), Stopped> {
    let bytes = how.width().bytes();
    let mut elements = [0; 8];
    for (element, value) in (0..how.count).zip(&mut elements) {
        if how.wanted(cpu, element) {
            *value = cpu.load(address.wrapping_add(u64::from(element) * bytes), how.width(), how.mode)?;
        }
    }
    for part in 0..4 {
        cpu.set_register(vector_part(how.register, part), 0);
    }
    for (element, value) in (0..how.count).zip(elements) {
        write_element(cpu, how.register, element, how.double, value);
    }
    Ok(())
}

/// VMASKMOVPS and its kin to a linear address.
pub(super) extern "C" fn masked_store(cpu: &mut Cpu<X86_64>, address: u64, how: u64, _: u64) -> u64 {
    let _ = try_masked_store(cpu, address, MaskedMove::decode(how));
    0
}

fn try_masked_store(cpu: &mut Cpu<X86_64>, address: u64, how: MaskedMove) -> Result<(), Stopped> {
    let bytes = how.width().bytes();
    let place = |element: u8| address.wrapping_add(u64::from(element) * bytes);
    let wanted: Vec<u8> = (0..how.count).filter(|element| how.wanted(cpu, *element)).collect();
    // Nothing is written if anything faults.
    for element in &wanted {
        super::integer::try_probe_write(cpu, place(*element), bytes, how.mode)?;
    }
    for element in wanted {
        let value = read_element(cpu, how.register, element, how.double);
        cpu.store(place(element), how.width(), how.mode, value)?;
    }
    Ok(())
}

/// A gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Gather {
    pub(in super::super) destination: u8,
    pub(in super::super) index: u8,
    pub(in super::super) mask: u8,
    /// Elements have 8 bytes, not 4.
    pub(in super::super) double: bool,
    /// Indices have 8 bytes, not 4.
    pub(in super::super) double_index: bool,
    /// How many elements there are.
    pub(in super::super) count: u8,
    /// By how many bits indices are shifted.
    pub(in super::super) scale: u8,
    /// Addresses have 32 bits.
    pub(in super::super) short_address: bool,
    pub(in super::super) segment: SegmentName,
    pub(in super::super) mode: MemoryMode,
}

impl Gather {
    pub(in super::super) fn encode(self) -> u64 {
        u64::from(self.destination)
            | u64::from(self.index) << 4
            | u64::from(self.mask) << 8
            | u64::from(self.count) << 12
            | u64::from(self.double) << 16
            | u64::from(self.double_index) << 17
            | u64::from(self.scale) << 18
            | u64::from(self.short_address) << 20
            | (self.segment as u64) << 24
            | u64::from(self.mode.0) << 32
    }

    fn decode(word: u64) -> Gather {
        Gather {
            destination: (word & 15) as u8,
            index: (word >> 4 & 15) as u8,
            mask: (word >> 8 & 15) as u8,
            count: (word >> 12 & 15) as u8,
            double: word >> 16 & 1 != 0,
            double_index: word >> 17 & 1 != 0,
            scale: (word >> 18 & 3) as u8,
            short_address: word >> 20 & 1 != 0,
            segment: SegmentName::from_number(word >> 24 & 0xff),
            mode: MemoryMode((word >> 32) as u8),
        }
    }

    /// The linear address of an element.
    fn address(self, cpu: &mut Cpu<X86_64>, base: u64, element: u8) -> Result<u64, Fault> {
        let index = read_element(cpu, self.index, element, self.double_index);
        let index = if self.double_index { index } else { index as i32 as u64 };
        let offset = base.wrapping_add(index << self.scale);
        let offset = if self.short_address { offset & 0xffff_ffff } else { offset };
        if !cpu.guest.is_64_bit() {
            return segment::linear_address(cpu, self.segment, offset, width(self.double).bytes(), false);
        }
        let has_base = matches!(self.segment, SegmentName::Fs | SegmentName::Gs);
        let linear = if has_base { segment::base(cpu, self.segment).wrapping_add(offset) } else { offset };
        Ok(linear)
    }
}

/// VGATHERDPS and its kin, with `base` and the displacement already added. Elements that were loaded before a fault stay, and their
/// masks are clear, so that the instruction goes on where it was when it begins again.
pub(super) extern "C" fn gather(cpu: &mut Cpu<X86_64>, base: u64, how: u64, _: u64) -> u64 {
    let _ = try_gather(cpu, base, Gather::decode(how));
    0
}

fn try_gather(cpu: &mut Cpu<X86_64>, base: u64, how: Gather) -> Result<(), Stopped> {
    let width = width(how.double);
    for element in 0..how.count {
        let mask = read_element(cpu, how.mask, element, how.double);
        if mask >> (8 * width.bytes() - 1) & 1 != 0 {
            let address = how.address(cpu, base, element);
            let address = match address {
                Ok(address) => address,
                Err(fault) => return Err(cpu.stop_with(fault.0)),
            };
            let value = cpu.load(address, width, how.mode)?;
            write_element(cpu, how.destination, element, how.double, value);
        }
        write_element(cpu, how.mask, element, how.double, 0);
    }
    let parts = (how.count * width.bytes() as u8).div_ceil(8);
    for part in 0..4 {
        cpu.set_register(vector_part(how.mask, part), 0);
        if part >= parts {
            cpu.set_register(vector_part(how.destination, part), 0);
        }
    }
    Ok(())
}
