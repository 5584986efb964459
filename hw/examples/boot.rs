use std::sync::Arc;
use accel::clock::VirtualClock;
use hw::machine::{Config, Firmware};
use hw::vm::Vm;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let clock = VirtualClock::new();
    let jit = Arc::new(accel::jit::Jit::open(accel::Architecture::Riscv64, clock.clone()).unwrap());
    let mut c = Config { memory: 512 << 20, vcpus: a[2].parse().unwrap(), ..Config::default() };
    c.boot.firmware = Firmware::File(a[1].clone().into());
    c.boot.kernel = a.get(3).map(|k| k.into());
    c.boot.initrd = a.get(4).map(|k| k.into());
    c.boot.command_line = "console=ttyS0 earlycon=sbi".into();
    c.serial.push(Arc::new(host::chardev::StdioBackend::open().unwrap()));
    let vm = Vm::new(c, jit, clock).unwrap();
    let _s = vm.subscribe(|e| eprintln!("{e:?}"));
    vm.cont().unwrap();
    let secs = std::env::var("SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let st = vm.wait_for_exit_at_most(std::time::Duration::from_secs(secs));
    eprintln!("exit {st:?} state {:?} err {:?}", vm.status(), vm.last_internal_error());
    for c in vm.cpus() { eprintln!("{c:?} {:#x}", vm.cpu_state(c.index).map_or(0, |s| s.program_counter())); }
}
