//! `info`: what an image is.

use std::io::Write;
use std::path::Path;

use block::qcow2::{BitmapFlags, Encryption, Luks, Metadata, Snapshot};
use block::{Format, Image, vmdk};
use clap::{ArgMatches, Command};
use futures_executor::block_on;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::write_json;
use crate::size::readable;
use crate::{arguments, images};

pub(crate) fn command() -> Command {
    Command::new("info")
        .about("Display information about image")
        .arg(arguments::format())
        .arg(arguments::flag("backing-chain", Some('b'), "the backing files, too"))
        .arg(arguments::force_share())
        .arg(arguments::output())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let name = arguments::one_name("info", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let path = images::path(name)?;
    let format = arguments::source_format(&path, arguments::text(arguments, "format"))?;
    let sharing = arguments::sharing(arguments);
    let is_chain = arguments.get_flag("backing-chain");
    let images = block_on(async {
        if is_chain {
            Image::inspect_chain(&path, format, sharing).await
        } else {
            Ok(vec![Image::inspect(&path, format, sharing).await?])
        }
    })?;
    let mut output = std::io::stdout().lock();
    if arguments::text(arguments, "output") == Some("json") {
        let mut images: Vec<Value> = images.iter().map(in_json).collect();
        let value = if is_chain { Value::Array(images) } else { images.remove(0) };
        write_json(&mut output, &value)?;
    } else {
        let images: Vec<String> = images.iter().map(for_people).collect();
        output.write_all(images.join("\n").as_bytes())?;
    }
    Ok(0)
}

/// The image as QMP's `ImageInfo`.
fn in_json(image: &Image) -> Value {
    let children = children(image).into_iter().map(|(name, path, length, actual_size)| {
        let mut file = json!({
            "children": [],
            "virtual-size": length,
            "filename": path.to_string_lossy(),
            "format": "file",
        });
        set(&mut file, "actual-size", actual_size);
        set(&mut file, "format-specific", Some(json!({ "type": "file", "data": {} })));
        set(&mut file, "dirty-flag", Some(false));
        json!({ "name": name, "info": file })
    });
    let mut value = json!({ "children": children.collect::<Vec<_>>() });
    let metadata = image.qcow2.as_ref();
    if let Some(metadata) = metadata.filter(|metadata| !metadata.snapshots.is_empty()) {
        set(&mut value, "snapshots", Some(metadata.snapshots.iter().map(snapshot).collect::<Vec<_>>()));
    }
    set(&mut value, "backing-filename-format", image.backing_format());
    set(&mut value, "virtual-size", Some(image.virtual_size));
    set(&mut value, "filename", Some(image.path.to_string_lossy()));
    set(&mut value, "cluster-size", image.cluster_size);
    set(&mut value, "format", Some(image.format.name()));
    set(&mut value, "actual-size", actual_size(image));
    set(&mut value, "encrypted", image.is_encrypted().then_some(true));
    if let Some(metadata) = metadata {
        set(&mut value, "format-specific", Some(json!({ "type": "qcow2", "data": specific(metadata) })));
    }
    if let Some(info) = &image.vmdk {
        set(&mut value, "format-specific", Some(json!({ "type": "vmdk", "data": specific_of_vmdk(info) })));
    }
    set(&mut value, "full-backing-filename", image.backing_path().map(|path| path.to_string_lossy().into_owned()));
    set(&mut value, "backing-filename", image.backing_name());
    // QEMU's driver of one format does not say.
    if image.format != Format::Parallels {
        set(&mut value, "dirty-flag", Some(metadata.is_some_and(|metadata| metadata.header.is_dirty())));
    }
    value
}

/// The image's files: name of the node, path, length, and what it takes on the file system. The image's own comes last.
fn children(image: &Image) -> Vec<(String, &Path, u64, Option<u64>)> {
    let parts = image.parts.iter().enumerate();
    let parts =
        parts.map(|(index, part)| (format!("extents.{index}"), &*part.path, part.length, Some(part.actual_size)));
    let own = ("file".to_owned(), &*image.path, image.file_length, image.actual_size);
    parts.rev().chain([own]).collect()
}

/// What all the image's files take on the file system.
fn actual_size(image: &Image) -> Option<u64> {
    image.actual_size.map(|own| own + image.parts.iter().map(|part| part.actual_size).sum::<u64>())
}

/// QMP's `ImageInfoSpecificVmdk`.
fn specific_of_vmdk(info: &vmdk::Info) -> Value {
    let extents = info.extents.iter().filter_map(|extent| {
        let mut value = json!({});
        set(&mut value, "compressed", extent.is_compressed.then_some(true));
        set(&mut value, "virtual-size", Some(extent.length));
        set(&mut value, "filename", Some(extent.path.as_ref()?.to_string_lossy()));
        set(&mut value, "cluster-size", extent.grain);
        set(&mut value, "format", Some(extent.form));
        Some(value)
    });
    let mut value = json!({});
    set(&mut value, "cid", Some(info.cid));
    set(&mut value, "parent-cid", Some(info.parent_cid));
    set(&mut value, "create-type", Some(info.create_type.as_str()));
    set(&mut value, "extents", Some(extents.collect::<Vec<_>>()));
    value
}

/// Adds a member, if there is a value.
fn set(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(name.to_owned(), value.into());
    }
}

