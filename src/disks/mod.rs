//! Disks: `-blockdev`, `-drive` and its short forms.

pub(crate) mod places;

use std::sync::Arc;

use accel::Architecture;
use block::{Backend, ErrorPolicy, Format, Graph, Node, NodeOptions, OnError, Permissions, Raw};
use futures_executor::block_on;
use hw::ide::{Drive, DriveKind};
use hw::machine::{Config, DeviceConfig, DeviceModel};

use self::places::Place;
use crate::command_line::{Group, Invalid, Options};

/// What devices that are disks take, for messages.
pub(crate) const DISK_OPTIONS: &str = "drive, serial, rerror, werror, share-rw, write-cache";

/// What becomes of a disk: the device's identifier or path with it, where there is one.
pub(crate) enum Use {
    /// A hard disk.
    Disk(Option<String>),
    /// A CD-ROM drive, which may be empty.
    CdRom(Option<String>),
    /// A floppy drive.
    Floppy(Option<String>),
}

/// Disks that wait for devices.
pub(crate) struct Disks {
    graph: Arc<Graph>,
    /// Devices without a name so far.
    unnamed: usize,
}

/// The path of the disk within a virtio device.
pub(crate) fn in_virtio(id: &str) -> String {
    format!("/machine/peripheral/{id}/virtio-backend")
}

impl Disks {
    /// Makes all nodes, and the devices of drives with an interface.
    pub(crate) fn open(options: &Options, config: &mut Config, architecture: Architecture) -> Result<Disks, Invalid> {
        let mut disks = Disks { graph: config.disks.clone(), unnamed: 0 };
        for text in &options.blockdevs {
            let invalid = |error: block::Error| Invalid::new(format!("-blockdev {text}: {error}"));
            let node = NodeOptions::from_text(text).map_err(invalid)?;
            block_on(disks.graph.add_node(node)).map_err(invalid)?;
        }
        // Those with a place of their own first.
        for (option, index, file) in &options.ide_files {
            let kind = if *option == "cdrom" { "cdrom" } else { "disk" };
            let text = format!("if=ide,index={index},media={kind},file={}", escaped(&file.display().to_string()));
            disks.drive(option, &text, config, architecture)?;
        }
        for (option, index, file) in &options.floppy_files {
            let text = format!("if=floppy,index={index},file={}", escaped(&file.display().to_string()));
            disks.drive(option, &text, config, architecture)?;
        }
        for text in &options.drives {
            disks.drive("drive", text, config, architecture)?;
        }
        Ok(disks)
    }

    /// A `-drive`, or what stands for one.
    fn drive(
        &mut self,
        option: &'static str,
        text: &str,
        config: &mut Config,
        architecture: Architecture,
    ) -> Result<(), Invalid> {
        let usual = if architecture == Architecture::X86_64 { "ide" } else { "virtio" };
        let mut group = Group::parse(option, text)?;
        let id = group.take("id");
        let interface = group.take("if").unwrap_or_else(|| usual.into());
        let is_cd = match group.take("media").as_deref() {
            None | Some("disk") => false,
            Some("cdrom") => true,
            Some(_) => return Err(group.invalid("valid for media are disk and cdrom")),
        };
        let place = Place {
            bus: group.take_number("bus")?,
            unit: group.take_number("unit")?,
            index: group.take_number("index")?,
        };
        let serial = group.take("serial").unwrap_or_default();
        let (number, name) = match interface.as_str() {
            "ide" if usual == "ide" => {
                let number = places::ide(config, &group, place)?;
                let kind = if is_cd { "cd" } else { "hd" };
                (number, format!("ide{}-{kind}{}", number / 2, number % 2))
            }
            "ide" => return Err(group.invalid(format!("machines for {} have no IDE", architecture.name()))),
            "floppy" => {
                let number = places::floppy(config, &group, place.index.or(place.unit), architecture)?;
                (number, format!("floppy{number}"))
            }
            "virtio" | "none" => {
                let name = |number: &usize| format!("{interface}{number}");
                let free = |number: &usize| self.graph.backend(&name(number)).is_none();
                let number = place.index.or_else(|| (0..).find(free)).unwrap_or_default();
                (number, name(&number))
            }
            _ => {
                let ide = if usual == "ide" { "ide, floppy, " } else { "" };
                return Err(group.invalid(format!("if={interface} is not built; valid are {ide}virtio and none")));
            }
        };
        let has_id = id.is_some();
        let name = id.clone().unwrap_or(name);
        let disk = self.backend(&mut group, &name, is_cd)?;
        if disk.node().is_none() && !(interface == "ide" && is_cd) && interface != "floppy" {
            return Err(group.invalid("file=... is missing"));
        }
        match interface.as_str() {
            "virtio" => {
                let device = id.as_deref().map_or_else(|| self.path(true), in_virtio);
                self.attach(&group, &disk, &Use::Disk(Some(device)), false)?;
                config.devices.push(DeviceConfig { id, model: DeviceModel::VirtioBlk { disk, serial } });
            }
            "ide" => {
                let device = Some(self.path(false));
                let (kind, used) =
                    if is_cd { (DriveKind::CdRom, Use::CdRom(device)) } else { (DriveKind::Disk, Use::Disk(device)) };
                self.attach(&group, &disk, &used, false)?;
                places::add_ide(config, number, Drive { kind, medium: disk, serial });
            }
            "floppy" => {
                let device = Some(self.path(false));
                self.attach(&group, &disk, &Use::Floppy(device), false)?;
                config.floppies[number] = Some(hw::floppy::Drive { medium: disk });
            }
            _ if !has_id => return Err(group.invalid("if=none needs id=..., by which a device names it")),
            _ => {}
        }
        group.finish(
            "file, format, if, media, bus, unit, index, id, readonly, cache, aio, discard, serial, rerror, werror",
        )
    }

