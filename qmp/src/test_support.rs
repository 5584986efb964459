//! What tests and fuzzing of this crate share.

use std::sync::Arc;

use accel::Architecture;
use accel::clock::VirtualClock;
use accel::jit::Jit;
use hw::machine::{Config, Firmware};
use hw::vm::Vm;

/// A riscv64 machine with two processors and nothing to boot, in run state prelaunch.
pub(crate) fn machine(change: impl FnOnce(&mut Config)) -> Arc<Vm> {
    let mut config = Config { vcpus: 2, memory: 16 << 20, ..Config::default() };
    config.boot.firmware = Firmware::None;
    change(&mut config);
    let clock = VirtualClock::new();
    let accelerator = Arc::new(Jit::open(Architecture::Riscv64, clock.clone()).unwrap());
    Arc::new(Vm::new(config, accelerator, clock).unwrap())
}
