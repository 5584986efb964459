//! What the suite tests: a backend for a guest architecture.

use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::jit::Jit;
use accel::kvm::Kvm;
use accel::{Accelerator, Architecture, Error};
use translate::engine::Tiers;

use crate::kvm_quirks;

/// A backend for a guest architecture.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    /// Of the guest.
    pub(crate) architecture: Architecture,
    /// Creates a virtual machine.
    pub(crate) open: fn() -> Result<Arc<dyn Accelerator>, Error>,
    /// How often a loop of a guest program goes round: often enough for the backend's faster ways of execution, and
    /// no longer than about a second.
    pub(crate) iterations: u32,
    /// Finds out whether the host does its part for watchpoints; the error says what it does not.
    pub(crate) data_breakpoints: fn() -> Outcome,
}

/// What a case ends with, if it does not panic; `Err` says why it could not test anything here.
pub(crate) type Outcome = Result<(), String>;

/// Runs one case, or says that it was skipped.
pub(crate) fn run(name: &str, subject: Subject, case: fn(&Subject) -> Outcome) {
    let outcome = match (subject.open)() {
        Ok(accelerator) => {
            drop(accelerator);
            case(&subject)
        }
        Err(error @ Error::Unavailable { .. }) => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    };
    if let Err(reason) = outcome {
        eprintln!("SKIPPED: {name}: {reason}");
    }
}

/// KVM on an x86-64 host.
pub(crate) const KVM_X86_64: Subject = Subject {
    architecture: Architecture::X86_64,
    open: || Ok(Arc::new(Kvm::open(Architecture::X86_64)?)),
    iterations: 500,
    data_breakpoints: kvm_quirks::data_breakpoints,
};

fn jit(architecture: Architecture, tiers: Tiers) -> Result<Arc<dyn Accelerator>, Error> {
    let clock = VirtualClock::new();
    clock.resume();
    Ok(Arc::new(Jit::with_tiers(architecture, clock, tiers)?))
}

/// The JIT with riscv64 guests, as users have it.
pub(crate) const JIT_RISCV64: Subject = Subject {
    architecture: Architecture::Riscv64,
    open: || jit(Architecture::Riscv64, Tiers::Background(64)),
    iterations: 20_000,
    data_breakpoints: || Ok(()),
};

/// The JIT with x86-64 guests, as users have it.
pub(crate) const JIT_X86_64: Subject = Subject {
    architecture: Architecture::X86_64,
    open: || jit(Architecture::X86_64, Tiers::Background(64)),
    iterations: 20_000,
    data_breakpoints: || Ok(()),
};

/// As [`COMPILED_RISCV64`], with x86-64 guests.
pub(crate) const COMPILED_X86_64: Subject =
    Subject { open: || jit(Architecture::X86_64, Tiers::Immediate(1)), ..JIT_X86_64 };

/// As [`BASELINE_RISCV64`], with x86-64 guests.
pub(crate) const BASELINE_X86_64: Subject =
    Subject { open: || jit(Architecture::X86_64, Tiers::Baseline(1)), ..JIT_X86_64 };

/// As [`INTERPRETED_RISCV64`], with x86-64 guests.
pub(crate) const INTERPRETED_X86_64: Subject =
    Subject { open: || jit(Architecture::X86_64, Tiers::InterpreterOnly), ..JIT_X86_64 };

/// The JIT that compiles all that runs, before it runs a second time.
pub(crate) const COMPILED_RISCV64: Subject =
    Subject { open: || jit(Architecture::Riscv64, Tiers::Immediate(1)), ..JIT_RISCV64 };

/// The JIT that compiles each block by itself before it runs a second time.
pub(crate) const BASELINE_RISCV64: Subject =
    Subject { open: || jit(Architecture::Riscv64, Tiers::Baseline(1)), ..JIT_RISCV64 };

/// The JIT that compiles nothing.
pub(crate) const INTERPRETED_RISCV64: Subject =
    Subject { open: || jit(Architecture::Riscv64, Tiers::InterpreterOnly), ..JIT_RISCV64 };
