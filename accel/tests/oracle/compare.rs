//! Comparison of what a program left behind on two backends.

use crate::machine::{Backend, Outcome};
use crate::undefined::Ignored;

/// RFLAGS.RF in the frame of an exception: KVM's software delivery and processors differ about it.
pub(crate) const RF: u64 = 1 << 16;

/// What differs, a line each; empty: nothing.
///
/// Left out are FIP, FDP and FOP, which processors keep in different ways (AMD's only after unmasked exceptions), and
/// what the guest cannot see.
pub(crate) fn differences(a: (Backend, &Outcome), b: (Backend, &Outcome), ignored: Ignored) -> Vec<String> {
    let mut lines = Vec::new();
    let ((name_a, a), (name_b, b)) = (a, b);
    let mut number = |what: &str, a: u64, b: u64| {
        if a != b {
            lines.push(format!("{what}: {name_a:?} {a:#x}, {name_b:?} {b:#x}, changed bits {:#x}", a ^ b));
        }
    };
    let vector = |outcome: &Outcome| outcome.vector.map_or(u64::MAX, u64::from);
    number("vector", vector(a), vector(b));
    number("error code", a.error_code, b.error_code);
    const NAMES: [&str; 16] =
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    for (register, name) in NAMES.iter().enumerate() {
        number(name, a.gpr[register], b.gpr[register]);
    }
    number("rip", a.rip, b.rip);
    number("rflags", a.rflags & !(RF | ignored.rflags), b.rflags & !(RF | ignored.rflags));
    number("cr2", a.cr2, b.cr2);
    for (position, name) in ["cs", "ss", "ds", "es", "fs", "gs"].iter().enumerate() {
        number(name, a.selectors[position], b.selectors[position]);
    }
    number("fcw", a.fpu.fcw.into(), b.fpu.fcw.into());
    let shown = !ignored.mxcsr;
    number("mxcsr", (a.fpu.mxcsr & shown).into(), (b.fpu.mxcsr & shown).into());
    if !ignored.x87 {
        number("fsw", a.fpu.fsw.into(), b.fpu.fsw.into());
        number("ftw", a.fpu.ftw.into(), b.fpu.ftw.into());
        for register in 0..8 {
            let (a, b) = (a.fpu.st[register], b.fpu.st[register]);
            number(&format!("st{register}"), a.significand, b.significand);
            number(&format!("st{register} sign and exponent"), a.sign_exponent.into(), b.sign_exponent.into());
        }
    }
    for register in 0..16 {
        for (half, name) in ["low", "high"].iter().enumerate() {
            number(&format!("xmm{register} {name}"), a.fpu.xmm[register][half], b.fpu.xmm[register][half]);
        }
    }
    for register in 0..16 {
        for (half, name) in ["third", "highest"].iter().enumerate() {
            let part = |outcome: &Outcome| outcome.fpu.ymm_high[register][half];
            number(&format!("ymm{register} {name} quarter"), part(a), part(b));
        }
    }
    let mut shown = 0;
    for ((start, a), (_, b)) in a.memory.iter().zip(&b.memory) {
        for (index, (a, b)) in a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b) {
            shown += 1;
            if shown <= 8 {
                let address = start + index as u64;
                number(&format!("memory at {address:#x}"), u64::from(*a), u64::from(*b));
            }
        }
    }
    if a.failure != b.failure {
        lines.push(format!("end: {name_a:?} {:?}, {name_b:?} {:?}", a.failure, b.failure));
    }
    lines
}
