//! Exceptions and interrupts: how they are numbered, and how the processor enters their handlers (SDM volume 3, chapter 6).

use std::sync::atomic::Ordering;

use crate::cpu::{ATTENTION_INTERRUPT, Cpu, Signals};
use crate::guest::Exception;
use crate::ir::Width;

use super::registers::RSP;
use super::segment::{self, Descriptor, Segment, SegmentName, attribute::*};
use super::state::*;
use super::{debug, fault, management, mmu, task};

/// Vectors of exceptions.
pub mod vector {
    /// Divide error.
    pub const DIVIDE_ERROR: u8 = 0;
    /// Debug.
    pub const DEBUG: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// INT3.
    pub const BREAKPOINT: u8 = 3;
    /// INTO.
    pub const OVERFLOW: u8 = 4;
    /// BOUND.
    pub const BOUND_RANGE: u8 = 5;
    /// An instruction that does not exist or is not permitted in this mode.
    pub const INVALID_OPCODE: u8 = 6;
    /// The floating-point unit is not available.
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    /// An exception on the way to another's handler.
    pub const DOUBLE_FAULT: u8 = 8;
    /// A task-state segment does not fit.
    pub const INVALID_TSS: u8 = 10;
    /// A segment is not present.
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    /// Stack segment.
    pub const STACK_FAULT: u8 = 12;
    /// General protection.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// Page fault.
    pub const PAGE_FAULT: u8 = 14;
    /// An x87 exception that is not masked.
    pub const FLOATING_POINT: u8 = 16;
    /// Alignment check.
    pub const ALIGNMENT_CHECK: u8 = 17;
    /// An SSE exception that is not masked.
    pub const SIMD: u8 = 19;
}

/// An event that was on its way to its handler when the state was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingEvent {
    /// An exception, with the fields of [`Exception`].
    Exception {
        /// [`Exception::number`].
        number: u32,
        /// [`Exception::information`].
        information: u64,
    },
    /// An interrupt with a vector.
    Interrupt(u8),
}

/// An exception that something which cannot complete asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub Exception);

const HAS_ERROR_CODE: u32 = 1 << 8;

/// [`Exception::number`] of an exception without an error code.
pub const fn number(vector: u8) -> u32 {
    vector as u32
}

/// [`Exception::number`] of an exception with an error code.
pub const fn number_with_error(vector: u8, error_code: u16) -> u32 {
    vector as u32 | HAS_ERROR_CODE | (error_code as u32) << 16
}

/// [`Exception::number`] that is none: the instruction begins again.
pub(super) const BEGIN_AGAIN: u32 = u32::MAX;

/// Vector and error code of an [`Exception::number`].
pub fn split(number: u32) -> (u8, Option<u32>) {
    (number as u8, (number & HAS_ERROR_CODE != 0).then_some(number >> 16))
}

/// An exception without an error code.
pub fn plain(vector: u8) -> Fault {
    Fault(Exception { number: number(vector), information: 0 })
}

/// An exception with an error code.
pub(super) fn with_error(vector: u8, error_code: u16) -> Fault {
    Fault(Exception { number: number_with_error(vector, error_code), information: 0 })
}

/// #GP; `selector` without its privilege bits is the error code.
pub fn general_protection(selector: u16) -> Fault {
    with_error(vector::GENERAL_PROTECTION, selector & !3)
}

/// #NP.
pub(super) fn not_present(selector: u16) -> Fault {
    with_error(vector::SEGMENT_NOT_PRESENT, selector & !3)
}

/// #SS.
pub(super) fn stack_fault(selector: u16) -> Fault {
    with_error(vector::STACK_FAULT, selector & !3)
}

/// #TS.
pub(super) fn invalid_tss(selector: u16) -> Fault {
    with_error(vector::INVALID_TSS, selector & !3)
}

/// #UD.
pub(super) fn invalid_opcode() -> Fault {
    plain(vector::INVALID_OPCODE)
}

