//! The baseline compiler for x86-64 hosts.
//!
//! Compiled code keeps `rbp` [`CONTEXT_BIAS`](encoding::CONTEXT_BIAS) bytes behind the start of the [`Context`]. `rax`, `rcx`,
//! `rdx`, `rsi` and `rdi` are free for every operation; the others hold values. None is preserved: the code that enters it
//! ([`Baseline::enter`]) saves what the platform's convention asks for.
//! At the entry of a block the stack pointer is as at the entry of a function, so that regions can be gone to.

#[macro_use]
mod encoding;

mod atomic;
mod control;
mod float;
mod integer;
mod memory;
mod registers;
mod vector;

use std::cell;
use std::mem::offset_of;

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use super::Uses;
use crate::compile::{ACCESS_BITS, Code, CodeMemory, Function, Relocation, SlowPath};
use crate::cpu::Context;
use crate::engine::{Cell, Translation};
use crate::guest::{Guest, arguments_of, stands_alone};
use crate::ir::{Block, Op, Register, Terminator, Type, Value};
use encoding::{CONTEXT_START, add_to_context};
use integer::Condition;
use registers::Registers;

/// Where the number of the instruction is in the word that slow paths take; below it, above the access, is how far the instruction is from
/// the block's beginning, bytes.
const INSTRUCTION_SHIFT: u32 = 25;
/// Scratch registers, by their numbers. Slow paths take the address in `RSI` and a value in `RCX`.
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSI: u8 = 6;
/// Bytes for the stubs.
const STUBS: usize = 4096;

/// An operation that this compiler, or this host, cannot do.
struct Unsupported;

type Emitted = Result<(), Unsupported>;

/// The baseline compiler of a machine: the code that its blocks share.
pub(crate) struct Baseline {
    enter: *const u8,
    stubs: Vec<(Function, *const u8)>,
    features: Features,
    _memory: CodeMemory,
}

/// What not every x86-64 host has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    count_zeros: bool,
    population_count: bool,
    multiply_add: bool,
    vectors: bool,
}

// SAFETY: the addresses point into `_memory`, which is never written to after the constructor.
unsafe impl Send for Baseline {}
// SAFETY: as above.
unsafe impl Sync for Baseline {}

impl Baseline {
    /// Code that returns from a block to the dispatcher.
    pub(crate) const LEAVE: &[u8] = &[0xc3];

    /// What regions begin with: an instruction of eight bytes that does nothing and makes room for a jump.
    pub(crate) const REGION_START: &[u8] = &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];

    /// How far behind its start a gate is entered from elsewhere than blocks, with the context in the register for arguments, bytes.
    pub(crate) const GATE_FROM_OUTSIDE: usize = 4;

    /// Generates the shared code; `None` where the host gives no memory for it.
    pub(crate) fn new() -> Option<Baseline> {
        let memory = CodeMemory::new(STUBS).ok()?;
        let enter = add(&memory, |code| {
            // The platform's convention: arguments in rdi (the context) and rsi (the code).
            dynasm!(code
                ; .arch x64
                ; push rbx ; push rbp ; push r12 ; push r13 ; push r14 ; push r15
                ; sub rsp, 8
                ; call rsi
                ; add rsp, 8
                ; pop r15 ; pop r14 ; pop r13 ; pop r12 ; pop rbp ; pop rbx
                ; ret
            );
        })?;
        let features = Features {
            count_zeros: is_x86_feature_detected!("lzcnt") && is_x86_feature_detected!("bmi1"),
            population_count: is_x86_feature_detected!("popcnt"),
            multiply_add: is_x86_feature_detected!("fma"),
            vectors: is_x86_feature_detected!("sse4.2"),
        };
        let mut stubs = Vec::new();
        for path in SlowPath::ALL {
            stubs.push((Function::OfBlock(path), add(&memory, |code| take_slow_path(code, path))?));
        }
        Some(Baseline { enter, stubs, features, _memory: memory })
    }

    /// Code through which other code is entered: a function of the platform's convention, of the context and the code to enter.
    pub(crate) fn enter(&self) -> *const u8 {
        self.enter
    }

    /// The slow paths that blocks call. They take the address in `rsi`, a value in `rcx`, and in `edx` the access with the place of the instruction above it
    /// (see `call_slow_path`). The result is in `rax`, that of vectors in `xmm0`; all registers that hold values are preserved.
    pub(crate) fn stubs(&self) -> &[(Function, *const u8)] {
        &self.stubs
    }

    /// Code that goes on from a block, or from the patched entry of one, to what a cell leads to.
    pub(crate) fn gate(cell: *const Cell) -> Vec<u8> {
        let mut code = VecAssembler::<X64Relocation>::new(0);
        dynasm!(code
            ; .arch x64
            ; lea rdi, [BYTE rbp + CONTEXT_START]
            ; mov rax, QWORD cell as i64
            ; jmp QWORD [rax]
        );
        code.finalize().unwrap_or_default()
    }

    /// What its code depends on of the host.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Compiles a block; `None` if that is not possible.
    pub(crate) fn compile<G: Guest>(&self, translation: &Translation) -> Option<Code> {
        let block = translation.block();
        // A helper that stands alone may change what code elsewhere relies on.
        if translation.alone && !block.terminator.leaves() && block.ops.iter().any(stands_alone::<G>) {
            return None;
        }
        let Room { mut code, mut uses, mut registers, relocations, cold, exits } = ROOM.take();
        uses.note(block, arguments_of::<G>);
        registers.begin(block.ops.len());
        let leave = code.new_dynamic_label();
        let mut emitter = Emitter {
            code,
            block,
            uses,
            registers,
            baseline: self,
            translation,
            relocations,
            cold,
            leave,
            exits,
            flags: None,
        };
        // What is left of a block that it cannot compile goes with its room.
        emitter.block::<G>().ok()?;
        let Emitter { mut code, uses, registers, mut relocations, cold, mut exits, .. } = emitter;
        let done = Code { bytes: code.drain().ok()?.collect(), relocations: relocations.as_slice().into() };
        relocations.clear();
        exits.clear();
        ROOM.set(Room { code, uses, registers, relocations, cold, exits });
        Some(done)
    }
}

