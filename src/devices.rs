//! Disks and devices: `-drive`, `-device` and `-object`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use block::{BlockNode, RawFile};
use hw::debug_port::CONSOLE_PORT;
use hw::machine::{Config, DeviceConfig, DeviceModel};

use crate::command_line::{Group, Invalid, Options};
use crate::consoles::Consoles;

const DEVICES: &[(&str, &str)] = &[
    ("virtio-blk-device, virtio-blk-pci, virtio-blk", "a disk: drive=ID, serial=TEXT"),
    ("virtio-rng-device, virtio-rng-pci, virtio-rng", "random numbers: rng=ID"),
    ("virtio-serial-device, virtio-serial-pci, virtio-serial", "the bus of a virtconsole"),
    ("virtconsole", "a console: chardev=ID"),
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
pub(crate) fn add(options: &Options, consoles: &mut Consoles, config: &mut Config) -> Result<(), Invalid> {
    let mut disks = drives(options, config)?;
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
                let name = group.take_required("drive")?;
                let disk = disks.remove(&name).ok_or_else(|| {
                    group.invalid(format!(
                        "there is no drive {name}, or another device has it; see -drive if=none,id={name}"
                    ))
                })?;
                let serial = group.take("serial").unwrap_or_default();
                group.finish("drive, serial and id")?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioBlk { disk, serial } });
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

/// Opens the disks: those of `if=virtio` become devices, those of `if=none` wait for theirs.
fn drives(options: &Options, config: &mut Config) -> Result<HashMap<String, Arc<dyn BlockNode>>, Invalid> {
    let mut waiting = HashMap::new();
    for text in &options.drives {
        let mut group = Group::parse("drive", text)?;
        let file = group.take_first("file").ok_or_else(|| group.invalid("file=... is missing"))?;
        let id = group.take("id");
        let interface = group.take("if").unwrap_or_else(|| "virtio".into());
        let read_only = match group.take_switch("readonly")? {
            Some(read_only) => read_only,
            None => group.take_switch("read-only")?.unwrap_or(false),
        };
        match group.take("format").as_deref() {
            Some("raw") => {}
            None => return Err(group.invalid("format=raw is missing; no other format is built, and none is guessed")),
            Some(other) => return Err(group.invalid(format!("format={other} is not built; valid is raw"))),
        }
        if !["virtio", "none"].contains(&interface.as_str()) {
            return Err(group.invalid(format!("if={interface} is not built; valid are virtio and none")));
        }
        let disk = RawFile::open(Path::new(&file), read_only).map_err(|error| Invalid::from_error(&error))?;
        let disk: Arc<dyn BlockNode> = Arc::new(disk);
        if interface == "virtio" {
            let model = DeviceModel::VirtioBlk { disk, serial: group.take("serial").unwrap_or_default() };
            config.devices.push(DeviceConfig { id, model });
        } else {
            let id = id.ok_or_else(|| group.invalid("if=none needs id=..., by which a device names it"))?;
            if waiting.insert(id.clone(), disk).is_some() {
                return Err(group.invalid(format!("there is a drive {id} already")));
            }
        }
        group.finish("file, format, if, id, readonly and serial")?;
    }
    Ok(waiting)
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
