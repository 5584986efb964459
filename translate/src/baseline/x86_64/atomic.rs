//! Atomic operations: the processor's own, on what the soft TLB finds.

use std::mem::offset_of;

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::{Emitter, Loaded, RAX, RCX, RDX};
use crate::compile::{Access, SlowPath};
use crate::cpu::{Context, NO_RESERVATION};
use crate::ir::{AtomicOp, MemoryMode, Value, Width};

/// An instruction on memory at `rsi` and a register, of an access's width.
macro_rules! on_memory {
    ($emitter:expr, $width:expr, [$($instruction:tt)*] $register:expr) => {
        match $width {
            Width::Byte => dynasm!($emitter.code ; .arch x64 ; $($instruction)* BYTE [rsi], Rb($register)),
            Width::Half => dynasm!($emitter.code ; .arch x64 ; $($instruction)* WORD [rsi], Rw($register)),
            Width::Word => dynasm!($emitter.code ; .arch x64 ; $($instruction)* DWORD [rsi], Rd($register)),
            Width::Double => dynasm!($emitter.code ; .arch x64 ; $($instruction)* QWORD [rsi], Rq($register)),
        }
    };
}

impl Emitter<'_> {
    pub(super) fn read_modify_write(
        &mut self,
        place: usize,
        op: AtomicOp,
        width: Width,
        mode: MemoryMode,
        address: Value,
        value: Value,
    ) {
        let to = self.define(place);
        self.address(address, 0);
        let access = Access { atomic: op, ..Access::new(width, mode) }.encode();
        if matches!(op, AtomicOp::MinSigned | AtomicOp::MinUnsigned | AtomicOp::MaxSigned | AtomicOp::MaxUnsigned) {
            // Too rare for code of their own.
            self.load_value(RCX, value);
            self.call_slow_path(place, SlowPath::ReadModifyWrite, access);
            dynasm!(self.code ; .arch x64 ; mov Rq(to), rax);
            return;
        }
        let missed = self.look_up_aligned(width, mode);
        match op {
            AtomicOp::Exchange => {
                self.load_value(RAX, value);
                on_memory!(self, width, [xchg] RAX);
            }
            AtomicOp::Add => {
                self.load_value(RAX, value);
                on_memory!(self, width, [lock xadd] RAX);
            }
            _ => {
                self.load_value(RCX, value);
                match width {
                    Width::Byte => dynasm!(self.code ; .arch x64 ; movzx eax, BYTE [rsi]),
                    Width::Half => dynasm!(self.code ; .arch x64 ; movzx eax, WORD [rsi]),
                    Width::Word => dynasm!(self.code ; .arch x64 ; mov eax, [rsi]),
                    Width::Double => dynasm!(self.code ; .arch x64 ; mov rax, [rsi]),
                }
                let again = self.code.new_dynamic_label();
                dynasm!(self.code ; .arch x64 ; =>again ; mov rdx, rax);
                match op {
                    AtomicOp::And => dynasm!(self.code ; .arch x64 ; and rdx, rcx),
                    AtomicOp::Or => dynasm!(self.code ; .arch x64 ; or rdx, rcx),
                    _ => dynasm!(self.code ; .arch x64 ; xor rdx, rcx),
                }
                on_memory!(self, width, [lock cmpxchg] RDX);
                dynasm!(self.code ; .arch x64 ; jne =>again);
            }
        }
        self.take_old(to, width);
        let value = self.source(value);
        let result = Some(Loaded::Word(to));
        self.cold_slow_path(missed, SlowPath::ReadModifyWrite, access, Some(value), result, place);
    }

    /// As [`Emitter::look_up`], for writes; an address that is not a multiple of the width is missed, for some hosts stop a program that locks two
    /// lines of memory at once.
    fn look_up_aligned(&mut self, width: Width, mode: MemoryMode) -> DynamicLabel {
        let missed = self.code.new_dynamic_label();
        if width != Width::Byte {
            dynasm!(self.code ; .arch x64 ; test sil, width.bytes() as i8 - 1 ; jne =>missed);
        }
        self.look_up_or(missed, width.bytes(), mode, true);
        missed
    }

    /// Takes what was in memory, which is in `rax`, sign-extended.
    fn take_old(&mut self, to: u8, width: Width) {
        match width {
            Width::Byte => dynasm!(self.code ; .arch x64 ; movsx Rq(to), al),
            Width::Half => dynasm!(self.code ; .arch x64 ; movsx Rq(to), ax),
            Width::Word => dynasm!(self.code ; .arch x64 ; movsxd Rq(to), eax),
            Width::Double => dynasm!(self.code ; .arch x64 ; mov Rq(to), rax),
        }
    }

    pub(super) fn compare_exchange(
        &mut self,
        place: usize,
        width: Width,
        mode: MemoryMode,
        address: Value,
        expected: Value,
        new: Value,
    ) {
        let to = self.define(place);
        // Where the slow path takes it from.
        self.store_context(offset_of!(Context, result) as i32, expected);
        self.address(address, 0);
        let missed = self.look_up_aligned(width, mode);
        self.load_value(RAX, expected);
        let from = self.read(new, RCX);
        on_memory!(self, width, [lock cmpxchg] from);
        self.take_old(to, width);
        let (access, new) = (Access::new(width, mode).encode(), self.source(new));
        let result = Some(Loaded::Word(to));
        self.cold_slow_path(missed, SlowPath::ExchangeIf, access, Some(new), result, place);
    }

    pub(super) fn load_reserved(&mut self, place: usize, width: Width, mode: MemoryMode, address: Value) {
        let to = self.define(place);
        self.address(address, 0);
        dynasm!(self.code ; .arch x64 ; mov rdi, rsi);
        let missed = self.look_up(width.bytes(), mode, false);
        match width {
            Width::Word => dynasm!(self.code ; .arch x64 ; movsxd Rq(to), DWORD [rsi]),
            _ => dynasm!(self.code ; .arch x64 ; mov Rq(to), [rsi]),
        }
        with_context!(self.code, [mov] offset_of!(Context, reservation_address), [, rdi]);
        with_context!(self.code, [mov] offset_of!(Context, reservation_value), [, Rq(to)]);
        let access = Access::new(width, mode).encode();
        self.cold_slow_path(missed, SlowPath::Reserve, access, None, Some(Loaded::Word(to)), place);
    }

    pub(super) fn store_conditional(
        &mut self,
        place: usize,
        width: Width,
        mode: MemoryMode,
        address: Value,
        value: Value,
    ) {
        let to = self.define(place);
        self.address(address, 0);
        dynasm!(self.code ; .arch x64 ; mov rdi, rsi);
        // A store-conditional that faults does so whether or not it would succeed.
        let missed = self.look_up(width.bytes(), mode, true);
        let from = self.read(value, RCX);
        let failed = self.code.new_dynamic_label();
        dynasm!(self.code ; .arch x64 ; mov edx, 1);
        with_context!(self.code, [cmp rdi,] offset_of!(Context, reservation_address), []);
        with_context!(self.code, [mov QWORD] offset_of!(Context, reservation_address), [, NO_RESERVATION as i32]);
        dynasm!(self.code ; .arch x64 ; jne =>failed);
        with_context!(self.code, [mov rax,] offset_of!(Context, reservation_value), []);
        on_memory!(self, width, [lock cmpxchg] from);
        dynasm!(self.code ; .arch x64 ; setne dl ; =>failed ; mov Rd(to), edx);
        let (access, value) = (Access::new(width, mode).encode(), self.source(value));
        let result = Some(Loaded::Word(to));
        self.cold_slow_path(missed, SlowPath::StoreIfReserved, access, Some(value), result, place);
    }

    pub(super) fn fence(&mut self, store_load: bool) {
        // The other orders hold on x86-64 by themselves. Any locked instruction gives this one, in less time than MFENCE.
        if store_load {
            dynasm!(self.code ; .arch x64 ; lock or DWORD [rsp], 0);
        }
    }
}