/// Assembles code of its own into memory.
fn add(memory: &CodeMemory, emit: impl FnOnce(&mut VecAssembler<X64Relocation>)) -> Option<*const u8> {
    let mut code = VecAssembler::new(0);
    emit(&mut code);
    memory.add(&code.finalize().ok()?)
}

/// Calls a slow path for a block; leaves the block if the access does not complete.
fn take_slow_path(code: &mut VecAssembler<X64Relocation>, path: SlowPath) {
    with_context!(code, [mov rax,] offset_of!(Context, functions), []);
    dynasm!(code
        ; .arch x64
        ; lea rdi, [BYTE rbp + CONTEXT_START]
        ; push rdx
        ; sub rsp, 8
        ; call QWORD [rax + Function::Slow(path).offset()]
        ; add rsp, 8
        ; pop rdx
    );
    with_context!(code, [cmp DWORD] offset_of!(Context, status), [, BYTE 0]);
    dynasm!(code ; .arch x64 ; jne >failed);
    match path {
        SlowPath::LoadVector => with_context!(code, [movups xmm0,] offset_of!(Context, result), []),
        _ => with_context!(code, [mov rax,] offset_of!(Context, result), []),
    }
    dynasm!(code
        ; .arch x64
        ; ret
        ; failed:
        // Not to the block, but to whoever entered it.
        ; add rsp, 8
        ; mov eax, edx
        ; shr eax, INSTRUCTION_SHIFT as i8
        ; shr edx, ACCESS_BITS as i8
        ; and edx, (1 << (INSTRUCTION_SHIFT - ACCESS_BITS)) - 1
    );
    with_context!(code, [add] offset_of!(Context, instructions), [, rax]);
    with_context!(code, [add] offset_of!(Context, pc), [, rdx]);
    dynasm!(code ; .arch x64 ; ret);
}

/// What is emitted behind the block's own code, so that the way through it is straight.
enum Cold {
    /// Calls a slow path, with the address in `rsi`; its result goes to a register, or nowhere.
    SlowPath {
        from: DynamicLabel,
        back: DynamicLabel,
        path: SlowPath,
        access: i64,
        /// Of a vector, its register.
        value: Option<registers::Source>,
        result: Option<Loaded>,
        place: usize,
    },
    /// Asks for the region that begins with the block.
    Hot { from: DynamicLabel },
    /// Raises an exception.
    Raise { from: DynamicLabel, place: usize, exception: u32, information: registers::Source },
}

