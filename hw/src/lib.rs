//! Buses, interrupt controllers, timers, devices, machine models, and the life of a virtual machine.
//!
//! Here live everything that a guest sees beside its processors, and [`vm::Vm`], which puts processors, memory and
//! devices together and runs them. No device knows which accelerator runs, none reaches into the machine that it is in
//! (an access returns its [`bus::Effect`]), and no QMP lives here.
//!
//! Read first: [`vm::Vm`], [`bus::Bus`], [`device::Device`], [`machine::Board`].
//!
//! ## Locks
//! There is no global lock. Each device guards its own state with one mutex. A device that raises an interrupt line
//! calls the interrupt controller while it holds its own lock, so the order is: device, interrupt controller, vCPU
//! handle. A controller never calls a device. Character backends are called with a device's lock held and call
//! devices without holding any of theirs.

pub mod aclint;
pub mod backend_controllers;
pub mod bus;
pub mod cmos;
pub mod debug_port;
pub mod device;
pub mod floppy;
pub mod fuzz;
pub mod fw_cfg;
pub mod goldfish_rtc;
pub mod hpet;
pub mod i8042;
pub mod i8237;
pub mod i8254;
pub mod i8259;
pub mod ide;
pub mod interrupt;
pub mod io_apic;
pub mod load;
pub mod local_apic;
pub mod machine;
pub mod ns16550;
pub mod pc_testdev;
pub mod pci;
pub mod plic;
pub mod qtest;
pub mod sifive_test;
pub mod vga;
pub mod virtio;
pub mod vm;
mod worker;

#[cfg(test)]
mod test_support;