/// #PF.
pub(super) fn page_fault(address: u64, error_code: u16) -> Exception {
    Exception { number: number_with_error(vector::PAGE_FAULT, error_code), information: address }
}

/// Interrupt input of [`Signals::inputs`]: an interrupt controller has something to acknowledge.
pub const INPUT_INTR: u32 = 0;
/// Interrupt input: an NMI waits. Taking it clears the bit.
pub const INPUT_NMI: u32 = 1;
/// Interrupt input: an INIT waits. Taking it clears the bit.
pub const INPUT_INIT: u32 = 2;
const INPUT_START_UP: u32 = 3;
/// A second NMI came before the first was taken.
const INPUT_SECOND_NMI: u32 = 4;
/// Interrupt input: a system-management interrupt waits. Taking it clears the bit.
pub const INPUT_SMI: u32 = 5;
const START_UP_VECTOR_SHIFT: u32 = 8;

/// Sends a processor a start-up signal.
pub fn start_up(signals: &Signals, vector: u8) {
    let asked = 1 << INPUT_START_UP | u64::from(vector) << START_UP_VECTOR_SHIFT;
    let change = |inputs: u64| Some(inputs & !(0xff << START_UP_VECTOR_SHIFT) | asked);
    // The closure always answers, so this never fails.
    let _ = signals.inputs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    signals.request(ATTENTION_INTERRUPT);
}

/// Sends a processor an NMI. It keeps two, of which it forgets one if another is being handled already.
pub fn send_nmi(signals: &Signals) {
    let change = |inputs: u64| {
        let second = if inputs >> INPUT_NMI & 1 != 0 { 1 << INPUT_SECOND_NMI } else { 0 };
        Some(inputs | 1 << INPUT_NMI | second)
    };
    // The closure always answers, so this never fails.
    let _ = signals.inputs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    signals.request(ATTENTION_INTERRUPT);
}

/// Takes one NMI; false if there is none.
fn take_nmi(cpu: &Cpu<X86_64>) -> bool {
    let change = |inputs: u64| {
        let taken = if inputs >> INPUT_SECOND_NMI & 1 != 0 { INPUT_SECOND_NMI } else { INPUT_NMI };
        Some(inputs & !(1 << taken))
    };
    // The closure always answers, so this never fails.
    let before = cpu.signals.inputs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).unwrap_or(0);
    before >> INPUT_NMI & 1 != 0
}

/// IRET: the handler of an NMI is at its end, during which one more was kept.
pub(super) fn end_nmi(cpu: &mut Cpu<X86_64>) {
    if std::mem::take(&mut cpu.guest.nmi_masked) {
        take_input(cpu, INPUT_SECOND_NMI);
    }
}

