//! What machine there shall be: `-machine`, `-cpu`, `-m`, `-smp`, `-name`, `-uuid` and what it boots.

use accel::Architecture;
use accel::jit::{CpuModel, FEATURES};
use hw::machine::{Boot, BootDevice, Config, Firmware, Vga};

use crate::command_line::{Group, Invalid, Options, size};

/// The options of `-machine`, all of them taken together.
pub(crate) struct MachineOptions {
    /// The type; empty: the default one.
    pub(crate) name: String,
    /// `accel=`.
    pub(crate) accelerators: Option<String>,
    /// `switchable=`: the accelerator can be changed while the machine runs.
    pub(crate) switchable: bool,
    /// `smm=`: whether processors have system-management mode; `None`: where the accelerator can.
    pub(crate) system_management: Option<bool>,
}

/// Reads `-machine`.
pub(crate) fn machine_options(options: &Options, architecture: Architecture) -> Result<MachineOptions, Invalid> {
    let mut machine =
        MachineOptions { name: String::new(), accelerators: None, switchable: false, system_management: None };
    for text in &options.machine {
        let mut group = Group::parse("machine", text)?;
        if let Some(name) = group.take_first("type") {
            machine.name = name;
        }
        if let Some(accelerators) = group.take("accel") {
            machine.accelerators = Some(accelerators);
        }
        if let Some(switchable) = group.take_switch("switchable")? {
            machine.switchable = switchable;
        }
        if let Some(value) = group.take("smm") {
            if architecture != Architecture::X86_64 {
                return Err(group.invalid("smm is for x86_64 machines only"));
            }
            machine.system_management = match value.as_str() {
                "on" => Some(true),
                "off" => Some(false),
                "auto" => None,
                other => return Err(group.invalid(format!("smm={other}: valid are on, off and auto"))),
            };
        }
        for (switch, only) in [("usb", false), ("dump-guest-core", true), ("acpi", true)] {
            // Off is what there is for usb; the others change nothing that is built.
            if let Some(value) = group.take_switch(switch)?
                && switch == "usb"
                && value != only
            {
                return Err(group.invalid("usb=on is not built"));
            }
        }
        group.finish("type, accel, switchable, smm, usb, acpi and dump-guest-core")?;
    }
    Ok(machine)
}

/// The machine types of an architecture, for `-machine help`.
pub(crate) fn machine_help(architecture: Architecture) -> String {
    let mut text = String::from("machine types:\n");
    for machine in hw::machine::machines(architecture) {
        let default = if machine.is_default { " (default)" } else { "" };
        text.push_str(&format!("  {:<20} {}{default}\n", machine.name, machine.description));
        if let Some(alias) = machine.alias {
            text.push_str(&format!("  {alias:<20} the same as {}\n", machine.name));
        }
    }
    text
}

/// Processor models of guests that have no features to choose from.
fn plain_models(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::X86_64 => &[],
        Architecture::Riscv64 => &["rv64", "max"],
    }
}

/// The processor models of an architecture, for `-cpu help`.
pub(crate) fn cpu_help(architecture: Architecture) -> String {
    if architecture != Architecture::X86_64 {
        return format!("processor models: {}\n", plain_models(architecture).join(", "));
    }
    let mut text = String::from("processor models:\n");
    for (name, description) in CpuModel::list() {
        text.push_str(&format!("  {name:<12} {description}\n"));
    }
    text.push_str("  host         the same as max; under KVM, what the host has\n");
    text.push_str("features, for -cpu MODEL,+FEATURE,-FEATURE,FEATURE=on|off:\n");
    let names: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    for line in names.chunks(10) {
        text.push_str(&format!("  {}\n", line.join(" ")));
    }
    text
}

/// Reads `-cpu`; of guests that are not x86-64 the model says nothing.
pub(crate) fn cpu_model(options: &Options, architecture: Architecture) -> Result<CpuModel, Invalid> {
    let Some(text) = &options.cpu else { return Ok(CpuModel::best()) };
    if architecture == Architecture::X86_64 {
        return CpuModel::parse(text).map_err(|error| Invalid::new(format!("-cpu {text}: {error}")));
    }
    let models = plain_models(architecture);
    if !models.contains(&text.as_str()) {
        let known = models.join(", ");
        return Err(Invalid::new(format!("-cpu {text}: for {} valid are {known}", architecture.name())));
    }
    Ok(CpuModel::best())
}