/// The register that a load fills.
#[derive(Clone, Copy)]
enum Loaded {
    Word(u8),
    Vector(u8),
}

/// Where code grows. Compiling a block takes little more than asking for such memory, so that a thread uses the same for all.
struct Room {
    code: VecAssembler<X64Relocation>,
    uses: Uses,
    registers: Registers,
    relocations: Vec<Relocation>,
    cold: Vec<Cold>,
    exits: Vec<(usize, DynamicLabel)>,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            code: VecAssembler::new(0),
            uses: Uses::default(),
            registers: Registers::default(),
            relocations: Vec::new(),
            cold: Vec::new(),
            exits: Vec::new(),
        }
    }
}

thread_local! {
    /// Empty, but for the memory, unless a block is compiled.
    static ROOM: cell::Cell<Room> = cell::Cell::default();
}

/// A block on its way to host code.
struct Emitter<'a> {
    code: VecAssembler<X64Relocation>,
    block: &'a Block,
    uses: Uses,
    registers: Registers,
    baseline: &'a Baseline,
    translation: &'a Translation,
    relocations: Vec<Relocation>,
    cold: Vec<Cold>,
    /// Where the code leaves when the context is as it shall be.
    leave: DynamicLabel,
    /// Where the code leaves because an operation of the instruction with this number did not complete.
    exits: Vec<(usize, DynamicLabel)>,
    /// The comparison before, whose result the operation takes from the host's flags.
    flags: Option<(Condition, Type, Value, Value)>,
}

fn register_offset(register: Register) -> i32 {
    (offset_of!(Context, registers) + 8 * usize::from(register.0)) as i32
}

impl<'a> Emitter<'a> {
    fn block<G: Guest>(&mut self) -> Emitted {
        self.entry();
        let block = self.block;
        for (place, op) in block.ops.iter().enumerate() {
            if let Op::Compare { op, ty, a, b } = *op
                && self.uses.fused[place]
            {
                self.flags = Some((Condition::of(op), ty, a, b));
                continue;
            }
            self.op::<G>(place, op)?;
            // A fused comparison's operands end with the operation behind it.
            let compared = place.checked_sub(1).and_then(|before| match block.ops[before] {
                Op::Compare { a, b, .. } if self.uses.fused[before] => Some([a, b]),
                _ => None,
            });
            for value in compared.into_iter().flatten() {
                self.registers.end(value, place, &self.uses);
            }
            op.for_each_operand(arguments_of::<G>(op), |value| self.registers.end(value, place, &self.uses));
            if op.result().is_some() {
                self.registers.end(Value(place as u16), place, &self.uses);
            }
        }
        self.terminator()?;
        self.cold_code();
        Ok(())
    }

    fn op<G: Guest>(&mut self, place: usize, op: &Op) -> Emitted {
        match *op {
            Op::Const { bits, .. } => self.registers.define_constant(place, bits),
            Op::CodeAddress { distance } => {
                let to = self.define(place);
                self.load_code_address(to, distance);
            }
            Op::Get { register } => {
                let to = self.define(place);
                with_context!(self.code, [mov Rq(to),] register_offset(register), []);
            }
            Op::Put { register, value } => self.store_context(register_offset(register), value),
            Op::Binary { op, ty, a, b } => self.binary(place, op, ty, a, b),
            Op::Unary { op, ty, a } => return self.unary(place, op, ty, a),
            Op::Compare { op, ty, a, b } => self.compare(place, op, ty, a, b),
            Op::Select { condition, a, b, .. } => self.select(place, condition, a, b),
            Op::Extend { signed, from, to, a } => self.extend(place, signed, from, to, a),
            Op::Truncate { to, a, .. } => self.truncate(place, to, a),
            Op::Bitcast { a, .. } => {
                self.copy(place, a);
            }
            Op::Load { width, signed, mode, address, offset } => {
                self.load(place, width, signed, mode, address, offset);
            }
            Op::Store { width, mode, address, offset, value } => self.store(place, width, mode, address, offset, value),
            Op::ProbeWrite { bytes, mode, address, offset } => self.probe_write(place, bytes, mode, address, offset),
            Op::AtomicReadModifyWrite { op, width, mode, address, value } => {
                self.read_modify_write(place, op, width, mode, address, value);
            }
            Op::AtomicCompareExchange { width, mode, address, expected, new } => {
                self.compare_exchange(place, width, mode, address, expected, new);
            }
            Op::LoadReserved { width, mode, address } => self.load_reserved(place, width, mode, address),
            Op::StoreConditional { width, mode, address, value } => {
                self.store_conditional(place, width, mode, address, value);
            }
            Op::Fence { store_load } => self.fence(store_load),
            Op::FloatBinary { op, ty, a, b } => self.float_binary(place, op, ty, a, b),
            Op::FloatSquareRoot { ty, a } => self.square_root(place, ty, a),
            Op::FloatCanonical { ty, a } => self.float_canonical(place, ty, a),
            Op::FloatMultiplyAdd { ty, a, b, c } => return self.multiply_add(place, ty, a, b, c),
            Op::FloatCompare { op, ty, a, b } => self.float_compare(place, op, ty, a, b),
            Op::FloatConvert { to, a, .. } => self.float_convert(place, to, a),
            Op::IntegerToFloat { from, to, a } => self.integer_to_float(place, from, to, a),
            Op::Vector(op) => return self.vector(place, op),
            Op::Helper { helper, arguments } => self.helper::<G>(place, helper, arguments),
            Op::RaiseIf { condition, exception, information } => {
                self.raise_if(place, condition, exception, information);
            }
        }
        if self.registers.is_full() { Err(Unsupported) } else { Ok(()) }
    }

