//! Memory accesses: the soft TLB's fast path, with everything else in cold blocks.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self as clif, BlockArg, InstBuilder, MemFlagsData, types};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::super::{Access, Function, SlowPath, encode_probe};
use super::groups::Group;
use super::{Lowering, guest_memory, trusted};
use crate::cpu::Context;
use crate::guest::Guest;
use crate::ir::{MemoryMode, Value, Width};
use crate::platform::PAGE_SIZE;
use crate::tlb::{TLB_ENTRIES, TlbEntry};

/// A guest-virtual address: a value and what is to be added to it.
#[derive(Clone, Copy)]
pub(super) struct Address {
    base: clif::Value,
    offset: i64,
}

impl Address {
    fn plus(self, more: i64) -> Address {
        Address { offset: self.offset.wrapping_add(more), ..self }
    }

    pub(super) fn value(self, builder: &mut FunctionBuilder) -> clif::Value {
        if self.offset == 0 { self.base } else { builder.ins().iadd_imm_s(self.base, self.offset) }
    }
}

/// Where an access goes on a hit, and the block for a miss.
pub(super) struct Host {
    pub(super) address: clif::Value,
    /// To be added to the address.
    pub(super) distance: i32,
    pub(super) missed: clif::Block,
}

impl<G: Guest> Lowering<'_, G> {
    pub(super) fn address(&self, address: Value, offset: i32) -> Address {
        Address { base: self.value(address), offset: offset.into() }
    }

    /// Finds the host address for the access at `place`: by a look-up in the soft TLB, or from that of its group. Gives it, and a distance
    /// to add, in a block that is reached on a hit, and leaves the block that is reached on a miss for the caller to fill.
    pub(super) fn look_up(
        &mut self,
        place: usize,
        address: Address,
        bytes: u64,
        mode: MemoryMode,
        write: bool,
    ) -> Host {
        let Some(member) = self.groups.member(place) else {
            let (address, missed) = self.look_up_alone(address, bytes, mode, write);
            return Host { address, distance: 0, missed };
        };
        let (group, variable) = self.group(member.group);
        let found = self.builder.create_block();
        let host = self.builder.append_block_param(found, types::I64);
        let alone = if member.first {
            // No host address.
            let none = self.constant(0);
            self.builder.def_var(variable, none);
            let start = address.plus(-member.distance);
            let (start, alone) = self.look_up_alone(start, group.bytes(), mode, write);
            self.builder.def_var(variable, start);
            self.builder.ins().jump(found, &[BlockArg::Value(start)]);
            alone
        } else {
            let start = self.builder.use_var(variable);
            let alone = self.cold_block();
            self.builder.ins().brif(start, found, &[BlockArg::Value(start)], alone, &[]);
            alone
        };
        // The end of a page may be within the group.
        self.builder.switch_to_block(alone);
        let (own, missed) = self.look_up_alone(address, bytes, mode, write);
        self.set_cold();
        let start = self.builder.ins().iadd_imm_s(own, -member.distance);
        self.builder.ins().jump(found, &[BlockArg::Value(start)]);
        self.builder.switch_to_block(found);
        Host { address: host, distance: member.distance as i32, missed }
    }

    /// A group of the block in progress, and where the host address of its beginning is.
    fn group(&mut self, number: usize) -> (Group, Variable) {
        while self.group_variables.len() <= number {
            self.group_variables.push(self.builder.declare_var(types::I64));
        }
        (self.groups.groups[number], self.group_variables[number])
    }

    /// Looks an address up in the soft TLB. Gives the host address in a block that is reached on a hit, and leaves the
    /// block that is reached on a miss for the caller to fill.
    pub(super) fn look_up_alone(
        &mut self,
        address: Address,
        bytes: u64,
        mode: MemoryMode,
        write: bool,
    ) -> (clif::Value, clif::Block) {
        let first = address.value(&mut self.builder);
        let entry_size = size_of::<TlbEntry>();
        let shift = PAGE_SIZE.trailing_zeros() - entry_size.trailing_zeros();
        let offset = self.builder.ins().ushr_imm_u(first, i64::from(shift));
        let offset = self.builder.ins().band_imm_u(offset, ((TLB_ENTRIES - 1) * entry_size) as i64);
        let entry = self.builder.ins().iadd(self.tlb, offset);
        let base = usize::from(mode.0) * TLB_ENTRIES * entry_size;
        let tag = if write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
        let tag = self.builder.ins().load(types::I64, trusted(), entry, (base + tag) as i32);
        // An access that crosses into the next page never matches: that page has another entry.
        let last = address.plus(bytes as i64 - 1).value(&mut self.builder);
        let last_page = self.builder.ins().band_imm_s(last, -(PAGE_SIZE as i64));
        let hit = self.builder.ins().icmp(IntCC::Equal, last_page, tag);
        let (found, missed) = (self.builder.create_block(), self.cold_block());
        self.builder.ins().brif(hit, found, &[], missed, &[]);
        self.builder.switch_to_block(found);
        let addend = (base + offset_of!(TlbEntry, addend)) as i32;
        let addend = self.builder.ins().load(types::I64, trusted(), entry, addend);
        (self.builder.ins().iadd(first, addend), missed)
    }

    /// Calls a slow path, with what it is to know of the access in one word, and leaves if it did not complete.
    pub(super) fn slow_path(
        &mut self,
        place: usize,
        path: SlowPath,
        address: Address,
        access: i64,
        value: Option<clif::Value>,
    ) {
        let address = address.value(&mut self.builder);
        let target = self.function(Function::Slow(path));
        let access = self.builder.ins().iconst(types::I64, access);
        let mut arguments = vec![self.context, address, access];
        arguments.extend(value);
        let signature = self.signatures.slow_path[usize::from(value.is_some())];
        self.builder.ins().call_indirect(signature, target, &arguments);
        self.check_status(place);
        self.set_cold();
    }

    /// A result of the fast path, or what the slow path computes where there was none.
    #[expect(clippy::too_many_arguments, reason = "what there is to know of the access")]
    pub(super) fn or_slowly(
        &mut self,
        place: usize,
        missed: clif::Block,
        path: SlowPath,
        address: Address,
        access: i64,
        value: Option<clif::Value>,
        fast: clif::Value,
    ) -> clif::Value {
        let ty = self.builder.func.dfg.value_type(fast);
        let done = self.builder.create_block();
        let result = self.builder.append_block_param(done, ty);
        self.builder.ins().jump(done, &[BlockArg::Value(fast)]);
        self.builder.switch_to_block(missed);
        self.slow_path(place, path, address, access, value);
        // Vectors are not aligned to their size there.
        let offset = offset_of!(Context, result) as i32;
        let slow = self.builder.ins().load(ty, guest_memory(), self.context, offset);
        self.builder.ins().jump(done, &[BlockArg::Value(slow)]);
        self.builder.switch_to_block(done);
        result
    }

    /// Loads an I64, or an F64 of double width.
    pub(super) fn load(&mut self, place: usize, address: Address, access: Access, ty: clif::Type) -> clif::Value {
        let Host { address: host, distance, missed } =
            self.look_up(place, address, access.width.bytes(), access.mode, false);
        let ins = self.builder.ins();
        let flags = guest_memory();
        let loaded = match (access.width, access.signed) {
            (Width::Byte, false) => ins.uload8(types::I64, flags, host, distance),
            (Width::Byte, true) => ins.sload8(types::I64, flags, host, distance),
            (Width::Half, false) => ins.uload16(types::I64, flags, host, distance),
            (Width::Half, true) => ins.sload16(types::I64, flags, host, distance),
            (Width::Word, false) => ins.uload32(flags, host, distance),
            (Width::Word, true) => ins.sload32(flags, host, distance),
            (Width::Double, _) => ins.load(ty, flags, host, distance),
        };
        self.or_slowly(place, missed, SlowPath::Load, address, access.encode(), None, loaded)
    }

    /// Stores an I64, or an F64 of double width.
    pub(super) fn store(&mut self, place: usize, address: Address, access: Access, value: clif::Value) {
        let Host { address: host, distance, missed } =
            self.look_up(place, address, access.width.bytes(), access.mode, true);
        let ins = self.builder.ins();
        let flags = guest_memory();
        match access.width {
            Width::Byte => ins.istore8(flags, value, host, distance),
            Width::Half => ins.istore16(flags, value, host, distance),
            Width::Word => ins.istore32(flags, value, host, distance),
            Width::Double => ins.store(flags, value, host, distance),
        };
        let done = self.builder.create_block();
        self.builder.ins().jump(done, &[]);
        self.builder.switch_to_block(missed);
        let bits = match self.builder.func.dfg.value_type(value) {
            types::F64 => self.builder.ins().bitcast(types::I64, MemFlagsData::new(), value),
            _ => value,
        };
        self.slow_path(place, SlowPath::Store, address, access.encode(), Some(bits));
        self.builder.ins().jump(done, &[]);
        self.builder.switch_to_block(done);
    }

    pub(super) fn probe_write(&mut self, place: usize, address: Address, bytes: u8, mode: MemoryMode) {
        let first = address.value(&mut self.builder);
        let in_page = self.builder.ins().band_imm_u(first, PAGE_SIZE as i64 - 1);
        let last_within = PAGE_SIZE as i64 - i64::from(bytes);
        let crosses = self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, in_page, last_within);
        let (across, done) = (self.cold_block(), self.builder.create_block());
        self.builder.ins().brif(crosses, across, &[], done, &[]);
        self.builder.switch_to_block(across);
        let access = encode_probe(mode, bytes);
        self.slow_path(place, SlowPath::ProbeWrite, address, access, None);
        self.builder.ins().jump(done, &[]);
        self.builder.switch_to_block(done);
    }
}
