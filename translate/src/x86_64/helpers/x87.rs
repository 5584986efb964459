//! The x87.

use crate::cpu::{Cpu, Stopped};
use crate::ir::{MemoryMode, Width};

use super::super::event::{plain, vector};
use super::super::flags::{CF, PF, ZF};
use super::super::segment::{self, SegmentName};
use super::super::softfloat::ComparisonFlags;
use super::super::state::X86_64;
use super::super::x87::{EnvironmentFormat, Form, Outcome, form, is_control, waits};
use super::vector::comparison_flags;

const FORMATS: [EnvironmentFormat; 4] = [
    EnvironmentFormat::Real16,
    EnvironmentFormat::Protected16,
    EnvironmentFormat::Real32,
    EnvironmentFormat::Protected32,
];

/// An instruction and its memory operand, but for its address.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct X87Operand {
    /// 11 bits.
    pub(in super::super) opcode: u16,
    /// The segment of the operand.
    pub(in super::super) segment: SegmentName,
    /// How it is accessed.
    pub(in super::super) mode: MemoryMode,
    /// Of an environment.
    pub(in super::super) format: EnvironmentFormat,
}

impl X87Operand {
    pub(in super::super) fn encode(self) -> u64 {
        u64::from(self.opcode) | (self.segment as u64) << 16 | u64::from(self.mode.0) << 24 | (self.format as u64) << 32
    }

    fn decode(word: u64) -> X87Operand {
        X87Operand {
            opcode: word as u16,
            segment: SegmentName::from_number(word >> 16 & 0xff),
            mode: MemoryMode((word >> 24) as u8),
            format: FORMATS[(word >> 32 & 3) as usize],
        }
    }
}

const NO_FLAGS: ComparisonFlags = ComparisonFlags { zero: false, parity: false, carry: false };

/// Raises #MF if an exception is pending.
///
/// With CR0.NE clear a PC would signal IRQ 13 through external logic instead. That is not modelled: such a guest gets #MF, too.
pub(super) fn check_pending(cpu: &mut Cpu<X86_64>) -> Result<(), Stopped> {
    if cpu.guest.x87.has_pending_exception() {
        return Err(cpu.stop_with(plain(vector::FLOATING_POINT).0));
    }
    Ok(())
}

fn begin(cpu: &mut Cpu<X86_64>, opcode: u16) -> Result<(), Stopped> {
    if waits(opcode) { check_pending(cpu) } else { Ok(()) }
}

/// The offset of a linear address in a segment.
fn offset(cpu: &Cpu<X86_64>, name: SegmentName, linear: u64) -> u64 {
    let guest = &cpu.guest;
    if guest.is_64_bit() && !matches!(name, SegmentName::Fs | SegmentName::Gs) {
        return linear;
    }
    let offset = linear.wrapping_sub(segment::base(cpu, name));
    if guest.is_64_bit() { offset } else { offset & 0xffff_ffff }
}

/// Notes the instruction at the linear address `own`, and its operand.
fn note(cpu: &mut Cpu<X86_64>, opcode: u16, own: u64, operand: Option<(SegmentName, u64)>) {
    if is_control(opcode) {
        return;
    }
    let pointer = |name: SegmentName, linear| (cpu.guest.segments[name as usize].selector, offset(cpu, name, linear));
    let (own, operand) = (pointer(SegmentName::Cs, own), operand.map(|(name, linear)| pointer(name, linear)));
    cpu.guest.x87.note_instruction(opcode, own, operand);
}

pub(in super::super) fn load_bytes<const N: usize>(
    cpu: &mut Cpu<X86_64>,
    address: u64,
    count: usize,
    mode: MemoryMode,
) -> Result<[u8; N], Stopped> {
    let mut bytes = [0; N];
    let mut done = 0;
    for part in bytes[..count.min(N)].chunks_mut(8) {
        let address = address.wrapping_add(done);
        done += part.len() as u64;
        let value = match part.len() {
            8 => cpu.load(address, Width::Double, mode)?,
            4 => cpu.load(address, Width::Word, mode)?,
            2 => cpu.load(address, Width::Half, mode)?,
            _ => {
                for (distance, byte) in (0..).zip(part) {
                    *byte = cpu.load(address.wrapping_add(distance), Width::Byte, mode)? as u8;
                }
                continue;
            }
        };
        part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
    }
    Ok(bytes)
}

pub(in super::super) fn store_bytes(
    cpu: &mut Cpu<X86_64>,
    address: u64,
    bytes: &[u8],
    mode: MemoryMode,
) -> Result<(), Stopped> {
    let mut done = 0;
    for part in bytes.chunks(8) {
        let address = address.wrapping_add(done);
        done += part.len() as u64;
        let mut value = [0; 8];
        value[..part.len()].copy_from_slice(part);
        let value = u64::from_le_bytes(value);
        match part.len() {
            8 => cpu.store(address, Width::Double, mode, value)?,
            4 => cpu.store(address, Width::Word, mode, value)?,
            2 => cpu.store(address, Width::Half, mode, value)?,
            _ => {
                for (distance, byte) in (0..).zip(part) {
                    cpu.store(address.wrapping_add(distance), Width::Byte, mode, (*byte).into())?;
                }
            }
        }
    }
    Ok(())
}

