//! What the tests of this crate share.
// Each test program uses some of it.
#![allow(dead_code, unused_imports, unused_macros)]

use std::io::Write;
use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::jit::Jit;
use accel::kvm::Kvm;
use accel::{Accelerator, Architecture};
use hw::machine::{Config, Firmware};
use hw::vm::Vm;

/// What a test's machine runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    JitRiscv64,
    JitX86_64,
    KvmX86_64,
}

/// Makes tests of functions that take an [`On`]: one for each accelerator.
macro_rules! under_each_accelerator {
    ($($test:ident),* $(,)?) => {
        mod jit_riscv64 { $( #[test] fn $test() { super::$test(crate::support::On::JitRiscv64); } )* }
        mod jit_x86_64 { $( #[test] fn $test() { super::$test(crate::support::On::JitX86_64); } )* }
        mod kvm_x86_64 { $(
            #[test]
            fn $test() {
                match accel::kvm::Kvm::open(accel::Architecture::X86_64) {
                    Ok(_) => super::$test(crate::support::On::KvmX86_64),
                    Err(error) => eprintln!("SKIPPED: kvm_x86_64::{}: {error}", stringify!($test)),
                }
            }
        )* }
    };
}
pub(crate) use under_each_accelerator;

/// A machine with two processors that have nothing to do, in run state prelaunch.
pub(crate) fn machine(on: On, change: impl FnOnce(&mut Config)) -> Arc<Vm> {
    let mut config = Config { vcpus: 2, memory: 16 << 20, ..Config::default() };
    // At the reset vector of x86-64: cli; hlt; jmp to the hlt.
    let mut image = vec![0; 0x1_0000];
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    let mut firmware = tempfile::NamedTempFile::new().unwrap();
    firmware.write_all(&image).unwrap();
    config.boot.firmware = match on {
        On::JitRiscv64 => Firmware::None,
        On::JitX86_64 | On::KvmX86_64 => Firmware::File(firmware.path().into()),
    };
    change(&mut config);
    let clock = VirtualClock::new();
    let accelerator: Arc<dyn Accelerator> = match on {
        On::JitRiscv64 => Arc::new(Jit::open(Architecture::Riscv64, clock.clone()).unwrap()),
        On::JitX86_64 => Arc::new(Jit::open(Architecture::X86_64, clock.clone()).unwrap()),
        On::KvmX86_64 => Arc::new(Kvm::open(Architecture::X86_64).unwrap()),
    };
    Arc::new(Vm::new(config, accelerator, clock).unwrap())
}
