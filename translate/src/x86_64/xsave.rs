//! XSAVE and its kin (SDM volume 1, chapter 13): x87, SSE and AVX state, as components 0 to 2, to an area in memory and back.

use crate::cpu::{Cpu, Stopped};
use crate::ir::MemoryMode;

use super::event::general_protection;
use super::helpers::{load_bytes, store_bytes};
use super::registers::vector_part;
use super::softfloat::{MXCSR_MASK, MXCSR_RESET};
use super::state::{X86_64, mxcsr, set_mxcsr};
use super::x87::{FXSAVE_BYTES, X87};

/// The x87's component.
pub const X87_COMPONENT: u64 = 1 << 0;
/// The XMM registers and MXCSR.
pub const SSE_COMPONENT: u64 = 1 << 1;
/// The upper halves of the YMM registers.
pub const AVX_COMPONENT: u64 = 1 << 2;

/// Where the upper halves of the YMM registers are, in either form.
pub const AVX_OFFSET: usize = 576;
/// Bytes of them.
pub const AVX_BYTES: usize = 256;

/// Offset of MXCSR; its mask follows.
const MXCSR: u64 = 24;
const ST: u64 = 32;
const XMM: u64 = 160;
const HEADER: u64 = 512;
const HEADER_BYTES: usize = 64;
/// XCOMP_BV: the area is compact.
const COMPACT: u64 = 1 << 63;

/// Bytes of an area with components.
pub const fn area_bytes(components: u64) -> usize {
    AVX_OFFSET + if components & AVX_COMPONENT != 0 { AVX_BYTES } else { 0 }
}

/// Which of the instructions that save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saving {
    /// XSAVE.
    All,
    /// XSAVEOPT: what is in its initial state is not written.
    InUse,
    /// XSAVEC: as XSAVEOPT, and the area is compact.
    Compact,
}

/// How an instruction reaches its area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) address: u64,
    pub(super) mode: MemoryMode,
    /// With REX.W.
    pub(super) long: bool,
    /// EDX:EAX, the components that are asked for.
    pub(super) wanted: u64,
}

/// Registers of a component of vector registers that the mode has: part 0 of XMM registers, part 2 of YMM registers' upper halves.
fn registers(cpu: &Cpu<X86_64>, first_part: u8) -> impl Iterator<Item = crate::ir::Register> + use<> {
    let count = if cpu.guest.is_64_bit() { 16 } else { 8 };
    (0..count).flat_map(move |number| [first_part, first_part + 1].map(|part| vector_part(number, part)))
}

/// The components that are not in their initial state (XINUSE).
pub(super) fn in_use(cpu: &Cpu<X86_64>) -> u64 {
    let any = |first_part: u8| (0..32_u8).any(|half| cpu.register(vector_part(half / 2, first_part + half % 2)) != 0);
    let bit = |condition: bool, component: u64| if condition { component } else { 0 };
    bit(cpu.guest.x87 != X87::default(), X87_COMPONENT) | bit(any(0), SSE_COMPONENT) | bit(any(2), AVX_COMPONENT)
}

