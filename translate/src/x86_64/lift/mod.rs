//! The lifter: x86 instructions to IR.

mod arithmetic;
mod bits;
mod branch;
mod condition;
mod mmx;
mod moves;
mod operand;
mod shift;
mod simd;
mod stack;
mod state_image;
mod string;
mod system;
mod x87;

use iced_x86::{Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind};

use crate::cpu::Cpu;
use crate::guest::NeedsMoreCode;
use crate::ir::{Block, Builder, Comparison, MemoryMode, Op, Terminator, Type, Value};

use super::event::{number, number_with_error, vector};
use super::features::InstructionSet;
use super::helpers::{InstructionEnd, id};
use super::mmu;
use super::segment::{Segment, SegmentName, attribute};
use super::state::*;
use condition::FlagState;
use operand::Place;

/// Most bytes that an instruction may have.
const LONGEST_INSTRUCTION: usize = 15;

/// What lifted code depends on besides code bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(pub(super) u32);

impl Flags {
    const CODE_32: u32 = 1 << 2;
    const CODE_64: u32 = 1 << 3;
    const STACK_32: u32 = 1 << 4;
    const PROTECTED: u32 = 1 << 5;
    const VIRTUAL_8086: u32 = 1 << 6;
    /// CS has base 0 and no limit.
    const FLAT_CODE: u32 = 1 << 7;
    /// ES has base 0, no limit, and is writable. The next three: SS, DS; FS and GS without a limit, whatever their base.
    const FLAT_ES: u32 = 1 << 8;
    const FLAT_SS: u32 = 1 << 9;
    const FLAT_DS: u32 = 1 << 10;
    const UNLIMITED_FS: u32 = 1 << 11;
    const UNLIMITED_GS: u32 = 1 << 12;
    const TASK_SWITCHED: u32 = 1 << 13;
    const EMULATE_FLOAT: u32 = 1 << 14;
    const MONITOR_FLOAT: u32 = 1 << 15;
    const SSE: u32 = 1 << 16;
    const AVX: u32 = 1 << 17;
    const TRAP: u32 = 1 << 18;
    const SHADOW: u32 = 1 << 19;
    const ALIGNMENT_CHECK: u32 = 1 << 20;
    const SUPERVISOR_ONLY: u32 = 1 << 21;
    /// The I/O privilege level permits CLI, IN and the like.
    const IO_PRIVILEGED: u32 = 1 << 22;
    /// SSE arithmetic traps, or takes tiny numbers as zero.
    const UNUSUAL_FLOAT: u32 = 1 << 23;
    const FS_GS_BASE: u32 = 1 << 24;
    /// Loads and stores of pieces of the x87 status and alike may be counted on: CR4.OSXSAVE.
    const XSAVE: u32 = 1 << 25;
    /// System-management mode, in which the same physical addresses may be other memory.
    const MANAGEMENT: u32 = 1 << 26;
    /// Outside flat code: one instruction a block, lest one beyond the limit be executed.
    const NEAR_CODE_LIMIT: u32 = 1 << 30;
    /// Breakpoints are armed in the debug registers.
    const DEBUG: u32 = 1 << 31;

