//! What a machine is to be, as the command line says it.

use std::path::PathBuf;
use std::sync::Arc;

use block::{Backend, Graph};
use host::chardev::CharBackend;

use crate::{floppy, ide};

/// Everything needed to build one machine.
pub struct Config {
    /// Machine type, see [`super::find`]; empty: the architecture's default.
    pub machine: String,
    /// Size of RAM, bytes.
    pub memory: u64,
    /// Number of processors.
    pub vcpus: u32,
    /// What to boot.
    pub boot: Boot,
    /// Host ends of the serial ports, first port first. A port without one is left out.
    pub serial: Vec<Arc<dyn CharBackend>>,
    /// Port and host end of the debug console (x86 `pc`; usually [`crate::debug_port::CONSOLE_PORT`]; firmware of Debian's
    /// packages writes to port 0x402).
    pub debug_console: Option<(u16, Arc<dyn CharBackend>)>,
    /// First port and number of ports of `isa-debug-exit` (x86 `pc`), if wanted.
    pub debug_exit: Option<(u16, u16)>,
    /// `pc-testdev` is wanted (x86 `pc`).
    pub test_device: bool,
    /// Drives of the IDE channels (x86 `pc`): first and second of the first channel, then those of the second.
    pub ide: [Option<ide::Drive>; 4],
    /// Processors have system-management mode (x86 `pc`); `None`: where the accelerator can.
    pub system_management: Option<bool>,
    /// The graphics card (x86 `pc`).
    pub vga: Vga,
    /// There is to be a screen. Without one, firmware uses the first serial port (x86 `pc`).
    pub graphics: bool,
    /// All disks, of whichever devices: they are flushed when the machine stops.
    pub disks: Arc<Graph>,
    /// Floppy drives with their disks (x86 `pc`).
    pub floppies: [Option<floppy::Drive>; floppy::DRIVES],
    /// Devices beside those that every such machine has.
    pub devices: Vec<DeviceConfig>,
    /// The processors of a riscv64 machine.
    pub riscv: RiscvCpu,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<uuid::Uuid>,
    /// `-no-reboot`: a reset ends the machine instead.
    pub no_reboot: bool,
    /// `-no-shutdown`: the machine stops where it would end.
    pub no_shutdown: bool,
}

impl Default for Config {
    /// One processor, 128 MiB, nothing to boot, no host ends.
    fn default() -> Config {
        Config {
            machine: String::new(),
            memory: 128 << 20,
            vcpus: 1,
            boot: Boot::default(),
            serial: Vec::new(),
            debug_console: None,
            debug_exit: None,
            test_device: false,
            ide: [const { None }; 4],
            system_management: None,
            vga: Vga::None,
            graphics: false,
            disks: Graph::new(),
            floppies: [const { None }; floppy::DRIVES],
            devices: Vec::new(),
            riscv: RiscvCpu::default(),
            name: None,
            uuid: None,
            no_reboot: false,
            no_shutdown: false,
        }
    }
}

/// What a machine boots.
#[derive(Clone, Debug)]
pub struct Boot {
    /// `-bios`.
    pub firmware: Firmware,
    /// Folders to look for firmware in, before the usual ones (`-L`).
    pub firmware_folders: Vec<PathBuf>,
    /// `-kernel`.
    pub kernel: Option<PathBuf>,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`.
    pub command_line: String,
    /// What firmware tries, in this order (`-boot`, x86 `pc`): at most three.
    pub order: Vec<BootDevice>,
}

impl Default for Boot {
    /// Nothing but firmware, which tries a hard disk, a floppy disk and a CD.
    fn default() -> Boot {
        Boot {
            firmware: Firmware::default(),
            firmware_folders: Vec::new(),
            kernel: None,
            initrd: None,
            command_line: String::new(),
            order: vec![BootDevice::Disk, BootDevice::Floppy, BootDevice::CdRom],
        }
    }
}

/// `-vga`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vga {
    /// No graphics card.
    None,
    /// [`crate::vga::Vga`].
    Std,
}

/// A kind of device that firmware boots from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootDevice {
    /// A floppy disk: `a` of `-boot`.
    Floppy,
    /// A hard disk: `c`.
    Disk,
    /// A CD: `d`.
    CdRom,
    /// The network: `n`.
    Network,
}

/// `-bios`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// The firmware that such a machine usually has.
    #[default]
    Default,
    /// None: the kernel starts where the firmware would.
    None,
    /// This file.
    File(PathBuf),
}

/// A device that the user adds.
pub struct DeviceConfig {
    /// The user's name for it.
    pub id: Option<String>,
    /// What it is.
    pub model: DeviceModel,
}

/// Devices that can be added to a machine.
pub enum DeviceModel {
    /// `virtio-blk`.
    VirtioBlk {
        /// The disk.
        disk: Arc<Backend>,
        /// Serial number that the guest reads.
        serial: String,
    },
    /// `virtio-console`.
    VirtioConsole {
        /// The host's end.
        backend: Arc<dyn CharBackend>,
    },
    /// `virtio-rng`.
    VirtioRng,
    /// `pci-testdev` (x86 `pc`).
    PciTestdev,
}

impl DeviceModel {
    /// The name that `-device` takes, of a virtio device without the transport.
    pub fn name(&self) -> &'static str {
        match self {
            DeviceModel::VirtioBlk { .. } => "virtio-blk",
            DeviceModel::VirtioConsole { .. } => "virtio-console",
            DeviceModel::VirtioRng => "virtio-rng",
            DeviceModel::PciTestdev => "pci-testdev",
        }
    }
}

/// What the device tree says of a riscv64 machine's harts. The accelerator must offer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RiscvCpu {
    /// Extensions in canonical order: single letters first, then the others (`zicsr`).
    pub extensions: Vec<String>,
    /// The widest address translation: `riscv,sv39`, `riscv,sv48`.
    pub mmu: String,
}

impl Default for RiscvCpu {
    fn default() -> RiscvCpu {
        let extensions = ["i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "zba", "zbb", "zbs", "sstc"];
        RiscvCpu { extensions: extensions.map(str::to_owned).into(), mmu: "riscv,sv48".into() }
    }
}

impl RiscvCpu {
    /// The ISA string of the older device tree binding: `rv64imac_zicsr`.
    pub fn isa_string(&self) -> String {
        let (letters, names): (Vec<&String>, Vec<&String>) =
            self.extensions.iter().partition(|extension| extension.len() == 1);
        let mut isa = String::from("rv64");
        letters.into_iter().for_each(|letter| isa.push_str(letter));
        for name in names {
            isa.push('_');
            isa.push_str(name);
        }
        isa
    }
}
