//! Repeated string instructions, and I/O ports.

use std::sync::atomic::Ordering;

use crate::activity::Activity;
use crate::cpu::{Cpu, Stopped};
use crate::ir::{Register, Width};
use crate::platform::PAGE_SIZE;

use super::super::event::{Fault, vector, with_error};
use super::super::flags::{Family, Kind};
use super::super::registers::{DIRECTION, FLAGS_A, FLAGS_B, FLAGS_KIND, RAX, RCX, RDI, RDX, RSI};
use super::super::segment::{self, SegmentName};
use super::super::state::{FLAG_TF, X86_64};
use super::super::{data_mode, debug, io};

/// What a string instruction does with each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum StringOperation {
    Move,
    Compare,
    Store,
    Load,
    Scan,
    Input,
    Output,
}

const OPERATIONS: [StringOperation; 7] = [
    StringOperation::Move,
    StringOperation::Compare,
    StringOperation::Store,
    StringOperation::Load,
    StringOperation::Scan,
    StringOperation::Input,
    StringOperation::Output,
];
const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

/// A string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct RepeatedString {
    pub(in super::super) operation: StringOperation,
    /// Of an element.
    pub(in super::super) width: Width,
    /// Of addresses and of the counter: 16, 32 or 64.
    pub(in super::super) address_bits: u32,
    /// Of the source.
    pub(in super::super) segment: SegmentName,
    pub(in super::super) repeats: bool,
    /// REPNE: compares and scans end at the first equal element, else at the first that differs.
    pub(in super::super) until_equal: bool,
}

impl RepeatedString {
    pub(in super::super) fn encode(self) -> u64 {
        let width = self.width.bytes().trailing_zeros();
        self.operation as u64
            | u64::from(width) << 4
            | u64::from(self.repeats) << 6
            | u64::from(self.until_equal) << 7
            | (self.segment as u64) << 8
            | u64::from(self.address_bits) << 16
    }

    fn decode(word: u64) -> RepeatedString {
        RepeatedString {
            operation: OPERATIONS[(word & 7) as usize % OPERATIONS.len()],
            width: WIDTHS[(word >> 4 & 3) as usize],
            repeats: word >> 6 & 1 != 0,
            until_equal: word >> 7 & 1 != 0,
            segment: SegmentName::from_number(word >> 8 & 0xf),
            address_bits: (word >> 16) as u32,
        }
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.address_bits)
    }
}

/// How many steps, of one element or of many, are done before interrupts are looked for.
const MOST_AT_ONCE: u64 = 4096;

/// Executes a string instruction, or a part of it; gives the linear address at which to go on: `next`, or `again`, its own.
pub(super) extern "C" fn repeated_string(cpu: &mut Cpu<X86_64>, how: u64, next: u64, again: u64) -> u64 {
    let string = RepeatedString::decode(how);
    match run(cpu, &string) {
        Ok(true) => next,
        Ok(false) => again,
        Err(Stopped) => 0,
    }
}

/// True when all is done.
fn run(cpu: &mut Cpu<X86_64>, string: &RepeatedString) -> Result<bool, Stopped> {
    let mask = string.mask();
    let traced = cpu.guest.eflags & FLAG_TF != 0 || debug::is_armed(&cpu.guest);
    for _ in 0..if traced { 1 } else { MOST_AT_ONCE } {
        if string.repeats && cpu.register(RCX) & mask == 0 {
            return Ok(true);
        }
        if !traced && let Some(done) = run_in_bulk(cpu, string)? {
            count_down(cpu, string, done);
        } else {
            let goes_on = element(cpu, string)?;
            if !string.repeats {
                return Ok(true);
            }
            count_down(cpu, string, 1);
            if !goes_on {
                return Ok(true);
            }
        }
        if cpu.signals.attention.load(Ordering::Relaxed) != 0 {
            break;
        }
    }
    Ok(cpu.register(RCX) & mask == 0)
}

/// The value of a register of the address size in which only that part changes: all of it but for 16 bits.
fn replaced(old: u64, string: &RepeatedString, new: u64) -> u64 {
    let mask = string.mask();
    let kept = if string.address_bits == 16 { old & !mask } else { 0 };
    kept | new & mask
}

