//! The device tree of the `virt` machine.
//!
//! Devicetree Specification 0.4; bindings of the Linux kernel 6.12.

use vm_fdt::{Error, FdtWriter};

use super::{
    CLINT, CPU_MAX, DRAM, MEIP, MSIP, MTIP, PLIC, PLIC_SOURCES, RTC, RTC_IRQ, SEIP, TEST, UART, UART_IRQ, VIRTIO,
    VIRTIO_COUNT, VIRTIO_IRQ, VIRTIO_STEP,
};
use crate::machine::RiscvCpu;
use crate::{aclint, goldfish_rtc, plic, sifive_test};

/// Size of the area that the UART and each virtio slot have for themselves, bytes.
const UART_SIZE: u64 = 0x100;

const PHANDLE_PLIC: u32 = 1;
const PHANDLE_TEST: u32 = 2;
/// The first hart's; each hart takes two, for itself and for its interrupt controller.
const PHANDLE_HARTS: u32 = 3;

/// What differs from one `virt` machine to another.
pub(super) struct Machine<'a> {
    /// Size of RAM, bytes.
    pub(super) memory: u64,
    pub(super) harts: u32,
    pub(super) cpu: &'a RiscvCpu,
    pub(super) command_line: &'a str,
    /// First address of the initial RAM disk, and first after it.
    pub(super) initrd: Option<(u64, u64)>,
    pub(super) seed: [u8; 32],
}

