//! Operands: registers, memory, immediates.

use iced_x86::{OpKind, Register as Named};

use crate::ir::{BinaryOp, Comparison, Op, Register, Type, Value, Width};

use super::super::event::{number_with_error, vector};
use super::super::helpers::{self, id};
use super::super::registers::segment_base;
use super::super::segment::SegmentName;
use super::{Flags, Lifter, Raises};

/// Where a memory operand is: a linear address, and what is to be added to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: Value,
    pub(super) offset: i32,
}

/// An operand that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    /// Of the operand's own type.
    pub(super) value: Value,
    /// I64, whose bits above the operand's width are whatever they are.
    pub(super) raw: Value,
}

/// The integer type of so many bytes.
pub(super) fn type_of_bytes(bytes: usize) -> Type {
    match bytes {
        1 => Type::I8,
        2 => Type::I16,
        4 => Type::I32,
        _ => Type::I64,
    }
}

pub(super) fn width_of(ty: Type) -> Width {
    match ty {
        Type::I8 => Width::Byte,
        Type::I16 => Width::Half,
        Type::I32 | Type::F32 => Width::Word,
        Type::I64 | Type::F64 | Type::V128 => Width::Double,
    }
}

/// The general-purpose register that holds `named`, and whether it is one of AH to BH.
fn general(named: Named) -> (Register, bool) {
    let high = matches!(named, Named::AH | Named::CH | Named::DH | Named::BH);
    (Register(named.full_register().number() as u8), high)
}

pub(super) fn segment_name(named: Named) -> SegmentName {
    match named {
        Named::ES => SegmentName::Es,
        Named::CS => SegmentName::Cs,
        Named::SS => SegmentName::Ss,
        Named::FS => SegmentName::Fs,
        Named::GS => SegmentName::Gs,
        _ => SegmentName::Ds,
    }
}

impl Lifter {
    /// Type of operand `index`.
    pub(super) fn ty(&self, index: u32) -> Type {
        match self.i.op_kind(index) {
            OpKind::Register => type_of_bytes(self.i.op_register(index).size()),
            OpKind::Memory => type_of_bytes(self.i.memory_size().size()),
            _ if index > 0 => self.ty(0),
            OpKind::Immediate8 => Type::I8,
            OpKind::Immediate16 => Type::I16,
            OpKind::Immediate32 => Type::I32,
            _ => Type::I64,
        }
    }

    pub(super) fn is_memory(&self, index: u32) -> bool {
        self.i.op_kind(index) == OpKind::Memory
    }

    pub(super) fn typed(&mut self, ty: Type, raw: Value) -> Value {
        if ty == Type::I64 { raw } else { self.b.truncate(Type::I64, ty, raw) }
    }

    /// I64 with zeroes above the type's width.
    pub(super) fn widen(&mut self, ty: Type, value: Value) -> Value {
        if ty == Type::I64 { value } else { self.b.zero_extend(ty, Type::I64, value) }
    }

    /// An immediate or constant of type `ty`.
    pub(super) fn constant_operand(&mut self, ty: Type, bits: u64) -> Operand {
        let raw = self.b.constant(bits);
        let value = if ty == Type::I64 { raw } else { self.b.constant_of(ty, bits) };
        Operand { value, raw }
    }

