//! Page faults of instructions that read memory in order to change it.
//!
//! Lifted code loads the operand and stores it later, so it is the load that faults. Processors look for permission to write at
//! once, and report a write. The instruction is looked at when it faulted, so that those that do not fault pay nothing.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, OpKind};

use crate::cpu::Cpu;
use crate::ir::Width;

use super::mmu;
use super::segment::SegmentName;
use super::segment::attribute;
use super::state::X86_64;

const LONGEST_INSTRUCTION: u64 = 15;

/// The error code of a page fault at the instruction at [`crate::cpu::Context::pc`], given that of its access.
pub(super) fn error_code(cpu: &mut Cpu<X86_64>, code: u32) -> u32 {
    let write = u32::from(mmu::ERROR_WRITE);
    if code & (write | u32::from(mmu::ERROR_FETCH)) != 0 || !modifies_memory(cpu) {
        return code;
    }
    code | write
}

fn modifies_memory(cpu: &mut Cpu<X86_64>) -> bool {
    let pc = cpu.context.pc;
    let mode = if cpu.guest.privilege() == 3 { mmu::MODE_USER } else { mmu::MODE_SUPERVISOR };
    let mut bytes = Vec::with_capacity(LONGEST_INSTRUCTION as usize);
    for offset in 0..LONGEST_INSTRUCTION {
        match cpu.complete(|cpu| cpu.load(pc.wrapping_add(offset), Width::Byte, mode)) {
            Ok(byte) => bytes.push(byte as u8),
            Err(_) => break,
        }
    }
    let bits = match (cpu.guest.is_64_bit(), cpu.guest.segments[SegmentName::Cs as usize].has(attribute::BIG)) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let instruction = Decoder::with_ip(bits, &bytes, pc, DecoderOptions::NONE).decode();
    if instruction.is_invalid() || instruction.op0_kind() != OpKind::Memory {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    matches!(factory.info(&instruction).op0_access(), OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}