/// Everything about the machine but its devices and consoles.
pub(crate) fn config(options: &Options, machine: String, architecture: Architecture) -> Result<Config, Invalid> {
    let uuid = match &options.uuid {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Invalid::new(format!("-uuid {text}: valid is a UUID such as 5ab2d25b-b5f4-4c6c-8ad8-ba4c1b2f5a7e"))
        })?),
    };
    Ok(Config {
        machine,
        memory: memory(options)?,
        vcpus: vcpus(options)?,
        boot: Boot {
            firmware: match &options.bios {
                None => Firmware::Default,
                Some(path) if path.as_os_str() == "none" => Firmware::None,
                Some(path) => Firmware::File(path.clone()),
            },
            firmware_folders: options.firmware_folders.clone(),
            kernel: options.kernel.clone(),
            initrd: options.initrd.clone(),
            command_line: options.append.clone().unwrap_or_default(),
            order: boot_order(options)?,
        },
        name: match &options.name {
            None => None,
            Some(text) => {
                let mut group = Group::parse("name", text)?;
                let name = group.take_first("guest");
                group.take_switch("debug-threads")?;
                group.finish("guest and debug-threads")?;
                name
            }
        },
        uuid,
        vga: vga(options, architecture)?,
        graphics: !options.nographic,
        no_reboot: options.no_reboot,
        no_shutdown: options.no_shutdown,
        ..Config::default()
    })
}

/// The graphics card: as in QEMU there is one unless the user wants none.
fn vga(options: &Options, architecture: Architecture) -> Result<Vga, Invalid> {
    match (options.vga.as_deref(), architecture) {
        (Some("none"), _) | (None, Architecture::Riscv64) => Ok(Vga::None),
        (None, Architecture::X86_64) => Ok(if options.nodefaults { Vga::None } else { Vga::Std }),
        (Some("std"), Architecture::X86_64) => Ok(Vga::Std),
        (Some(other), Architecture::X86_64) => Err(Invalid::new(format!("-vga {other}: valid are std and none"))),
        (Some(other), Architecture::Riscv64) => Err(Invalid::new(format!("-vga {other}: for riscv64 valid is none"))),
    }
}

fn boot_order(options: &Options) -> Result<Vec<BootDevice>, Invalid> {
    let Some(text) = &options.boot else { return Ok(Boot::default().order) };
    let mut group = Group::parse("boot", text)?;
    let letters = group.take_first("order");
    // Nothing waits, and there is no menu to be asked for.
    group.take_switch("strict")?;
    let letters = letters.unwrap_or_else(|| "cad".into());
    let device = |letter| match letter {
        'a' => Ok(BootDevice::Floppy),
        'c' => Ok(BootDevice::Disk),
        'd' => Ok(BootDevice::CdRom),
        'n' => Ok(BootDevice::Network),
        other => Err(group.invalid(format!("{other:?} is no boot device; valid are a, c, d and n"))),
    };
    let order: Vec<BootDevice> = letters.chars().map(device).collect::<Result<_, _>>()?;
    group.finish("order and strict")?;
    Ok(order)
}

fn memory(options: &Options) -> Result<u64, Invalid> {
    let Some(text) = &options.memory else { return Ok(Config::default().memory) };
    let mut group = Group::parse("m", text)?;
    let wanted = group.take_first("size").unwrap_or_default();
    let bytes = size(&wanted, 1 << 20).filter(|bytes| *bytes > 0);
    let bytes = bytes.ok_or_else(|| group.invalid("valid is a size such as 512, 512M or 2G"))?;
    group.finish("size")?;
    // Machines have whole pages.
    bytes.checked_next_multiple_of(4096).ok_or_else(|| Invalid::new(format!("-m {text}: that is too much")))
}

fn vcpus(options: &Options) -> Result<u32, Invalid> {
    let Some(text) = &options.smp else { return Ok(1) };
    let mut group = Group::parse("smp", text)?;
    let first = group.take_first("cpus");
    let mut topology = 1_u32;
    for part in ["sockets", "dies", "clusters", "cores", "threads"] {
        let count: u32 = group.take_number(part)?.unwrap_or(1);
        topology = topology.checked_mul(count).ok_or_else(|| group.invalid("that are too many processors"))?;
    }
    let maximum: Option<u32> = group.take_number("maxcpus")?;
    let count = match first {
        Some(number) => {
            number.parse().map_err(|_| group.invalid(format!("{number:?} is not a number of processors")))?
        }
        None => maximum.unwrap_or(topology),
    };
    if maximum.is_some_and(|maximum| maximum != count) {
        return Err(group.invalid("maxcpus must equal cpus: processors cannot be added later"));
    }
    group.finish("cpus, sockets, dies, clusters, cores, threads and maxcpus")?;
    Ok(count)
}
