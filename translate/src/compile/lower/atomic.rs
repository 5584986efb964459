//! Atomic operations, on what the soft TLB finds.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self as clif, AtomicRmwOp, BlockArg, InstBuilder, types};

use super::super::{Access, SlowPath};
use super::memory::Address;
use super::{Lowering, clif_type, trusted};
use crate::cpu::{Context, NO_RESERVATION};
use crate::guest::Guest;
use crate::ir::{AtomicOp, Width};

impl<G: Guest> Lowering<'_, G> {
    pub(super) fn read_modify_write(
        &mut self,
        place: usize,
        address: Address,
        access: Access,
        value: clif::Value,
    ) -> clif::Value {
        let (host, missed) = self.look_up_aligned(address, access);
        let op = match access.atomic {
            AtomicOp::Exchange => AtomicRmwOp::Xchg,
            AtomicOp::Add => AtomicRmwOp::Add,
            AtomicOp::And => AtomicRmwOp::And,
            AtomicOp::Or => AtomicRmwOp::Or,
            AtomicOp::Xor => AtomicRmwOp::Xor,
            AtomicOp::MinSigned => AtomicRmwOp::Smin,
            AtomicOp::MinUnsigned => AtomicRmwOp::Umin,
            AtomicOp::MaxSigned => AtomicRmwOp::Smax,
            AtomicOp::MaxUnsigned => AtomicRmwOp::Umax,
        };
        let operand = self.narrow(access.width, value);
        let old = self.builder.ins().atomic_rmw(clif_type(access.width.integer()), trusted(), op, host, operand);
        let old = self.sign_extend(access.width, old);
        self.or_slowly(place, missed, SlowPath::ReadModifyWrite, address, access.encode(), Some(value), old)
    }

    pub(super) fn compare_exchange(
        &mut self,
        place: usize,
        address: Address,
        access: Access,
        expected: clif::Value,
        new: clif::Value,
    ) -> clif::Value {
        // Where the slow path takes it from.
        self.store_context(expected, offset_of!(Context, result));
        let (host, missed) = self.look_up_aligned(address, access);
        let (narrow, replacement) = (self.narrow(access.width, expected), self.narrow(access.width, new));
        let old = self.builder.ins().atomic_cas(trusted(), host, narrow, replacement);
        let old = self.sign_extend(access.width, old);
        self.or_slowly(place, missed, SlowPath::ExchangeIf, address, access.encode(), Some(new), old)
    }

    pub(super) fn load_reserved(&mut self, place: usize, address: Address, access: Access) -> clif::Value {
        let (host, missed) = self.look_up_alone(address, access.width.bytes(), access.mode, false);
        let value = self.builder.ins().atomic_load(clif_type(access.width.integer()), trusted(), host);
        let value = self.sign_extend(access.width, value);
        let reserved = address.value(&mut self.builder);
        self.store_context(reserved, offset_of!(Context, reservation_address));
        self.store_context(value, offset_of!(Context, reservation_value));
        self.or_slowly(place, missed, SlowPath::Reserve, address, access.encode(), None, value)
    }

    pub(super) fn store_conditional(
        &mut self,
        place: usize,
        address: Address,
        access: Access,
        value: clif::Value,
    ) -> clif::Value {
        // A store-conditional that faults does so whether or not it would succeed.
        let (host, missed) = self.look_up_alone(address, access.width.bytes(), access.mode, true);
        let asked = address.value(&mut self.builder);
        let reserved = self.load_context(offset_of!(Context, reservation_address));
        let none = self.constant(NO_RESERVATION);
        self.store_context(none, offset_of!(Context, reservation_address));
        let (attempt, tried) = (self.builder.create_block(), self.builder.create_block());
        let failed = self.builder.append_block_param(tried, types::I64);
        let (held, yes) = (self.builder.ins().icmp(IntCC::Equal, asked, reserved), self.constant(1));
        self.builder.ins().brif(held, attempt, &[], tried, &[BlockArg::Value(yes)]);
        self.builder.switch_to_block(attempt);
        let expected = self.load_context(offset_of!(Context, reservation_value));
        let (expected, value_narrow) = (self.narrow(access.width, expected), self.narrow(access.width, value));
        let old = self.builder.ins().atomic_cas(trusted(), host, expected, value_narrow);
        let differs = self.builder.ins().icmp(IntCC::NotEqual, old, expected);
        let differs = self.builder.ins().uextend(types::I64, differs);
        self.builder.ins().jump(tried, &[BlockArg::Value(differs)]);
        self.builder.switch_to_block(tried);
        self.or_slowly(place, missed, SlowPath::StoreIfReserved, address, access.encode(), Some(value), failed)
    }

    /// As [`Lowering::look_up_alone`], for writes; an address that is not a multiple of the width is missed, since not every host has atomic operations
    /// there, and some stop a program that locks two lines of memory at once.
    fn look_up_aligned(&mut self, address: Address, access: Access) -> (clif::Value, clif::Block) {
        let (host, missed) = self.look_up_alone(address, access.width.bytes(), access.mode, true);
        if access.width != Width::Byte {
            let misaligned = self.builder.ins().band_imm_u(host, access.width.bytes() as i64 - 1);
            let aligned = self.builder.create_block();
            self.builder.ins().brif(misaligned, missed, &[], aligned, &[]);
            self.builder.switch_to_block(aligned);
        }
        (host, missed)
    }

    fn narrow(&mut self, width: Width, value: clif::Value) -> clif::Value {
        if width == Width::Double { value } else { self.builder.ins().ireduce(clif_type(width.integer()), value) }
    }

    fn sign_extend(&mut self, width: Width, value: clif::Value) -> clif::Value {
        if width == Width::Double { value } else { self.builder.ins().sextend(types::I64, value) }
    }

    fn load_context(&mut self, offset: usize) -> clif::Value {
        self.builder.ins().load(types::I64, trusted(), self.context, offset as i32)
    }

    pub(super) fn fence(&mut self, store_load: bool) {
        if !cfg!(target_arch = "x86_64") {
            self.builder.ins().fence();
        } else if store_load {
            // The other orders hold on x86-64 by themselves. An exchange gives this one, in less time than MFENCE.
            let (zero, scratch) = (self.constant(0), offset_of!(Context, result) as i64);
            let scratch = self.builder.ins().iadd_imm_s(self.context, scratch);
            self.builder.ins().atomic_rmw(types::I64, trusted(), AtomicRmwOp::Xchg, scratch, zero);
        }
    }
}