    pub(super) fn of(cpu: &Cpu<X86_64>) -> Flags {
        let guest = &cpu.guest;
        let mut flags = u32::from(guest.privilege());
        let mut set = |condition: bool, flag: u32| flags |= if condition { flag } else { 0 };
        let segment = |name: SegmentName| &guest.segments[name as usize];
        let is_64_bit = guest.is_64_bit();
        set(is_64_bit, Flags::CODE_64);
        set(!is_64_bit && segment(SegmentName::Cs).has(attribute::BIG), Flags::CODE_32);
        set(!is_64_bit && segment(SegmentName::Ss).has(attribute::BIG), Flags::STACK_32);
        set(guest.cr0 & CR0_PE != 0, Flags::PROTECTED);
        set(guest.is_virtual_8086(), Flags::VIRTUAL_8086);
        let base = |name| super::segment::base(cpu, name);
        let writable = |segment: &Segment| {
            let kind = attribute::PRESENT | attribute::WRITABLE_OR_READABLE;
            segment.has(kind) && segment.attributes & (attribute::CODE | attribute::EXPAND_DOWN_OR_CONFORMING) == 0
        };
        let unlimited = |name| is_64_bit || segment(name).limit == u32::MAX && writable(segment(name));
        let flat = |name| is_64_bit || unlimited(name) && base(name) == 0;
        let code = SegmentName::Cs;
        let flat_code = is_64_bit || base(code) == 0 && segment(code).limit == u32::MAX;
        set(flat_code, Flags::FLAT_CODE);
        set(guest.near_code_limit && !flat_code, Flags::NEAR_CODE_LIMIT);
        set(flat(SegmentName::Es), Flags::FLAT_ES);
        set(flat(SegmentName::Ss), Flags::FLAT_SS);
        set(flat(SegmentName::Ds), Flags::FLAT_DS);
        set(unlimited(SegmentName::Fs), Flags::UNLIMITED_FS);
        set(unlimited(SegmentName::Gs), Flags::UNLIMITED_GS);
        set(guest.cr0 & CR0_TS != 0, Flags::TASK_SWITCHED);
        set(guest.cr0 & CR0_EM != 0, Flags::EMULATE_FLOAT);
        set(guest.cr0 & CR0_MP != 0, Flags::MONITOR_FLOAT);
        set(guest.cr4 & CR4_OSFXSR != 0, Flags::SSE);
        set(guest.cr4 & CR4_OSXSAVE != 0, Flags::XSAVE);
        set(guest.cr4 & CR4_OSXSAVE != 0 && guest.xcr0 & 6 == 6, Flags::AVX);
        set(guest.eflags & FLAG_TF != 0, Flags::TRAP);
        set(guest.interrupt_shadow, Flags::SHADOW);
        set(super::debug::is_armed(guest), Flags::DEBUG);
        let user = guest.privilege() == 3;
        set(guest.checks_alignment(), Flags::ALIGNMENT_CHECK);
        set(!user && guest.cr4 & CR4_SMAP != 0 && guest.eflags & FLAG_AC == 0, Flags::SUPERVISOR_ONLY);
        set(guest.privilege() <= guest.io_privilege() || guest.cr0 & CR0_PE == 0, Flags::IO_PRIVILEGED);
        set(guest.mxcsr & 0x1f80 != 0x1f80 || guest.mxcsr & 0x8040 != 0, Flags::UNUSUAL_FLOAT);
        set(guest.cr4 & CR4_FSGSBASE != 0, Flags::FS_GS_BASE);
        set(guest.in_management, Flags::MANAGEMENT);
        Flags(flags)
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    fn privilege(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// Width of code: 16, 32 or 64 bits.
    fn bits(self) -> u32 {
        match self.0 & (Flags::CODE_32 | Flags::CODE_64) {
            0 => 16,
            Flags::CODE_32 => 32,
            _ => 64,
        }
    }

    pub(super) fn is_64_bit(self) -> bool {
        self.has(Flags::CODE_64)
    }

    fn is_real_or_virtual(self) -> bool {
        !self.has(Flags::PROTECTED) || self.has(Flags::VIRTUAL_8086)
    }

    /// One instruction a block: something must happen after it.
    fn one_instruction(self) -> bool {
        self.has(Flags::TRAP | Flags::SHADOW | Flags::DEBUG | Flags::NEAR_CODE_LIMIT)
    }

    /// Regime of data accesses.
    pub(super) fn data_mode(self) -> MemoryMode {
        if self.privilege() == 3 {
            mmu::MODE_USER
        } else if self.has(Flags::SUPERVISOR_ONLY) {
            mmu::MODE_SUPERVISOR_ONLY
        } else {
            mmu::MODE_SUPERVISOR
        }
    }
}

/// How the lifting of an instruction ended.
pub(super) enum Lifted {
    /// The next one follows.
    Next,
    /// It ends the block.
    End(Terminator),
}

/// An instruction that cannot be lifted: an exception in its place.
pub(super) struct Raises(u32);

impl Raises {
    const INVALID_OPCODE: Raises = Raises(number(vector::INVALID_OPCODE));
    const GENERAL_PROTECTION: Raises = Raises(number_with_error(vector::GENERAL_PROTECTION, 0));
    const DEVICE_NOT_AVAILABLE: Raises = Raises(number(vector::DEVICE_NOT_AVAILABLE));
}

type Result<T = Lifted> = std::result::Result<T, Raises>;

/// The lifting of one block.
pub(super) struct Lifter {
    b: Builder,
    /// Linear address of the block.
    start: u64,
    flags: Flags,
    /// Which instructions the processor's model has.
    features: InstructionSet,
    mode: MemoryMode,
    /// The instruction in progress.
    i: Instruction,
    /// The 11 bits of its opcode, if it is an x87 instruction.
    x87_opcode: Option<u16>,
    /// Its memory operand, once it was computed.
    place: Option<Place>,
    /// What is known of the arithmetic flags.
    arithmetic: FlagState,
    /// The instruction has as many bytes as any may have: if it is none, it has too many.
    too_long: bool,
    /// The constant that is to be the linear address of the block's last byte, where that is checked.
    last_byte: Option<Value>,
    /// The instruction before was STI: interrupts wait for the end of this one.
    shadow: bool,
}

/// Lifts the block at linear address `start`.
pub(super) fn lift(
    start: u64,
    code: &[u8],
    flags: Flags,
    features: InstructionSet,
    most_instructions: usize,
) -> std::result::Result<Block, NeedsMoreCode> {
    let most_instructions = if flags.one_instruction() { 1 } else { most_instructions };
    let mut decoder = Decoder::with_ip(flags.bits(), code, start, DecoderOptions::NONE);
    let mut lifter = Lifter {
        b: Builder::new(start),
        start,
        flags,
        features,
        mode: flags.data_mode(),
        i: Instruction::default(),
        x87_opcode: None,
        place: None,
        arithmetic: FlagState::Unknown,
        too_long: false,
        last_byte: None,
        shadow: false,
    };
    // What follows the first instruction must lie within the page.
    let to_page_end = (crate::platform::PAGE_SIZE - start % crate::platform::PAGE_SIZE) as usize;
    loop {
        let position = decoder.position();
        decoder.decode_out(&mut lifter.i);
        let first = lifter.b.instruction_count() == 0;
        if !first {
            let fits = decoder.position() <= to_page_end && decoder.last_error() != DecoderError::NoMoreBytes;
            let has_room = lifter.b.op_count() < Builder::MOST_OPS && lifter.b.instruction_count() < most_instructions;
            if !fits || !has_room || system::is_alone(&lifter.i) {
                let target = flags.wrap(start.wrapping_add(position as u64));
                let terminator = if lifter.shadow { Terminator::Leave { target } } else { Terminator::Jump { target } };
                return Ok(lifter.finish_block(terminator));
            }
        } else if decoder.last_error() == DecoderError::NoMoreBytes && code.len() < 16 {
            return Err(NeedsMoreCode);
        }
        lifter.too_long = decoder.position() - position >= LONGEST_INSTRUCTION;
        lifter.place = None;
        lifter.x87_opcode = x87::opcode(code.get(position..decoder.position()).unwrap_or_default(), flags.is_64_bit());
        lifter.b.instruction((decoder.position() - position).max(1) as u64);
        if first && !flags.has(Flags::FLAT_CODE) {
            let (first, last) = (lifter.constant(flags.wrap(start)), lifter.constant(0));
            lifter.last_byte = Some(last);
            lifter.helper(id::CHECK_CODE_LIMIT, &[first, last]);
        }
        if first && flags.has(Flags::DEBUG) {
            lifter.b.helper(id::BEGIN_INSTRUCTION, &[]);
        }
        if first && flags.has(Flags::SHADOW) {
            lifter.b.helper(id::END_SHADOW, &[]);
        }
        let shadow = std::mem::take(&mut lifter.shadow);
        match lifter.instruction() {
            Ok(Lifted::Next) if shadow => {
                let target = flags.wrap(lifter.b.next_address());
                return Ok(lifter.finish_shadow(Terminator::Leave { target }));
            }
            Ok(Lifted::End(terminator)) if shadow => return Ok(lifter.finish_shadow(terminator)),
            Ok(Lifted::Next) if flags.one_instruction() => {
                let target = flags.wrap(lifter.b.next_address());
                return Ok(lifter.finish(Terminator::Jump { target }));
            }
            Ok(Lifted::Next) => {}
            Ok(Lifted::End(terminator)) => return Ok(lifter.finish(terminator)),
            Err(Raises(exception)) => {
                let information = lifter.constant(0);
                return Ok(lifter.finish_block(Terminator::Raise { exception, information }));
            }
        }
    }
}

impl Flags {
    /// Linear addresses have 32 bits outside 64-bit mode.
    fn wrap(self, linear: u64) -> u64 {
        if self.is_64_bit() { linear } else { linear & 0xffff_ffff }
    }
}

impl Lifter {
    /// Ends the block; where something must happen after its only instruction, with that.
    fn finish(mut self, terminator: Terminator) -> Block {
        if !self.flags.one_instruction() {
            return self.finish_block(terminator);
        }
        let Some(target) = self.target(terminator) else { return self.finish_block(terminator) };
        let target = if self.flags.has(Flags::TRAP | Flags::DEBUG) {
            use Mnemonic as M;
            let how = match self.i.mnemonic() {
                _ if !self.flags.has(Flags::TRAP) => InstructionEnd::NoStep,
                M::Int | M::Int1 | M::Int3 | M::Into => InstructionEnd::InterruptStep,
                M::Syscall | M::Sysret | M::Sysretq | M::Rsm => InstructionEnd::NoStep,
                _ => InstructionEnd::Step,
            };
            let how = self.constant(how as u64);
            // No other instruction begins again.
            let again = if self.i.is_string_instruction() && (self.i.has_rep_prefix() || self.i.has_repne_prefix()) {
                let own = self.code_constant(self.b.address());
                let again = self.b.compare(Comparison::Equal, Type::I64, target, own);
                self.b.zero_extend(Type::I8, Type::I64, again)
            } else {
                self.constant(0)
            };
            self.b.helper(id::END_INSTRUCTION, &[target, how, again])
        } else {
            target
        };
        self.finish_block(Terminator::LeaveIndirect { target })
    }

    /// Ends the block with the instruction behind STI, after which interrupts are looked for.
    fn finish_shadow(mut self, terminator: Terminator) -> Block {
        let Some(target) = self.target(terminator) else { return self.finish_block(terminator) };
        self.b.helper(id::END_SHADOW, &[]);
        self.finish_block(Terminator::LeaveIndirect { target })
    }

    /// Where a terminator goes on; `None` if it raises an exception.
    fn target(&mut self, terminator: Terminator) -> Option<Value> {
        Some(match terminator {
            Terminator::Jump { target } | Terminator::Leave { target } => self.code_constant(target),
            Terminator::JumpIndirect { target, .. } | Terminator::LeaveIndirect { target } => target,
            Terminator::Branch { condition, taken, not_taken } => {
                let (taken, not_taken) = (self.code_constant(taken), self.code_constant(not_taken));
                self.b.select(Type::I64, condition, taken, not_taken)
            }
            Terminator::Raise { .. } => return None,
        })
    }

    fn finish_block(mut self, terminator: Terminator) -> Block {
        if let Some(last) = self.last_byte {
            // Counted from the first byte, which a wrapped address must not come before.
            let length = self.b.next_address().wrapping_sub(self.start).max(1);
            self.b.change_constant(last, self.flags.wrap(self.start).wrapping_add(length - 1));
        }
        self.b.finish_simplified::<X86_64>(terminator)
    }

    /// The linear address of code in the neighbourhood. Outside 64-bit mode it wraps, so that there the address at which the block
    /// was lifted counts, and the block is for that address only.
    fn code_constant(&mut self, linear: u64) -> Value {
        if self.flags.is_64_bit() { self.b.code_address(linear) } else { self.b.constant(self.flags.wrap(linear)) }
    }

    fn constant(&mut self, bits: u64) -> Value {
        self.b.constant(bits)
    }

    fn helper(&mut self, helper: crate::ir::HelperId, arguments: &[Value]) -> Value {
        self.b.helper(helper, arguments)
    }

    fn raise_if(&mut self, condition: Value, Raises(exception): Raises) {
        let information = self.constant(0);
        self.b.push(Op::RaiseIf { condition, exception, information });
    }

    /// Fails with #GP unless the privilege level is 0.
    fn need_supervisor(&self) -> Result<()> {
        if self.flags.privilege() == 0 { Ok(()) } else { Err(Raises::GENERAL_PROTECTION) }
    }

    /// Fails with #UD unless the processor's model has the instruction. Without their features, LZCNT and TZCNT are BSR and
    /// BSF with a prefix that is ignored.
    fn check_presence(&self) -> Result<()> {
        let ignored_prefix = matches!(self.i.mnemonic(), Mnemonic::Lzcnt | Mnemonic::Tzcnt);
        let vex = self.i.code().encoding() == EncodingKind::VEX;
        if !ignored_prefix && !self.features.contains(&self.i) || vex && self.flags.is_real_or_virtual() {
            return Err(Raises::INVALID_OPCODE);
        }
        Ok(())
    }

    fn instruction(&mut self) -> Result {
        if self.i.is_invalid() {
            return Err(if self.too_long { Raises::GENERAL_PROTECTION } else { Raises::INVALID_OPCODE });
        }
        if self.i.has_lock_prefix() && self.i.op0_kind() != OpKind::Memory {
            return Err(Raises::INVALID_OPCODE);
        }
        use Mnemonic as M;
        self.check_presence()?;
        match self.i.mnemonic() {
            M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Sub | M::Xor | M::Cmp | M::Test => self.arithmetic(),
            M::Inc | M::Dec | M::Neg | M::Not => self.unary(),
            M::Mul | M::Imul | M::Mulx => self.multiply(),
            M::Div | M::Idiv => self.divide(),
            M::Xadd | M::Cmpxchg | M::Xchg => self.exchange(),
            M::Cmpxchg8b | M::Cmpxchg16b => self.exchange_wide(),
            M::Adcx | M::Adox => self.add_with_one_flag(),
            M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad => self.decimal(),
            M::Shl | M::Sal | M::Shr | M::Sar => self.shift(),
            M::Rol | M::Ror | M::Rcl | M::Rcr => self.rotate(),
            M::Shld | M::Shrd => self.shift_double(),
            M::Shlx | M::Shrx | M::Sarx | M::Rorx => self.shift_without_flags(),
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit_test(),
            M::Bsf | M::Bsr | M::Lzcnt | M::Tzcnt | M::Popcnt => self.bit_count(),
            M::Andn | M::Blsi | M::Blsr | M::Blsmsk | M::Bzhi | M::Bextr | M::Pdep | M::Pext => self.bit_field(),
            M::Bswap | M::Movbe => self.byte_swap(),
            M::Mov | M::Movnti => self.mov(),
            M::Movzx | M::Movsx | M::Movsxd => self.extend(),
            M::Lea => self.lea(),
            M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => self.sign_extend_accumulator(),
            M::Xlatb => self.translate_byte(),
            M::Lahf | M::Sahf => self.flags_through_ah(),
            M::Clc | M::Stc | M::Cmc | M::Cld | M::Std => self.change_flag(),
            M::Salc => self.set_al_to_carry(),
            M::Push => self.push(),
            M::Pop => self.pop(),
            M::Pusha | M::Pushad => self.push_all(),
            M::Popa | M::Popad => self.pop_all(),
            M::Enter => self.enter(),
            M::Leave => self.leave(),
            M::Jmp => self.jump(),
            M::Call => self.call(),
            M::Ret => self.ret(),
            M::Loop | M::Loope | M::Loopne => self.loops(),
            M::Jcxz | M::Jecxz | M::Jrcxz => self.jump_if_counter_zero(),
            M::Movsb | M::Movsw | M::Movsq => self.string(),
            M::Movsd if self.i.is_string_instruction() => self.string(),
            M::Cmpsb | M::Cmpsw | M::Cmpsq => self.string(),
            M::Cmpsd if self.i.is_string_instruction() => self.string(),
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => self.string(),
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => self.string(),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => self.string(),
            M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => self.string(),
            _ if self.i.is_jcc_short_or_near() => self.jump_conditional(),
            _ if self.is_setcc() => self.set_conditional(),
            _ if self.is_cmovcc() => self.move_conditional(),
            M::Emms => self.empty_mmx(),
            _ if self.is_x87() => self.x87(),
            _ if self.is_mmx() => self.mmx(),
            M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => self.state_image(),
            M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 | M::Xrstor | M::Xrstor64 => {
                self.extended_state_image()
            }
            M::Ldmxcsr | M::Stmxcsr | M::Vldmxcsr | M::Vstmxcsr => self.control_and_status(),
            _ => self.system(),
        }
    }
}