fn snapshot(snapshot: &Snapshot) -> Value {
    let mut value = json!({});
    set(&mut value, "icount", snapshot.instructions);
    set(&mut value, "vm-clock-nsec", Some(snapshot.vm_clock % 1_000_000_000));
    set(&mut value, "name", Some(snapshot.name.as_str()));
    set(&mut value, "date-sec", Some(snapshot.date.0));
    set(&mut value, "date-nsec", Some(snapshot.date.1));
    set(&mut value, "vm-clock-sec", Some(snapshot.vm_clock / 1_000_000_000));
    set(&mut value, "id", Some(snapshot.id.as_str()));
    set(&mut value, "vm-state-size", Some(snapshot.vm_state_size));
    value
}

/// QMP's `ImageInfoSpecificQCow2`.
fn specific(metadata: &Metadata) -> Value {
    let header = &metadata.header;
    let is_new = header.version >= 3;
    let mut value = json!({});
    set(&mut value, "compat", Some(if is_new { "1.1" } else { "0.10" }));
    set(&mut value, "compression-type", Some(header.compression.to_string()));
    set(&mut value, "lazy-refcounts", is_new.then(|| header.has_lazy_refcounts()));
    if !metadata.bitmaps.is_empty() {
        let bitmaps = metadata.bitmaps.iter().map(|bitmap| {
            let names = [(BitmapFlags::IN_USE, "in-use"), (BitmapFlags::AUTO, "auto")];
            let flags: Vec<&str> =
                names.into_iter().filter(|(flag, _)| bitmap.flags & flag != 0).map(|(_, name)| name).collect();
            json!({ "flags": flags, "name": bitmap.name, "granularity": bitmap.granularity })
        });
        set(&mut value, "bitmaps", Some(bitmaps.collect::<Vec<_>>()));
    }
    set(&mut value, "refcount-bits", Some(header.refcount_bits()));
    if header.has_data_file() {
        set(&mut value, "data-file", metadata.extensions.data_file.as_deref());
        set(&mut value, "data-file-raw", Some(header.data_file_is_raw()));
    }
    match (header.encryption, &metadata.luks) {
        (Encryption::Luks, Some(luks)) => set(&mut value, "encrypt", Some(encryption(luks))),
        (Encryption::Aes, _) => set(&mut value, "encrypt", Some(json!({ "format": "aes" }))),
        _ => (),
    }
    set(&mut value, "corrupt", is_new.then(|| header.is_corrupt()));
    set(&mut value, "extended-l2", is_new.then(|| header.has_extended_l2()));
    value
}

/// QMP's `QCryptoBlockInfoLUKS`.
fn encryption(luks: &Luks) -> Value {
    let (mode, vectors) = luks.mode.split_once('-').unwrap_or((&luks.mode, ""));
    // An algorithm for the vectors may have a hash of its own.
    let (vectors, vectors_hash) = vectors.split_once(':').map_or((vectors, None), |(name, hash)| (name, Some(hash)));
    // XTS takes two keys.
    let key_bits = luks.key_bytes * if mode == "xts" { 4 } else { 8 };
    let mut value = json!({});
    set(&mut value, "ivgen-alg", Some(vectors));
    set(&mut value, "ivgen-hash-alg", vectors_hash);
    set(&mut value, "detached-header", Some(false));
    set(&mut value, "hash-alg", Some(luks.hash.as_str()));
    set(&mut value, "cipher-alg", Some(format!("{}-{key_bits}", luks.cipher)));
    set(&mut value, "uuid", Some(luks.uuid.as_str()));
    set(&mut value, "format", Some("luks"));
    set(&mut value, "cipher-mode", Some(mode));
    let slots = luks.slots.iter().map(|slot| {
        let mut value = json!({ "active": slot.is_active });
        set(&mut value, "iters", slot.is_active.then_some(slot.iterations));
        set(&mut value, "key-offset", Some(slot.key_offset));
        set(&mut value, "stripes", slot.is_active.then_some(slot.stripes));
        value
    });
    set(&mut value, "slots", Some(slots.collect::<Vec<_>>()));
    set(&mut value, "payload-offset", Some(luks.payload_offset));
    set(&mut value, "master-key-iters", Some(luks.master_key_iterations));
    value
}

