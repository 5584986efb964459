//! Integer instructions that would take too many operations.

use std::sync::atomic::Ordering;

use crate::cpu::{Cpu, Stopped};
use crate::ir::{MemoryMode, Width};
use crate::platform::PAGE_SIZE;

use super::super::event::{plain, vector};
use super::super::flags::{self, AF, CF, OF, flag_if};
use super::super::mmu;
use super::super::registers::{RAX, RBX, RCX, RDX};
use super::super::state::X86_64;

/// The arithmetic flags from what they are made of.
pub(super) extern "C" fn compute_flags(_: &mut Cpu<X86_64>, kind: u64, a: u64, b: u64) -> u64 {
    flags::compute(kind, a, b)
}

/// Quotient of the 128-bit number `high:low`.
pub(super) extern "C" fn divide_unsigned(cpu: &mut Cpu<X86_64>, high: u64, low: u64, divisor: u64) -> u64 {
    if high == 0 && divisor != 0 {
        return low / divisor;
    }
    let dividend = u128::from(high) << 64 | u128::from(low);
    let quotient = dividend.checked_div(u128::from(divisor)).and_then(|quotient| u64::try_from(quotient).ok());
    quotient.unwrap_or_else(|| divide_error(cpu))
}

/// Quotient of the signed 128-bit number `high:low`, rounded towards zero.
pub(super) extern "C" fn divide_signed(cpu: &mut Cpu<X86_64>, high: u64, low: u64, divisor: u64) -> u64 {
    let dividend = (u128::from(high) << 64 | u128::from(low)) as i128;
    let quotient = dividend.checked_div(i128::from(divisor as i64)).and_then(|quotient| i64::try_from(quotient).ok());
    quotient.map_or_else(|| divide_error(cpu), |quotient| quotient as u64)
}

fn divide_error(cpu: &mut Cpu<X86_64>) -> u64 {
    cpu.stop_with(plain(vector::DIVIDE_ERROR).0);
    0
}

/// DAA (0), DAS, AAA, AAS, AAM, AAD (5), with the immediate above the number. Gives AX, and the flags in the upper half.
pub(super) extern "C" fn decimal(_: &mut Cpu<X86_64>, which: u64, accumulator: u64, before: u64) -> u64 {
    let base = (which >> 8) as u8;
    let [al, ah] = (accumulator as u16).to_le_bytes();
    let low_is_large = al & 0xf > 9 || before & AF != 0;
    let (al, ah, carries) = match which & 0xff {
        0 | 1 => {
            let high_is_large = al > 0x99 || before & CF != 0;
            let by = if low_is_large { 6 } else { 0 } + if high_is_large { 0x60 } else { 0 };
            let result = if which & 0xff == 0 { al.wrapping_add(by) } else { al.wrapping_sub(by) };
            let borrow = which & 0xff == 1 && low_is_large && al < 6;
            let carry = high_is_large || borrow;
            (result, ah, flag_if(low_is_large.into(), AF) | flag_if(carry.into(), CF))
        }
        2 | 3 => {
            let ax = u16::from_le_bytes([al, ah]);
            let new = match (low_is_large, which & 0xff) {
                (false, _) => ax,
                (true, 2) => ax.wrapping_add(0x106),
                (true, _) => ax.wrapping_sub(6).wrapping_sub(0x100),
            };
            let [al, ah] = new.to_le_bytes();
            (al & 0xf, ah, flag_if(low_is_large.into(), AF | CF))
        }
        4 => (al % base.max(1), al / base.max(1), 0),
        _ => (ah.wrapping_mul(base).wrapping_add(al), 0, 0),
    };
    let flags = flags::of_result(crate::ir::Type::I8, u64::from(al)) | carries;
    u64::from(u16::from_le_bytes([al, ah])) | flags << 32
}

/// Value and carry of a rotation through the carry. `how`: count, width from bit 8, to the left in bit 16.
fn rotate(value: u64, how: u64, carry: bool) -> (u64, bool) {
    let width = (how >> 8 & 0xff) as u32;
    let left = how >> 16 & 1 != 0;
    let count = (how & 0x3f) as u32 % (width + 1);
    let whole = u128::from(value) | u128::from(carry) << width;
    let mask = (1_u128 << (width + 1)) - 1;
    let by = if left { count } else { width + 1 - count };
    let rotated = if count == 0 { whole } else { (whole << by | whole >> (width + 1 - by)) & mask };
    ((rotated & (mask >> 1)) as u64, rotated >> width & 1 != 0)
}

/// RCL and RCR: the value.
pub(super) extern "C" fn rotate_through_carry(_: &mut Cpu<X86_64>, value: u64, how: u64, before: u64) -> u64 {
    rotate(value, how, before & CF != 0).0
}

