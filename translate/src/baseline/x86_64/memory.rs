//! Memory accesses: the soft TLB's fast path, with everything else behind the block.

use std::mem::offset_of;

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::registers::Source;
use super::{Cold, Emitter, INSTRUCTION_SHIFT, Loaded};
use crate::compile::{ACCESS_BITS, Access, Function, SlowPath, encode_probe};
use crate::cpu::Context;
use crate::ir::{MemoryMode, Value, Width};
use crate::platform::PAGE_SIZE;
use crate::tlb::{TLB_ENTRIES, TlbEntry};

impl Emitter<'_> {
    /// Computes an address in `rsi`.
    pub(super) fn address(&mut self, address: Value, offset: i32) {
        match self.source(address) {
            Source::Register(from) if offset != 0 => match i8::try_from(offset) {
                Ok(offset) => dynasm!(self.code ; .arch x64 ; lea rsi, [BYTE Rq(from) + offset]),
                Err(_) => dynasm!(self.code ; .arch x64 ; lea rsi, [Rq(from) + offset]),
            },
            source => {
                self.load_source(6, source);
                if offset != 0 {
                    with_immediate!(self.code, [add rsi,] offset);
                }
            }
        }
    }

    /// Looks the address in `rsi` up in the soft TLB: on a hit it becomes the host's, else the code goes on at the result. Changes `rcx`
    /// and `rdx`.
    pub(super) fn look_up(&mut self, bytes: u64, mode: MemoryMode, write: bool) -> DynamicLabel {
        let missed = self.code.new_dynamic_label();
        self.look_up_or(missed, bytes, mode, write);
        missed
    }

    /// The same, going on at `missed`.
    pub(super) fn look_up_or(&mut self, missed: DynamicLabel, bytes: u64, mode: MemoryMode, write: bool) {
        let entry_size = size_of::<TlbEntry>();
        let tag = if write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
        let shift = PAGE_SIZE.trailing_zeros() - entry_size.trailing_zeros();
        let mask = (TLB_ENTRIES - 1) * entry_size;
        dynasm!(self.code
            ; .arch x64
            ; mov rcx, rsi
            ; shr rcx, shift as i8
            ; and ecx, mask as i32
        );
        let table = offset_of!(Context, tlb) + size_of::<*const TlbEntry>() * usize::from(mode.0);
        with_context!(self.code, [add rcx,] table, []);
        // An access that crosses into the next page never matches: that page has another entry.
        match bytes {
            1 => dynasm!(self.code ; .arch x64 ; mov rdx, rsi),
            _ => dynasm!(self.code ; .arch x64 ; lea rdx, [BYTE rsi + bytes as i8 - 1]),
        }
        dynasm!(self.code
            ; .arch x64
            ; and rdx, -(PAGE_SIZE as i32)
            ; cmp rdx, [BYTE rcx + tag as i8]
            ; jne =>missed
            ; add rsi, [BYTE rcx + offset_of!(TlbEntry, addend) as i8]
        );
    }

    pub(super) fn load(
        &mut self,
        place: usize,
        width: Width,
        signed: bool,
        mode: MemoryMode,
        address: Value,
        offset: i32,
    ) {
        // Before the code branches, as this may move other values.
        let to = self.define(place);
        self.address(address, offset);
        let missed = self.look_up(width.bytes(), mode, false);
        match (width, signed) {
            (Width::Byte, false) => dynasm!(self.code ; .arch x64 ; movzx Rd(to), BYTE [rsi]),
            (Width::Byte, true) => dynasm!(self.code ; .arch x64 ; movsx Rq(to), BYTE [rsi]),
            (Width::Half, false) => dynasm!(self.code ; .arch x64 ; movzx Rd(to), WORD [rsi]),
            (Width::Half, true) => dynasm!(self.code ; .arch x64 ; movsx Rq(to), WORD [rsi]),
            (Width::Word, false) => dynasm!(self.code ; .arch x64 ; mov Rd(to), [rsi]),
            (Width::Word, true) => dynasm!(self.code ; .arch x64 ; movsxd Rq(to), DWORD [rsi]),
            (Width::Double, _) => dynasm!(self.code ; .arch x64 ; mov Rq(to), [rsi]),
        }
        let access = Access { signed, ..Access::new(width, mode) };
        self.cold_slow_path(missed, SlowPath::Load, access.encode(), None, Some(Loaded::Word(to)), place);
    }

    pub(super) fn store(
        &mut self,
        place: usize,
        width: Width,
        mode: MemoryMode,
        address: Value,
        offset: i32,
        value: Value,
    ) {
        self.address(address, offset);
        let missed = self.look_up(width.bytes(), mode, true);
        let from = self.read(value, 0);
        match width {
            Width::Byte => dynasm!(self.code ; .arch x64 ; mov [rsi], Rb(from)),
            Width::Half => dynasm!(self.code ; .arch x64 ; mov [rsi], Rw(from)),
            Width::Word => dynasm!(self.code ; .arch x64 ; mov [rsi], Rd(from)),
            Width::Double => dynasm!(self.code ; .arch x64 ; mov [rsi], Rq(from)),
        }
        let value = self.source(value);
        let access = Access::new(width, mode).encode();
        self.cold_slow_path(missed, SlowPath::Store, access, Some(value), None, place);
    }

    pub(super) fn load_vector(&mut self, place: usize, mode: MemoryMode, address: Value, offset: i32) {
        let to = self.define_vector(place);
        self.address(address, offset);
        let missed = self.look_up(16, mode, false);
        dynasm!(self.code ; .arch x64 ; movups Rx(to), [rsi]);
        let access = i64::from(mode.0);
        self.cold_slow_path(missed, SlowPath::LoadVector, access, None, Some(Loaded::Vector(to)), place);
    }

    pub(super) fn store_vector(&mut self, place: usize, mode: MemoryMode, address: Value, offset: i32, value: Value) {
        self.address(address, offset);
        // Not changed before the slow path either.
        let from = self.read_vector(value, 0);
        let missed = self.look_up(16, mode, true);
        dynasm!(self.code ; .arch x64 ; movups [rsi], Rx(from));
        let (path, access) = (SlowPath::StoreVector, i64::from(mode.0));
        self.cold_slow_path(missed, path, access, Some(Source::Vector(from)), None, place);
    }

    pub(super) fn cold_slow_path(
        &mut self,
        from: DynamicLabel,
        path: SlowPath,
        access: i64,
        value: Option<Source>,
        result: Option<Loaded>,
        place: usize,
    ) {
        let back = self.code.new_dynamic_label();
        dynasm!(self.code ; .arch x64 ; =>back);
        self.cold.push(Cold::SlowPath { from, back, path, access, value, result, place });
    }

    pub(super) fn probe_write(&mut self, place: usize, bytes: u8, mode: MemoryMode, address: Value, offset: i32) {
        self.address(address, offset);
        let crosses = self.code.new_dynamic_label();
        dynasm!(self.code
            ; .arch x64
            ; mov eax, esi
            ; and eax, PAGE_SIZE as i32 - 1
            ; cmp eax, PAGE_SIZE as i32 - i32::from(bytes)
            ; ja =>crosses
        );
        let access = encode_probe(mode, bytes);
        self.cold_slow_path(crosses, SlowPath::ProbeWrite, access, None, None, place);
    }

    /// Calls a slow path for the operation at `place`, with the address in `rsi` and the value in `rcx`; the result is in `rax` or `xmm0`.
    pub(super) fn call_slow_path(&mut self, place: usize, path: SlowPath, access: i64) {
        let instruction = self.block.instruction_index(place) as u32;
        let distance = u32::from(self.block.instructions[instruction as usize].offset);
        let word = access as u32 | distance << ACCESS_BITS | instruction << INSTRUCTION_SHIFT;
        with_context!(self.code, [mov rax,] offset_of!(Context, functions), []);
        dynasm!(self.code ; .arch x64 ; mov edx, word as i32 ; call QWORD [BYTE rax + Function::OfBlock(path).offset() as i8]);
    }
}
