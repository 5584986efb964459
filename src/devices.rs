//! Devices: `-device` and `-object`.

use accel::Architecture;
use hw::debug_port::CONSOLE_PORT;
use hw::ide::{Drive, DriveKind};
use hw::machine::{Config, DeviceConfig, DeviceModel};

use crate::command_line::{Group, Invalid, Options};
use crate::consoles::Consoles;
use crate::disks::places::{self, Place};
use crate::disks::{DISK_OPTIONS, Disks, Use, in_virtio};

const DEVICES: &[(&str, &str)] = &[
    (
        "virtio-blk-device, virtio-blk-pci, virtio-blk",
        "a disk: drive=ID, serial=TEXT, rerror=ACTION, werror=ACTION, share-rw=on|off, write-cache=on|off",
    ),
    ("ide-hd, ide-cd", "a disk or CD-ROM drive (x86_64): drive=ID, bus=ide.0|ide.1, unit=0|1, and as a disk"),
    ("floppy", "a disk in a floppy drive (x86_64): drive=ID, unit=0|1, and as a disk"),
    ("virtio-rng-device, virtio-rng-pci, virtio-rng", "random numbers: rng=ID"),
    ("virtio-serial-device, virtio-serial-pci, virtio-serial", "the bus of a virtconsole"),
    ("virtconsole", "a console: chardev=ID"),
    ("pc-testdev, pci-testdev", "what kvm-unit-tests expect (x86_64)"),
    ("isa-debug-exit", "a port that ends the machine (x86_64): iobase=PORT, iosize=SIZE"),
    ("isa-debugcon", "a port for messages (x86_64): iobase=PORT, chardev=ID"),
];

/// What `-device help` prints.
pub(crate) fn help() -> String {
    let mut text = String::from("devices:\n");
    for (name, meaning) in DEVICES {
        text.push_str(&format!("  {name:<56} {meaning}\n"));
    }
    text
}

/// Adds all disks and devices to `config`.
pub(crate) fn add(
    options: &Options,
    consoles: &mut Consoles,
    config: &mut Config,
    architecture: Architecture,
) -> Result<(), Invalid> {
    let mut disks = Disks::open(options, config, architecture)?;
    let debug_console_port = globals(options)?.unwrap_or(CONSOLE_PORT);
    if let Some(backend) = consoles.debug_console(options)? {
        config.debug_console = Some((debug_console_port, backend));
    }
    let objects = objects(options)?;
    let mut serial_buses = 0;
    for text in &options.devices {
        let mut group = Group::parse("device", text)?;
        let driver = group.take_first("driver").unwrap_or_default();
        let id = group.take("id");
        match driver.as_str() {
            "virtio-blk-device" | "virtio-blk-pci" | "virtio-blk" => {
                let disk = disks.take(&mut group, config, Use::Disk(id.as_deref().map(in_virtio)))?;
                let serial = group.take("serial").unwrap_or_default();
                group.finish(&format!("{DISK_OPTIONS} and id"))?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioBlk { disk, serial } });
            }
            "ide-hd" | "ide-cd" => {
                let kind = if driver == "ide-hd" { DriveKind::Disk } else { DriveKind::CdRom };
                // A CD-ROM drive may be empty.
                let medium = match kind {
                    DriveKind::CdRom => disks.take(&mut group, config, Use::CdRom(id.clone()))?,
                    DriveKind::Disk => disks.take(&mut group, config, Use::Disk(id.clone()))?,
                };
                let bus = match group.take("bus").as_deref() {
                    None => None,
                    Some("ide.0") => Some(0),
                    Some("ide.1") => Some(1),
                    Some(_) => return Err(group.invalid("valid for bus are ide.0 and ide.1")),
                };
                let place = Place { bus, unit: group.take_number("unit")?, index: None };
                let serial = group.take("serial").unwrap_or_default();
                let number = places::ide(config, &group, place)?;
                places::add_ide(config, number, Drive { kind, medium, serial });
                group.finish(&format!("{DISK_OPTIONS}, bus, unit and id"))?;
            }
            "floppy" => {
                let disk = disks.take(&mut group, config, Use::Floppy(id.clone()))?;
                let unit = group.take_number("unit")?;
                let number = places::floppy(config, &group, unit, architecture)?;
                config.floppies[number] = Some(hw::floppy::Drive { medium: disk });
                group.finish(&format!("{DISK_OPTIONS}, unit and id"))?;
            }
            "virtio-rng-device" | "virtio-rng-pci" | "virtio-rng" => {
                if let Some(name) = group.take("rng")
                    && !objects.contains(&name)
                {
                    return Err(group.invalid(format!("there is no object {name}; see -object rng-random,id={name}")));
                }
                group.finish("rng and id")?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioRng });
            }
            "virtio-serial-device" | "virtio-serial-pci" | "virtio-serial" => {
                group.finish("id")?;
                serial_buses += 1;
            }
            "virtconsole" => {
                if serial_buses == 0 {
                    return Err(
                        group.invalid("there is no free virtio-serial bus for it; add -device virtio-serial before")
                    );
                }
                serial_buses -= 1;
                let backend = consoles.named(&group.take_required("chardev")?)?;
                group.take("name");
                group.finish("chardev, name and id")?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioConsole { backend } });
            }
            "pc-testdev" => {
                group.finish("id")?;
                config.test_device = true;
            }
            "pci-testdev" => {
                group.finish("id")?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::PciTestdev });
            }
            "isa-debug-exit" => {
                let base = group.take_port("iobase")?.unwrap_or(0x501);
                let size = group.take_port("iosize")?.unwrap_or(2);
                group.finish("iobase and iosize")?;
                config.debug_exit = Some((base, size));
            }
            "isa-debugcon" => {
                let base = group.take_port("iobase")?.unwrap_or(debug_console_port);
                if config.debug_console.is_some() {
                    return Err(group.invalid("there is one already; only one is built"));
                }
                config.debug_console = Some((base, consoles.named(&group.take_required("chardev")?)?));
                group.finish("iobase and chardev")?;
            }
            _ => {
                return Err(group.invalid(format!(
                    "{driver:?} is not a valid device model name; -device help lists those that are built"
                )));
            }
        }
    }
    Ok(())
}

/// The port that `-global isa-debugcon.iobase=PORT` gives the debug console, if it does; no other property is built.
fn globals(options: &Options) -> Result<Option<u16>, Invalid> {
    let mut port = None;
    for text in &options.globals {
        let valid = "valid is isa-debugcon.iobase=PORT";
        let value = text
            .strip_prefix("isa-debugcon.iobase=")
            .ok_or_else(|| Invalid::new(format!("-global {text}: {valid}")))?;
        let mut group = Group::parse("global", &format!("iobase={value}"))?;
        port = group.take_port("iobase")?;
    }
    Ok(port)
}

/// The names of `-object`s.
fn objects(options: &Options) -> Result<Vec<String>, Invalid> {
    let mut names = Vec::new();
    for text in &options.objects {
        let mut group = Group::parse("object", text)?;
        let kind = group.take_first("qom-type").unwrap_or_default();
        if kind != "rng-random" {
            return Err(group.invalid(format!("{kind:?} is not built; valid is rng-random")));
        }
        names.push(group.take_required("id")?);
        if let Some(file) = group.take("filename")
            && !["/dev/urandom", "/dev/random"].contains(&file.as_str())
        {
            return Err(group.invalid("valid for filename are /dev/urandom and /dev/random"));
        }
        group.finish("id and filename")?;
    }
    Ok(names)
}
