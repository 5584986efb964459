//! Machine models: which devices a machine has, where they answer, and what it boots.

pub mod config;
pub mod pc;
pub mod riscv_virt;

use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::memory::{GuestMemory, MemorySlot};
use accel::state::CpuState;
use accel::{Accelerator, Architecture, IoBus, VcpuHandle};

pub use config::{Boot, BootDevice, Config, DeviceConfig, DeviceModel, Firmware, RiscvCpu, Vga};

use crate::bus::{Bus, MapError};
use crate::device::Device;
use crate::interrupt::Taps;
use crate::load::{Image, LoadError};
use crate::local_apic::LocalApics;
use crate::virtio::VirtioDevice;
use crate::virtio::blk::VirtioBlk;
use crate::virtio::console::VirtioConsole;
use crate::virtio::rng::VirtioRng;

/// A kind of machine that can be built.
pub struct MachineType {
    /// The name that `-machine` takes.
    pub name: &'static str,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// It is taken where the user names none.
    pub is_default: bool,
    /// One line for the user.
    pub description: &'static str,
    /// Architecture of its processors.
    pub architecture: Architecture,
    /// Most processors it can have.
    pub cpu_max: u32,
    /// Type name of its processors where the user names none.
    pub default_cpu_type: &'static str,
    /// It uses the accelerator's own interrupt controllers where there are some.
    uses_in_kernel_interrupt_controller: bool,
    build: fn(&Config, &Parts<'_>) -> Result<Board, BuildError>,
}

/// All machines that can be built, for every architecture.
pub static MACHINES: &[MachineType] = &[
    MachineType {
        name: "pc-i440fx-10.0",
        alias: Some("pc"),
        is_default: true,
        description: "Standard PC (i440FX + PIIX, 1996)",
        architecture: Architecture::X86_64,
        cpu_max: pc::CPU_MAX,
        default_cpu_type: "qemu64-x86_64-cpu",
        uses_in_kernel_interrupt_controller: true,
        build: pc::build,
    },
    MachineType {
        name: "virt",
        alias: None,
        is_default: true,
        description: "RISC-V VirtIO board",
        architecture: Architecture::Riscv64,
        cpu_max: riscv_virt::CPU_MAX,
        default_cpu_type: "rv64-riscv-cpu",
        uses_in_kernel_interrupt_controller: false,
        build: riscv_virt::build,
    },
];

/// The machines of one architecture.
pub fn machines(architecture: Architecture) -> impl Iterator<Item = &'static MachineType> {
    MACHINES.iter().filter(move |machine| machine.architecture == architecture)
}

/// The machine of `architecture` called `name`; the default one if `name` is empty.
pub fn find(architecture: Architecture, name: &str) -> Result<&'static MachineType, BuildError> {
    machines(architecture)
        .find(|machine| machine.name == name || machine.alias == Some(name) || name.is_empty() && machine.is_default)
        .ok_or_else(|| {
            let known: Vec<&str> = machines(architecture).map(|machine| machine.name).collect();
            let known = known.join(", ");
            BuildError::Machine { architecture: architecture.name(), name: name.into(), known }
        })
}

impl MachineType {
    /// Prepares the accelerator; must come before the first vCPU is created.
    pub(crate) fn prepare(&self, accelerator: &dyn Accelerator) -> Result<(), accel::Error> {
        let brings_some =
            accelerator.capabilities().in_kernel_interrupt_controller || !accelerator.choices().is_empty();
        if self.uses_in_kernel_interrupt_controller && brings_some {
            accelerator.create_interrupt_controller()?;
        }
        Ok(())
    }

    /// Builds the machine around its processors.
    pub(crate) fn build(&self, config: &Config, parts: &Parts<'_>) -> Result<Board, BuildError> {
        (self.build)(config, parts)
    }
}

/// What a machine is built of and does not make itself.
pub(crate) struct Parts<'a> {
    pub(crate) accelerator: &'a Arc<dyn Accelerator>,
    pub(crate) clock: &'a Arc<VirtualClock>,
    pub(crate) bus: &'a Arc<Bus>,
    pub(crate) vcpus: &'a [Arc<dyn VcpuHandle>],
    pub(crate) taps: &'a Taps,
}

/// The interrupt controllers of a machine whose accelerator can change.
pub trait CarryOver: Send + Sync {
    /// Has the state of the present accelerator's controllers taken, `change` called, and the state given to the new
    /// one's. No vCPU runs. An error leaves the machine with the accelerator that `change` left it with.
    fn carry_over(&self, change: &mut dyn FnMut() -> Result<(), accel::Error>) -> Result<(), accel::Error>;
}

