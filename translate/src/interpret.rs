//! The interpreter: executes IR blocks one operation after the other. It is the reference for what operations mean.

mod vector;

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::cpu::{Cpu, NO_RESERVATION, Status, Stopped};
use crate::float;
use crate::guest::{Exception, Guest};
use crate::ir::*;
use crate::platform::PAGE_SIZE;

/// Room for one word of each value of a block. Indexed by [`Value`], so that no index is out of bounds.
type Room = [u64; 1 << 16];

/// Room for the values of one block.
pub struct Values {
    /// Values of up to 64 bits, and the lower halves of vectors.
    low: Box<Room>,
    /// The upper halves of vectors.
    high: Box<Room>,
}

impl Values {
    /// Room for any block.
    pub fn new() -> Values {
        let room = || vec![0; 1 << 16].into_boxed_slice().try_into().expect("the length is that of the array");
        Values { low: room(), high: room() }
    }
}

impl Default for Values {
    fn default() -> Values {
        Values::new()
    }
}

/// How the execution of a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// [`crate::cpu::Context::pc`] says where to go on.
    Next,
    /// The same, after the dispatcher has looked at everything again.
    Leave,
    /// [`crate::cpu::Context::status`] says why; pc is that of the instruction that did not complete.
    Stopped,
}

/// Executes a block at [`crate::cpu::Context::pc`]. It must have been made for this guest, and be well-formed.
pub fn interpret<G: Guest>(cpu: &mut Cpu<G>, block: &Block, values: &mut Values) -> Ended {
    let (values, high) = (&mut *values.low, &mut *values.high);
    let start = cpu.context.pc;
    let at = |target: u64| start.wrapping_add_signed(block.distance(target));
    let instruction_at = |position: usize| start.wrapping_add(block.instruction_distance(position));
    for (position, op) in block.ops.iter().enumerate() {
        match execute(cpu, op, values, high, position) {
            Ok(value) => values[position & 0xffff] = value,
            Err(Stopped) => {
                cpu.context.pc = instruction_at(position);
                cpu.context.instructions += block.instruction_index(position) as u64;
                return Ended::Stopped;
            }
        }
    }
    let value = |value: Value| values[usize::from(value.0)];
    let (pc, ended) = match block.terminator {
        Terminator::Jump { target } => (at(target), Ended::Next),
        Terminator::Branch { condition, taken, not_taken } => {
            (at(if value(condition) != 0 { taken } else { not_taken }), Ended::Next)
        }
        Terminator::JumpIndirect { target, .. } => {
            cpu.context.jump_source = instruction_at(block.ops.len());
            cpu.context.jump_target = value(target);
            (value(target), Ended::Next)
        }
        Terminator::Leave { target } => (at(target), Ended::Leave),
        Terminator::LeaveIndirect { target } => {
            cpu.context.jump_source = instruction_at(block.ops.len());
            cpu.context.jump_target = value(target);
            (value(target), Ended::Leave)
        }
        Terminator::Raise { exception, information } => {
            cpu.stop_with(Exception { number: exception, information: value(information) });
            cpu.context.pc = instruction_at(block.ops.len());
            cpu.context.instructions += block.instructions.len() as u64 - 1;
            return Ended::Stopped;
        }
    };
    cpu.context.pc = pc;
    cpu.context.instructions += block.instructions.len() as u64;
    ended
}

