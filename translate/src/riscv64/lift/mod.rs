//! Lifting: what each instruction does, in operations of the IR. One file an instruction family.

mod atomic;
mod bitmanip;
mod control;
mod float;
mod integer;
mod memory;
mod system;

use super::decode::Instruction;
use super::{MACHINE, Riscv64, SUPERVISOR, compressed, csr, exception, mmu};
use crate::guest::NeedsMoreCode;
use crate::ir::{Block, Builder, MemoryMode, Op, Register, Terminator, Type, Value};
use crate::platform::PAGE_SIZE;
use crate::riscv64::helpers::plain_csr_helper;

/// Everything besides code that lifting depends on, see [`crate::guest::Guest::flags`].
///
/// Bits 1..0 privilege, 3..2 regime of data accesses, 5 floating point on, 8..6 class of the dynamic rounding mode, 9 `TVM`,
/// 10 `TSR`, 11 `TW`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(pub u32);

/// What lifting must know about the dynamic rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DynamicRounding {
    /// To nearest, ties to even.
    NearestEven,
    /// Another that operations can do.
    Directed,
    /// Ties away from zero, which operations cannot do.
    NearestAway,
    /// Reserved.
    Invalid,
}

impl Flags {
    pub(super) fn of(guest: &Riscv64) -> Flags {
        let status = guest.mstatus;
        let data_privilege = if guest.privilege == MACHINE && status & csr::MSTATUS_MPRV != 0 {
            (status >> csr::MSTATUS_MPP_SHIFT & 3) as u8
        } else {
            guest.privilege
        };
        let mode = match data_privilege {
            SUPERVISOR if status & csr::MSTATUS_SUM != 0 => mmu::MODE_SUPERVISOR_USER_PAGES,
            SUPERVISOR => mmu::MODE_SUPERVISOR,
            MACHINE => mmu::MODE_MACHINE,
            _ => mmu::MODE_USER,
        };
        let rounding = match guest.frm {
            0 => 0,
            1..=3 => 1,
            4 => 2,
            _ => 3,
        };
        let bit = |mask: u64, position: u32| u32::from(status & mask != 0) << position;
        Flags(
            u32::from(guest.privilege)
                | u32::from(mode.0) << 2
                | bit(csr::MSTATUS_FS, 5)
                | rounding << 6
                | bit(csr::MSTATUS_TVM, 9)
                | bit(csr::MSTATUS_TSR, 10)
                | bit(csr::MSTATUS_TW, 11),
        )
    }

    fn privilege(self) -> u8 {
        (self.0 & 3) as u8
    }

    pub(super) fn data_mode(self) -> MemoryMode {
        MemoryMode((self.0 >> 2 & 3) as u8)
    }

    fn float_on(self) -> bool {
        self.0 >> 5 & 1 != 0
    }

    fn dynamic_rounding(self) -> DynamicRounding {
        match self.0 >> 6 & 7 {
            0 => DynamicRounding::NearestEven,
            1 => DynamicRounding::Directed,
            2 => DynamicRounding::NearestAway,
            _ => DynamicRounding::Invalid,
        }
    }

    fn traps_virtual_memory(self) -> bool {
        self.0 >> 9 & 1 != 0
    }

    fn traps_supervisor_return(self) -> bool {
        self.0 >> 10 & 1 != 0
    }

    fn traps_wait(self) -> bool {
        self.0 >> 11 & 1 != 0
    }
}

/// The instruction does not exist, or is not permitted.
struct Illegal;

/// What an instruction does to the block: goes on, or ends it.
type Lifted = Result<Option<Terminator>, Illegal>;

/// The number of the register that holds f0.
const FIRST_FLOAT: u8 = 32;

/// A value that is known when the block is lifted.
#[derive(Clone, Copy)]
enum Known {
    Number(u64),
    /// One that depends on where the code is: as it is where the block was lifted.
    CodeAddress(u64),
}