    /// Calls a function, whose stack pointer must be aligned.
    fn call(&mut self, function: Function) {
        with_context!(self.code, [mov rax,] offset_of!(Context, functions), []);
        dynasm!(self.code ; .arch x64 ; lea rdi, [BYTE rbp + CONTEXT_START] ; sub rsp, 8 ; call QWORD [rax + function.offset()] ; add rsp, 8);
    }

    /// Where to go if the operation at `place` did not complete.
    fn exit(&mut self, place: usize) -> DynamicLabel {
        let instruction = self.block.instruction_index(place);
        if let Some((_, label)) = self.exits.iter().find(|(known, _)| *known == instruction) {
            return *label;
        }
        let label = self.code.new_dynamic_label();
        self.exits.push((instruction, label));
        label
    }

    /// After a call: leaves if the status is set.
    fn check_status(&mut self, place: usize) {
        let exit = self.exit(place);
        with_context!(self.code, [cmp DWORD] offset_of!(Context, status), [, BYTE 0]);
        dynasm!(self.code ; .arch x64 ; jne =>exit);
    }

    fn cold_code(&mut self) {
        let mut all = std::mem::take(&mut self.cold);
        for cold in all.drain(..) {
            match cold {
                Cold::SlowPath { from, back, path, access, value, result, place } => {
                    dynasm!(self.code ; .arch x64 ; =>from);
                    match value {
                        Some(registers::Source::Vector(vector)) => {
                            with_context!(self.code, [movups] offset_of!(Context, result), [, Rx(vector)]);
                        }
                        Some(value) => self.load_source(1, value),
                        None => {}
                    }
                    self.call_slow_path(place, path, access);
                    match result {
                        Some(Loaded::Word(to)) => dynasm!(self.code ; .arch x64 ; mov Rq(to), rax),
                        Some(Loaded::Vector(to)) => dynasm!(self.code ; .arch x64 ; movaps Rx(to), xmm0),
                        None => {}
                    }
                    dynasm!(self.code ; .arch x64 ; jmp =>back);
                }
                Cold::Hot { from } => {
                    dynasm!(self.code ; .arch x64 ; =>from);
                    self.ask_for_region();
                }
                Cold::Raise { from, place, exception, information } => {
                    dynasm!(self.code ; .arch x64 ; =>from);
                    self.load_source(0, information);
                    self.set_exception(exception);
                    let exit = self.exit(place);
                    dynasm!(self.code ; .arch x64 ; jmp =>exit);
                }
            }
        }
        self.cold = all;
        for &(instruction, label) in &self.exits {
            let distance = self.block.instructions[instruction].offset;
            dynasm!(self.code ; .arch x64 ; =>label);
            if instruction != 0 {
                add_to_context(&mut self.code, offset_of!(Context, instructions), instruction as i32);
                add_to_context(&mut self.code, offset_of!(Context, pc), i32::from(distance));
            }
            dynasm!(self.code ; .arch x64 ; ret);
        }
    }
}