fn take_input(cpu: &Cpu<X86_64>, input: u32) -> bool {
    let bit = 1 << input;
    cpu.signals.inputs.fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

fn input(cpu: &Cpu<X86_64>, input: u32) -> bool {
    cpu.signals.inputs.load(Ordering::SeqCst) >> input & 1 != 0
}

/// False only if [`take_interrupt`] would do nothing. What only delays an input (a masked NMI, system-management mode, the shadow behind STI) is left
/// to that.
pub(super) fn may_take_interrupt(cpu: &Cpu<X86_64>) -> bool {
    const LEVELS: u64 = (1 << START_UP_VECTOR_SHIFT) - 1;
    let inputs = cpu.signals.inputs.load(Ordering::SeqCst) & LEVELS;
    let masked = if cpu.guest.eflags & FLAG_IF == 0 { 1 << INPUT_INTR } else { 0 };
    inputs & !masked != 0
        || cpu.guest.waits_for_start_up
        || cpu.guest.debug_pending != 0
        || cpu.guest.pending_event.is_some()
}

pub(super) fn wakes(cpu: &Cpu<X86_64>) -> bool {
    if cpu.guest.waits_for_start_up {
        return input(cpu, INPUT_INIT) || input(cpu, INPUT_START_UP);
    }
    cpu.guest.pending_event.is_some()
        || input(cpu, INPUT_INTR) && cpu.guest.eflags & FLAG_IF != 0
        || input(cpu, INPUT_NMI) && !cpu.guest.nmi_masked
        || !cpu.guest.in_management && (input(cpu, INPUT_INIT) || input(cpu, INPUT_SMI))
}

pub(super) fn take_interrupt(cpu: &mut Cpu<X86_64>) -> bool {
    // In system-management mode INIT waits for its end.
    if !cpu.guest.in_management && input(cpu, INPUT_INIT) {
        // A start-up signal that came behind the INIT stays.
        take_input(cpu, INPUT_INIT);
        reset(cpu, true);
        return true;
    }
    if cpu.guest.waits_for_start_up {
        let inputs = cpu.signals.inputs.load(Ordering::SeqCst);
        if !take_input(cpu, INPUT_START_UP) {
            cpu.halted = true;
            return false;
        }
        let vector = (inputs >> START_UP_VECTOR_SHIFT & 0xff) as u16;
        cpu.guest.waits_for_start_up = false;
        cpu.guest.segments[SegmentName::Cs as usize].selector = vector << 8;
        cpu.set_register(super::registers::segment_base(SegmentName::Cs), u64::from(vector) << 12);
        cpu.context.pc = u64::from(vector) << 12;
        return true;
    }
    // A processor that does not wait for start-up signals ignores them.
    if input(cpu, INPUT_START_UP) {
        take_input(cpu, INPUT_START_UP);
    }
    if cpu.guest.interrupt_shadow {
        return false;
    }
    let debug_pending = std::mem::take(&mut cpu.guest.debug_pending);
    if debug_pending != 0 {
        debug::trap(cpu, debug_pending);
        return true;
    }
    let rip = instruction_pointer(cpu);
    match cpu.guest.pending_event.take() {
        Some(PendingEvent::Exception { number, information }) => {
            raise(cpu, Exception { number, information });
            return true;
        }
        Some(PendingEvent::Interrupt(vector)) => {
            deliver_all(cpu, vector, None, rip, Source::External);
            return true;
        }
        None => {}
    }
    if !cpu.guest.in_management && take_input(cpu, INPUT_SMI) {
        management::enter(cpu, cpu.was_halted);
        return true;
    }
    if !cpu.guest.nmi_masked && input(cpu, INPUT_NMI) && take_nmi(cpu) {
        cpu.guest.nmi_masked = true;
        deliver_all(cpu, vector::NMI, None, rip, Source::External);
        return true;
    }
    if cpu.guest.eflags & FLAG_IF != 0
        && input(cpu, INPUT_INTR)
        && let Some(vector) = cpu.platform().acknowledge_interrupt()
    {
        deliver_all(cpu, vector, None, rip, Source::External);
        return true;
    }
    false
}

/// Takes an exception that the instruction at [`crate::cpu::Context::pc`] raised.
pub(super) fn raise(cpu: &mut Cpu<X86_64>, exception: Exception) {
    if exception.number == BEGIN_AGAIN {
        return;
    }
    let exception = match debug::begin(cpu) {
        // The breakpoint on an instruction comes before faults of its fetch, after which nothing of it was executed.
        Err(Fault(breakpoint)) if exception.information.wrapping_sub(cpu.context.pc) < 16 => breakpoint,
        _ => exception,
    };
    if exception.information == cpu.context.pc {
        fault::undo_jump(cpu);
    }
    cpu.guest.interrupt_shadow = false;
    cpu.guest.stack_shadow = false;
    cpu.traced_hits = 0;
    let debug_pending = std::mem::take(&mut cpu.guest.debug_pending);
    let not_canonical = exception.number == general_protection(0).0.number && exception.information != 0;
    let exception = if not_canonical { fault::not_canonical(cpu, exception) } else { exception };
    let rip = instruction_pointer(cpu);
    let (vector, mut error_code) = split(exception.number);
    if vector == vector::PAGE_FAULT {
        error_code = error_code.map(|code| fault::page_fault_code(cpu, code));
        cpu.guest.cr2 = exception.information;
    }
    if vector == vector::DEBUG {
        debug::report(cpu, exception.information | debug_pending);
    }
    // RF is not set in what a breakpoint on an instruction pushes: its handler does that.
    let breakpoint = vector == vector::DEBUG && exception.information & debug::BREAKPOINTS != 0;
    let source = if breakpoint { Source::Trap } else { Source::Exception };
    deliver_all(cpu, vector, error_code, rip, source);
}

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An exception.
    Exception,
    /// A trap: an exception after the instruction, whose flags are pushed as they are.
    Trap,
    /// An interrupt.
    External,
    /// INT n, INT3, INTO: the gate's privilege counts.
    Software,
}