fn for_people(image: &Image) -> String {
    let disk_size = |size: Option<u64>| format!("disk size: {}", size.map_or("unavailable".into(), readable));
    let mut lines = vec![
        format!("image: {}", image.path.display()),
        format!("file format: {}", image.format.name()),
        format!("virtual size: {} ({} bytes)", readable(image.virtual_size), image.virtual_size),
        disk_size(actual_size(image)),
    ];
    if image.is_encrypted() {
        lines.push("encrypted: yes".into());
    }
    lines.extend(image.cluster_size.map(|size| format!("cluster_size: {size}")));
    if image.qcow2.as_ref().is_some_and(|metadata| metadata.header.is_dirty()) {
        lines.push("cleanly shut down: no".into());
    }
    if let (Some(name), Some(path)) = (image.backing_name(), image.backing_path()) {
        let actual =
            if path.as_os_str() == name { String::new() } else { format!(" (actual path: {})", path.display()) };
        lines.push(format!("backing file: {name}{actual}"));
        lines.extend(image.backing_format().map(|format| format!("backing file format: {format}")));
    }
    if let Some(metadata) = &image.qcow2 {
        if !metadata.snapshots.is_empty() {
            lines.push("Snapshot list:".into());
            lines.push(snapshot_head());
            lines.extend(metadata.snapshots.iter().map(snapshot_row));
        }
        lines.push("Format specific information:".into());
        write_members(&specific(metadata), 4, &mut lines);
    }
    if let Some(info) = &image.vmdk {
        lines.push("Format specific information:".into());
        write_members(&specific_of_vmdk(info), 4, &mut lines);
    }
    for (name, path, length, actual_size) in children(image) {
        lines.push(format!("Child node '/{name}':"));
        lines.push(format!("    filename: {}", path.display()));
        lines.push("    protocol type: file".into());
        lines.push(format!("    file length: {} ({length} bytes)", readable(length)));
        lines.push(format!("    {}", disk_size(actual_size)));
    }
    lines.join("\n") + "\n"
}

/// The head of a list of snapshots.
pub(crate) fn snapshot_head() -> String {
    row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])
}

fn row([id, name, size, date, clock, instructions]: [&str; 6]) -> String {
    format!("{id:<7} {name:<16} {size:>8} {date:>19} {clock:>15} {instructions:>10}")
}

/// A line of a list of snapshots.
pub(crate) fn snapshot_row(snapshot: &Snapshot) -> String {
    let milliseconds = snapshot.vm_clock / 1_000_000;
    let seconds = milliseconds / 1000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let clock = format!("{hours:04}:{minutes:02}:{:02}.{:03}", seconds % 60, milliseconds % 1000);
    let instructions = snapshot.instructions.map_or(String::new(), |count| count.to_string());
    let size = readable(snapshot.vm_state_size);
    row([&snapshot.id, &snapshot.name, &size, &local_time(snapshot.date.0), &clock, &instructions])
}

/// A time in seconds since 1970, in the user's time zone.
fn local_time(seconds: u32) -> String {
    let timestamp = jiff::Timestamp::from_second(seconds.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Members of an object or a list, a line each, those within them deeper.
fn write_members(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.replace('-', " "), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (format!("[{at}]"), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in members {
        let indent = " ".repeat(depth);
        match value {
            Value::Object(_) | Value::Array(_) => {
                lines.push(format!("{indent}{name}:"));
                write_members(value, depth + 4, lines);
            }
            Value::String(text) => lines.push(format!("{indent}{name}: {text}")),
            other => lines.push(format!("{indent}{name}: {other}")),
        }
    }
}
