//! The devices of both machines, register by register, on a machine without a processor.

#[path = "../support/mod.rs"]
mod support;

mod acpi;
mod disk;
mod disk_graph;
mod floppy;
mod fw_cfg;
mod hpet;
mod i8042;
mod i8254;
mod i8259;
mod ide;
mod io_apic;
mod pci;
mod protocol;
mod riscv;
mod rtc;
mod serial;
mod shadow;
mod smram;
mod vga;
mod virtio;
