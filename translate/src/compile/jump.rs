//! Jumps to addresses that only the jump cache knows. Regions look into an address's first entry in line; what is not there, and blocks of the
//! baseline compiler, go through a function that also looks into the second.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, AbiParam, BlockArg, InstBuilder, MemFlagsData, Signature, types};
use cranelift_frontend::FunctionBuilder;

use super::runtime::region_signature;
use crate::cpu::Context;
use crate::engine::{JUMP_CACHE_ENTRY, JUMP_CACHE_PAGES, JUMP_CACHE_PLACES, JumpCacheEntry};
use crate::platform::PAGE_SIZE;

/// Signature of the functions that blocks go on through: the context, the address, translation flags, and the address of the instruction that
/// jumps, which only that for computed addresses uses.
pub(super) fn signature() -> Signature {
    let mut signature = region_signature();
    signature.params.extend([AbiParam::new(types::I64); 3]);
    signature
}

/// Where an address may be in the jump cache.
pub(super) struct Place {
    base: clif::Value,
    /// Distance of the first entry from the base, bytes.
    offset: clif::Value,
}

impl Place {
    /// Mirrors the jump cache's own computation.
    pub(super) fn of(builder: &mut FunctionBuilder, context: clif::Value, pc: clif::Value) -> Place {
        let place = builder.ins().ushr_imm_u(pc, i64::from(JUMP_CACHE_PLACES.trailing_zeros()));
        let place = builder.ins().bxor(pc, place);
        let place = builder.ins().band_imm_u(place, JUMP_CACHE_PLACES as i64 - 1);
        let place = builder.ins().ishl_imm_u(place, i64::from(JUMP_CACHE_ENTRY.trailing_zeros()));
        // The number of the page, which is at PAGE_SIZE in the address, goes to what a group takes.
        let group = JUMP_CACHE_PLACES * JUMP_CACHE_ENTRY;
        let page = builder.ins().ishl_imm_u(pc, i64::from((group / PAGE_SIZE).trailing_zeros()));
        let page = builder.ins().band_imm_u(page, ((JUMP_CACHE_PAGES - 1) * group) as i64);
        let offset = builder.ins().iadd(page, place);
        let base = load(builder, context, offset_of!(Context, jump_cache));
        Place { base, offset }
    }

    pub(super) fn first(&self, builder: &mut FunctionBuilder) -> clif::Value {
        builder.ins().iadd(self.base, self.offset)
    }

    fn second(&self, builder: &mut FunctionBuilder) -> clif::Value {
        let offset = builder.ins().bxor_imm_u(self.offset, JUMP_CACHE_ENTRY as i64);
        builder.ins().iadd(self.base, offset)
    }
}

/// Zero if an entry is of an address under certain flags.
pub(super) fn differs(
    builder: &mut FunctionBuilder,
    entry: clif::Value,
    pc: clif::Value,
    flags: clif::Value,
) -> clif::Value {
    let known_pc = load(builder, entry, offset_of!(JumpCacheEntry, pc));
    let known_flags = load(builder, entry, offset_of!(JumpCacheEntry, flags));
    let other_pc = builder.ins().bxor(known_pc, pc);
    let other_flags = builder.ins().bxor(known_flags, flags);
    builder.ins().bor(other_pc, other_flags)
}

/// Tail-calls the code of an entry; `by_cell`: where it has the cell instead.
pub(super) fn enter(
    builder: &mut FunctionBuilder,
    region: clif::SigRef,
    context: clif::Value,
    entry: clif::Value,
    by_cell: bool,
) {
    let mut code = load(builder, entry, offset_of!(JumpCacheEntry, code));
    if by_cell {
        code = load(builder, code, 0);
    }
    builder.ins().return_call_indirect(region, code, &[context]);
}

/// The body of such a function; `indirect`: for computed addresses; `by_cell`: as for [`enter`]. Where it does not find the address, or another thread wants the processor, it
/// returns to the dispatcher.
pub(super) fn build(builder: &mut FunctionBuilder, parameters: &[clif::Value], indirect: bool, by_cell: bool) {
    let [context, pc, flags, source] = *parameters else { return };
    let store = |builder: &mut FunctionBuilder, value, offset: usize| {
        builder.ins().store(MemFlagsData::trusted(), value, context, offset as i32);
    };
    let region = builder.import_signature(region_signature());
    let [leave, look, look_again, found, missed] = std::array::from_fn(|_| builder.create_block());
    let entry = builder.append_block_param(found, types::I64);
    builder.set_cold_block(leave);
    builder.set_cold_block(missed);
    store(builder, pc, offset_of!(Context, pc));
    let attention = load(builder, context, offset_of!(Context, attention));
    let attention = builder.ins().load(types::I32, MemFlagsData::trusted(), attention, 0);
    builder.ins().brif(attention, leave, &[], look, &[]);

    builder.switch_to_block(leave);
    builder.ins().return_(&[]);

    builder.switch_to_block(look);
    let place = Place::of(builder, context, pc);
    let first = place.first(builder);
    let other = differs(builder, first, pc, flags);
    builder.ins().brif(other, look_again, &[], found, &[BlockArg::Value(first)]);

    builder.switch_to_block(look_again);
    let second = place.second(builder);
    let other = differs(builder, second, pc, flags);
    builder.ins().brif(other, missed, &[], found, &[BlockArg::Value(second)]);

    builder.switch_to_block(found);
    enter(builder, region, context, entry, by_cell);

    builder.switch_to_block(missed);
    if indirect {
        store(builder, source, offset_of!(Context, jump_source));
        store(builder, pc, offset_of!(Context, jump_target));
    }
    builder.seal_all_blocks();
}

fn load(builder: &mut FunctionBuilder, base: clif::Value, offset: usize) -> clif::Value {
    builder.ins().load(types::I64, MemFlagsData::trusted(), base, offset as i32)
}