/// What a function that sets a processor's first state is given: its index, and its state after the architectural reset.
pub type StartState = Box<dyn Fn(u32, &mut CpuState) + Send + Sync>;

/// A machine that was built: everything beside the processors.
pub struct Board {
    /// RAM, where devices read and write.
    pub ram: Arc<GuestMemory>,
    /// RAM and ROM, for the host's eyes.
    pub physical: Arc<GuestMemory>,
    /// What the accelerator maps.
    pub slots: Vec<MemorySlot>,
    /// Memory of a PC whose mapping the guest changes; it is not among [`Board::slots`].
    pub shadow: Option<Arc<pc::shadow::Shadow>>,
    /// System-management memory of a PC, of which the same holds.
    pub smram: Option<Arc<pc::smram::Smram>>,
    /// How a PC sleeps.
    pub sleep: Option<pc::sleep::Sleep>,
    /// All devices, in the order in which they are reset, saved and restored.
    pub devices: Vec<Arc<dyn Device>>,
    /// What a reset writes into memory.
    pub images: Vec<Image>,
    /// Where and how the processors start.
    pub start_state: StartState,
    /// Tells the guest that the user wants the machine off, where the machine can.
    pub power_button: Option<Box<dyn Fn() + Send + Sync>>,
    /// The processors' local APICs, where they are devices: they are part of the processors' states.
    pub local_apics: Option<Arc<LocalApics>>,
    /// The bus as each processor sees it, by index; empty where all see the machine's own.
    pub processor_buses: Vec<Arc<dyn IoBus>>,
    /// Takes the interrupt controllers along when the accelerator changes; `None` where it cannot.
    pub carry_over: Option<Arc<dyn CarryOver>>,
}

/// Makes a virtio device that the user asked for.
fn virtio_device(model: &DeviceModel) -> Result<Arc<dyn VirtioDevice>, BuildError> {
    Ok(match model {
        DeviceModel::VirtioBlk { disk, serial } => VirtioBlk::new(disk.clone(), serial)
            .map_err(|source| BuildError::Host { what: "start a thread for virtio-blk", source })?,
        DeviceModel::VirtioConsole { backend } => VirtioConsole::new(backend.clone())
            .map_err(|source| BuildError::Host { what: "start a thread for virtio-console", source })?,
        DeviceModel::VirtioRng => VirtioRng::new(),
        DeviceModel::PciTestdev => {
            return Err(BuildError::Device { device: model.name(), problem: "the machine has no PCI bus".into() });
        }
    })
}

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No such machine.
    #[error("there is no machine type {name:?} for {architecture}; known are: {known}")]
    Machine {
        /// Architecture asked for.
        architecture: &'static str,
        /// Name asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Too many or no processors.
    #[error("machine {machine} on accelerator {accelerator} takes 1 to {most} CPUs, not {count}")]
    Cpus {
        /// The machine.
        machine: &'static str,
        /// The accelerator.
        accelerator: &'static str,
        /// Most processors.
        most: u32,
        /// How many were asked for.
        count: u32,
    },
    /// A memory size that the machine cannot have.
    #[error("machine {machine} takes {least} to {most} bytes of memory in whole pages of 4096, not {size}")]
    Memory {
        /// The machine.
        machine: &'static str,
        /// Least size in bytes.
        least: u64,
        /// Largest size in bytes.
        most: u64,
        /// The size asked for.
        size: u64,
    },
    /// A device that the machine has no place for.
    #[error("device {device} cannot be added: {problem}")]
    Device {
        /// The device's model.
        device: &'static str,
        /// What is in the way.
        problem: String,
    },
    /// The firmware is not installed.
    #[error(
        "no firmware found: {wanted} is in none of {folders}; install Debian's package {package} or name a file with -bios"
    )]
    Firmware {
        /// File name that was looked for.
        wanted: &'static str,
        /// Where it was looked for.
        folders: String,
        /// The package that has it.
        package: &'static str,
    },
    /// The machine cannot do what was asked for.
    #[error("machine {machine}: {problem}")]
    Unsupported {
        /// The machine.
        machine: &'static str,
        /// What it cannot do, as a sentence.
        problem: String,
    },
    /// A file cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Two devices want one address.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The accelerator refused something.
    #[error(transparent)]
    Accelerator(#[from] accel::Error),
    /// The host refused something.
    #[error("the host could not {what}: {source}")]
    Host {
        /// What, as a verb phrase.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// The device tree could not be written.
    #[error("the device tree cannot be written: {0}")]
    DeviceTree(#[from] vm_fdt::Error),
}
