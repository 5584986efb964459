//! System instructions, and those that go between segments and privilege levels. Most are one helper call.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register as Named};

use crate::ir::{BinaryOp, Comparison, HelperId, Op, Register, Terminator, Type, Value};

use super::super::event::{number, vector};
use super::super::flags;
use super::super::helpers::id;
use super::super::registers::{DIRECTION, RAX, RCX, RDX, segment_base};
use super::super::segment::SegmentName;
use super::operand::{segment_name, type_of_bytes, width_of};
use super::{Flags, Lifted, Lifter, Raises, Result};

/// The instruction must begin a block: it may begin again, or changes what lifted code depends on.
pub(super) fn is_alone(i: &Instruction) -> bool {
    use Mnemonic as M;
    let moves_special = |named: Named| named.is_cr() || named.is_dr() || named.is_tr();
    match i.mnemonic() {
        M::Mov => {
            i.op0_kind() == OpKind::Register
                && (i.op0_register().is_segment_register() || moves_special(i.op0_register()))
                || i.op1_kind() == OpKind::Register && moves_special(i.op1_register())
        }
        M::Pop => i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register(),
        M::Jmp => i.is_jmp_far() || i.is_jmp_far_indirect(),
        M::Call => i.is_call_far() || i.is_call_far_indirect(),
        M::Lds
        | M::Les
        | M::Lss
        | M::Lfs
        | M::Lgs
        | M::Retf
        | M::Iret
        | M::Iretd
        | M::Iretq
        | M::Rsm
        | M::Int
        | M::Int1
        | M::Int3
        | M::Into
        | M::Sysenter
        | M::Sysexit
        | M::Sysexitq
        | M::Hlt
        | M::Popf
        | M::Popfd
        | M::Popfq
        | M::Lgdt
        | M::Lidt
        | M::Lldt
        | M::Ltr
        | M::Lmsw
        | M::Clts
        | M::Invpcid
        | M::In
        | M::Out
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Ldmxcsr
        | M::Vldmxcsr
        | M::Fxrstor
        | M::Fxrstor64
        | M::Xrstor
        | M::Xrstor64
        | M::Xsetbv
        | M::Stmxcsr
        | M::Vstmxcsr
        | M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Mwait => true,
        _ => i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()),
    }
}

impl Lifter {
    /// The linear address of the next instruction.
    pub(super) fn next_value(&mut self) -> Value {
        self.code_constant(self.b.next_address())
    }

    pub(super) fn leave_to_next(&mut self) -> Lifted {
        Lifted::End(Terminator::Leave { target: self.flags.wrap(self.b.next_address()) })
    }

    /// A helper that changes what lifted code depends on; the next instruction follows.
    pub(super) fn change(&mut self, helper: HelperId, arguments: &[Value]) -> Result {
        self.helper(helper, arguments);
        Ok(self.leave_to_next())
    }

    /// A helper that gives the linear address at which to go on.
    fn transfer(&mut self, helper: HelperId, arguments: &[Value]) -> Result {
        let target = self.helper(helper, arguments);
        Ok(Lifted::End(Terminator::LeaveIndirect { target }))
    }

    /// A helper of a supervisor's that changes what lifted code depends on.
    fn privileged_change(&mut self, helper: HelperId, arguments: &[Value]) -> Result {
        self.need_supervisor()?;
        self.change(helper, arguments)
    }

    fn need_protected(&self) -> Result<()> {
        if self.flags.is_real_or_virtual() { Err(Raises::INVALID_OPCODE) } else { Ok(()) }
    }

