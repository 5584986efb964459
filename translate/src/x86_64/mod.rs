//! The x86-64 guest.

pub mod simd;
pub mod softfloat;
pub mod x87;
