//! Guest instruction sets, the intermediate representation they are lifted to, and the two ways to run it.
//!
//! ```text
//! guest bytes --lift--> IR block --+--> interpreter   (cold code, single-step, the reference)
//!                                  +--> Cranelift     (hot regions, compiled in background threads)
//! ```
//!
//! Here live the IR ([`ir`]), the guests ([`riscv64`], [`x86_64`]), a processor's run-time state and soft TLB ([`cpu`]), and the
//! back ends. No device, no machine, no operating system and no QMP is known here: what lies outside the processor is
//! one trait, [`platform::Platform`].
//!
//! Read first: [`ir::Block`], [`guest::Guest`], [`cpu::Cpu`].
//!
//! **Invariants.** A lifter never names a back end; a back end never names a guest. Every operation means the same in the
//! interpreter and in compiled code, bit for bit. No guest program, valid or not, makes this crate panic.

mod activity;
mod baseline;
pub mod code;
pub mod compile;
pub mod counters;
pub mod cpu;
pub mod engine;
pub mod float;
pub mod guest;
pub mod interpret;
pub mod ir;
mod large_pages;
pub mod platform;
pub mod riscv64;
mod saved;
pub mod tlb;
pub mod vector;
pub mod x86_64;