    /// The disk of a `-drive`, under a name.
    fn backend(&self, group: &mut Group, name: &str, is_cd: bool) -> Result<Arc<Backend>, Invalid> {
        let read_only = match group.take_switch("readonly")? {
            Some(read_only) => read_only,
            None => group.take_switch("read-only")?.unwrap_or(is_cd),
        };
        let policy = policy(group)?;
        let mut write_back = true;
        let mut options: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| options.push((name.into(), value.into()));
        match group.take("cache").as_deref() {
            None | Some("writeback") => {}
            Some("none" | "off") => set("cache.direct", "on"),
            Some("writethrough") => write_back = false,
            Some("directsync") => {
                write_back = false;
                set("cache.direct", "on");
            }
            Some("unsafe") => set("cache.no-flush", "on"),
            Some(_) => {
                return Err(group.invalid("valid for cache are none, writeback, writethrough, directsync and unsafe"));
            }
        }
        if let Some(on) = group.take_switch("cache.writeback")? {
            write_back = on;
        }
        set("read-only", if read_only { "on" } else { "off" });
        // What is given as a driver may also be a filter.
        options.extend(group.take("driver").map(|driver| ("driver".to_owned(), driver)));
        let format = group.take("format");
        let format = match format {
            // A disc image has no other format.
            None if is_cd && !options.iter().any(|(name, _)| name == "driver") => Some("raw".to_owned()),
            None => None,
            Some(name) if Format::named(&name).is_some() => Some(name),
            Some(name) => {
                return Err(group.invalid(format!("format={name} is not built; valid are {}", Format::names())));
            }
        };
        options.extend(format.map(|format| ("driver".to_owned(), format)));
        let aio = group.take("aio");
        let file = group.take_first("file").filter(|file| !file.is_empty());
        let rest = group.take_rest();
        let has_file_options = rest.iter().any(|(name, _)| name.starts_with("file."));
        if let (None, false, Some((name, _))) = (&file, has_file_options, rest.first()) {
            return Err(group.invalid(format!("{name} means nothing without a file")));
        }
        options.extend(rest);
        let node = match file {
            None if !has_file_options => None,
            None => Some(self.node(group, None, options)?),
            Some(file) => {
                let mut described = NodeOptions::of_file_name(&file).map_err(|error| group.invalid(error))?;
                if let Some(aio) = aio {
                    described.set_default("aio", aio);
                }
                Some(self.node(group, Some((&file, described)), options)?)
            }
        };
        let disk = Backend::named(name, policy, node);
        disk.set_write_back(write_back);
        self.graph.add_backend(disk.clone()).map_err(|error| group.invalid(error))?;
        Ok(disk)
    }

