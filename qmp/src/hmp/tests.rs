use super::*;
use crate::test_support::{On, machine};

fn monitor() -> Monitor {
    Monitor::new(machine(On::JitRiscv64, |config| config.name = Some("vm1".into())))
}

#[test]
fn the_machine_is_described_as_qemu_does() {
    let mut monitor = monitor();
    assert_eq!(monitor.execute("info status"), "VM status: paused (prelaunch)\n");
    assert_eq!(monitor.execute("  info  name "), "vm1\n");
    assert_eq!(monitor.execute("info kvm"), "kvm support: disabled\n");
    assert!(monitor.execute("info version").starts_with("10.0.0 (brolga "));
    let cpus = monitor.execute("info cpus");
    let lines: Vec<&str> = cpus.lines().collect();
    assert!(lines[0].starts_with("* CPU #0: thread_id=") && lines[1].starts_with("  CPU #1: thread_id="), "{cpus}");
    assert_eq!(monitor.execute("cont"), "");
    assert_eq!(monitor.execute("info status"), "VM status: running\n");
    assert_eq!(monitor.execute("s"), "");
    assert_eq!(monitor.execute("info status"), "VM status: paused\n");
}

#[test]
fn mistakes_are_answered_with_text() {
    let mut monitor = monitor();
    assert_eq!(monitor.execute(""), "");
    assert_eq!(monitor.execute("nosuch"), "unknown command: 'nosuch'\n");
    assert_eq!(monitor.execute("info nosuch"), "unknown command: 'info nosuch'\n");
    assert_eq!(monitor.execute("cpu 2"), "invalid CPU index\n");
    assert_eq!(monitor.execute("nmi"), "Error: machine does not provide NMIs\n");
    for line in ["x", "x/4q 0", "x 1 2", "memsave 0", "pmemsave 0 1", "stop now", "memsave 0 1 \"x"] {
        assert!(monitor.execute(line).contains("Try \"help "), "{line}: {}", monitor.execute(line));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none/file");
    let text = monitor.execute(&format!("pmemsave 0 16 \"{}\"", path.display()));
    assert_eq!(text, format!("Error: Could not open '{}': No such file or directory\n", path.display()));
}

#[test]
fn registers_and_memory_of_the_chosen_processor_are_shown() {
    let mut monitor = monitor();
    monitor.vm.write_physical(0x8000_0000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(monitor.execute("xp/2xw 0x80000000"), "0000000080000000: 0x04030201 0x08070605\n");
    // Format and size are remembered, the count is not.
    assert_eq!(monitor.execute("xp/xh 0x80000000"), "0000000080000000: 0x0201\n");
    assert_eq!(monitor.execute("x 0x80000000 + 2"), "0000000080000002: 0x0403\n");
    let registers = monitor.execute("info registers");
    assert!(registers.starts_with("\nCPU#0\n pc       0000000000001000\n mhartid  0000000000000000\n"), "{registers}");
    assert_eq!(monitor.execute("cpu 1"), "");
    let registers = monitor.execute("info registers");
    assert!(registers.starts_with("\nCPU#1\n pc       0000000000001000\n mhartid  0000000000000001\n"), "{registers}");
    assert!(registers.contains("\n x0/zero  0000000000000000 x1/ra    0000000000000000 x2/sp "), "{registers}");
    assert_eq!(monitor.execute("info registers -a").matches("CPU#").count(), 2);
    assert_eq!(monitor.execute("print/x $pc+$mhartid"), "0x1001\n");
}

#[test]
fn every_command_is_in_the_help() {
    let mut monitor = monitor();
    let all = monitor.execute("help");
    for name in ["info [subcommand]", "cont|c -- ", "x /fmt addr -- ", "quit|q -- "] {
        assert!(all.contains(name), "{name} in {all}");
    }
    assert!(monitor.execute("help info").contains("info registers [-a] -- "));
    assert_eq!(monitor.execute("info"), monitor.execute("help info"));
    assert_eq!(monitor.execute("? nmi"), "nmi -- deliver a non-maskable interrupt to all processors\n");
}