fn cpu_phandle(hart: u32) -> u32 {
    PHANDLE_HARTS + 2 * hart
}
fn intc_phandle(hart: u32) -> u32 {
    cpu_phandle(hart) + 1
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Writes the flattened tree.
pub(super) fn write(machine: &Machine<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "riscv-virtio")?;
    fdt.property_string("model", "riscv-virtio,qemu")?;

    let chosen = fdt.begin_node("chosen")?;
    if !machine.command_line.is_empty() {
        fdt.property_string("bootargs", machine.command_line)?;
    }
    fdt.property_string("stdout-path", &format!("/soc/serial@{UART:x}"))?;
    fdt.property("rng-seed", &machine.seed)?;
    if let Some((start, end)) = machine.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.end_node(chosen)?;

    let aliases = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &format!("/soc/serial@{UART:x}"))?;
    fdt.end_node(aliases)?;

    let memory = fdt.begin_node(&format!("memory@{DRAM:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[DRAM, machine.memory])?;
    fdt.end_node(memory)?;

    write_cpus(&mut fdt, machine)?;

    for (name, command) in [("poweroff", sifive_test::PASS), ("reboot", sifive_test::RESET)] {
        let node = fdt.begin_node(name)?;
        fdt.property_string("compatible", &format!("syscon-{name}"))?;
        fdt.property_u32("regmap", PHANDLE_TEST)?;
        fdt.property_u32("offset", 0)?;
        fdt.property_u32("value", u32::from(command))?;
        fdt.end_node(node)?;
    }

    write_soc(&mut fdt, machine)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn write_cpus(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    fdt.property_u32("timebase-frequency", aclint::TIMEBASE_FREQUENCY)?;
    for hart in 0..machine.harts {
        let cpu = fdt.begin_node(&format!("cpu@{hart:x}"))?;
        fdt.property_phandle(cpu_phandle(hart))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_u32("reg", hart)?;
        fdt.property_string("status", "okay")?;
        fdt.property_string("compatible", "riscv")?;
        fdt.property_string("riscv,isa", &machine.cpu.isa_string())?;
        fdt.property_string("riscv,isa-base", "rv64i")?;
        fdt.property_string_list("riscv,isa-extensions", machine.cpu.extensions.clone())?;
        fdt.property_string("mmu-type", &machine.cpu.mmu)?;
        let intc = fdt.begin_node("interrupt-controller")?;
        fdt.property_phandle(intc_phandle(hart))?;
        fdt.property_u32("#interrupt-cells", 1)?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_string("compatible", "riscv,cpu-intc")?;
        fdt.end_node(intc)?;
        fdt.end_node(cpu)?;
    }
    let map = fdt.begin_node("cpu-map")?;
    let cluster = fdt.begin_node("cluster0")?;
    for hart in 0..machine.harts {
        let core = fdt.begin_node(&format!("core{hart}"))?;
        fdt.property_u32("cpu", cpu_phandle(hart))?;
        fdt.end_node(core)?;
    }
    fdt.end_node(cluster)?;
    fdt.end_node(map)?;
    fdt.end_node(cpus)
}

fn write_soc(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), Error> {
    // Two inputs of every hart's own controller.
    let inputs = |first: u32, second: u32| -> Vec<u32> {
        (0..machine.harts).flat_map(|hart| [intc_phandle(hart), first, intc_phandle(hart), second]).collect()
    };
    let soc = fdt.begin_node("soc")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "simple-bus")?;
    fdt.property_null("ranges")?;

    let test = fdt.begin_node(&format!("test@{TEST:x}"))?;
    fdt.property_phandle(PHANDLE_TEST)?;
    fdt.property_array_u64("reg", &[TEST, sifive_test::SIZE])?;
    fdt.property_string_list("compatible", strings(&["sifive,test1", "sifive,test0", "syscon"]))?;
    fdt.end_node(test)?;

    let rtc = fdt.begin_node(&format!("rtc@{RTC:x}"))?;
    fdt.property_string("compatible", "google,goldfish-rtc")?;
    fdt.property_array_u64("reg", &[RTC, goldfish_rtc::SIZE])?;
    fdt.property_u32("interrupts", RTC_IRQ)?;
    fdt.property_u32("interrupt-parent", PHANDLE_PLIC)?;
    fdt.end_node(rtc)?;

    let clint = fdt.begin_node(&format!("clint@{CLINT:x}"))?;
    fdt.property_string_list("compatible", strings(&["sifive,clint0", "riscv,clint0"]))?;
    fdt.property_array_u64("reg", &[CLINT, aclint::SIZE])?;
    fdt.property_array_u32("interrupts-extended", &inputs(MSIP, MTIP))?;
    fdt.end_node(clint)?;

    let node = fdt.begin_node(&format!("plic@{PLIC:x}"))?;
    fdt.property_phandle(PHANDLE_PLIC)?;
    fdt.property_string_list("compatible", strings(&["sifive,plic-1.0.0", "riscv,plic0"]))?;
    fdt.property_array_u64("reg", &[PLIC, plic::size(2 * u64::from(CPU_MAX))])?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u32("interrupts-extended", &inputs(MEIP, SEIP))?;
    fdt.property_u32("riscv,ndev", PLIC_SOURCES - 1)?;
    fdt.end_node(node)?;

    let uart = fdt.begin_node(&format!("serial@{UART:x}"))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[UART, UART_SIZE])?;
    fdt.property_u32("clock-frequency", 3_686_400)?;
    fdt.property_u32("interrupts", UART_IRQ)?;
    fdt.property_u32("interrupt-parent", PHANDLE_PLIC)?;
    fdt.end_node(uart)?;

    for slot in (0..VIRTIO_COUNT).rev() {
        let address = VIRTIO + slot * VIRTIO_STEP;
        let node = fdt.begin_node(&format!("virtio_mmio@{address:x}"))?;
        fdt.property_string("compatible", "virtio,mmio")?;
        fdt.property_array_u64("reg", &[address, VIRTIO_STEP])?;
        fdt.property_u32("interrupts", VIRTIO_IRQ + slot as u32)?;
        fdt.property_u32("interrupt-parent", PHANDLE_PLIC)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(soc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(blob: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(blob[at..at + 4].try_into().unwrap())
    }

    fn text(blob: &[u8], at: usize) -> String {
        let length = blob[at..].iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(blob[at..at + length].to_vec()).unwrap()
    }

    /// A value as a device tree source would have it.
    fn value(bytes: &[u8]) -> String {
        let is_text = bytes.last() == Some(&0)
            && bytes.len() > 1
            && bytes[..bytes.len() - 1].split(|byte| *byte == 0).all(|part| !part.is_empty())
            && bytes.iter().all(|byte| *byte == 0 || (0x20..0x7f).contains(byte));
        if bytes.is_empty() {
            String::new()
        } else if is_text {
            let parts = bytes[..bytes.len() - 1].split(|byte| *byte == 0);
            let parts: Vec<String> = parts.map(|part| format!("{:?}", String::from_utf8_lossy(part))).collect();
            format!(" = {}", parts.join(", "))
        } else {
            let cells: Vec<String> =
                (0..bytes.len() / 4).map(|index| format!("{:#x}", cell(bytes, 4 * index))).collect();
            format!(" = <{}>", cells.join(" "))
        }
    }

    /// The tree as source text.
    fn decompile(blob: &[u8]) -> String {
        assert_eq!(cell(blob, 0), 0xd00d_feed);
        assert_eq!(cell(blob, 4) as usize, blob.len());
        let (mut at, names) = (cell(blob, 8) as usize, cell(blob, 12) as usize);
        let (mut depth, mut source) = (0, String::new());
        loop {
            let token = cell(blob, at);
            at += 4;
            match token {
                1 => {
                    let name = text(blob, at);
                    at += (name.len() + 1).next_multiple_of(4);
                    let name = if name.is_empty() { "/" } else { &name };
                    source += &format!("{}{name} {{\n", "  ".repeat(depth));
                    depth += 1;
                }
                2 => {
                    depth -= 1;
                    source += &format!("{}}}\n", "  ".repeat(depth));
                }
                3 => {
                    let (length, name) = (cell(blob, at) as usize, text(blob, names + cell(blob, at + 4) as usize));
                    at += 8;
                    source += &format!("{}{name}{}\n", "  ".repeat(depth), value(&blob[at..at + length]));
                    at += length.next_multiple_of(4);
                }
                9 => return source,
                other => panic!("token {other} at {at}"),
            }
        }
    }

    #[test]
    fn the_tree_of_a_two_hart_machine_is_the_expected_one() {
        let blob = write(&Machine {
            memory: 512 << 20,
            harts: 2,
            cpu: &RiscvCpu::default(),
            command_line: "console=ttyS0",
            initrd: Some((0x9020_0000, 0x9020_1234)),
            seed: [0x11; 32],
        })
        .unwrap();
        let (source, expected) = (decompile(&blob), include_str!("virt-2-harts.dts"));
        for (line, (here, there)) in source.lines().zip(expected.lines()).enumerate() {
            assert_eq!(here, there, "line {}", line + 1);
        }
        assert_eq!(source.len(), expected.len(), "{source}");
    }

    #[test]
    fn a_command_line_that_no_device_tree_can_hold_is_an_error() {
        let cpu = RiscvCpu::default();
        let machine =
            Machine { memory: 1 << 20, harts: 1, cpu: &cpu, command_line: "a\0b", initrd: None, seed: [0; 32] };
        assert!(write(&machine).is_err());
    }
}