    fn write_pair(&mut self, value: Value) {
        let low = self.typed(Type::I32, value);
        let count = self.constant(32);
        let high = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, value, count);
        let high = self.typed(Type::I32, high);
        self.write_sized(RAX, Type::I32, low);
        self.write_sized(RDX, Type::I32, high);
    }

    pub(super) fn system(&mut self) -> Result {
        use Mnemonic as M;
        match self.i.mnemonic() {
            M::Nop
            | M::Endbr64
            | M::Endbr32
            | M::Prefetchw
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchnta
            | M::Prefetch
            | M::Reservednop => Ok(Lifted::Next),
            M::Pause => {
                self.helper(id::PAUSE, &[]);
                Ok(Lifted::Next)
            }
            M::Clflush | M::Clflushopt | M::Clwb | M::Cldemote => {
                let place = self.place_of_bytes(1, false)?;
                self.load_raw(place, Type::I8);
                Ok(Lifted::Next)
            }
            M::Mfence | M::Lfence | M::Sfence => {
                self.b.push(Op::Fence { store_load: self.i.mnemonic() == M::Mfence });
                Ok(Lifted::Next)
            }
            M::In | M::Out => self.port(),
            M::Cli | M::Sti => self.interrupt_flag(),
            M::Pushf | M::Pushfd | M::Pushfq => self.push_flags(),
            M::Popf | M::Popfd | M::Popfq => self.pop_flags(),
            M::Int | M::Int3 | M::Into | M::Int1 => self.interrupt(),
            M::Iret | M::Iretd | M::Iretq => self.interrupt_return(),
            M::Rsm => self.transfer(id::RESUME, &[]),
            M::Retf => self.far_return(),
            M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => self.load_far_pointer(),
            M::Syscall => {
                let next = self.next_value();
                self.transfer(id::SYSCALL, &[next])
            }
            M::Sysret | M::Sysretq => {
                self.need_supervisor()?;
                let wide = self.constant(u64::from(self.i.mnemonic() == M::Sysretq));
                self.transfer(id::SYSRET, &[wide])
            }
            M::Sysenter => self.transfer(id::SYSENTER, &[]),
            M::Sysexit | M::Sysexitq => {
                self.need_supervisor()?;
                let wide = self.constant(u64::from(self.i.mnemonic() == M::Sysexitq));
                self.transfer(id::SYSEXIT, &[wide])
            }
            M::Hlt => self.privileged_change(id::HALT, &[]),
            M::Rdmsr => {
                self.need_supervisor()?;
                let which = self.b.get(RCX);
                let value = self.helper(id::READ_MSR, &[which]);
                self.write_pair(value);
                Ok(Lifted::Next)
            }
            M::Wrmsr => {
                self.need_supervisor()?;
                let (which, low, high) = (self.b.get(RCX), self.b.get(RAX), self.b.get(RDX));
                self.change(id::WRITE_MSR, &[which, low, high])
            }
            M::Rdtsc | M::Rdtscp => {
                let value = self.helper(id::READ_TIME_STAMP, &[]);
                self.write_pair(value);
                if self.i.mnemonic() == M::Rdtscp {
                    let number = self.helper(id::READ_PROCESSOR_NUMBER, &[]);
                    let number = self.typed(Type::I32, number);
                    self.write_sized(RCX, Type::I32, number);
                }
                Ok(Lifted::Next)
            }
            M::Rdpmc => {
                let which = self.b.get(RCX);
                let count = self.helper(id::READ_COUNTER, &[which]);
                self.write_pair(count);
                Ok(Lifted::Next)
            }
            M::Rdpid => {
                let number = self.helper(id::READ_PROCESSOR_NUMBER, &[]);
                let ty = self.ty(0);
                let number = self.typed(ty, number);
                self.write(0, number)?;
                Ok(Lifted::Next)
            }
            M::Cpuid => {
                self.helper(id::CPUID, &[]);
                Ok(Lifted::Next)
            }
            M::Rdrand | M::Rdseed => {
                let value = self.helper(id::RANDOM, &[]);
                let ty = self.ty(0);
                let value = self.typed(ty, value);
                self.write(0, value)?;
                let carry = self.constant(flags::CF);
                self.set_explicit_flags(carry);
                Ok(Lifted::Next)
            }
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => self.descriptor_table(),
            M::Lldt | M::Ltr => {
                self.need_protected()?;
                self.need_supervisor()?;
                let selector = self.read_half(0)?;
                let helper = if self.i.mnemonic() == M::Lldt { id::LOAD_LDT } else { id::LOAD_TASK };
                self.change(helper, &[selector])
            }
            M::Sldt | M::Str => {
                self.need_protected()?;
                self.check_user_mode_prevention();
                let number = self.constant(if self.i.mnemonic() == M::Sldt { 6 } else { 7 });
                let selector = self.helper(id::READ_SELECTOR, &[number]);
                self.store_status(selector)
            }
            M::Smsw => {
                self.check_user_mode_prevention();
                let number = self.constant(0);
                let value = self.helper(id::READ_CONTROL, &[number]);
                self.store_status(value)
            }
            M::Lmsw => {
                self.need_supervisor()?;
                let value = self.read_half(0)?;
                self.change(id::LOAD_MACHINE_STATUS, &[value])
            }
            M::Clts => self.privileged_change(id::CLEAR_TASK_SWITCHED, &[]),
            M::Invlpg => {
                self.need_supervisor()?;
                let (offset, displacement) = self.effective_address();
                let place = super::operand::Place { address: offset, offset: displacement };
                let offset = self.address_of(place);
                let segment = segment_name(self.i.memory_segment());
                let base = self.b.get(segment_base(segment));
                let has_base = !self.flags.is_64_bit() || matches!(segment, SegmentName::Fs | SegmentName::Gs);
                let address = if has_base { self.b.add(base, offset) } else { offset };
                self.change(id::INVALIDATE_PAGE, &[address])
            }
            M::Invpcid => {
                self.need_supervisor()?;
                let kind = self.read(0)?.raw;
                let place = self.place_of_bytes(16, false)?;
                let context = self.load_raw(place, Type::I64);
                let after = super::operand::Place { offset: place.offset.wrapping_add(8), ..place };
                let address = self.load_raw(after, Type::I64);
                self.change(id::INVALIDATE_CONTEXT, &[kind, context, address])
            }
            M::Vmmcall => {
                let answer = self.helper(id::HYPERCALL, &[]);
                self.b.put(RAX, answer);
                Ok(Lifted::Next)
            }
            M::Invd | M::Wbinvd | M::Wbnoinvd => {
                self.need_supervisor()?;
                Ok(Lifted::Next)
            }
            M::Swapgs => {
                if !self.flags.is_64_bit() {
                    return Err(Raises::INVALID_OPCODE);
                }
                self.need_supervisor()?;
                self.helper(id::SWAP_GS, &[]);
                Ok(Lifted::Next)
            }
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => self.segment_base_instruction(),
            M::Stac | M::Clac => {
                self.need_supervisor()?;
                let set = self.constant(u64::from(self.i.mnemonic() == M::Stac));
                self.change(id::SET_ACCESS_FLAG, &[set])
            }
            M::Verr | M::Verw | M::Lar | M::Lsl => self.look_at_segment(),
            M::Arpl => self.adjust_privilege(),
            M::Bound => self.bound(),
            M::Monitor => {
                self.need_supervisor()?;
                Ok(Lifted::Next)
            }
            M::Mwait => self.privileged_change(id::PAUSE_PROCESSOR, &[]),
            M::Xgetbv => {
                if !self.flags.has(Flags::XSAVE) {
                    return Err(Raises::INVALID_OPCODE);
                }
                let which = self.b.get(RCX);
                let value = self.helper(id::READ_EXTENDED_CONTROL, &[which]);
                self.write_pair(value);
                Ok(Lifted::Next)
            }
            M::Xsetbv => {
                if !self.flags.has(Flags::XSAVE) {
                    return Err(Raises::INVALID_OPCODE);
                }
                self.need_supervisor()?;
                let (which, low, high) = (self.b.get(RCX), self.b.get(RAX), self.b.get(RDX));
                self.change(id::WRITE_EXTENDED_CONTROL, &[which, low, high])
            }
            _ => self.vector(),
        }
    }

    /// Reads a 16-bit selector or status operand as an I64.
    fn read_half(&mut self, index: u32) -> Result<Value> {
        let raw = if self.is_memory(index) {
            let place = self.place(Type::I16, false)?;
            self.load_raw(place, Type::I16)
        } else {
            self.read(index)?.raw
        };
        let mask = self.constant(0xffff);
        Ok(self.b.binary(BinaryOp::And, Type::I64, raw, mask))
    }

    /// Stores a selector or the machine status word: 16 bits to memory, all of a register.
    fn store_status(&mut self, value: Value) -> Result {
        if self.is_memory(0) {
            let place = self.place(Type::I16, true)?;
            self.store_raw(place, Type::I16, value);
        } else {
            let ty = self.ty(0);
            let value = self.typed(ty, value);
            self.write(0, value)?;
        }
        Ok(Lifted::Next)
    }

    /// With CR4.UMIP, SGDT and the like are a supervisor's.
    fn check_user_mode_prevention(&mut self) {
        if self.flags.privilege() != 0 {
            self.helper(id::CHECK_USER_MODE_PREVENTION, &[]);
        }
    }

    /// MOV to and from segment, control and debug registers.
    pub(super) fn move_special(&mut self) -> Result {
        let (to, from) = (self.i.op0_register(), self.i.op1_register());
        if self.i.op1_kind() == OpKind::Register && from.is_segment_register() {
            let selector = self.read_selector(from);
            return self.store_status(selector);
        }
        if self.i.op0_kind() == OpKind::Register && to.is_segment_register() {
            if to == Named::CS {
                return Err(Raises::INVALID_OPCODE);
            }
            let selector = self.read_half(1)?;
            let name = self.constant(segment_name(to) as u64);
            let shadow = self.constant(1);
            return self.change(id::LOAD_SEGMENT, &[name, selector, shadow]);
        }
        self.need_supervisor()?;
        let reads = from.is_cr() || from.is_dr() || from.is_tr();
        let special = if reads { from } else { to };
        if special.is_tr() {
            return Err(Raises::INVALID_OPCODE);
        }
        let number = self.constant(special.number() as u64);
        let control = special.is_cr();
        if control && !matches!(special.number(), 0 | 2 | 3 | 4 | 8) {
            return Err(Raises::INVALID_OPCODE);
        }
        if reads {
            let helper = if control { id::READ_CONTROL } else { id::READ_DEBUG };
            let value = self.helper(helper, &[number]);
            let ty = self.ty(0);
            let value = self.typed(ty, value);
            self.write(0, value)?;
            return Ok(self.leave_to_next());
        }
        let ty = self.ty(1);
        let source = self.read(1)?;
        let value = self.widen(ty, source.value);
        self.change(if control { id::WRITE_CONTROL } else { id::WRITE_DEBUG }, &[number, value])
    }

    pub(super) fn pop_segment(&mut self, ty: Type) -> Result {
        let named = self.i.op0_register();
        let raw = self.peek(ty, 0);
        let mask = self.constant(0xffff);
        let selector = self.b.binary(BinaryOp::And, Type::I64, raw, mask);
        let name = self.constant(segment_name(named) as u64);
        // The width of the stack pointer is that of before the load.
        let after = self.stack_offset(i64::from(ty.bits() / 8));
        let shadow = self.constant(1);
        self.helper(id::LOAD_SEGMENT, &[name, selector, shadow]);
        self.set_stack_pointer(after);
        Ok(self.leave_to_next())
    }

    fn load_far_pointer(&mut self) -> Result {
        use Mnemonic as M;
        if !self.is_memory(1) {
            return Err(Raises::INVALID_OPCODE);
        }
        let named = match self.i.mnemonic() {
            M::Lds => SegmentName::Ds,
            M::Les => SegmentName::Es,
            M::Lss => SegmentName::Ss,
            M::Lfs => SegmentName::Fs,
            _ => SegmentName::Gs,
        };
        let ty = self.ty(0);
        let bytes = u64::from(ty.bits() / 8);
        let place = self.place_of_bytes(bytes + 2, false)?;
        let offset = self.load(place, ty);
        let after = super::operand::Place { offset: place.offset.wrapping_add(bytes as i32), ..place };
        let selector = self.load_raw(after, Type::I16);
        let name = self.constant(named as u64);
        let shadow = self.constant(0);
        self.helper(id::LOAD_SEGMENT, &[name, selector, shadow]);
        self.write(0, offset.value)?;
        Ok(self.leave_to_next())
    }

    /// Selector and offset of a far jump or call, with the operand size above the selector.
    fn far_target(&mut self) -> Result<(Value, Value)> {
        let (selector, offset, ty) = match self.i.op0_kind() {
            OpKind::FarBranch16 => {
                let offset = self.constant(u64::from(self.i.far_branch16()));
                (self.constant(u64::from(self.i.far_branch_selector())), offset, Type::I16)
            }
            OpKind::FarBranch32 => {
                let offset = self.constant(u64::from(self.i.far_branch32()));
                (self.constant(u64::from(self.i.far_branch_selector())), offset, Type::I32)
            }
            _ => {
                let bytes = self.i.memory_size().size() as u64 - 2;
                let ty = type_of_bytes(bytes as usize);
                let place = self.place_of_bytes(bytes + 2, false)?;
                let offset = self.load_raw(place, ty);
                let after = super::operand::Place { offset: place.offset.wrapping_add(bytes as i32), ..place };
                (self.load_raw(after, Type::I16), offset, ty)
            }
        };
        let size = self.constant(u64::from(ty.bits()) << 16);
        Ok((self.b.binary(BinaryOp::Or, Type::I64, selector, size), offset))
    }

    pub(super) fn far_jump(&mut self) -> Result {
        let (selector, offset) = self.far_target()?;
        let next = self.next_value();
        self.transfer(id::FAR_JUMP, &[selector, offset, next])
    }

    pub(super) fn far_call(&mut self) -> Result {
        let (selector, offset) = self.far_target()?;
        let next = self.next_value();
        self.transfer(id::FAR_CALL, &[selector, offset, next])
    }

    fn far_return(&mut self) -> Result {
        let extra = if self.i.op_count() == 1 { u64::from(self.i.immediate16()) } else { 0 };
        let ty = match self.i.code() {
            Code::Retfw | Code::Retfw_imm16 => Type::I16,
            Code::Retfd | Code::Retfd_imm16 => Type::I32,
            _ => Type::I64,
        };
        let (bits, extra) = (self.constant(u64::from(ty.bits())), self.constant(extra));
        self.transfer(id::FAR_RETURN, &[bits, extra])
    }

    fn interrupt_return(&mut self) -> Result {
        let bits = match self.i.mnemonic() {
            Mnemonic::Iret => 16,
            Mnemonic::Iretd => 32,
            _ => 64,
        };
        let (bits, next) = (self.constant(bits), self.next_value());
        self.transfer(id::INTERRUPT_RETURN, &[bits, next])
    }

    fn interrupt(&mut self) -> Result {
        use Mnemonic as M;
        let next = self.next_value();
        match self.i.mnemonic() {
            M::Int1 => {
                let vector = self.constant(u64::from(vector::DEBUG));
                self.transfer(id::PRIVILEGED_SOFTWARE_INTERRUPT, &[vector, next])
            }
            M::Into => {
                if self.flags.is_64_bit() {
                    return Err(Raises::INVALID_OPCODE);
                }
                let overflow = self.condition(iced_x86::ConditionCode::o);
                let overflow = self.b.zero_extend(Type::I8, Type::I64, overflow);
                self.transfer(id::INTERRUPT_ON_OVERFLOW, &[overflow, next])
            }
            mnemonic => {
                let vector = if mnemonic == M::Int3 { vector::BREAKPOINT } else { self.i.immediate8() };
                let virtual_8086 = self.flags.has(Flags::VIRTUAL_8086);
                if virtual_8086 && mnemonic == M::Int && !self.flags.has(Flags::IO_PRIVILEGED) {
                    return Err(Raises::GENERAL_PROTECTION);
                }
                let vector = self.constant(u64::from(vector));
                self.transfer(id::SOFTWARE_INTERRUPT, &[vector, next])
            }
        }
    }

    fn flags_type(&self) -> Type {
        match self.i.mnemonic() {
            Mnemonic::Pushf | Mnemonic::Popf => Type::I16,
            Mnemonic::Pushfd | Mnemonic::Popfd => Type::I32,
            _ => Type::I64,
        }
    }

    fn check_flags_access(&self) -> Result<()> {
        // Virtual-8086 mode without I/O privilege.
        if self.flags.has(Flags::VIRTUAL_8086) && !self.flags.has(Flags::IO_PRIVILEGED) {
            return Err(Raises::GENERAL_PROTECTION);
        }
        Ok(())
    }

    fn push_flags(&mut self) -> Result {
        self.check_flags_access()?;
        let ty = self.flags_type();
        let arithmetic = self.all_flags();
        let system = self.helper(id::READ_SYSTEM_FLAGS, &[]);
        let direction = self.b.get(DIRECTION);
        let mask = self.constant(1 << 10);
        let direction = self.b.binary(BinaryOp::And, Type::I64, direction, mask);
        let all = self.b.binary(BinaryOp::Or, Type::I64, arithmetic, system);
        let all = self.b.binary(BinaryOp::Or, Type::I64, all, direction);
        self.push_raw(ty, all);
        Ok(Lifted::Next)
    }

    fn pop_flags(&mut self) -> Result {
        self.check_flags_access()?;
        let ty = self.flags_type();
        let value = self.peek(ty, 0);
        let after = self.stack_offset(i64::from(ty.bits() / 8));
        self.set_stack_pointer(after);
        let bits = self.constant(u64::from(ty.bits()));
        self.change(id::WRITE_FLAGS, &[value, bits])
    }

    fn descriptor_table(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let loads = matches!(mnemonic, M::Lgdt | M::Lidt);
        let which = self.constant(u64::from(matches!(mnemonic, M::Lidt | M::Sidt)));
        if loads {
            self.need_supervisor()?;
        } else {
            self.check_user_mode_prevention();
        }
        let base_type = if self.flags.is_64_bit() { Type::I64 } else { Type::I32 };
        let place = self.place_of_bytes(2 + u64::from(base_type.bits() / 8), !loads)?;
        let after = super::operand::Place { offset: place.offset.wrapping_add(2), ..place };
        if !loads {
            let limit = self.helper(id::READ_TABLE_LIMIT, &[which]);
            self.store_raw(place, Type::I16, limit);
            let base = self.helper(id::READ_TABLE_BASE, &[which]);
            self.store_raw(after, base_type, base);
            return Ok(Lifted::Next);
        }
        let limit = self.load_raw(place, Type::I16);
        let mut base = self.load_raw(after, base_type);
        if matches!(self.i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            let mask = self.constant(0xff_ffff);
            base = self.b.binary(BinaryOp::And, Type::I64, base, mask);
        }
        self.change(id::LOAD_TABLE, &[which, base, limit])
    }

    fn segment_base_instruction(&mut self) -> Result {
        use Mnemonic as M;
        if !self.flags.is_64_bit() || !self.flags.has(Flags::FS_GS_BASE) {
            return Err(Raises::INVALID_OPCODE);
        }
        let mnemonic = self.i.mnemonic();
        let segment = if matches!(mnemonic, M::Rdfsbase | M::Wrfsbase) { SegmentName::Fs } else { SegmentName::Gs };
        let ty = self.ty(0);
        if matches!(mnemonic, M::Rdfsbase | M::Rdgsbase) {
            let base = self.b.get(segment_base(segment));
            let value = self.typed(ty, base);
            self.write(0, value)?;
            return Ok(Lifted::Next);
        }
        let operand = self.read(0)?;
        let value = self.widen(ty, operand.value);
        let name = self.constant(segment as u64);
        self.helper(id::WRITE_SEGMENT_BASE, &[name, value]);
        Ok(Lifted::Next)
    }

    /// VERR, VERW, LAR, LSL.
    fn look_at_segment(&mut self) -> Result {
        use Mnemonic as M;
        self.need_protected()?;
        let (operand, which) = match self.i.mnemonic() {
            M::Verr => (0, 0),
            M::Verw => (0, 1),
            M::Lar => (1, 2),
            _ => (1, 3),
        };
        let before = self.all_flags();
        let selector = self.read_half(operand)?;
        let which = self.constant(which);
        let found = self.helper(id::LOOK_AT_SEGMENT, &[selector, which]);
        let top = self.constant(63);
        let visible = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, found, top);
        if operand == 1 {
            let ty = self.ty(0);
            let old = self.read(0)?;
            let zero = self.constant(0);
            let is_visible = self.b.compare(Comparison::NotEqual, Type::I64, visible, zero);
            let found = self.typed(ty, found);
            if ty == Type::I32 {
                // An upper half stays if the segment is not visible.
                let wide = self.widen(ty, found);
                let whole = self.b.select(Type::I64, is_visible, wide, old.raw);
                let register = Register(self.i.op0_register().full_register().number() as u8);
                self.b.put(register, whole);
            } else {
                let value = self.b.select(ty, is_visible, found, old.value);
                self.write(0, value)?;
            }
        }
        let others = self.constant(!flags::ZF);
        let others = self.b.binary(BinaryOp::And, Type::I64, before, others);
        let place = self.constant(u64::from(flags::ZF.trailing_zeros()));
        let zero_flag = self.b.binary(BinaryOp::ShiftLeft, Type::I64, visible, place);
        let all = self.b.binary(BinaryOp::Or, Type::I64, others, zero_flag);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// ARPL.
    fn adjust_privilege(&mut self) -> Result {
        self.need_protected()?;
        let before = self.all_flags();
        let source = self.read(1)?;
        let three = self.constant(3);
        if self.is_memory(0) {
            let wanted = self.b.binary(BinaryOp::And, Type::I64, source.raw, three);
            // Outside 64-bit mode, where there is no ARPL, there is no displacement besides.
            let (offset, _) = self.effective_address();
            let segment = self.constant(segment_name(self.i.memory_segment()) as u64);
            let lower = self.helper(id::ADJUST_PRIVILEGE, &[segment, offset, wanted]);
            let lower = self.typed(Type::I8, lower);
            return Ok(self.end_adjustment(before, lower));
        }
        let old = self.read(0)?;
        let wanted = self.b.binary(BinaryOp::And, Type::I64, source.raw, three);
        let present = self.b.binary(BinaryOp::And, Type::I64, old.raw, three);
        let lower = self.b.compare(Comparison::LessUnsigned, Type::I64, present, wanted);
        let rest = self.constant(!3);
        let rest = self.b.binary(BinaryOp::And, Type::I64, old.raw, rest);
        let adjusted = self.b.binary(BinaryOp::Or, Type::I64, rest, wanted);
        let value = self.b.select(Type::I64, lower, adjusted, old.raw);
        let value = self.typed(self.ty(0), value);
        self.write(0, value)?;
        Ok(self.end_adjustment(before, lower))
    }

    fn end_adjustment(&mut self, before: Value, lower: Value) -> Lifted {
        let zero_flag = self.flag_if(lower, flags::ZF);
        let others = self.constant(!flags::ZF);
        let others = self.b.binary(BinaryOp::And, Type::I64, before, others);
        let all = self.b.binary(BinaryOp::Or, Type::I64, others, zero_flag);
        self.set_explicit_flags(all);
        Lifted::Next
    }

    /// BOUND.
    fn bound(&mut self) -> Result {
        if !self.is_memory(1) {
            return Err(Raises::INVALID_OPCODE);
        }
        let ty = self.ty(0);
        let bytes = width_of(ty).bytes();
        let place = self.place_of_bytes(2 * bytes, false)?;
        let index = self.read(0)?;
        let low = self.load(place, ty);
        let after = super::operand::Place { offset: place.offset.wrapping_add(bytes as i32), ..place };
        let high = self.load(after, ty);
        let below = self.b.compare(Comparison::LessSigned, ty, index.value, low.value);
        let above = self.b.compare(Comparison::LessSigned, ty, high.value, index.value);
        let out = self.b.binary(BinaryOp::Or, Type::I8, below, above);
        self.raise_if(out, Raises(number(vector::BOUND_RANGE)));
        Ok(Lifted::Next)
    }
}