#[inline(always)]
fn execute<G: Guest>(
    cpu: &mut Cpu<G>,
    op: &Op,
    values: &Room,
    high: &mut Room,
    position: usize,
) -> Result<u64, Stopped> {
    let value = |value: Value| values[usize::from(value.0)];
    Ok(match *op {
        Op::Const { bits, .. } => bits,
        Op::CodeAddress { distance } => cpu.context.pc.wrapping_add_signed(distance),
        Op::Get { register } => cpu.context.registers[usize::from(register.0)],
        Op::Put { register, value: v } => {
            cpu.context.registers[usize::from(register.0)] = value(v);
            0
        }
        Op::Binary { op, ty, a, b } => binary(op, ty, value(a), value(b)),
        Op::Unary { op, ty, a } => unary(op, ty, value(a)),
        Op::Compare { op, ty, a, b } => u64::from(compare(op, ty, value(a), value(b))),
        Op::Select { condition, a, b, .. } => {
            if value(condition) != 0 {
                value(a)
            } else {
                value(b)
            }
        }
        Op::Extend { signed, from, to, a } => {
            if signed {
                sign_extend(from, value(a)) & to.mask()
            } else {
                value(a)
            }
        }
        Op::Truncate { to, a, .. } => value(a) & to.mask(),
        Op::Bitcast { a, .. } => value(a),
        Op::Load { width, signed, mode, address, offset } => {
            let loaded = cpu.load(value(address).wrapping_add(offset as u64), width, mode)?;
            if signed { sign_extend(width.integer(), loaded) } else { loaded }
        }
        Op::Store { width, mode, address, offset, value: v } => {
            cpu.store(value(address).wrapping_add(offset as u64), width, mode, value(v))?;
            0
        }
        Op::ProbeWrite { bytes, mode, address, offset } => {
            cpu.probe_write(value(address).wrapping_add(offset as u64), bytes.into(), mode)?;
            0
        }
        Op::AtomicReadModifyWrite { op, width, mode, address, value: v } => {
            atomic(cpu, op, width, mode, value(address), value(v))?
        }
        Op::AtomicCompareExchange { width, mode, address, expected, new } => {
            compare_exchange(cpu, width, mode, value(address), value(expected), value(new))?
        }
        Op::LoadReserved { width, mode, address } => load_reserved(cpu, width, mode, value(address))?,
        Op::StoreConditional { width, mode, address, value: v } => {
            store_conditional(cpu, width, mode, value(address), value(v))?
        }
        Op::Fence { store_load } => {
            fence(if store_load { Ordering::SeqCst } else { Ordering::AcqRel });
            0
        }
        Op::FloatBinary { op, ty, a, b } => {
            let (result, flags) = float::binary(op, ty, value(a), value(b), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        Op::FloatSquareRoot { ty, a } => {
            let (result, flags) = float::square_root(ty, value(a), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        Op::FloatCanonical { ty, a } => float::canonical(ty, value(a)),
        Op::FloatMultiplyAdd { ty, a, b, c } => {
            let rounding = cpu.context.float_rounding;
            let (result, flags) = float::multiply_add_canonical(ty, value(a), value(b), value(c), rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        Op::FloatCompare { op, ty, a, b } => {
            let (result, flags) = float::compare(op, ty, value(a), value(b));
            cpu.context.float_flags |= flags.0;
            u64::from(result)
        }
        Op::FloatConvert { from, to, a } => {
            let (result, flags) = float::convert(from, to, value(a), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        Op::IntegerToFloat { from, to, a } => {
            let (result, flags) = float::integer_to_float(from, to, value(a), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        Op::Vector(ref op) => {
            let result = vector::execute(cpu, op, values, high)?;
            high[position & 0xffff] = (result >> 64) as u64;
            result as u64
        }
        Op::Helper { helper, arguments: [a, b, c] } => {
            let helper = &G::HELPERS[usize::from(helper.0)];
            let result = (helper.function)(cpu, value(a), value(b), value(c));
            if helper.effects.can_raise && cpu.context.status != 0 {
                return Err(Stopped);
            }
            result
        }
        Op::RaiseIf { condition, exception, information } => {
            if value(condition) != 0 {
                return Err(cpu.stop_with(Exception { number: exception, information: value(information) }));
            }
            0
        }
    })
}

/// Sign-extends the low bits of a value to 64.
pub(crate) fn sign_extend(from: Type, value: u64) -> u64 {
    let unused = 64 - from.bits();
    ((value << unused) as i64 >> unused) as u64
}

pub(crate) fn binary(op: BinaryOp, ty: Type, a: u64, b: u64) -> u64 {
    let bits = ty.bits();
    let mask = ty.mask();
    let signed = |value| sign_extend(ty, value) as i64;
    let count = (b & u64::from(bits - 1)) as u32;
    let rotate_left = |count: u32| if count == 0 { a } else { a << count | a >> (bits - count) };
    let result = match op {
        BinaryOp::Add => a.wrapping_add(b),
        BinaryOp::Sub => a.wrapping_sub(b),
        BinaryOp::Mul => a.wrapping_mul(b),
        BinaryOp::MulHighSigned => ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
        BinaryOp::MulHighUnsigned => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        BinaryOp::DivSigned => signed(a).checked_div(signed(b)).unwrap_or(if b == 0 { 0 } else { signed(a) }) as u64,
        BinaryOp::DivUnsigned => a.checked_div(b).unwrap_or(0),
        BinaryOp::RemSigned => signed(a).checked_rem(signed(b)).unwrap_or(if b == 0 { signed(a) } else { 0 }) as u64,
        BinaryOp::RemUnsigned => a.checked_rem(b).unwrap_or(a),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::ShiftLeft => a << count,
        BinaryOp::ShiftRightUnsigned => a >> count,
        BinaryOp::ShiftRightSigned => (signed(a) >> count) as u64,
        BinaryOp::RotateLeft => rotate_left(count),
        BinaryOp::RotateRight => rotate_left((bits - count) % bits),
        BinaryOp::MinSigned => signed(a).min(signed(b)) as u64,
        BinaryOp::MinUnsigned => a.min(b),
        BinaryOp::MaxSigned => signed(a).max(signed(b)) as u64,
        BinaryOp::MaxUnsigned => a.max(b),
    };
    result & mask
}

pub(crate) fn unary(op: UnaryOp, ty: Type, a: u64) -> u64 {
    let bits = ty.bits();
    let result = match op {
        UnaryOp::Not => !a,
        UnaryOp::Negate => a.wrapping_neg(),
        UnaryOp::CountLeadingZeros => u64::from(a.leading_zeros() - (64 - bits)),
        UnaryOp::CountTrailingZeros => u64::from(a.trailing_zeros().min(bits)),
        UnaryOp::PopulationCount => u64::from(a.count_ones()),
        UnaryOp::ByteSwap => a.swap_bytes() >> (64 - bits),
    };
    result & ty.mask()
}

pub(crate) fn compare(op: Comparison, ty: Type, a: u64, b: u64) -> bool {
    let signed = |value| sign_extend(ty, value) as i64;
    match op {
        Comparison::Equal => a == b,
        Comparison::NotEqual => a != b,
        Comparison::LessSigned => signed(a) < signed(b),
        Comparison::LessUnsigned => a < b,
        Comparison::LessEqualSigned => signed(a) <= signed(b),
        Comparison::LessEqualUnsigned => a <= b,
    }
}

/// An aligned word of guest memory, for atomic operations.
enum Atomic<'a> {
    Byte(&'a AtomicU8),
    Half(&'a AtomicU16),
    Word(&'a AtomicU32),
    Double(&'a AtomicU64),
    /// Misaligned, but within a page.
    #[cfg(target_arch = "x86_64")]
    Misaligned(*mut u8, Width),
}

/// Compares and exchanges memory that need not be aligned, as compiled code does: atomically. Gives the old value.
///
/// # Safety
/// `host` must be valid for reads and writes of the width.
#[cfg(target_arch = "x86_64")]
unsafe fn compare_exchange_misaligned(host: *mut u8, width: Width, expected: u64, new: u64) -> u64 {
    use std::arch::asm;
    let old: u64;
    // SAFETY: by the contract above; the instruction accesses nothing else.
    unsafe {
        match width {
            Width::Byte => asm!(
                "lock cmpxchg byte ptr [{host}], {new}",
                host = in(reg) host, new = in(reg_byte) new as u8, inout("rax") expected => old
            ),
            Width::Half => asm!(
                "lock cmpxchg word ptr [{host}], {new:x}",
                host = in(reg) host, new = in(reg) new, inout("rax") expected => old
            ),
            Width::Word => asm!(
                "lock cmpxchg dword ptr [{host}], {new:e}",
                host = in(reg) host, new = in(reg) new, inout("rax") expected => old
            ),
            Width::Double => asm!(
                "lock cmpxchg qword ptr [{host}], {new}",
                host = in(reg) host, new = in(reg) new, inout("rax") expected => old
            ),
        }
    }
    old
}

impl<'a> Atomic<'a> {
    /// The word at an address; `None` where the host has no atomic operation for it (it is not aligned) or no RAM answers.
    fn at<G: Guest>(
        cpu: &mut Cpu<G>,
        address: u64,
        width: Width,
        mode: MemoryMode,
    ) -> Result<Option<Atomic<'a>>, Stopped> {
        let aligned = address.is_multiple_of(width.bytes());
        let in_page = address % PAGE_SIZE + width.bytes() <= PAGE_SIZE;
        let possible = aligned || in_page && cfg!(target_arch = "x86_64");
        if !possible {
            return Ok(None);
        }
        let Some(host) = cpu.atomic_address(address, width, mode)? else { return Ok(None) };
        let host = host.as_ptr();
        #[cfg(target_arch = "x86_64")]
        if !aligned {
            return Ok(Some(Atomic::Misaligned(host, width)));
        }
        // SAFETY: the host page is valid while the processor runs, which is longer than the operation in progress; the
        // address is aligned, and pages are.
        Ok(Some(unsafe {
            match width {
                Width::Byte => Atomic::Byte(AtomicU8::from_ptr(host)),
                Width::Half => Atomic::Half(AtomicU16::from_ptr(host.cast())),
                Width::Word => Atomic::Word(AtomicU32::from_ptr(host.cast())),
                Width::Double => Atomic::Double(AtomicU64::from_ptr(host.cast())),
            }
        }))
    }

    /// Returns the old value, sign-extended, whether or not it was the expected one.
    fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        const ORDER: Ordering = Ordering::SeqCst;
        match self {
            Atomic::Byte(word) => {
                let result = word.compare_exchange(expected as u8, new as u8, ORDER, ORDER);
                sign_extend(Type::I8, u64::from(result.unwrap_or_else(|old| old)))
            }
            Atomic::Half(word) => {
                let result = word.compare_exchange((expected as u16).to_le(), (new as u16).to_le(), ORDER, ORDER);
                sign_extend(Type::I16, u64::from(u16::from_le(result.unwrap_or_else(|old| old))))
            }
            Atomic::Word(word) => {
                let result = word.compare_exchange((expected as u32).to_le(), (new as u32).to_le(), ORDER, ORDER);
                sign_extend(Type::I32, u64::from(u32::from_le(result.unwrap_or_else(|old| old))))
            }
            Atomic::Double(word) => {
                let result = word.compare_exchange(expected.to_le(), new.to_le(), ORDER, ORDER);
                u64::from_le(result.unwrap_or_else(|old| old))
            }
            #[cfg(target_arch = "x86_64")]
            Atomic::Misaligned(host, width) => {
                // SAFETY: the host page is valid while the processor runs, and the word lies within it.
                let old = unsafe { compare_exchange_misaligned(*host, *width, expected, new) };
                sign_extend(width.integer(), old)
            }
        }
    }

    fn load(&self) -> u64 {
        match self {
            Atomic::Byte(word) => sign_extend(Type::I8, u64::from(word.load(Ordering::SeqCst))),
            Atomic::Half(word) => sign_extend(Type::I16, u64::from(u16::from_le(word.load(Ordering::SeqCst)))),
            Atomic::Word(word) => sign_extend(Type::I32, u64::from(u32::from_le(word.load(Ordering::SeqCst)))),
            Atomic::Double(word) => u64::from_le(word.load(Ordering::SeqCst)),
            #[cfg(target_arch = "x86_64")]
            Atomic::Misaligned(..) => {
                // What memory holds is what it is not exchanged for.
                self.compare_exchange(0, 0)
            }
        }
    }
}

/// Taken for operations on memory that no host atomic reaches: misaligned, or a device's. They are atomic among themselves only.
static UNALIGNED: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// Replaces a word of memory by what `change` makes of it, in two accesses; gives the old value, sign-extended.
fn replace<G: Guest>(
    cpu: &mut Cpu<G>,
    address: u64,
    width: Width,
    mode: MemoryMode,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Stopped> {
    let _alone = UNALIGNED.lock();
    let old = sign_extend(width.integer(), cpu.load(address, width, mode)?);
    // The store happens in any case, as it does on the machine: it may fault.
    cpu.store(address, width, mode, change(old).unwrap_or(old))?;
    Ok(old)
}

pub(crate) fn atomic<G: Guest>(
    cpu: &mut Cpu<G>,
    op: AtomicOp,
    width: Width,
    mode: MemoryMode,
    address: u64,
    operand: u64,
) -> Result<u64, Stopped> {
    let operand = sign_extend(width.integer(), operand);
    let change = |old: u64| match op {
        AtomicOp::Exchange => operand,
        AtomicOp::Add => old.wrapping_add(operand),
        AtomicOp::And => old & operand,
        AtomicOp::Or => old | operand,
        AtomicOp::Xor => old ^ operand,
        AtomicOp::MinSigned => (old as i64).min(operand as i64) as u64,
        AtomicOp::MaxSigned => (old as i64).max(operand as i64) as u64,
        // Sign extension of both sides keeps the unsigned order.
        AtomicOp::MinUnsigned => old.min(operand),
        AtomicOp::MaxUnsigned => old.max(operand),
    };
    let Some(memory) = Atomic::at(cpu, address, width, mode)? else {
        return replace(cpu, address, width, mode, |old| Some(change(old)));
    };
    let mut old = memory.load();
    loop {
        let found = memory.compare_exchange(old, change(old));
        if found == old {
            return Ok(old);
        }
        old = found;
    }
}

pub(crate) fn compare_exchange<G: Guest>(
    cpu: &mut Cpu<G>,
    width: Width,
    mode: MemoryMode,
    address: u64,
    expected: u64,
    new: u64,
) -> Result<u64, Stopped> {
    match Atomic::at(cpu, address, width, mode)? {
        Some(memory) => Ok(memory.compare_exchange(expected, new)),
        None => {
            let expected = sign_extend(width.integer(), expected);
            replace(cpu, address, width, mode, |old| (old == expected).then_some(new))
        }
    }
}

pub(crate) fn load_reserved<G: Guest>(
    cpu: &mut Cpu<G>,
    width: Width,
    mode: MemoryMode,
    address: u64,
) -> Result<u64, Stopped> {
    let value = sign_extend(width.integer(), cpu.load(address, width, mode)?);
    cpu.context.reservation_address = address;
    cpu.context.reservation_value = value;
    Ok(value)
}

pub(crate) fn store_conditional<G: Guest>(
    cpu: &mut Cpu<G>,
    width: Width,
    mode: MemoryMode,
    address: u64,
    value: u64,
) -> Result<u64, Stopped> {
    // The address is looked up first: a store-conditional that faults must do so whether or not it would succeed.
    let memory = Atomic::at(cpu, address, width, mode)?;
    let held = std::mem::replace(&mut cpu.context.reservation_address, NO_RESERVATION);
    let expected = cpu.context.reservation_value;
    let stored = memory.is_some_and(|memory| held == address && memory.compare_exchange(expected, value) == expected);
    Ok(u64::from(!stored))
}

impl Width {
    /// The integer type of this width.
    pub fn integer(self) -> Type {
        match self {
            Width::Byte => Type::I8,
            Width::Half => Type::I16,
            Width::Word => Type::I32,
            Width::Double => Type::I64,
        }
    }
}

/// What a raised exception means to the dispatcher.
pub(crate) fn status<G: Guest>(cpu: &mut Cpu<G>) -> Option<Status> {
    let status = std::mem::take(&mut cpu.context.status);
    [Status::Raised, Status::CodeWrite, Status::Watchpoint].into_iter().find(|known| *known as u32 == status)
}