fn vector_bytes(cpu: &Cpu<X86_64>, first_part: u8) -> Vec<u8> {
    registers(cpu, first_part).flat_map(|register| cpu.register(register).to_le_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// XSAVE, XSAVEOPT, XSAVEC.
pub(super) fn save(cpu: &mut Cpu<X86_64>, area: Area, saving: Saving) -> Result<(), Stopped> {
    let Area { address, mode, long, wanted } = area;
    let wanted = wanted & cpu.guest.xcr0;
    let in_use = in_use(cpu);
    let at = |offset: u64| address.wrapping_add(offset);
    let control = mxcsr(cpu);
    // In the compact form MXCSR is part of the SSE component.
    let sse_differs = saving == Saving::Compact && control != MXCSR_RESET;
    let used = in_use | if sse_differs { SSE_COMPONENT } else { 0 };
    let stored = if saving == Saving::All { wanted } else { wanted & used };
    let in_header = if saving == Saving::Compact {
        wanted & used
    } else {
        let old = word(&load_bytes::<8>(cpu, at(HEADER), 8, mode)?, 0);
        old & !wanted | in_use & wanted
    };
    if stored & X87_COMPONENT != 0 {
        let image = cpu.guest.x87.fxsave(long);
        store_bytes(cpu, address, &image[..MXCSR as usize], mode)?;
        store_bytes(cpu, at(ST), &image[ST as usize..FXSAVE_BYTES], mode)?;
    }
    let with_control = match saving {
        Saving::Compact => stored & SSE_COMPONENT != 0,
        _ => wanted & (SSE_COMPONENT | AVX_COMPONENT) != 0,
    };
    if with_control {
        store_bytes(cpu, at(MXCSR), &(u64::from(control) | u64::from(MXCSR_MASK) << 32).to_le_bytes(), mode)?;
    }
    for (component, offset, part) in [(SSE_COMPONENT, XMM, 0), (AVX_COMPONENT, AVX_OFFSET as u64, 2)] {
        if stored & component != 0 {
            let bytes = vector_bytes(cpu, part);
            store_bytes(cpu, at(offset), &bytes, mode)?;
        }
    }
    store_bytes(cpu, at(HEADER), &in_header.to_le_bytes(), mode)?;
    if saving == Saving::Compact {
        store_bytes(cpu, at(HEADER + 8), &(wanted | COMPACT).to_le_bytes(), mode)?;
    }
    Ok(())
}

/// XRSTOR.
pub(super) fn restore(cpu: &mut Cpu<X86_64>, area: Area) -> Result<(), Stopped> {
    let Area { address, mode, long, wanted } = area;
    let enabled = cpu.guest.xcr0;
    let wanted = wanted & enabled;
    let at = |offset: u64| address.wrapping_add(offset);
    let header = load_bytes::<HEADER_BYTES>(cpu, at(HEADER), HEADER_BYTES, mode)?;
    let (present, layout) = (word(&header, 0), word(&header, 8));
    let compact = layout & COMPACT != 0 && cpu.guest.model.features.has_named("xsavec");
    let valid = if compact {
        layout & !COMPACT & !enabled == 0 && present & !layout == 0 && header[16..].iter().all(|byte| *byte == 0)
    } else {
        present & !enabled == 0 && header[8..24].iter().all(|byte| *byte == 0)
    };
    if !valid {
        return Err(cpu.stop_with(general_protection(0).0));
    }
    let loaded = wanted & present;
    // All is read before anything changes.
    let x87 = match loaded & X87_COMPONENT {
        0 => None,
        _ => Some(load_bytes::<FXSAVE_BYTES>(cpu, address, FXSAVE_BYTES, mode)?),
    };
    let with_control =
        if compact { loaded & SSE_COMPONENT != 0 } else { wanted & (SSE_COMPONENT | AVX_COMPONENT) != 0 };
    let control = if with_control {
        let value = word(&load_bytes::<8>(cpu, at(MXCSR), 4, mode)?, 0) as u32;
        if value & !MXCSR_MASK != 0 {
            return Err(cpu.stop_with(general_protection(0).0));
        }
        Some(value)
    } else {
        (wanted & SSE_COMPONENT != 0).then_some(MXCSR_RESET)
    };
    let mut vectors = Vec::new();
    for (component, offset, part) in [(SSE_COMPONENT, XMM, 0), (AVX_COMPONENT, AVX_OFFSET as u64, 2)] {
        let destinations: Vec<_> = registers(cpu, part).collect();
        if loaded & component != 0 {
            let bytes = load_bytes::<AVX_BYTES>(cpu, at(offset), 8 * destinations.len(), mode)?;
            vectors.extend(destinations.iter().zip(bytes.chunks_exact(8)).map(|(to, half)| (*to, word(half, 0))));
        } else if wanted & component != 0 {
            vectors.extend(destinations.iter().map(|to| (*to, 0)));
        }
    }
    match x87 {
        Some(image) => cpu.guest.x87.fxrstor(long, &image),
        None if wanted & X87_COMPONENT != 0 => cpu.guest.x87 = X87::default(),
        None => {}
    }
    if let Some(value) = control {
        set_mxcsr(cpu, value);
    }
    for (register, value) in vectors {
        cpu.set_register(register, value);
    }
    Ok(())
}