fn is_contributory(vector: u8) -> bool {
    matches!(
        vector,
        vector::DIVIDE_ERROR
            | vector::INVALID_TSS
            | vector::SEGMENT_NOT_PRESENT
            | vector::STACK_FAULT
            | vector::GENERAL_PROTECTION
    )
}

/// Delivers an event; exceptions on the way to its handler are delivered in turn, up to the double fault and shutdown
/// (SDM volume 3, 6.15, interrupt 8).
pub(super) fn deliver_all(cpu: &mut Cpu<X86_64>, vector: u8, error_code: Option<u32>, rip: u64, source: Source) {
    let (mut vector, mut error_code, mut source) = (vector, error_code, source);
    loop {
        let Err(Fault(second)) = deliver(cpu, vector, error_code, rip, source) else { return };
        let (next, next_code) = split(second.number);
        if next == vector::PAGE_FAULT {
            cpu.guest.cr2 = second.information;
        }
        let was_exception = source != Source::External && source != Source::Software;
        if was_exception && vector == vector::DOUBLE_FAULT {
            tracing::debug!(target: "int", "processor {} shuts down: triple fault at {rip:#x}", cpu.index);
            cpu.shut_down = true;
            return;
        }
        let doubles = was_exception
            && (is_contributory(vector) && is_contributory(next)
                || vector == vector::PAGE_FAULT && (is_contributory(next) || next == vector::PAGE_FAULT));
        (vector, error_code) = if doubles { (vector::DOUBLE_FAULT, Some(0)) } else { (next, next_code) };
        source = Source::Exception;
    }
}

/// Enters the handler of an event: pushes what it returns to and loads its code segment, or changes nothing but memory and gives the
/// exception that came up.
pub(super) fn deliver(
    cpu: &mut Cpu<X86_64>,
    vector: u8,
    error_code: Option<u32>,
    rip: u64,
    source: Source,
) -> Result<(), Fault> {
    tracing::trace!(
        target: "int",
        "processor {}: vector {vector:#x} error {error_code:x?} from {source:?} at {:x}:{rip:x} cr2 {:x}",
        cpu.index,
        cpu.guest.segments[SegmentName::Cs as usize].selector,
        cpu.guest.cr2,
    );
    if cpu.guest.cr0 & CR0_PE == 0 {
        return deliver_real(cpu, vector, rip);
    }
    let external = u16::from(source != Source::Software);
    let gate = read_gate(cpu, vector, source, external)?;
    if gate.kind == GATE_TASK {
        let flags = pushed_flags(cpu, source);
        return task::switch_by_gate(cpu, gate.selector, error_code, rip, flags)
            .map_err(|fault| with_external(fault, external));
    }
    let enter = if cpu.guest.is_long() { enter_long } else { enter_legacy };
    code_target(cpu, &gate)
        .and_then(|target| enter(cpu, &gate, target, error_code, rip, source))
        .map_err(|fault| with_external(fault, external))
}