fn count_down(cpu: &mut Cpu<X86_64>, string: &RepeatedString, by: u64) {
    let count = cpu.register(RCX);
    cpu.set_register(RCX, replaced(count, string, count.wrapping_sub(by)));
}

fn advance(cpu: &mut Cpu<X86_64>, string: &RepeatedString, register: Register, bytes: u64) {
    let old = cpu.register(register);
    let by = cpu.register(DIRECTION).wrapping_mul(bytes);
    cpu.set_register(register, replaced(old, string, old.wrapping_add(by)));
}

fn stop(cpu: &mut Cpu<X86_64>, Fault(exception): Fault) -> Stopped {
    cpu.stop_with(exception)
}

/// The linear address of the element that a register points to.
fn address(
    cpu: &mut Cpu<X86_64>,
    string: &RepeatedString,
    register: Register,
    name: SegmentName,
    write: bool,
) -> Result<u64, Stopped> {
    let offset = cpu.register(register) & string.mask();
    let bytes = string.width.bytes();
    if cpu.guest.is_64_bit() {
        let based = matches!(name, SegmentName::Fs | SegmentName::Gs);
        let linear = if based { segment::base(cpu, name).wrapping_add(offset) } else { offset };
        return check_alignment(cpu, linear, bytes);
    }
    match segment::linear_address(cpu, name, offset, bytes, write) {
        Ok(linear) => check_alignment(cpu, linear, bytes),
        Err(fault) => Err(stop(cpu, fault)),
    }
}

/// The address again, if alignment checks do not object to it.
fn check_alignment(cpu: &mut Cpu<X86_64>, linear: u64, bytes: u64) -> Result<u64, Stopped> {
    if cpu.guest.checks_alignment() && !linear.is_multiple_of(bytes) {
        return Err(cpu.stop_with(with_error(vector::ALIGNMENT_CHECK, 0).0));
    }
    Ok(linear)
}

/// Does one element; false if a compare or scan ends with it.
fn element(cpu: &mut Cpu<X86_64>, string: &RepeatedString) -> Result<bool, Stopped> {
    let (width, mode) = (string.width, data_mode(cpu));
    let bytes = width.bytes();
    let value_mask = u64::MAX >> (64 - 8 * bytes);
    match string.operation {
        StringOperation::Move => {
            let from = address(cpu, string, RSI, string.segment, false)?;
            let to = address(cpu, string, RDI, SegmentName::Es, true)?;
            let value = cpu.load(from, width, mode)?;
            cpu.store(to, width, mode, value)?;
            advance(cpu, string, RSI, bytes);
            advance(cpu, string, RDI, bytes);
        }
        StringOperation::Store => {
            let to = address(cpu, string, RDI, SegmentName::Es, true)?;
            cpu.store(to, width, mode, cpu.register(RAX))?;
            advance(cpu, string, RDI, bytes);
        }
        StringOperation::Load => {
            let from = address(cpu, string, RSI, string.segment, false)?;
            let value = cpu.load(from, width, mode)?;
            let kept = if bytes < 4 { cpu.register(RAX) & !value_mask } else { 0 };
            cpu.set_register(RAX, kept | value);
            advance(cpu, string, RSI, bytes);
        }
        StringOperation::Compare | StringOperation::Scan => {
            let scans = string.operation == StringOperation::Scan;
            let a = if scans {
                cpu.register(RAX) & value_mask
            } else {
                let from = address(cpu, string, RSI, string.segment, false)?;
                cpu.load(from, width, mode)?
            };
            let with = address(cpu, string, RDI, SegmentName::Es, false)?;
            let b = cpu.load(with, width, mode)?;
            if !scans {
                advance(cpu, string, RSI, bytes);
            }
            advance(cpu, string, RDI, bytes);
            let kind = Kind { family: Family::Sub, ty: width.integer() };
            cpu.set_register(FLAGS_KIND, kind.encode());
            cpu.set_register(FLAGS_A, a);
            cpu.set_register(FLAGS_B, b);
            return Ok((a == b) != string.until_equal);
        }
        StringOperation::Input => {
            let port = cpu.register(RDX) & 0xffff;
            io::check(cpu, port, bytes).map_err(|fault| stop(cpu, fault))?;
            let to = address(cpu, string, RDI, SegmentName::Es, true)?;
            // A fault must come before the device is read.
            let before = cpu.load(to, width, mode)?;
            cpu.store(to, width, mode, before)?;
            debug::note_port(cpu, port, bytes);
            let value = cpu.during(Activity::Device, |cpu| cpu.platform().read_port(port as u16, bytes));
            cpu.store(to, width, mode, value)?;
            advance(cpu, string, RDI, bytes);
        }
        StringOperation::Output => {
            let port = cpu.register(RDX) & 0xffff;
            io::check(cpu, port, bytes).map_err(|fault| stop(cpu, fault))?;
            let from = address(cpu, string, RSI, string.segment, false)?;
            let value = cpu.load(from, width, mode)?;
            debug::note_port(cpu, port, bytes);
            cpu.during(Activity::Device, |cpu| cpu.platform().write_port(port as u16, bytes, value));
            advance(cpu, string, RSI, bytes);
        }
    }
    Ok(true)
}