    pub(super) fn read_named(&mut self, named: Named) -> Operand {
        let ty = type_of_bytes(named.size());
        let (register, high) = general(named);
        let mut raw = self.b.get(register);
        if high {
            let eight = self.constant(8);
            raw = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, raw, eight);
        }
        Operand { value: self.typed(ty, raw), raw }
    }

    /// Writes a general-purpose register, of which 8- and 16-bit writes leave the rest as it is.
    pub(super) fn write_named(&mut self, named: Named, value: Value) {
        let ty = type_of_bytes(named.size());
        let (register, high) = general(named);
        let value = self.widen(ty, value);
        let whole = match ty {
            Type::I64 | Type::I32 => value,
            _ => {
                let shift = if high { 8 } else { 0 };
                let old = self.b.get(register);
                let keep = self.constant(!(ty.mask() << shift));
                let kept = self.b.binary(BinaryOp::And, Type::I64, old, keep);
                let part = if high {
                    let eight = self.constant(8);
                    self.b.binary(BinaryOp::ShiftLeft, Type::I64, value, eight)
                } else {
                    value
                };
                self.b.binary(BinaryOp::Or, Type::I64, kept, part)
            }
        };
        self.b.put(register, whole);
    }

    /// Writes the low part of a register whose number and width are given apart.
    pub(super) fn write_sized(&mut self, register: Register, ty: Type, value: Value) {
        let all = [Named::AL, Named::AX, Named::EAX, Named::RAX];
        let named = match ty {
            Type::I8 => return self.write_low_byte(register, value),
            Type::I16 => all[1],
            Type::I32 => all[2],
            _ => all[3],
        };
        self.write_named(named + u32::from(register.0), value);
    }

    fn write_low_byte(&mut self, register: Register, value: Value) {
        let value = self.widen(Type::I8, value);
        let old = self.b.get(register);
        let keep = self.constant(!0xff);
        let kept = self.b.binary(BinaryOp::And, Type::I64, old, keep);
        let whole = self.b.binary(BinaryOp::Or, Type::I64, kept, value);
        self.b.put(register, whole);
    }

    /// Reads operand `index`.
    pub(super) fn read(&mut self, index: u32) -> super::Result<Operand> {
        let ty = self.ty(index);
        match self.i.op_kind(index) {
            OpKind::Register => Ok(self.read_named(self.i.op_register(index))),
            OpKind::Memory => {
                let place = self.place(ty, false)?;
                Ok(self.load(place, ty))
            }
            _ => Ok(self.constant_operand(ty, self.i.immediate(index))),
        }
    }

    /// Reads operand `index`, which is written later.
    pub(super) fn read_to_modify(&mut self, index: u32) -> super::Result<Operand> {
        if self.is_memory(index) {
            let ty = self.ty(index);
            let place = self.place(ty, true)?;
            return Ok(self.load(place, ty));
        }
        self.read(index)
    }

    /// Writes operand `index` with a value of its type.
    pub(super) fn write(&mut self, index: u32, value: Value) -> super::Result<()> {
        if self.is_memory(index) {
            let ty = self.ty(index);
            let place = self.place(ty, true)?;
            self.store(place, ty, value);
        } else {
            self.write_named(self.i.op_register(index), value);
        }
        Ok(())
    }

    /// Loads a number of type `ty`.
    pub(super) fn load(&mut self, place: Place, ty: Type) -> Operand {
        let raw = self.load_raw(place, ty);
        Operand { value: self.typed(ty, raw), raw }
    }

    /// Loads, zero-extending to I64.
    pub(super) fn load_raw(&mut self, place: Place, ty: Type) -> Value {
        self.check_alignment(place, u64::from(ty.bits() / 8));
        self.load_part(place, ty)
    }

    /// As [`Lifter::load_raw`], of a part of an operand whose alignment was looked at.
    pub(super) fn load_part(&mut self, Place { address, offset }: Place, ty: Type) -> Value {
        let (width, mode) = (width_of(ty), self.mode);
        self.b.push(Op::Load { width, signed: false, mode, address, offset })
    }

    /// Stores a value of type `ty`.
    pub(super) fn store(&mut self, place: Place, ty: Type, value: Value) {
        let value = self.widen(ty, value);
        self.store_raw(place, ty, value);
    }

    /// Stores the low bytes of an I64.
    pub(super) fn store_raw(&mut self, place: Place, ty: Type, value: Value) {
        self.check_alignment(place, u64::from(ty.bits() / 8));
        self.store_part(place, ty, value);
    }

    /// As [`Lifter::store_raw`], of a part of an operand whose alignment was looked at.
    pub(super) fn store_part(&mut self, Place { address, offset }: Place, ty: Type, value: Value) {
        let (width, mode) = (width_of(ty), self.mode);
        self.b.push(Op::Store { width, mode, address, offset, value });
    }

    /// Raises #AC where the system wants that for an address which is not a multiple of the operand's `bytes`, a power of two.
    pub(super) fn check_alignment(&mut self, Place { address, offset }: Place, bytes: u64) {
        if !self.flags.has(Flags::ALIGNMENT_CHECK) || bytes == 1 {
            return;
        }
        let exception = number_with_error(vector::ALIGNMENT_CHECK, 0);
        if !self.flags.is_64_bit() {
            return self.require_aligned(Place { address, offset }, bytes, Raises(exception));
        }
        // That the address is canonical comes first; then only its low bits count.
        let linear = self.address_of(Place { address, offset });
        let probe = self.helper(id::ALIGNMENT_OF, &[linear]);
        self.require_aligned(Place { address: probe, offset: 0 }, bytes, Raises(exception));
    }

    /// Raises what a write there would raise.
    pub(super) fn probe_write(&mut self, place: Place, bytes: u64) {
        self.check_alignment(place, bytes.min(16));
        let linear = self.address_of(place);
        let bytes = self.constant(bytes);
        let mode = self.constant(u64::from(self.mode.0));
        self.helper(id::PROBE_WRITE, &[linear, bytes, mode]);
    }

    /// Raises unless the address is a multiple of `bytes`, a power of two.
    pub(super) fn require_aligned(&mut self, place: Place, bytes: u64, raises: Raises) {
        let offset = self.constant(place.offset as i64 as u64);
        let address = self.b.add(place.address, offset);
        let mask = self.constant(bytes - 1);
        let low = self.b.binary(BinaryOp::And, Type::I64, address, mask);
        let zero = self.constant(0);
        let misaligned = self.b.compare(Comparison::NotEqual, Type::I64, low, zero);
        self.raise_if(misaligned, raises);
    }

    /// The place of the instruction's memory operand, of type `ty`; `write`: it is written, now or later.
    pub(super) fn place(&mut self, ty: Type, write: bool) -> super::Result<Place> {
        self.place_of_bytes(u64::from(ty.bits() / 8), write)
    }

    pub(super) fn place_of_bytes(&mut self, bytes: u64, write: bool) -> super::Result<Place> {
        if let Some(place) = self.place {
            return Ok(place);
        }
        let address = self.effective_address();
        Ok(self.place_at(address, bytes, write))
    }

    /// The place of the memory operand, whose [`effective_address`](Self::effective_address) is known.
    pub(super) fn place_at(&mut self, (offset, displacement): (Value, i32), bytes: u64, write: bool) -> Place {
        let segment = segment_name(self.i.memory_segment());
        let place = self.linear(segment, offset, displacement, bytes, write);
        self.place = Some(place);
        place
    }

    /// The offset of the memory operand in its segment, as a value and a displacement; the latter is 0 unless addresses have 64 bits.
    pub(super) fn effective_address(&mut self) -> (Value, i32) {
        let i = self.i;
        let base = i.memory_base();
        let displacement = i.memory_displacement64();
        if i.is_ip_rel_memory_operand() {
            let address = self.b.code_address(i.ip_rel_memory_address());
            if base != Named::EIP {
                return (address, 0);
            }
            let mask = self.constant(0xffff_ffff);
            return (self.b.binary(BinaryOp::And, Type::I64, address, mask), 0);
        }
        let address_bits = match (base, i.memory_index()) {
            (Named::None, Named::None) => match i.memory_displ_size() {
                8 => 64,
                2 => 16,
                _ => 32,
            },
            (Named::None, index) => index.size() as u32 * 8,
            (base, _) => base.size() as u32 * 8,
        };
        let mut sum = None;
        if base != Named::None {
            sum = Some(self.b.get(general(base).0));
        }
        if i.memory_index() != Named::None {
            let mut index = self.b.get(general(i.memory_index()).0);
            if i.memory_index_scale() > 1 {
                let shift = self.constant(u64::from(i.memory_index_scale().trailing_zeros()));
                index = self.b.binary(BinaryOp::ShiftLeft, Type::I64, index, shift);
            }
            sum = Some(match sum {
                Some(base) => self.b.add(base, index),
                None => index,
            });
        }
        let Some(sum) = sum else {
            let mask = if address_bits == 64 { u64::MAX } else { (1 << address_bits) - 1 };
            return (self.constant(displacement & mask), 0);
        };
        if address_bits == 64 {
            return match i32::try_from(displacement as i64) {
                Ok(displacement) => (sum, displacement),
                Err(_) => {
                    let displacement = self.constant(displacement);
                    (self.b.add(sum, displacement), 0)
                }
            };
        }
        let mut sum = sum;
        if displacement != 0 {
            let displacement = self.constant(displacement);
            sum = self.b.add(sum, displacement);
        }
        let mask = self.constant((1 << address_bits) - 1);
        (self.b.binary(BinaryOp::And, Type::I64, sum, mask), 0)
    }

    /// The linear address of an access at `offset + displacement` of a segment.
    pub(super) fn linear(
        &mut self,
        segment: SegmentName,
        offset: Value,
        displacement: i32,
        bytes: u64,
        write: bool,
    ) -> Place {
        let own_base = matches!(segment, SegmentName::Fs | SegmentName::Gs);
        if self.flags.is_64_bit() {
            if !own_base {
                return Place { address: offset, offset: displacement };
            }
            let base = self.b.get(segment_base(segment));
            return Place { address: self.b.add(base, offset), offset: displacement };
        }
        let unchecked = match segment {
            SegmentName::Es => Flags::FLAT_ES,
            SegmentName::Ss => Flags::FLAT_SS,
            SegmentName::Ds => Flags::FLAT_DS,
            SegmentName::Fs => Flags::UNLIMITED_FS,
            SegmentName::Gs => Flags::UNLIMITED_GS,
            SegmentName::Cs => 0,
        };
        if !self.flags.has(unchecked) {
            let access = self.constant(helpers::encode_access(segment, bytes, write));
            let address = self.helper(id::SEGMENT_ADDRESS, &[offset, access]);
            return Place { address, offset: 0 };
        }
        if !own_base {
            return Place { address: offset, offset: 0 };
        }
        let base = self.b.get(segment_base(segment));
        let sum = self.b.add(base, offset);
        let mask = self.constant(0xffff_ffff);
        Place { address: self.b.binary(BinaryOp::And, Type::I64, sum, mask), offset: 0 }
    }

    /// An address in one register: the linear address of the place.
    pub(super) fn address_of(&mut self, Place { address, offset }: Place) -> Value {
        if offset == 0 {
            return address;
        }
        let offset = self.constant(offset as i64 as u64);
        self.b.add(address, offset)
    }

    /// The width of addresses: 16, 32 or 64 bits. For instructions with implied memory operands.
    pub(super) fn implied_address_type(&self) -> Type {
        // The size of the register that addresses the first implied operand tells.
        let kinds = (0..self.i.op_count()).map(|index| self.i.op_kind(index));
        for kind in kinds {
            return match kind {
                OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Type::I16,
                OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Type::I32,
                OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Type::I64,
                _ => continue,
            };
        }
        type_of_bytes(self.flags.bits() as usize / 8)
    }

    /// The value of a register, cut to an address type and zero-extended.
    pub(super) fn read_address_register(&mut self, register: Register, ty: Type) -> Value {
        let raw = self.b.get(register);
        if ty == Type::I64 {
            return raw;
        }
        let mask = self.constant(ty.mask());
        self.b.binary(BinaryOp::And, Type::I64, raw, mask)
    }
}