    /// The node of a `-drive`; its format is found out unless it is given.
    fn node(
        &self,
        group: &Group,
        file: Option<(&str, NodeOptions)>,
        options: Vec<(String, String)>,
    ) -> Result<Arc<Node>, Invalid> {
        let invalid = |error: block::Error| group.invalid(error);
        let options = NodeOptions::from_pairs(options).map_err(invalid)?;
        let (name, options) = match file {
            Some((name, file)) => (name, NodeOptions::of_image(file, options)),
            None => ("", options.probing()),
        };
        let node = block_on(self.graph.open(options)).map_err(|error| match error {
            // Sentences that name the file already.
            block::Error::Open { .. } => Invalid::from_error(&error),
            _ => invalid(error),
        })?;
        if let Some(warning) = node.driver_as::<Raw>().and_then(|raw| raw.warning(name)) {
            eprintln!("brolga: warning: {warning}");
        }
        Ok(node)
    }

    /// The path of a device without a name.
    fn path(&mut self, is_virtio: bool) -> String {
        self.unnamed += 1;
        let within = if is_virtio { "/virtio-backend" } else { "" };
        format!("/machine/unattached/device[{}]{within}", self.unnamed)
    }

    /// The disk that a device names: a drive that waits for it, or a node.
    pub(crate) fn take(&mut self, group: &mut Group, config: &Config, used: Use) -> Result<Arc<Backend>, Invalid> {
        let is_share = group.take_switch("share-rw")?.unwrap_or(false);
        let device_policy = policy_given(group)?;
        let write_back = group.take_switch_or_auto("write-cache")?;
        let disk = match (group.take("drive"), &used) {
            (None, Use::CdRom(_) | Use::Floppy(_)) => {
                let empty = Backend::named("", ErrorPolicy::default(), None);
                config.disks.add_backend(empty.clone()).map_err(|error| group.invalid(error))?;
                empty
            }
            (None, Use::Disk(_)) => return Err(group.invalid("drive=... is missing")),
            (Some(name), _) => self.named(group, &name)?,
        };
        if let Some(write_back) = write_back {
            disk.set_write_back(write_back);
        }
        disk.set_user(|user| {
            let ErrorPolicy { read, write } = user.policy;
            user.policy =
                ErrorPolicy { read: device_policy.0.unwrap_or(read), write: device_policy.1.unwrap_or(write) };
        });
        self.attach(group, &disk, &used, is_share)?;
        Ok(disk)
    }

    fn named(&self, group: &Group, name: &str) -> Result<Arc<Backend>, Invalid> {
        if let Some(disk) = self.graph.backend(name).filter(|disk| disk.name() == name) {
            return match disk.user().device {
                None => Ok(disk),
                Some(_) => Err(group.invalid(format!("drive {name} is in use by another device"))),
            };
        }
        let node = self.graph.node(name).ok_or_else(|| {
            group.invalid(format!(
                "there is no drive {name}; see -drive if=none,id={name} and -blockdev node-name={name}"
            ))
        })?;
        let disk = Backend::named("", ErrorPolicy::default(), Some(node));
        self.graph.add_backend(disk.clone()).map_err(|error| group.invalid(error))?;
        Ok(disk)
    }

    /// A device has the disk from now on.
    fn attach(&mut self, group: &Group, disk: &Arc<Backend>, used: &Use, is_shared: bool) -> Result<(), Invalid> {
        let (Use::Disk(device) | Use::CdRom(device) | Use::Floppy(device)) = used;
        let device = device.clone().unwrap_or_else(|| self.path(false));
        let writes = !matches!(used, Use::CdRom(_)) && !disk.is_read_only();
        let permissions = if is_shared { Permissions::shared(writes) } else { Permissions::exclusive(writes) };
        let change = |user: &mut block::User| {
            user.device = Some(device);
            user.permissions = permissions;
            user.is_removable = !matches!(used, Use::Disk(_));
        };
        self.graph.change_user(disk, change).map_err(|error| group.invalid(error))
    }
}

/// A value with its commas written twice.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

fn policy(group: &mut Group) -> Result<ErrorPolicy, Invalid> {
    let usual = ErrorPolicy::default();
    let (read, write) = policy_given(group)?;
    Ok(ErrorPolicy { read: read.unwrap_or(usual.read), write: write.unwrap_or(usual.write) })
}

/// What is to happen when requests of the guest fail: those that read, and others.
fn policy_given(group: &mut Group) -> Result<(Option<OnError>, Option<OnError>), Invalid> {
    let mut take = |option: &str| {
        let Some(text) = group.take(option).filter(|text| text != "auto") else { return Ok(None) };
        let known = OnError::ALL.map(|(name, _)| name).join(", ");
        OnError::named(&text).map(Some).ok_or_else(|| group.invalid(format!("{option}={text}: valid are {known}")))
    };
    Ok((take("rerror")?, take("werror")?))
}