/// Moves or stores as many elements as the pages at hand hold, going up, in flat memory; `None` if one must be done by itself.
fn run_in_bulk(cpu: &mut Cpu<X86_64>, string: &RepeatedString) -> Result<Option<u64>, Stopped> {
    let moves = string.operation == StringOperation::Move;
    let simple = string.repeats
        && (moves || string.operation == StringOperation::Store)
        && cpu.guest.is_64_bit()
        && string.address_bits == 64
        && !cpu.guest.checks_alignment()
        && cpu.register(DIRECTION) == 1;
    if !simple {
        return Ok(None);
    }
    let bytes = string.width.bytes();
    let mode = data_mode(cpu);
    let to = cpu.register(RDI);
    let in_page = |address: u64| PAGE_SIZE - address % PAGE_SIZE;
    let from = if moves { address(cpu, string, RSI, string.segment, false)? } else { to };
    let room = in_page(to).min(in_page(from));
    let count = (room / bytes).min(cpu.register(RCX));
    // Few elements are not worth the look.
    if count < 4 {
        return Ok(None);
    }
    let length = count * bytes;
    let Some(target) = cpu.host_for_writes(to, mode) else { return Ok(None) };
    if moves {
        let Some(source) = cpu.host_for_reads(from, mode) else { return Ok(None) };
        if (target as usize).wrapping_sub(source as usize) < length as usize {
            // The copy would read what it wrote: element by element is what that means.
            return Ok(None);
        }
        // SAFETY: both are host memory of guest pages, within which the ranges lie. Other processors may write there at the same
        // time: then bytes are old or new, as on a real machine.
        unsafe { std::ptr::copy(source, target, length as usize) };
        advance(cpu, string, RSI, length);
    } else {
        let element = cpu.register(RAX).to_le_bytes();
        if element[1..bytes as usize].iter().all(|byte| *byte == element[0]) {
            // SAFETY: as above.
            unsafe { std::ptr::write_bytes(target, element[0], length as usize) };
            advance(cpu, string, RDI, length);
            return Ok(Some(count));
        }
        for position in 0..count {
            // SAFETY: as above; the element has at most eight bytes.
            unsafe {
                let place = target.add((position * bytes) as usize);
                std::ptr::copy_nonoverlapping(element.as_ptr(), place, bytes as usize);
            }
        }
    }
    advance(cpu, string, RDI, length);
    Ok(Some(count))
}

pub(super) extern "C" fn check_port(cpu: &mut Cpu<X86_64>, port: u64, bytes: u64, _: u64) -> u64 {
    if let Err(Fault(exception)) = io::check(cpu, port, bytes) {
        cpu.stop_with(exception);
    }
    0
}

pub(super) extern "C" fn read_port(cpu: &mut Cpu<X86_64>, port: u64, bytes: u64, _: u64) -> u64 {
    debug::note_port(cpu, port & 0xffff, bytes);
    cpu.during(Activity::Device, |cpu| cpu.platform().read_port(port as u16, bytes))
}

pub(super) extern "C" fn write_port(cpu: &mut Cpu<X86_64>, port: u64, bytes: u64, value: u64) -> u64 {
    let mask = u64::MAX >> (64 - 8 * bytes.clamp(1, 8));
    debug::note_port(cpu, port & 0xffff, bytes);
    cpu.during(Activity::Device, |cpu| cpu.platform().write_port(port as u16, bytes, value & mask));
    0
}
