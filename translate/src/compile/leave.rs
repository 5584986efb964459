//! How compiled code goes on behind an instruction that changed what lifted code depends on: SYSCALL and SYSRET, SRET, STI, a write to `sstatus`.
//! Mostly the jump cache knows the code that comes next, and the dispatcher has nothing to do with it.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, InstBuilder, MemFlagsData, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::FunctionBuilder;

use super::runtime::{plain_signature, region_signature};
use crate::cpu::{Context, Cpu};
use crate::engine;
use crate::guest::Guest;

/// Code of the address where the processor is, under the translation flags that it has now; null where only the dispatcher knows it, or
/// must look at something first. `BY_CELL`: as for [`super::jump::enter`].
pub(super) extern "C" fn next<G: Guest, const BY_CELL: bool>(cpu: &mut Cpu<G>) -> *const u8 {
    // The rounding mode is in the host's control register.
    if cpu.context.float_rounding != cpu.rounding_in_use || engine::needs_dispatcher(cpu) {
        return std::ptr::null();
    }
    let flags = G::flags(cpu);
    // SAFETY: the engine whose processor this is keeps its jump cache, and the generation that it was filled from, while code runs.
    let code = unsafe { engine::code_in_jump_cache(cpu.context.jump_cache, cpu.context.pc, flags, BY_CELL) };
    code.inspect(|_| {
        cpu.was_halted = false;
        cpu.context.flags = flags;
    })
    .unwrap_or(std::ptr::null())
}

/// The body of [`Function::GoAnew`](super::Function::GoAnew), to which code jumps with the pc stored, with `next` of the platform's C convention.
pub(super) fn build(builder: &mut FunctionBuilder, context: clif::Value, next: *const u8, convention: CallConv) {
    let mut signature = plain_signature(convention, 1);
    signature.returns.push(clif::AbiParam::new(types::I64));
    let signature = builder.import_signature(signature);
    let region = builder.import_signature(region_signature());
    let next = builder.ins().iconst(types::I64, next as i64);
    let call = builder.ins().call_indirect(signature, next, &[context]);
    let code = builder.inst_results(call)[0];
    let (known, leave) = (builder.create_block(), builder.create_block());
    builder.set_cold_block(leave);
    builder.ins().brif(code, known, &[], leave, &[]);
    builder.switch_to_block(known);
    builder.ins().return_call_indirect(region, code, &[context]);
    builder.switch_to_block(leave);
    let yes = builder.ins().iconst(types::I64, 1);
    builder.ins().store(MemFlagsData::trusted(), yes, context, offset_of!(Context, leave) as i32);
    builder.seal_all_blocks();
}
