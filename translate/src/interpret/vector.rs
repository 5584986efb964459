//! Operations on vectors.

use super::Room;
use crate::cpu::{Cpu, Stopped};
use crate::guest::Guest;
use crate::ir::{Register, Value, VectorOp};
use crate::vector;

/// Executes an operation on vectors: its result, in the lower half if it is none.
#[inline(never)]
pub(super) fn execute<G: Guest>(cpu: &mut Cpu<G>, op: &VectorOp, low: &Room, high: &Room) -> Result<u128, Stopped> {
    let scalar = |value: Value| low[usize::from(value.0)];
    let vector = |value: Value| joined(low[usize::from(value.0)], high[usize::from(value.0)]);
    Ok(match *op {
        VectorOp::Get { register } => {
            let registers = &cpu.context.registers;
            joined(registers[usize::from(register.0)], registers[second(register)])
        }
        VectorOp::Put { register, value } => {
            cpu.context.registers[usize::from(register.0)] = low[usize::from(value.0)];
            cpu.context.registers[second(register)] = high[usize::from(value.0)];
            0
        }
        VectorOp::Load { mode, address, offset } => {
            cpu.load_vector(scalar(address).wrapping_add(offset as u64), mode)?
        }
        VectorOp::Store { mode, address, offset, value } => {
            cpu.store_vector(scalar(address).wrapping_add(offset as u64), mode, vector(value))?;
            0
        }
        VectorOp::FromHalves { low, high } => joined(scalar(low), scalar(high)),
        VectorOp::Extract { lane, index, a } => vector::extract(lane, index.into(), vector(a)).into(),
        VectorOp::Insert { lane, index, a, value } => vector::insert(lane, index.into(), vector(a), scalar(value)),
        VectorOp::Splat { lane, value } => vector::splat(lane, scalar(value)),
        VectorOp::Lanes { op, lane, a, b } => vector::lane_op(op, lane, vector(a), vector(b)),
        VectorOp::Shift { op, lane, a, count } => vector::shift(op, lane, vector(a), scalar(count)),
        VectorOp::Shuffle { shuffle, a, b } => vector::shuffle(shuffle, vector(a), vector(b)),
        VectorOp::Widen { signed, lane, a } => vector::widen(signed, lane, vector(a)),
        VectorOp::Mask { lane, a } => vector::mask(lane, vector(a)).into(),
        VectorOp::Float { op, lane, a, b } => {
            let (result, flags) = vector::float(op, lane, vector(a), vector(b), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
        VectorOp::SquareRoot { lane, a } => {
            let (result, flags) = vector::square_root(lane, vector(a), cpu.context.float_rounding);
            cpu.context.float_flags |= flags.0;
            result
        }
    })
}

fn joined(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Position of the register behind one.
fn second(register: Register) -> usize {
    usize::from(register.0.wrapping_add(1))
}
