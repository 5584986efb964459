//! The protocol itself.

use crate::support::qtest::Machine;

#[test]
fn memory_is_read_and_written_in_every_way() {
    for (mut machine, ram) in [(Machine::pc(&[]), 0x10_0000), (Machine::riscv64(&[]), 0x8000_0000)] {
        machine.writeq(ram, 0x1122_3344_5566_7788);
        assert_eq!(machine.readb(ram + 1), 0x77);
        assert_eq!(machine.readw(ram + 2), 0x5566);
        assert_eq!(machine.readl(ram + 4), 0x1122_3344);
        machine.writeb(ram, 1);
        machine.writew(ram + 2, 0x203);
        machine.writel(ram + 4, 0x0405_0607);
        assert_eq!(machine.readq(ram), 0x0405_0607_0203_7701);
        machine.execute(&format!("write {ram:#x} 6 0x0a0b0c"));
        assert_eq!(machine.execute(&format!("read {ram:#x} 7")), "0x0a0b0c00000005");
        machine.execute(&format!("memset {ram:#x} 4 0x5a"));
        assert_eq!(machine.execute(&format!("b64read {ram:#x} 4")), "WlpaWg==");
        machine.execute(&format!("b64write {ram:#x} 3 Zm9v"));
        assert_eq!(machine.read(ram, 4), b"fooZ");
        assert_eq!(machine.execute("endianness"), "little");
        // Beyond all memory.
        assert_eq!(machine.readl(1 << 60), 0);
        machine.writel(u64::MAX - 1, 1);
        assert_eq!(machine.read(u64::MAX - 3, 4), [0; 4]);
    }
}

#[test]
fn time_passes_when_the_client_says_so() {
    let mut machine = Machine::pc(&[]);
    assert_eq!(machine.execute("clock_step 100"), "100");
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(machine.execute("clock_step 0"), "100");
    assert_eq!(machine.execute("clock_set 0x1000"), "4096");
    // To the next rise of the interval timer, which counts 65536 at 1193182 Hz.
    assert_eq!(machine.execute("clock_step"), "54925402");
}

#[test]
fn interrupts_are_told_and_set() {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    machine.listen_to("/machine/i440fx/ioapic");
    assert_eq!(machine.send("irq_intercept_in i8259"), "FAIL IRQ intercept already enabled");
    // The modem status interrupt of no port: none; a keyboard's answer raises line 1.
    machine.outb(0x64, 0xaa);
    machine.inb(0x60);
    assert_eq!(machine.interrupts(), [(1, true), (1, false)]);
    machine.execute("set_irq_in /machine/i8259 unnamed-gpio-in 4 1");
    machine.outb(0x20, 0x0a);
    assert_eq!(machine.inb(0x20) & 0x10, 0x10);

    let mut machine = Machine::pc(&[]);
    machine.execute("irq_intercept_out i8042");
    machine.outb(0x64, 0xaa);
    assert_eq!(machine.interrupts(), [(0, true)]);
}

#[test]
fn what_is_wrong_is_answered_and_harms_nothing() {
    let mut machine = Machine::pc(&[]);
    for (line, answer) in [
        ("nonsense", "FAIL Unknown command 'nonsense'"),
        ("x", "FAIL Unknown command 'x'"),
        ("é", "FAIL Unknown command 'é'"),
        ("inq 1", "FAIL Unknown command 'inq'"),
        ("inb", "FAIL inb: port is missing"),
        ("inb 0x10000", "FAIL inb: ports end at 0xffff: 0x10000"),
        ("outb 1", "FAIL outb: value is missing"),
        ("readb ten", "FAIL readb: address is not a number: ten"),
        ("read 0 0", "FAIL read: valid sizes are 1 to 67108864: 0"),
        ("read 0 0xffffffffffffffff", "FAIL read: valid sizes are 1 to 67108864: 18446744073709551615"),
        ("write 0 4 ff", "FAIL invalid argument size"),
        ("b64write 0 4 ?", "FAIL b64write: the data is not base 64"),
        ("irq_intercept_in nobody", "FAIL Unknown device"),
        ("set_irq_in i8259 x 4294967296 1", "FAIL set_irq_in: there is no input 4294967296"),
        ("set_irq_in i8259 x 99 1", "OK"),
        ("clock_step later", "FAIL clock_step: time is not a number: later"),
        ("module_load a b", "FAIL there are no modules"),
    ] {
        assert_eq!(machine.send(line), answer, "{line}");
    }
    // Empty lines have no answer; bytes of every kind, and lines in parts.
    machine.send_raw(b"\n  \r\n\0\xff\xfe\n");
    assert!(machine.answer().starts_with("FAIL Unknown command"));
    machine.send_raw(b"endian");
    assert_eq!(machine.send("ness"), "OK little");
    // Many answers that nobody reads yet.
    let count = 2000;
    let many: String = (0..count).map(|_| "read 0 4096\n").collect();
    machine.send_raw(many.as_bytes());
    for _ in 0..count {
        assert_eq!(machine.answer().len(), 3 + 2 + 8192);
    }
}

#[test]
fn the_monitor_works_beside_it() {
    let machine = Machine::start("x86_64", &["-M", "pc"], |command| {
        command.args(["-nodefaults"]);
    });
    drop(machine);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let mut machine = Machine::start("x86_64", &[], |command| {
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
    });
    let mut client = crate::support::qmp::Client::connect(&socket);
    machine.writel(0x1000, 0x1234_5678);
    let monitor = |client: &mut crate::support::qmp::Client, line: &str| {
        let answer = client.execute("human-monitor-command", serde_json::json!({"command-line": line}));
        answer.as_str().unwrap_or_default().to_owned()
    };
    assert!(monitor(&mut client, "xp /1xw 0x1000").contains("0x12345678"));
    // Registers of a device: the I/O APIC's index, and its version through it.
    machine.writel(0xfec0_0000, 1);
    assert!(monitor(&mut client, "xp /1xw 0xfec00010").contains("0x00170020"));
    assert!(
        monitor(&mut client, "info registers").contains("EIP")
            || monitor(&mut client, "info registers").contains("RIP")
    );
    client.execute("system_reset", serde_json::json!({}));
    machine.outb(0xcf9, 6);
    assert_eq!(client.wait_for("RESET")["data"]["guest"], false);
    assert_eq!(client.wait_for("RESET")["data"]["guest"], true);
    client.execute("quit", serde_json::json!({}));
    assert_eq!(machine.wait_for_end(), Some(0));
}
