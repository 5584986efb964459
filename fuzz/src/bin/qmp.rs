//! The QMP parser and the protocol behind it.

use std::sync::Arc;

use accel::Architecture;
use accel::clock::VirtualClock;
use accel::jit::Jit;
use hw::machine::{Config, Firmware};
use hw::vm::Vm;

fn main() {
    let clock = VirtualClock::new();
    let jit = Arc::new(Jit::open(Architecture::Riscv64, clock.clone()).expect("the JIT opens"));
    let mut config = Config::default();
    config.boot.firmware = Firmware::None;
    let kernel = std::env::temp_dir().join(format!("brolga-fuzz-{}", std::process::id()));
    std::fs::write(&kernel, 0x1050_0073_u32.to_le_bytes()).expect("a temporary file can be written");
    config.boot.kernel = Some(kernel.clone());
    let vm = Arc::new(Vm::new(config, jit, clock).expect("the machine is built"));
    let _ = std::fs::remove_file(kernel);
    let seeds = [
        "\0{\"execute\":\"qmp_capabilities\"}",
        "\u{1}{\"execute\":\"query-status\",\"id\":{\"a\":[1,null,true,1.5e3]}}",
        "\u{1}{'execute':'human-monitor-command','arguments':{'command-line':'info registers'}}",
        "\u{1}{\"execute\":\"memsave\",\"arguments\":{\"val\":0,\"size\":1,\"filename\":\"\\u00e9\\ud83d\\ude00\"}}",
        "\u{1}{\"exec-oob\":\"query-status\"} ] {] nul [1,2,{}] -9223372036854775809 1e999",
    ];
    fuzz::run(&seeds.map(|seed| seed.as_bytes().to_vec()), |data| qmp::fuzz_qmp_input(&vm, data));
}
