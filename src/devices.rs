//! Disks and devices: `-drive`, `-device` and `-object`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use accel::Architecture;
use block::{Backend, ErrorPolicy, FileOptions, Format, ImageOptions, OnError};
use futures_executor::block_on;
use hw::debug_port::CONSOLE_PORT;
use hw::ide::{Drive, DriveKind};
use hw::machine::{Config, DeviceConfig, DeviceModel};

use crate::command_line::{Group, Invalid, Options};
use crate::consoles::Consoles;

const DEVICES: &[(&str, &str)] = &[
    ("virtio-blk-device, virtio-blk-pci, virtio-blk", "a disk: drive=ID, serial=TEXT"),
    ("ide-hd, ide-cd", "a disk or CD-ROM drive (x86_64): drive=ID, bus=ide.0|ide.1, unit=0|1, serial=TEXT"),
    ("floppy", "a disk in a floppy drive (x86_64): drive=ID, unit=0|1"),
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
    let mut disks = drives(options, config, architecture)?;
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
                let disk = take_disk(&mut group, &mut disks)?;
                let serial = group.take("serial").unwrap_or_default();
                group.finish("drive, serial and id")?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioBlk { disk, serial } });
            }
            "ide-hd" | "ide-cd" => {
                let kind = if driver == "ide-hd" { DriveKind::Disk } else { DriveKind::CdRom };
                // A CD-ROM drive may be empty.
                let medium = match kind {
                    DriveKind::CdRom if !group.contains("drive") => None,
                    _ => Some(take_disk(&mut group, &mut disks)?),
                };
                let bus = match group.take("bus").as_deref() {
                    None => None,
                    Some("ide.0") => Some(0),
                    Some("ide.1") => Some(1),
                    Some(_) => return Err(group.invalid("valid for bus are ide.0 and ide.1")),
                };
                let place = Place { bus, unit: group.take_number("unit")?, index: None };
                let serial = group.take("serial");
                add_ide(config, &group, place, Drive { kind, medium, serial: serial.unwrap_or_default() })?;
                group.finish("drive, bus, unit, serial and id")?;
            }
            "floppy" => {
                let disk = take_disk(&mut group, &mut disks)?;
                let unit = group.take_number("unit")?;
                add_floppy(config, &group, unit, disk, architecture)?;
                group.finish("drive, unit and id")?;
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

/// Takes the disk that a device names out of those that wait.
fn take_disk(group: &mut Group, disks: &mut HashMap<String, Arc<Backend>>) -> Result<Arc<Backend>, Invalid> {
    let name = group.take_required("drive")?;
    disks.remove(&name).ok_or_else(|| {
        group.invalid(format!("there is no drive {name}, or another device has it; see -drive if=none,id={name}"))
    })
}

/// Where the user wants an IDE drive, as far as it was said.
struct Place {
    /// Number of the channel.
    bus: Option<usize>,
    /// Number of the drive on its channel.
    unit: Option<usize>,
    /// Number of the drive among all four.
    index: Option<usize>,
}

/// Adds a drive at `place`, or the first free one that fits.
fn add_ide(config: &mut Config, group: &Group, place: Place, mut drive: Drive) -> Result<(), Invalid> {
    let fits = |number: &usize| {
        place.index.is_none_or(|index| index == *number)
            && place.bus.is_none_or(|bus| bus == number / 2)
            && place.unit.is_none_or(|unit| unit == number % 2)
    };
    let number = (0..config.ide.len()).find(|number| fits(number) && config.ide[*number].is_none());
    let number =
        number.ok_or_else(|| group.invalid("there is no such free place; there are 2 channels with 2 drives each"))?;
    if drive.serial.is_empty() {
        drive.serial = format!("QM{:05}", number + 1);
    }
    config.ide[number] = Some(drive);
    Ok(())
}

/// Adds a floppy disk in drive `index`, or the first free one.
fn add_floppy(
    config: &mut Config,
    group: &Group,
    index: Option<usize>,
    medium: Arc<Backend>,
    architecture: Architecture,
) -> Result<(), Invalid> {
    if architecture != Architecture::X86_64 {
        return Err(group.invalid(format!("machines for {} have no floppy drives", architecture.name())));
    }
    let fits = |number: &usize| index.is_none_or(|index| index == *number);
    let number = (0..config.floppies.len()).find(|number| fits(number) && config.floppies[*number].is_none());
    let number = number.ok_or_else(|| group.invalid("there is no such free floppy drive; there are two"))?;
    config.floppies[number] = Some(hw::floppy::Drive { medium });
    Ok(())
}

/// Opens the disks: those with an interface become devices, those of `if=none` wait for theirs.
fn drives(
    options: &Options,
    config: &mut Config,
    architecture: Architecture,
) -> Result<HashMap<String, Arc<Backend>>, Invalid> {
    let usual = if architecture == Architecture::X86_64 { "ide" } else { "virtio" };
    let mut waiting = HashMap::new();
    // Those with a place of their own first.
    for (option, index, file) in &options.ide_files {
        let group = Group::parse(option, "")?;
        if usual != "ide" {
            return Err(group.invalid(format!("machines for {} have no IDE", architecture.name())));
        }
        let kind = if *option == "cdrom" { DriveKind::CdRom } else { DriveKind::Disk };
        let medium = open(config, file, Format::Raw, kind == DriveKind::CdRom, "", ErrorPolicy::default())?;
        let drive = Drive { kind, medium: Some(medium), serial: String::new() };
        add_ide(config, &group, Place { bus: None, unit: None, index: Some(*index) }, drive)?;
    }
    for (option, index, file) in &options.floppy_files {
        let group = Group::parse(option, "")?;
        let medium = open(config, file, Format::Raw, false, "", ErrorPolicy::default())?;
        add_floppy(config, &group, Some(*index), medium, architecture)?;
    }
    for text in &options.drives {
        let mut group = Group::parse("drive", text)?;
        let id = group.take("id");
        let interface = group.take("if").unwrap_or_else(|| usual.into());
        let is_cd = match group.take("media").as_deref() {
            None | Some("disk") => false,
            Some("cdrom") => true,
            Some(_) => return Err(group.invalid("valid for media are disk and cdrom")),
        };
        let read_only = match group.take_switch("readonly")? {
            Some(read_only) => read_only,
            None => group.take_switch("read-only")?.unwrap_or(is_cd),
        };
        let format = group.take("format");
        let report = ErrorPolicy::default();
        let policy = ErrorPolicy {
            read: on_error(&mut group, "rerror")?.unwrap_or(report.read),
            write: on_error(&mut group, "werror")?.unwrap_or(report.write),
        };
        let name = id.clone().unwrap_or_default();
        let disk: Option<Arc<Backend>> = match group.take_first("file") {
            None if is_cd => None,
            None => return Err(group.invalid("file=... is missing")),
            Some(file) => {
                let format = match format.as_deref() {
                    // A disc image has no other format.
                    None if is_cd => Format::Raw,
                    None => {
                        let known = Format::names();
                        return Err(group.invalid(format!("format=... is missing; valid are {known}; none is guessed")));
                    }
                    Some(name) => Format::named(name).ok_or_else(|| {
                        group.invalid(format!("format={name} is not built; valid are {}", Format::names()))
                    })?,
                };
                Some(open(config, Path::new(&file), format, read_only, &name, policy)?)
            }
        };
        let serial = group.take("serial").unwrap_or_default();
        match (interface.as_str(), disk) {
            ("virtio", Some(disk)) => {
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioBlk { disk, serial } });
            }
            ("ide", medium) if usual == "ide" => {
                let place = Place {
                    bus: group.take_number("bus")?,
                    unit: group.take_number("unit")?,
                    index: group.take_number("index")?,
                };
                let kind = if is_cd { DriveKind::CdRom } else { DriveKind::Disk };
                add_ide(config, &group, place, Drive { kind, medium, serial })?;
            }
            ("floppy", Some(disk)) => {
                let index = match group.take_number("index")? {
                    None => group.take_number("unit")?,
                    index => index,
                };
                add_floppy(config, &group, index, disk, architecture)?;
            }
            ("none", Some(disk)) => {
                let id = id.ok_or_else(|| group.invalid("if=none needs id=..., by which a device names it"))?;
                if waiting.insert(id.clone(), disk).is_some() {
                    return Err(group.invalid(format!("there is a drive {id} already")));
                }
            }
            ("virtio" | "floppy" | "none", None) => return Err(group.invalid("file=... is missing")),
            _ => {
                let ide = if usual == "ide" { "ide, floppy, " } else { "" };
                return Err(group.invalid(format!("if={interface} is not built; valid are {ide}virtio and none")));
            }
        }
        group.finish("file, format, if, media, bus, unit, index, id, readonly, serial, rerror and werror")?;
    }
    Ok(waiting)
}

/// What is to happen when requests of the guest fail.
fn on_error(group: &mut Group, option: &str) -> Result<Option<OnError>, Invalid> {
    let Some(text) = group.take(option) else { return Ok(None) };
    let known = OnError::ALL.map(|(name, _)| name).join(", ");
    OnError::named(&text).map(Some).ok_or_else(|| group.invalid(format!("{option}={text}: valid are {known}")))
}

/// Opens an image as a disk.
fn open(
    config: &mut Config,
    path: &Path,
    format: Format,
    read_only: bool,
    name: &str,
    policy: ErrorPolicy,
) -> Result<Arc<Backend>, Invalid> {
    let file = FileOptions { read_only, ..FileOptions::default() };
    let options = ImageOptions { format: Some(format), file, ..ImageOptions::default() };
    let node = block_on(block::open(path, options)).map_err(|error| Invalid::from_error(&error))?;
    let disk = Backend::named(name, policy, node);
    config.disks.push(disk.clone());
    Ok(disk)
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