/// RCL and RCR: the flags.
pub(super) extern "C" fn rotate_through_carry_flags(_: &mut Cpu<X86_64>, value: u64, how: u64, before: u64) -> u64 {
    if how & 0x3f == 0 {
        return before;
    }
    let width = how >> 8 & 0xff;
    let (result, carry) = rotate(value, how, before & CF != 0);
    let top = result >> (width - 1) & 1;
    let other = if how >> 16 & 1 != 0 { u64::from(carry) } else { result >> (width - 2) & 1 };
    before & !(CF | OF) | flag_if(carry.into(), CF) | flag_if(top ^ other, OF)
}

/// BEXTR: start in bits 0 to 7 of the control, length in bits 8 to 15.
pub(super) extern "C" fn bit_field(_: &mut Cpu<X86_64>, value: u64, control: u64, _: u64) -> u64 {
    let (start, length) = (control & 0xff, control >> 8 & 0xff);
    let shifted = if start < 64 { value >> start } else { 0 };
    if length < 64 { shifted & ((1 << length) - 1) } else { shifted }
}

/// PDEP.
pub(super) extern "C" fn deposit_bits(_: &mut Cpu<X86_64>, value: u64, mask: u64, _: u64) -> u64 {
    let (mut rest, mut result, mut source) = (mask, 0, value);
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        if source & 1 != 0 {
            result |= lowest;
        }
        source >>= 1;
        rest ^= lowest;
    }
    result
}

/// PEXT.
pub(super) extern "C" fn extract_bits(_: &mut Cpu<X86_64>, value: u64, mask: u64, _: u64) -> u64 {
    let (mut rest, mut result, mut position) = (mask, 0, 0);
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        result |= u64::from(value & lowest != 0) << position;
        position += 1;
        rest ^= lowest;
    }
    result
}

/// CMPXCHG16B at a linear address that is aligned: RDX:RAX and RCX:RBX with memory; gives 1 if they were equal.
pub(super) extern "C" fn compare_exchange_16(cpu: &mut Cpu<X86_64>, address: u64, mode: u64, _: u64) -> u64 {
    let mode = MemoryMode(mode as u8);
    // A failure is in the status.
    let Ok(host) = cpu.atomic_address(address, Width::Double, mode) else { return 0 };
    let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let expected = pair(cpu.register(RDX), cpu.register(RAX));
    let new = pair(cpu.register(RCX), cpu.register(RBX));
    let found = match host {
        Some(host) => {
            // SAFETY: the page is writable host memory while the processor runs; 16 aligned bytes lie within it.
            let memory = unsafe { portable_atomic::AtomicU128::from_ptr(host.as_ptr().cast()) };
            let result = memory.compare_exchange(expected.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
            result.map_or_else(u128::from_le, u128::from_le)
        }
        // A device answers, which sees a read and a write.
        None => {
            let high_address = address.wrapping_add(8);
            let mut exchange = || {
                let low = cpu.load(address, Width::Double, mode)?;
                let found = pair(cpu.load(high_address, Width::Double, mode)?, low);
                if found == expected {
                    cpu.store(address, Width::Double, mode, new as u64)?;
                    cpu.store(high_address, Width::Double, mode, (new >> 64) as u64)?;
                }
                Ok::<_, Stopped>(found)
            };
            let Ok(found) = exchange() else { return 0 };
            found
        }
    };
    if found == expected {
        return 1;
    }
    cpu.set_register(RAX, found as u64);
    cpu.set_register(RDX, (found >> 64) as u64);
    0
}

/// The address if it is canonical, else 0: an address that faults for another reason is never misaligned.
pub(super) extern "C" fn alignment_of(cpu: &mut Cpu<X86_64>, address: u64, _: u64, _: u64) -> u64 {
    if mmu::is_canonical(cpu, address) { address } else { 0 }
}

/// Raises what a write of `bytes` would raise.
pub(super) extern "C" fn probe_write(cpu: &mut Cpu<X86_64>, address: u64, bytes: u64, mode: u64) -> u64 {
    // A failure is in the status.
    let _ = try_probe_write(cpu, address, bytes, MemoryMode(mode as u8));
    0
}

/// Fails as a write of some bytes (no more than a page) would.
pub(super) fn try_probe_write(
    cpu: &mut Cpu<X86_64>,
    address: u64,
    bytes: u64,
    mode: MemoryMode,
) -> Result<(), Stopped> {
    let last = address.wrapping_add(bytes.saturating_sub(1));
    cpu.atomic_address(address, Width::Byte, mode)?;
    if (address ^ last) / PAGE_SIZE != 0 {
        // The first byte beyond is the one that faults.
        cpu.atomic_address(last & !(PAGE_SIZE - 1), Width::Byte, mode)?;
    }
    Ok(())
}

/// RDRAND and RDSEED.
pub(super) extern "C" fn random(_: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is as long as is said. The kernel's source does not fail for so few bytes.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_le_bytes(bytes)
}