impl Known {
    fn plus(self, number: i32) -> Known {
        match self {
            Known::Number(sum) => Known::Number(sum.wrapping_add_signed(number.into())),
            Known::CodeAddress(sum) => Known::CodeAddress(sum.wrapping_add_signed(number.into())),
        }
    }
}

/// A block in the making, and what is known of the registers at this point of it.
struct Lifter {
    builder: Builder,
    flags: Flags,
    /// The value that a register holds, so that it is not read again.
    values: [Option<Value>; 64],
    /// What is known of the value, for integer registers.
    known: [Option<Known>; 32],
    /// The I32 bits of floating-point registers that were found to hold a single-precision number.
    singles: [Option<Value>; 32],
}

impl Lifter {
    /// Value of an integer register.
    fn x(&mut self, register: u8) -> Value {
        if register == 0 {
            return self.builder.constant(0);
        }
        self.register(register)
    }

    /// Bits of a floating-point register.
    fn f(&mut self, register: u8) -> Value {
        self.register(FIRST_FLOAT + register)
    }

    fn register(&mut self, register: u8) -> Value {
        let slot = usize::from(register) % 64;
        if let Some(value) = self.values[slot] {
            return value;
        }
        let value = self.builder.get(Register(register));
        self.values[slot] = Some(value);
        value
    }

    /// Value of an integer register, where it is known.
    fn known(&self, register: u8) -> Option<Known> {
        if register == 0 { Some(Known::Number(0)) } else { self.known[usize::from(register) % 32] }
    }

    /// Sets an integer register to an I64.
    fn set_x(&mut self, register: u8, value: Value) {
        if register != 0 {
            self.builder.put(Register(register), value);
            self.values[usize::from(register) % 64] = Some(value);
            self.known[usize::from(register) % 32] = None;
        }
    }

    /// Sets an integer register to what is known.
    fn set_x_known(&mut self, register: u8, known: Known) {
        if register != 0 {
            let value = match known {
                Known::Number(number) => self.builder.constant(number),
                Known::CodeAddress(address) => self.builder.code_address(address),
            };
            self.set_x(register, value);
            self.known[usize::from(register) % 32] = Some(known);
        }
    }

    /// Sets a register to the address behind the instruction, as jumps do.
    fn link(&mut self, register: u8) {
        self.set_x_known(register, Known::CodeAddress(self.builder.next_address()));
    }

    /// Sets a floating-point register to an I64.
    fn set_f(&mut self, register: u8, value: Value) {
        self.builder.put(Register(FIRST_FLOAT + register), value);
        self.values[usize::from(FIRST_FLOAT + register) % 64] = Some(value);
        self.forget_single(register);
    }

    /// The low half of an I64.
    fn low(&mut self, value: Value) -> Value {
        self.builder.truncate(Type::I64, Type::I32, value)
    }

    /// An I32 as the 64-bit result of a 32-bit instruction.
    fn sign_extend_word(&mut self, value: Value) -> Value {
        self.builder.sign_extend(Type::I32, Type::I64, value)
    }

    /// The low half of an I64 as the 64-bit result of a 32-bit instruction.
    fn sign_extend_low(&mut self, value: Value) -> Value {
        let low = self.low(value);
        self.sign_extend_word(low)
    }

    /// An I8 truth value as an integer register has it.
    fn truth(&mut self, value: Value) -> Value {
        self.builder.zero_extend(Type::I8, Type::I64, value)
    }

    fn immediate(&mut self, value: i32) -> Value {
        self.builder.constant(i64::from(value) as u64)
    }