fn deliver_real(cpu: &mut Cpu<X86_64>, vector: u8, rip: u64) -> Result<(), Fault> {
    let offset = u32::from(vector) * 4;
    if offset + 3 > u32::from(cpu.guest.idt.limit) {
        return Err(general_protection(0));
    }
    let entry = cpu.system_load(cpu.guest.idt.base.wrapping_add(u64::from(offset)), Width::Word)?;
    let flags = rflags(cpu);
    let selector = u64::from(cpu.guest.segments[SegmentName::Cs as usize].selector);
    let mut stack = Stack::present(cpu);
    for value in [flags, selector, rip] {
        stack.push(cpu, Width::Half, value)?;
    }
    stack.commit(cpu);
    cpu.guest.eflags &= !(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
    let before = cpu.guest.segments[SegmentName::Cs as usize];
    let selector = (entry >> 16) as u16;
    segment::set(cpu, SegmentName::Cs, Segment { selector, ..before }, u64::from(selector) << 4);
    set_instruction_pointer(cpu, entry & 0xffff);
    Ok(())
}

const GATE_TASK: u8 = 5;

/// An entry of the interrupt descriptor table.
struct Gate {
    kind: u8,
    selector: u16,
    offset: u64,
    stack_table: u8,
}

impl Gate {
    fn width(&self) -> Width {
        if self.kind & 8 != 0 { Width::Word } else { Width::Half }
    }

    fn masks_interrupts(&self) -> bool {
        self.kind & 1 == 0
    }
}

fn read_gate(cpu: &mut Cpu<X86_64>, vector: u8, source: Source, external: u16) -> Result<Gate, Fault> {
    let long = cpu.guest.is_long();
    let size: u32 = if long { 16 } else { 8 };
    let error = u16::from(vector) * 8 + 2;
    let fault = |make: fn(u16) -> Fault| with_external(make(error), external | 2);
    let offset = u32::from(vector) * size;
    if offset + size - 1 > u32::from(cpu.guest.idt.limit) {
        return Err(fault(general_protection));
    }
    let address = cpu.guest.linear(cpu.guest.idt.base.wrapping_add(u64::from(offset)));
    let low = cpu.system_load(address, Width::Double)?;
    let high = if long { cpu.system_load(address + 8, Width::Double)? } else { 0 };
    let kind = (low >> 40 & 0x1f) as u8;
    let known = if long { matches!(kind, 14 | 15) } else { matches!(kind, GATE_TASK | 6 | 7 | 14 | 15) };
    if !known {
        return Err(fault(general_protection));
    }
    if source == Source::Software && ((low >> 45 & 3) as u8) < cpu.guest.privilege() {
        return Err(fault(general_protection));
    }
    if low >> 47 & 1 == 0 {
        return Err(fault(not_present));
    }
    let offset = low & 0xffff | if kind & 8 != 0 { low >> 32 & 0xffff_0000 } else { 0 } | high << 32;
    Ok(Gate { kind, selector: (low >> 16) as u16, offset, stack_table: if long { (low >> 32 & 7) as u8 } else { 0 } })
}

/// Sets the bits of an error code that say: in the IDT (bit 1), from outside the program (bit 0).
fn with_external(Fault(exception): Fault, bits: u16) -> Fault {
    if exception.number as u8 == vector::PAGE_FAULT || exception.number & HAS_ERROR_CODE == 0 {
        return Fault(exception);
    }
    Fault(Exception { number: exception.number | u32::from(bits) << 16, ..exception })
}

/// A code segment to enter, and the privilege that it will run with.
struct Target {
    descriptor: Descriptor,
    segment: Segment,
    privilege: u8,
}

fn code_target(cpu: &mut Cpu<X86_64>, gate: &Gate) -> Result<Target, Fault> {
    let selector = gate.selector;
    if selector & !3 == 0 {
        return Err(general_protection(0));
    }
    let fault = |make: fn(u16) -> Fault| make(selector);
    let mut descriptor = segment::descriptor(cpu, selector, general_protection)?;
    let privilege = cpu.guest.privilege();
    let segment = descriptor.segment(selector);
    if !segment.has(CODE_OR_DATA | CODE) || segment.privilege() > privilege {
        return Err(fault(general_protection));
    }
    if cpu.guest.is_long() && (!segment.has(LONG) || segment.has(BIG)) {
        return Err(fault(general_protection));
    }
    if !segment.has(PRESENT) {
        return Err(fault(not_present));
    }
    let conforming = segment.has(EXPAND_DOWN_OR_CONFORMING);
    let new_privilege = if conforming { privilege } else { segment.privilege() };
    if cpu.guest.is_virtual_8086() && new_privilege != 0 {
        return Err(fault(general_protection));
    }
    segment::mark_accessed(cpu, &mut descriptor)?;
    Ok(Target { segment: descriptor.segment(selector), descriptor, privilege: new_privilege })
}

/// Flags as the handler will see them pushed.
fn pushed_flags(cpu: &Cpu<X86_64>, source: Source) -> u64 {
    let flags = rflags(cpu);
    match source {
        Source::Exception => flags | FLAG_RF,
        Source::External => flags,
        Source::Trap if debug::resume_flag(cpu) => flags,
        Source::Trap | Source::Software => flags & !FLAG_RF,
    }
}

fn enter_long(
    cpu: &mut Cpu<X86_64>,
    gate: &Gate,
    target: Target,
    error_code: Option<u32>,
    rip: u64,
    source: Source,
) -> Result<(), Fault> {
    let inner = target.privilege < cpu.guest.privilege();
    let old_stack = cpu.register(RSP);
    let stack = if gate.stack_table != 0 {
        task_stack_64(cpu, 0x24 + 8 * u32::from(gate.stack_table - 1))?
    } else if inner {
        task_stack_64(cpu, 4 + 8 * u32::from(target.privilege))?
    } else {
        old_stack
    };
    if !mmu::is_canonical(cpu, stack) {
        return Err(stack_fault(0));
    }
    let mode = if target.privilege == 3 { mmu::MODE_USER } else { mmu::MODE_SUPERVISOR_IMPLICIT };
    let mut stack = Stack { base: 0, mask: u64::MAX, pointer: stack & !15, limits: None, mode };
    let flags = pushed_flags(cpu, source);
    let selectors =
        [SegmentName::Ss, SegmentName::Cs].map(|name| u64::from(cpu.guest.segments[name as usize].selector));
    for value in [selectors[0], old_stack, flags, selectors[1], rip] {
        stack.push(cpu, Width::Double, value)?;
    }
    if let Some(error_code) = error_code {
        stack.push(cpu, Width::Double, u64::from(error_code))?;
    }
    if !mmu::is_canonical(cpu, gate.offset) {
        return Err(general_protection(0));
    }
    cpu.set_register(RSP, stack.pointer);
    let selector = gate.selector & !3 | u16::from(target.privilege);
    if inner {
        let attributes = u16::from(target.privilege) << PRIVILEGE_SHIFT;
        let null = Segment { selector: u16::from(target.privilege), limit: 0, attributes };
        segment::set(cpu, SegmentName::Ss, null, 0);
    }
    segment::set(cpu, SegmentName::Cs, Segment { selector, ..target.segment }, 0);
    cpu.guest.eflags &= !(FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT);
    if gate.masks_interrupts() {
        cpu.guest.eflags &= !FLAG_IF;
    }
    set_instruction_pointer(cpu, gate.offset);
    Ok(())
}

/// A stack pointer out of the 64-bit task-state segment.
pub(super) fn task_stack_64(cpu: &mut Cpu<X86_64>, offset: u32) -> Result<u64, Fault> {
    if offset + 7 > cpu.guest.tr.segment.limit {
        return Err(invalid_tss(cpu.guest.tr.segment.selector));
    }
    cpu.system_load(cpu.guest.tr.base.wrapping_add(u64::from(offset)), Width::Double)
}

/// The stack for a privilege level out of a 16- or 32-bit task-state segment: selector and pointer.
pub(super) fn task_stack(cpu: &mut Cpu<X86_64>, privilege: u8) -> Result<(u16, u64), Fault> {
    let task = cpu.guest.tr;
    let wide = task.segment.attributes & 8 != 0;
    let (offset, width) =
        if wide { (4 + 8 * u32::from(privilege), Width::Word) } else { (2 + 4 * u32::from(privilege), Width::Half) };
    if offset + 2 * width.bytes() as u32 - 1 > task.segment.limit {
        return Err(invalid_tss(task.segment.selector));
    }
    let address = task.base.wrapping_add(u64::from(offset));
    let pointer = cpu.system_load(address, width)?;
    let selector = cpu.system_load(address + width.bytes(), Width::Half)?;
    Ok((selector as u16, pointer))
}

/// Reads and checks a stack segment that the processor switches to: that of `privilege`.
pub(super) fn stack_segment(
    cpu: &mut Cpu<X86_64>,
    selector: u16,
    privilege: u8,
    fault: fn(u16) -> Fault,
) -> Result<Descriptor, Fault> {
    if selector & !3 == 0 {
        return Err(fault(0));
    }
    let mut descriptor = segment::descriptor(cpu, selector, fault)?;
    let segment = descriptor.segment(selector);
    let fits = segment.has(CODE_OR_DATA | WRITABLE_OR_READABLE) && !segment.has(CODE);
    if (selector & 3) as u8 != privilege || segment.privilege() != privilege || !fits {
        return Err(fault(selector));
    }
    if !segment.has(PRESENT) {
        return Err(stack_fault(selector));
    }
    segment::mark_accessed(cpu, &mut descriptor)?;
    Ok(descriptor)
}

fn enter_legacy(
    cpu: &mut Cpu<X86_64>,
    gate: &Gate,
    target: Target,
    error_code: Option<u32>,
    rip: u64,
    source: Source,
) -> Result<(), Fault> {
    let width = gate.width();
    let flags = pushed_flags(cpu, source);
    let code = u64::from(cpu.guest.segments[SegmentName::Cs as usize].selector);
    let inner = target.privilege < cpu.guest.privilege();
    let mut new_stack = None;
    let mut stack = if inner {
        let (selector, pointer) = task_stack(cpu, target.privilege)?;
        let descriptor = stack_segment(cpu, selector, target.privilege, invalid_tss)?;
        let segment = descriptor.segment(selector);
        new_stack = Some((segment, descriptor.base()));
        Stack::of_segment(&segment, descriptor.base(), pointer)
    } else {
        Stack::present(cpu)
    };
    stack.mode = if target.privilege == 3 { mmu::MODE_USER } else { mmu::MODE_SUPERVISOR_IMPLICIT };
    if inner {
        if cpu.guest.is_virtual_8086() {
            for name in [SegmentName::Gs, SegmentName::Fs, SegmentName::Ds, SegmentName::Es] {
                let selector = cpu.guest.segments[name as usize].selector;
                stack.push(cpu, width, u64::from(selector))?;
            }
        }
        let selector = cpu.guest.segments[SegmentName::Ss as usize].selector;
        stack.push(cpu, width, u64::from(selector))?;
        stack.push(cpu, width, cpu.register(RSP))?;
    }
    for value in [flags, code, rip] {
        stack.push(cpu, width, value)?;
    }
    if let Some(error_code) = error_code {
        stack.push(cpu, width, u64::from(error_code))?;
    }
    if gate.offset > u64::from(target.segment.limit) {
        return Err(general_protection(0));
    }
    let was_virtual = cpu.guest.is_virtual_8086();
    cpu.guest.eflags &= !(FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT);
    if gate.masks_interrupts() {
        cpu.guest.eflags &= !FLAG_IF;
    }
    if let Some((segment, base)) = new_stack {
        segment::set(cpu, SegmentName::Ss, segment, base);
    }
    stack.commit(cpu);
    if was_virtual {
        for name in [SegmentName::Gs, SegmentName::Fs, SegmentName::Ds, SegmentName::Es] {
            segment::load_null(cpu, name, 0);
        }
    }
    let selector = gate.selector & !3 | u16::from(target.privilege);
    segment::set(cpu, SegmentName::Cs, Segment { selector, ..target.segment }, target.descriptor.base());
    set_instruction_pointer(cpu, gate.offset);
    Ok(())
}

/// A stack in the making: nothing of the processor changes before [`Stack::commit`].
pub(super) struct Stack {
    pub(super) base: u64,
    /// Which bits of the pointer count.
    pub(super) mask: u64,
    pub(super) pointer: u64,
    /// The segment, where its limit counts.
    pub(super) limits: Option<Segment>,
    pub(super) mode: crate::ir::MemoryMode,
}

impl Stack {
    /// The stack in use.
    pub(super) fn present(cpu: &Cpu<X86_64>) -> Stack {
        let pointer = cpu.register(RSP);
        let mut stack = if cpu.guest.is_64_bit() {
            Stack { base: 0, mask: u64::MAX, pointer, limits: None, mode: mmu::MODE_SUPERVISOR }
        } else {
            let segment = cpu.guest.segments[SegmentName::Ss as usize];
            Stack::of_segment(&segment, segment::base(cpu, SegmentName::Ss), pointer)
        };
        stack.mode = super::data_mode(cpu);
        stack
    }

    /// The stack of a segment outside 64-bit mode.
    pub(super) fn of_segment(segment: &Segment, base: u64, pointer: u64) -> Stack {
        let mask = if segment.has(BIG) { 0xffff_ffff } else { 0xffff };
        Stack { base, mask, pointer, limits: Some(*segment), mode: mmu::MODE_SUPERVISOR_IMPLICIT }
    }

    fn address(&self, bytes: u64) -> Result<u64, Fault> {
        let offset = self.pointer & self.mask;
        match &self.limits {
            None => Ok(offset),
            Some(segment) if segment::limit_allows(segment, offset, bytes) => {
                Ok(self.base.wrapping_add(offset) & 0xffff_ffff)
            }
            Some(_) => Err(stack_fault(0)),
        }
    }

    fn advance(&mut self, by: u64) {
        self.pointer = self.pointer & !self.mask | self.pointer.wrapping_add(by) & self.mask;
    }

    pub(super) fn push(&mut self, cpu: &mut Cpu<X86_64>, width: Width, value: u64) -> Result<(), Fault> {
        self.advance(width.bytes().wrapping_neg());
        let address = self.address(width.bytes())?;
        let mode = self.mode;
        cpu.complete(|cpu| cpu.store(address, width, mode, value))
    }

    pub(super) fn pop(&mut self, cpu: &mut Cpu<X86_64>, width: Width) -> Result<u64, Fault> {
        let address = self.address(width.bytes())?;
        let mode = self.mode;
        let value = cpu.complete(|cpu| cpu.load(address, width, mode))?;
        self.advance(width.bytes());
        Ok(value)
    }

    /// Drops `bytes` from the stack.
    pub(super) fn drop_bytes(&mut self, bytes: u64) {
        self.advance(bytes);
    }

    /// Sets RSP.
    pub(super) fn commit(&self, cpu: &mut Cpu<X86_64>) {
        let before = cpu.register(RSP);
        let value = match self.mask {
            0xffff => before & !0xffff | self.pointer & 0xffff,
            mask => self.pointer & mask,
        };
        cpu.set_register(RSP, value);
    }
}
