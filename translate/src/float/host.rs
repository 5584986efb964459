//! The host's floating-point unit. Rounding and flags are controlled with inline assembly, since the compiler takes the default
//! environment for granted.
//!
//! Each function returns `None` where the host cannot do the operation: rounding ties away from zero, or a host whose control
//! register we do not know.

#[cfg(not(target_arch = "x86_64"))]
pub use other::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    use crate::float::{Flags, Rounding};
    use crate::ir::{FloatBinaryOp, Type};

    /// MXCSR with all exceptions masked, no flags, rounding to nearest even, and subnormal numbers honoured.
    const MASKED: u32 = 0x1f80;

    /// The host's own control register, while guest code runs with the guest's.
    #[derive(Clone, Copy, Debug)]
    #[must_use = "the host's control register must be restored"]
    pub struct HostControl(u32);

    /// MXCSR for a rounding mode; ties away from zero have none.
    fn control(rounding: Rounding) -> Option<u32> {
        let field = match rounding {
            Rounding::NearestEven => 0,
            Rounding::Down => 1,
            Rounding::Up => 2,
            Rounding::TowardZero => 3,
            Rounding::NearestAway => return None,
        };
        Some(MASKED | field << 13)
    }

    fn flags(mxcsr: u32) -> Flags {
        Flags(mxcsr >> 5 & 1 | mxcsr >> 3 & 2 | mxcsr >> 1 & 4 | mxcsr << 1 & 8 | mxcsr << 4 & 0x30)
    }

    /// Loads the guest's rounding mode into the host's control register, masks all exceptions and clears all flags, before
    /// compiled code runs. Ties away from zero, which the host does not have, become ties to even. Until
    /// [`leave_guest`], Rust code on this thread must not use floating point except through this module.
    pub fn enter_guest(rounding: Rounding) -> HostControl {
        let control = control(rounding).unwrap_or(MASKED);
        let mut saved = 0_u32;
        // SAFETY: both operands are valid memory; the caller restores the register before the compiler's code depends on it.
        unsafe {
            asm!("stmxcsr [{saved}]", "ldmxcsr [{control}]", saved = in(reg) &raw mut saved,
                control = in(reg) &raw const control, options(nostack, preserves_flags));
        }
        HostControl(saved)
    }

    /// Restores the host's control register after compiled code ran, and gives the flags that the code raised.
    pub fn leave_guest(saved: HostControl) -> Flags {
        let mut raised = 0_u32;
        // SAFETY: both operands are valid memory; the value loaded was read from the register.
        unsafe {
            asm!("stmxcsr [{raised}]", "ldmxcsr [{saved}]", raised = in(reg) &raw mut raised,
                saved = in(reg) &raw const saved.0, options(nostack, preserves_flags));
        }
        flags(raised)
    }

    /// Between [`enter_guest`] and [`leave_guest`]: gives the flags that compiled code raised, and clears them.
    pub fn take_guest_flags() -> Flags {
        let mut raised = 0_u32;
        // SAFETY: the operand is valid memory.
        unsafe { asm!("stmxcsr [{raised}]", raised = in(reg) &raw mut raised, options(nostack, preserves_flags)) };
        let cleared = raised & !0x3f;
        // SAFETY: the operand is valid memory; only flags change, which the compiler's code does not look at.
        unsafe { asm!("ldmxcsr [{cleared}]", cleared = in(reg) &raw const cleared, options(nostack, preserves_flags)) };
        flags(raised)
    }

    /// Defines a function that executes one instruction under `control` and gives the result and MXCSR.
    macro_rules! operation {
        ($name:ident, $instruction:literal, $result:ty, $($operand:ident: $ty:ty = $class:ident),*) => {
            #[inline]
            fn $name(first: $result, $($operand: $ty,)* control: u32) -> ($result, u32) {
                let mut result = first;
                let mut saved = 0_u32;
                let mut state = control;
                // SAFETY: the memory operands are valid; the control register has its old value again at the end; the
                // instruction touches its operands only.
                unsafe {
                    asm!("stmxcsr [{saved}]", "ldmxcsr [{state}]", $instruction, "stmxcsr [{state}]", "ldmxcsr [{saved}]",
                        saved = in(reg) &raw mut saved, state = in(reg) &raw mut state, result = inout(xmm_reg) result,
                        $($operand = in($class) $operand,)* options(nostack, preserves_flags));
                }
                (result, state)
            }
        };
    }

    operation!(add_f64, "addsd {result}, {b}", f64, b: f64 = xmm_reg);
    operation!(sub_f64, "subsd {result}, {b}", f64, b: f64 = xmm_reg);
    operation!(mul_f64, "mulsd {result}, {b}", f64, b: f64 = xmm_reg);
    operation!(div_f64, "divsd {result}, {b}", f64, b: f64 = xmm_reg);
    operation!(add_f32, "addss {result}, {b}", f32, b: f32 = xmm_reg);
    operation!(sub_f32, "subss {result}, {b}", f32, b: f32 = xmm_reg);
    operation!(mul_f32, "mulss {result}, {b}", f32, b: f32 = xmm_reg);
    operation!(div_f32, "divss {result}, {b}", f32, b: f32 = xmm_reg);
    operation!(sqrt_f64, "sqrtsd {result}, {a}", f64, a: f64 = xmm_reg);
    operation!(sqrt_f32, "sqrtss {result}, {a}", f32, a: f32 = xmm_reg);
    operation!(fma_f64, "vfmadd213sd {result}, {b}, {c}", f64, b: f64 = xmm_reg, c: f64 = xmm_reg);
    operation!(fma_f32, "vfmadd213ss {result}, {b}, {c}", f32, b: f32 = xmm_reg, c: f32 = xmm_reg);
    operation!(f32_to_f64, "cvtss2sd {result}, {a}", f64, a: f32 = xmm_reg);
    operation!(f64_to_f32, "cvtsd2ss {result}, {a}", f32, a: f64 = xmm_reg);
    operation!(i64_to_f64, "cvtsi2sd {result}, {a}", f64, a: i64 = reg);
    operation!(i64_to_f32, "cvtsi2ss {result}, {a}", f32, a: i64 = reg);

    fn f64(bits: u64) -> f64 {
        f64::from_bits(bits)
    }

    fn f32(bits: u64) -> f32 {
        f32::from_bits(bits as u32)
    }

    fn done64((result, mxcsr): (f64, u32)) -> Option<(u64, Flags)> {
        Some((result.to_bits(), flags(mxcsr)))
    }

    fn done32((result, mxcsr): (f32, u32)) -> Option<(u64, Flags)> {
        Some((u64::from(result.to_bits()), flags(mxcsr)))
    }

    pub(in crate::float) fn binary(
        op: FloatBinaryOp,
        ty: Type,
        a: u64,
        b: u64,
        rounding: Rounding,
    ) -> Option<(u64, Flags)> {
        let control = control(rounding)?;
        if ty == Type::F32 {
            let operation = match op {
                FloatBinaryOp::Add => add_f32,
                FloatBinaryOp::Sub => sub_f32,
                FloatBinaryOp::Mul => mul_f32,
                FloatBinaryOp::Div => div_f32,
            };
            return done32(operation(f32(a), f32(b), control));
        }
        let operation = match op {
            FloatBinaryOp::Add => add_f64,
            FloatBinaryOp::Sub => sub_f64,
            FloatBinaryOp::Mul => mul_f64,
            FloatBinaryOp::Div => div_f64,
        };
        done64(operation(f64(a), f64(b), control))
    }

    pub(in crate::float) fn square_root(ty: Type, a: u64, rounding: Rounding) -> Option<(u64, Flags)> {
        let control = control(rounding)?;
        if ty == Type::F32 { done32(sqrt_f32(0.0, f32(a), control)) } else { done64(sqrt_f64(0.0, f64(a), control)) }
    }

    pub(in crate::float) fn multiply_add(ty: Type, a: u64, b: u64, c: u64, rounding: Rounding) -> Option<(u64, Flags)> {
        let control = control(rounding)?;
        if !std::arch::is_x86_feature_detected!("fma") {
            return None;
        }
        if ty == Type::F32 {
            done32(fma_f32(f32(a), f32(b), f32(c), control))
        } else {
            done64(fma_f64(f64(a), f64(b), f64(c), control))
        }
    }

    pub(in crate::float) fn convert(from: Type, a: u64, rounding: Rounding) -> Option<(u64, Flags)> {
        let control = control(rounding)?;
        if from == Type::F32 {
            done64(f32_to_f64(0.0, f32(a), control))
        } else {
            done32(f64_to_f32(0.0, f64(a), control))
        }
    }

    pub(in crate::float) fn integer_to_float(to: Type, a: i64, rounding: Rounding) -> Option<(u64, Flags)> {
        let control = control(rounding)?;
        if to == Type::F32 { done32(i64_to_f32(0.0, a, control)) } else { done64(i64_to_f64(0.0, a, control)) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod other {
    use crate::float::{Flags, Rounding};
    use crate::ir::{FloatBinaryOp, Type};

    /// The host's own control register, while guest code runs with the guest's.
    #[derive(Clone, Copy, Debug)]
    pub struct HostControl;

    /// Does nothing: on this host floating point is done in software.
    pub fn enter_guest(_rounding: Rounding) -> HostControl {
        HostControl
    }

    /// Does nothing: on this host floating point is done in software.
    pub fn leave_guest(_saved: HostControl) -> Flags {
        Flags::NONE
    }

    /// Does nothing: on this host floating point is done in software.
    pub fn take_guest_flags() -> Flags {
        Flags::NONE
    }

    pub(in crate::float) fn binary(_: FloatBinaryOp, _: Type, _: u64, _: u64, _: Rounding) -> Option<(u64, Flags)> {
        None
    }

    pub(in crate::float) fn square_root(_: Type, _: u64, _: Rounding) -> Option<(u64, Flags)> {
        None
    }

    pub(in crate::float) fn multiply_add(_: Type, _: u64, _: u64, _: u64, _: Rounding) -> Option<(u64, Flags)> {
        None
    }

    pub(in crate::float) fn convert(_: Type, _: u64, _: Rounding) -> Option<(u64, Flags)> {
        None
    }

    pub(in crate::float) fn integer_to_float(_: Type, _: i64, _: Rounding) -> Option<(u64, Flags)> {
        None
    }
}
