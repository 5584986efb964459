//! The KVM backend: guests of the host's own architecture on the host's processor.
//!
//! Host-specific code is confined to this folder. On hosts other than x86-64 [`Kvm::open`] answers
//! [`Error::Unavailable`](crate::Error::Unavailable).

#[cfg(target_arch = "x86_64")]
mod blocking;
#[cfg(target_arch = "x86_64")]
mod controllers;
#[cfg(target_arch = "x86_64")]
mod cpuid;
#[cfg(target_arch = "x86_64")]
mod debug;
#[cfg(target_arch = "x86_64")]
mod handle;
#[cfg(target_arch = "x86_64")]
mod interpreter;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod run_page;
#[cfg(target_arch = "x86_64")]
mod translate;
#[cfg(target_arch = "x86_64")]
mod vcpu;
#[cfg(target_arch = "x86_64")]
mod vm;
#[cfg(target_arch = "x86_64")]
mod xsave;

#[cfg(not(target_arch = "x86_64"))]
mod absent;

#[cfg(not(target_arch = "x86_64"))]
pub use absent::Kvm;
#[cfg(target_arch = "x86_64")]
pub use vm::Kvm;

/// The name that `-accel` takes.
const NAME: &str = "kvm";
