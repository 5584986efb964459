//! What an exception says that depends on the instruction which raised it. It is looked at when it faulted, so that
//! instructions that do not fault pay nothing.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register as Named,
};

use crate::cpu::Cpu;
use crate::guest::Exception;
use crate::ir::{Register, Width};

use super::event::{number_with_error, vector};
use super::mmu;
use super::registers::RSP;
use super::segment::{self, SegmentName, attribute};
use super::state::X86_64;

const LONGEST_INSTRUCTION: u64 = 15;

/// The error code of a page fault at the instruction at [`crate::cpu::Context::pc`], given that of its access.
///
/// Lifted code loads an operand that it changes and stores it later, so it is the load that faults. Processors look for
/// permission to write at once, and report a write.
pub(super) fn page_fault_code(cpu: &mut Cpu<X86_64>, code: u32) -> u32 {
    let write = u32::from(mmu::ERROR_WRITE);
    if code & (write | u32::from(mmu::ERROR_FETCH)) != 0 {
        return code;
    }
    let changes = instruction(cpu).is_some_and(|instruction| {
        instruction.op0_kind() == OpKind::Memory && {
            let mut factory = InstructionInfoFactory::new();
            matches!(factory.info(&instruction).op0_access(), OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        }
    });
    if changes { code | write } else { code }
}

/// The exception of an access to an address that is not canonical, which is #GP when it comes here: it is #SS if the access went
/// through SS. [`Exception::information`] is the address.
pub(super) fn not_canonical(cpu: &mut Cpu<X86_64>, exception: Exception) -> Exception {
    let stack_fault = number_with_error(vector::STACK_FAULT, 0);
    let through_stack = instruction(cpu).is_some_and(|instruction| {
        let mut factory = InstructionInfoFactory::new();
        factory.info(&instruction).used_memory().iter().any(|used| {
            let length = used.memory_size().size().max(1) as u64;
            let start = used.virtual_address(0, |register, _, _| Some(value(cpu, register)));
            used.segment() == Named::SS && start.is_some_and(|start| exception.information.wrapping_sub(start) < length)
        })
    });
    if through_stack { Exception { number: stack_fault, ..exception } } else { exception }
}

/// Takes a near jump, call or return to an address that is not canonical back: it is that instruction which faults. (That the target is
/// wrong is noticed when there is nothing to fetch; so jumps need not look at it.)
pub(super) fn undo_jump(cpu: &mut Cpu<X86_64>) {
    let (pc, source) = (cpu.context.pc, cpu.context.jump_source);
    if !cpu.guest.is_64_bit() || mmu::is_canonical(cpu, pc) || cpu.context.jump_target != pc {
        return;
    }
    cpu.context.pc = source;
    let stack = instruction(cpu).and_then(|instruction| match instruction.flow_control() {
        FlowControl::IndirectBranch => Some(0),
        FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {
            Some(-i64::from(instruction.stack_pointer_increment()))
        }
        FlowControl::IndirectCall => Some(-i64::from(instruction.stack_pointer_increment())),
        _ => None,
    });
    match stack {
        Some(stack) => {
            let pointer = cpu.register(RSP).wrapping_add(stack as u64);
            cpu.set_register(RSP, pointer);
            cpu.context.instructions = cpu.context.instructions.wrapping_sub(1);
        }
        None => cpu.context.pc = pc,
    }
}

/// The value of a register that an address is made of.
fn value(cpu: &Cpu<X86_64>, register: Named) -> u64 {
    match register {
        Named::FS => segment::base(cpu, SegmentName::Fs),
        Named::GS => segment::base(cpu, SegmentName::Gs),
        _ if register.is_gpr() => cpu.register(Register(register.full_register().number() as u8)),
        _ => 0,
    }
}

/// The instruction at [`crate::cpu::Context::pc`], if it can be read.
fn instruction(cpu: &mut Cpu<X86_64>) -> Option<Instruction> {
    let pc = cpu.context.pc;
    let mode = if cpu.guest.privilege() == 3 { mmu::MODE_USER } else { mmu::MODE_SUPERVISOR };
    // The look is no access of the instruction's.
    let hits = cpu.traced_hits;
    let mut bytes = Vec::with_capacity(LONGEST_INSTRUCTION as usize);
    for offset in 0..LONGEST_INSTRUCTION {
        match cpu.complete(|cpu| cpu.load(pc.wrapping_add(offset), Width::Byte, mode)) {
            Ok(byte) => bytes.push(byte as u8),
            Err(_) => break,
        }
    }
    cpu.traced_hits = hits;
    let bits = match (cpu.guest.is_64_bit(), cpu.guest.segments[SegmentName::Cs as usize].has(attribute::BIG)) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let instruction = Decoder::with_ip(bits, &bytes, pc, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}
