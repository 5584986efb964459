//! What compiled code calls when a memory access is not on the fast path. Results go to [`crate::cpu::Context::result`];
//! [`crate::cpu::Context::status`] says whether there is one.

use crate::activity::Activity;
use crate::cpu::Cpu;
use crate::guest::Guest;
use crate::interpret::{atomic, compare_exchange, load_reserved, sign_extend, store_conditional};
use crate::ir::{AtomicOp, MemoryMode, Type, Width};
use crate::tlb::MOST_MODES;

/// The operands of an access that are known when it is compiled, in the [`ACCESS_BITS`] low bits of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) width: Width,
    pub(crate) signed: bool,
    pub(crate) mode: MemoryMode,
    pub(crate) atomic: AtomicOp,
}

/// Bits of the word that describe an access; a caller may use the others of the low half for itself.
pub(crate) const ACCESS_BITS: u32 = 14;

const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];
const ATOMICS: [AtomicOp; 9] = [
    AtomicOp::Exchange,
    AtomicOp::Add,
    AtomicOp::And,
    AtomicOp::Or,
    AtomicOp::Xor,
    AtomicOp::MinSigned,
    AtomicOp::MinUnsigned,
    AtomicOp::MaxSigned,
    AtomicOp::MaxUnsigned,
];

impl Access {
    pub(crate) fn new(width: Width, mode: MemoryMode) -> Access {
        Access { width, signed: false, mode, atomic: AtomicOp::Exchange }
    }

    pub(crate) fn encode(self) -> i64 {
        let width = WIDTHS.iter().position(|width| *width == self.width).unwrap_or(0) as i64;
        let atomic = ATOMICS.iter().position(|op| *op == self.atomic).unwrap_or(0) as i64;
        i64::from(self.mode.0) | width << 2 | i64::from(self.signed) << 4 | atomic << 5
    }

    fn decode(word: u64) -> Access {
        Access {
            width: WIDTHS[(word >> 2) as usize % WIDTHS.len()],
            signed: word & 1 << 4 != 0,
            mode: mode(word),
            atomic: ATOMICS[(word >> 5 & 15) as usize % ATOMICS.len()],
        }
    }
}

/// The translation regime, in the low bits of every access.
fn mode(access: u64) -> MemoryMode {
    MemoryMode((access % MOST_MODES as u64) as u8)
}

/// [`SlowPath::ProbeWrite`](super::SlowPath::ProbeWrite)'s access.
pub(crate) fn encode_probe(mode: MemoryMode, bytes: u8) -> i64 {
    i64::from(mode.0) | i64::from(bytes) << 2
}

pub(super) extern "C" fn load<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, signed, mode, .. } = Access::decode(access);
        if let Ok(value) = cpu.load_slow(address, width.bytes(), mode) {
            cpu.context.result = if signed { sign_extend(width.integer(), value) } else { value };
        }
    })
}

pub(super) extern "C" fn store<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64, value: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, mode, .. } = Access::decode(access);
        // A failure is in the status.
        let _ = cpu.store_slow(address, width.bytes(), mode, value);
    })
}

/// `access` is the translation regime.
pub(super) extern "C" fn load_vector<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        if let Ok(value) = cpu.load_vector_slow(address, mode(access)) {
            cpu.context.result = value as u64;
            cpu.context.result_high = (value >> 64) as u64;
        }
    })
}

/// `access` is the translation regime; the value is passed in [`crate::cpu::Context::result`] and the word behind it.
pub(super) extern "C" fn store_vector<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let value = u128::from(cpu.context.result) | u128::from(cpu.context.result_high) << 64;
        let _ = cpu.store_vector_slow(address, mode(access), value);
    })
}

/// `access` is of [`encode_probe`].
pub(super) extern "C" fn probe_write<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let _ = cpu.probe_write(address, access >> 2 & 0xff, mode(access));
    })
}

pub(super) extern "C" fn read_modify_write<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64, value: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, mode, atomic: op, .. } = Access::decode(access);
        if let Ok(old) = atomic(cpu, op, width, mode, address, value) {
            cpu.context.result = old;
        }
    })
}

/// `expected` is passed in [`crate::cpu::Context::result`].
pub(super) extern "C" fn exchange_if<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64, new: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, mode, .. } = Access::decode(access);
        if let Ok(old) = compare_exchange(cpu, width, mode, address, cpu.context.result, new) {
            cpu.context.result = old;
        }
    })
}

pub(super) extern "C" fn reserve<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, mode, .. } = Access::decode(access);
        if let Ok(value) = load_reserved(cpu, width, mode, address) {
            cpu.context.result = value;
        }
    })
}

pub(super) extern "C" fn store_if_reserved<G: Guest>(cpu: &mut Cpu<G>, address: u64, access: u64, value: u64) {
    cpu.during(Activity::SlowMemory, |cpu| {
        let Access { width, mode, .. } = Access::decode(access);
        if let Ok(failed) = store_conditional(cpu, width, mode, address, value) {
            cpu.context.result = failed;
        }
    })
}

/// `access` has the width of the format, in bytes, instead of what there is to know of an access.
pub(super) extern "C" fn nan_of_multiply_add<G: Guest>(cpu: &mut Cpu<G>, a: u64, access: u64, b: u64) {
    let ty = if access & ((1 << ACCESS_BITS) - 1) == 4 { Type::F32 } else { Type::F64 };
    if crate::float::is_infinity_times_zero(ty, a, b) {
        cpu.context.float_flags |= crate::float::Flags::INVALID.0;
    }
    cpu.context.result = crate::float::canonical_nan(ty);
}

/// Moves the exception flags that compiled code raised from the host's control register to [`crate::cpu::Context::float_flags`].
pub(crate) extern "C" fn collect_float_flags<G: Guest>(cpu: &mut Cpu<G>, _: u64, _: u64, _: u64) -> u64 {
    cpu.context.float_flags |= crate::float::take_guest_flags().0;
    0
}

/// [`crate::ir::Op::FloatMultiplyAdd`] of numbers of `BITS` bits, for hosts without an instruction for it.
pub(super) extern "C" fn multiply_add<G: Guest, const BITS: u32>(cpu: &mut Cpu<G>, a: u64, b: u64, c: u64) -> u64 {
    let ty = if BITS == 32 { Type::F32 } else { Type::F64 };
    let (result, flags) = crate::float::multiply_add_canonical(ty, a, b, c, cpu.context.float_rounding);
    cpu.context.float_flags |= flags.0;
    result
}