    fn instruction(&mut self, instruction: Instruction) -> Lifted {
        match instruction.opcode() {
            0x03 => self.load(instruction),
            0x07 => self.float_load(instruction),
            0x0f => self.fence(instruction),
            0x13 => self.immediate_arithmetic(instruction),
            0x17 => {
                let address = self.builder.address().wrapping_add_signed(i64::from(instruction.immediate_u()));
                self.set_x_known(instruction.rd(), Known::CodeAddress(address));
                Ok(None)
            }
            0x1b => self.immediate_arithmetic_32(instruction),
            0x23 => self.store(instruction),
            0x27 => self.float_store(instruction),
            0x2f => self.atomic(instruction),
            0x33 => self.arithmetic(instruction),
            0x37 => {
                self.set_x_known(instruction.rd(), Known::Number(i64::from(instruction.immediate_u()) as u64));
                Ok(None)
            }
            0x3b => self.arithmetic_32(instruction),
            0x43 | 0x47 | 0x4b | 0x4f => self.float_multiply_add(instruction),
            0x53 => self.float_arithmetic(instruction),
            0x63 => self.branch(instruction),
            0x67 => self.jump_register(instruction),
            0x6f => self.jump(instruction),
            0x73 => self.system(instruction),
            _ => Err(Illegal),
        }
    }
}

/// The first instruction of `code`, its low bits if it is compressed, and its length in bytes.
fn fetch(code: &[u8]) -> Option<(u32, u64)> {
    let low = u16::from_le_bytes(*code.first_chunk()?);
    if low & 3 != 3 {
        return Some((u32::from(low), 2));
    }
    Some((u32::from_le_bytes(*code.first_chunk()?), 4))
}

/// True for instructions that change what lifting depends on, or read what is exact only at the start of a block.
fn stands_alone(instruction: Instruction) -> bool {
    let is_fence_i = instruction.opcode() == 0x0f && instruction.funct3() == 1;
    // All of the system instructions but ECALL and EBREAK, which only raise, and what is plain.
    let is_system = instruction.opcode() == 0x73 && instruction.0 & !(1 << 20) != 0x73;
    let is_plain = instruction.funct3() & 3 != 0 && plain_csr_helper(instruction).is_some();
    is_fence_i || is_system && !is_plain
}

/// See [`crate::guest::Guest::lift`].
pub(super) fn lift(start: u64, code: &[u8], flags: Flags, most_instructions: usize) -> Result<Block, NeedsMoreCode> {
    let in_page = (PAGE_SIZE - start % PAGE_SIZE) as usize;
    let mut lifter =
        Lifter { builder: Builder::new(start), flags, values: [None; 64], known: [None; 32], singles: [None; 32] };
    let mut offset = 0;
    while offset < in_page {
        let first = offset == 0;
        let full =
            lifter.builder.instruction_count() >= most_instructions || lifter.builder.op_count() >= Builder::MOST_OPS;
        if full && !first {
            break;
        }
        let code = if first { code } else { &code[..code.len().min(in_page)] };
        let Some((bits, length)) = fetch(code.get(offset..).unwrap_or_default()) else {
            if first {
                return Err(NeedsMoreCode);
            }
            break;
        };
        let expanded = if length == 2 { compressed::expand(bits as u16) } else { Some(bits) };
        if !first && expanded.is_some_and(|bits| stands_alone(Instruction(bits))) {
            break;
        }
        lifter.builder.instruction(length);
        let lifted = expanded.ok_or(Illegal).and_then(|bits| lifter.instruction(Instruction(bits)));
        let terminator = lifted.unwrap_or_else(|Illegal| {
            let information = lifter.builder.constant(u64::from(bits));
            Some(Terminator::Raise { exception: exception::ILLEGAL_INSTRUCTION, information })
        });
        if let Some(terminator) = terminator {
            return Ok(lifter.builder.finish(terminator));
        }
        offset += length as usize;
    }
    let target = lifter.builder.next_address();
    Ok(lifter.builder.finish(Terminator::Jump { target }))
}

/// Raises `exception` unless the low bits of an address that an access of `width` bytes needs clear are clear.
fn check_alignment(builder: &mut Builder, address: Value, width: u64, exception: u32) {
    let mask = builder.constant(width - 1);
    let low = builder.binary(crate::ir::BinaryOp::And, Type::I64, address, mask);
    let condition = builder.truncate(Type::I64, Type::I8, low);
    builder.push(Op::RaiseIf { condition, exception, information: address });
}
