//! FXSAVE and FXRSTOR (SDM volume 1, 10.5), and MXCSR by itself.

use crate::cpu::{Cpu, Stopped};
use crate::ir::MemoryMode;

use super::super::event::general_protection;
use super::super::registers::vector_part;
use super::super::softfloat::MXCSR_MASK;
use super::super::state::{CR4_OSFXSR, X86_64, mxcsr, set_mxcsr};
use super::super::x87::FXSAVE_BYTES;
use super::x87::{load_bytes, store_bytes};

/// Offset of MXCSR in the image; its mask follows, then the x87's registers.
const MXCSR: usize = 24;
/// Offset of XMM0.
const XMM: usize = FXSAVE_BYTES;
const MOST_XMM_BYTES: usize = 16 * 16;

/// The second argument of [`fxsave`] and [`fxrstor`]; `long`: with REX.W.
pub(in super::super) fn encode_state_image(mode: MemoryMode, long: bool) -> u64 {
    u64::from(mode.0) | u64::from(long) << 8
}

fn decode(how: u64) -> (MemoryMode, bool) {
    (MemoryMode(how as u8), how >> 8 & 1 != 0)
}

/// How many XMM registers the image has: none unless the system saves them.
fn xmm_count(cpu: &Cpu<X86_64>) -> usize {
    let guest = &cpu.guest;
    match guest.is_64_bit() {
        _ if guest.cr4 & CR4_OSFXSR == 0 => 0,
        true => 16,
        false => 8,
    }
}

pub(super) extern "C" fn fxsave(cpu: &mut Cpu<X86_64>, address: u64, how: u64, _: u64) -> u64 {
    // The helper's end looks at the status.
    let _ = try_fxsave(cpu, address, how);
    0
}

fn try_fxsave(cpu: &mut Cpu<X86_64>, address: u64, how: u64) -> Result<(), Stopped> {
    let (mode, long) = decode(how);
    let mut image = [0; FXSAVE_BYTES + MOST_XMM_BYTES];
    image[..FXSAVE_BYTES].copy_from_slice(&cpu.guest.x87.fxsave(long));
    if cpu.guest.cr4 & CR4_OSFXSR != 0 {
        image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr(cpu).to_le_bytes());
        image[MXCSR + 4..MXCSR + 8].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    }
    let count = xmm_count(cpu);
    for (number, bytes) in (0..).zip(image[XMM..XMM + 16 * count].chunks_exact_mut(8)) {
        bytes.copy_from_slice(&cpu.register(vector_part(number / 2, number % 2)).to_le_bytes());
    }
    store_bytes(cpu, address, &image[..XMM + 16 * count], mode)
}

pub(super) extern "C" fn fxrstor(cpu: &mut Cpu<X86_64>, address: u64, how: u64, _: u64) -> u64 {
    let _ = try_fxrstor(cpu, address, how);
    0
}

fn try_fxrstor(cpu: &mut Cpu<X86_64>, address: u64, how: u64) -> Result<(), Stopped> {
    let (mode, long) = decode(how);
    let count = xmm_count(cpu);
    let unit: [u8; FXSAVE_BYTES] = load_bytes(cpu, address, FXSAVE_BYTES, mode)?;
    let xmm: [u8; MOST_XMM_BYTES] = load_bytes(cpu, address.wrapping_add(XMM as u64), 16 * count, mode)?;
    if cpu.guest.cr4 & CR4_OSFXSR != 0 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| unit[MXCSR + byte]);
        let value = u32::from_le_bytes([a, b, c, d]);
        if value & !MXCSR_MASK != 0 {
            return Err(cpu.stop_with(general_protection(0).0));
        }
        set_mxcsr(cpu, value);
    }
    cpu.guest.x87.fxrstor(long, &unit);
    for (number, bytes) in (0..).zip(xmm[..16 * count].chunks_exact(8)) {
        let mut half = [0; 8];
        half.copy_from_slice(bytes);
        cpu.set_register(vector_part(number / 2, number % 2), u64::from_le_bytes(half));
    }
    Ok(())
}

/// LDMXCSR.
pub(super) extern "C" fn load_mxcsr(cpu: &mut Cpu<X86_64>, value: u64, _: u64, _: u64) -> u64 {
    let value = value as u32;
    if value & !MXCSR_MASK != 0 {
        cpu.stop_with(general_protection(0).0);
        return 0;
    }
    set_mxcsr(cpu, value);
    0
}

/// STMXCSR.
pub(super) extern "C" fn read_mxcsr(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    mxcsr(cpu).into()
}