/// EMMS.
pub(super) extern "C" fn empty_mmx(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    if check_pending(cpu).is_ok() {
        cpu.guest.x87.emms();
    }
    0
}

/// FWAIT.
pub(super) extern "C" fn wait(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    // The helper's end looks at the status.
    let _ = check_pending(cpu);
    0
}

/// An instruction without memory operand, at the linear address `own`. Gives the flags that it sets, or the status word.
pub(super) extern "C" fn on_registers(cpu: &mut Cpu<X86_64>, opcode: u64, own: u64, flags: u64) -> u64 {
    let opcode = opcode as u16;
    if begin(cpu, opcode).is_err() {
        return 0;
    }
    let flags = ComparisonFlags { zero: flags & ZF != 0, parity: flags & PF != 0, carry: flags & CF != 0 };
    note(cpu, opcode, own, None);
    match cpu.guest.x87.execute(opcode, [0; 10], flags) {
        Outcome::Flags(flags) => comparison_flags(flags),
        Outcome::Accumulator(status) => status.into(),
        Outcome::Done | Outcome::Store(_) => 0,
    }
}

/// An instruction that reads memory.
pub(super) extern "C" fn load(cpu: &mut Cpu<X86_64>, operand: u64, address: u64, own: u64) -> u64 {
    let _ = try_load(cpu, X87Operand::decode(operand), address, own);
    0
}

fn try_load(cpu: &mut Cpu<X86_64>, operand: X87Operand, address: u64, own: u64) -> Result<(), Stopped> {
    let opcode = operand.opcode;
    begin(cpu, opcode)?;
    let Form::Load(count) = form(opcode) else { return Ok(()) };
    let bytes = load_bytes(cpu, address, count.into(), operand.mode)?;
    note(cpu, opcode, own, Some((operand.segment, address)));
    cpu.guest.x87.execute(opcode, bytes, NO_FLAGS);
    Ok(())
}

/// An instruction that writes memory.
pub(super) extern "C" fn store(cpu: &mut Cpu<X86_64>, operand: u64, address: u64, own: u64) -> u64 {
    let _ = try_store(cpu, X87Operand::decode(operand), address, own);
    0
}

fn try_store(cpu: &mut Cpu<X86_64>, operand: X87Operand, address: u64, own: u64) -> Result<(), Stopped> {
    let opcode = operand.opcode;
    begin(cpu, opcode)?;
    let Form::Store(count) = form(opcode) else { return Ok(()) };
    let mut unit = cpu.guest.x87;
    if let Outcome::Store(Some(bytes)) = unit.execute(opcode, [0; 10], NO_FLAGS) {
        store_bytes(cpu, address, &bytes[..usize::from(count).min(10)], operand.mode)?;
    }
    cpu.guest.x87 = unit;
    note(cpu, opcode, own, Some((operand.segment, address)));
    Ok(())
}

/// FNSTENV and FNSAVE.
pub(super) extern "C" fn store_image(cpu: &mut Cpu<X86_64>, operand: u64, address: u64, _: u64) -> u64 {
    let _ = try_store_image(cpu, X87Operand::decode(operand), address);
    0
}

fn try_store_image(cpu: &mut Cpu<X86_64>, operand: X87Operand, address: u64) -> Result<(), Stopped> {
    let X87Operand { opcode, mode, format, .. } = operand;
    let length = format.bytes();
    let mut unit = cpu.guest.x87;
    if form(opcode) == Form::StoreState {
        let (environment, registers) = unit.fnsave(format);
        store_bytes(cpu, address, &environment[..length], mode)?;
        store_bytes(cpu, address.wrapping_add(length as u64), &registers, mode)?;
    } else {
        let environment = unit.fnstenv(format);
        store_bytes(cpu, address, &environment[..length], mode)?;
    }
    cpu.guest.x87 = unit;
    Ok(())
}

/// FLDENV and FRSTOR.
pub(super) extern "C" fn load_image(cpu: &mut Cpu<X86_64>, operand: u64, address: u64, _: u64) -> u64 {
    let _ = try_load_image(cpu, X87Operand::decode(operand), address);
    0
}

fn try_load_image(cpu: &mut Cpu<X86_64>, operand: X87Operand, address: u64) -> Result<(), Stopped> {
    let X87Operand { opcode, mode, format, .. } = operand;
    begin(cpu, opcode)?;
    let length = format.bytes();
    let environment = load_bytes(cpu, address, length, mode)?;
    if form(opcode) == Form::LoadState {
        let registers = load_bytes(cpu, address.wrapping_add(length as u64), 80, mode)?;
        cpu.guest.x87.frstor(format, &environment, &registers);
    } else {
        cpu.guest.x87.fldenv(format, &environment);
    }
    Ok(())
}
