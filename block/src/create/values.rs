//! What the values of options mean to each format.

use crate::driver::Preallocation;
use crate::operations::SECTOR;
use crate::{Error, Format, OptionValues, parallels, qcow, qcow2, vdi, vhdx, vmdk, vpc};

const MIB: u64 = 1 << 20;

fn unsupported<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Unsupported(text.into()))
}

/// The length of the disk, in whole sectors.
fn size(values: &OptionValues) -> Result<u64, Error> {
    let whole = values.number("size").unwrap_or(0).checked_next_multiple_of(SECTOR);
    whole.map_or_else(|| unsupported("the image size is more than numbers of 64 bits can tell"), Ok)
}

/// What is made ready before it is written.
pub(super) fn preallocation(values: &OptionValues) -> Result<Preallocation, Error> {
    let Some(name) = values.text("preallocation") else { return Ok(Preallocation::Off) };
    let known = Preallocation::ALL.into_iter().find(|(known, _)| *known == name);
    known.map_or_else(|| unsupported(format!("invalid parameter value: {name}")), |(_, mode)| Ok(mode))
}

/// The file has none of a format's metadata that could be made ready.
pub(super) fn refuse_metadata(values: &OptionValues) -> Result<Preallocation, Error> {
    match preallocation(values)? {
        Preallocation::Metadata => unsupported("Unsupported preallocation mode: metadata"),
        other => Ok(other),
    }
}

/// The value that a name has, of those of an option.
fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// The kind of image, of those that the format has.
fn subformat<T: Copy + Default>(values: &OptionValues, all: &[(&str, T)]) -> Result<T, Error> {
    let Some(name) = values.text("subformat") else { return Ok(T::default()) };
    let unknown = || unsupported(format!("Parameter 'subformat' does not accept value '{name}'"));
    named(all, name).map_or_else(unknown, Ok)
}

pub(super) fn qcow2(values: &OptionValues) -> Result<qcow2::CreateOptions, Error> {
    if values.is_on("encryption") || values.text("encrypt.format").is_some() {
        return unsupported("encrypted qcow2 images are not built");
    }
    let version = match values.text("compat") {
        Some("0.10" | "v2") => 2,
        None | Some("1.1" | "v3") => 3,
        Some(other) => return unsupported(format!("Parameter 'version' does not accept value '{other}'")),
    };
    let compression = match values.text("compression_type") {
        None | Some("zlib") => qcow2::CompressionType::Zlib,
        Some("zstd") => qcow2::CompressionType::Zstd,
        Some(other) => return unsupported(format!("Parameter 'compression-type' does not accept value '{other}'")),
    };
    let backing_format = values.text("backing_fmt").map(str::to_owned);
    if values.text("backing_file").is_none() && backing_format.is_some() {
        return unsupported("Backing format cannot be used without backing file");
    }
    let size = values.number("size").unwrap_or(0);
    let whole = size.checked_next_multiple_of(SECTOR);
    let Some(size) = whole else { return unsupported("The image size is too large for file format 'qcow2'") };
    Ok(qcow2::CreateOptions {
        size,
        version,
        cluster_size: values.number("cluster_size").unwrap_or(65536),
        refcount_bits: values.number("refcount_bits").and_then(|bits| u32::try_from(bits).ok()).unwrap_or(u32::MAX),
        compression,
        extended_l2: values.is_on("extended_l2"),
        lazy_refcounts: values.is_on("lazy_refcounts"),
        backing: values.text("backing_file").map(|name| (name.to_owned(), backing_format)),
        data_file: values.text("data_file").map(str::to_owned),
        data_file_raw: values.is_on("data_file_raw"),
        preallocation: preallocation(values)?,
    })
}

pub(super) fn qcow(values: &OptionValues) -> Result<qcow::CreateOptions, Error> {
    if let Some(format) = values.text("backing_fmt").filter(|format| Format::named(format).is_none()) {
        return unsupported(format!("unrecognized backing format '{format}'"));
    }
    let encryption = match (values.is_on("encryption"), values.text("encrypt.format")) {
        (true, Some(_)) => {
            return unsupported("'encrypt.format' and its alias 'encryption' can't be used at the same time");
        }
        (true, None) => Some("aes"),
        (false, format) => format,
    };
    match encryption {
        None => {}
        Some("aes") => {
            return match values.text("encrypt.key-secret") {
                None => unsupported("Parameter 'encrypt.key-secret' is required for cipher"),
                Some(_) => unsupported("encrypted qcow images are not built"),
            };
        }
        Some("luks") => return unsupported("Unsupported encryption format"),
        Some(other) => return unsupported(format!("Parameter 'format' does not accept value '{other}'")),
    }
    Ok(qcow::CreateOptions { size: size(values)?, backing_file: values.text("backing_file").map(str::to_owned) })
}

pub(super) fn vdi(values: &OptionValues) -> Result<vdi::CreateOptions, Error> {
    Ok(vdi::CreateOptions { size: size(values)?, is_static: values.is_on("static") })
}

pub(super) fn vpc(values: &OptionValues) -> Result<vpc::CreateOptions, Error> {
    let kinds = [("dynamic", vpc::Subformat::Dynamic), ("fixed", vpc::Subformat::Fixed)];
    let (subformat, force_size) = (subformat(values, &kinds)?, values.is_on("force_size"));
    Ok(vpc::CreateOptions { size: size(values)?, subformat, force_size })
}

/// Sizes of blocks and of the log are rounded to what can be.
pub(super) fn vhdx(values: &OptionValues) -> Result<vhdx::CreateOptions, Error> {
    let kinds = [("dynamic", vhdx::Subformat::Dynamic), ("fixed", vhdx::Subformat::Fixed)];
    let whole = |name| values.number(name).map(|size| size.checked_next_multiple_of(MIB).unwrap_or(u64::MAX));
    let usual = vhdx::CreateOptions::default();
    Ok(vhdx::CreateOptions {
        size: size(values)?,
        subformat: subformat(values, &kinds)?,
        block_size: whole("block_size").map_or(usual.block_size, |size| size.min(vhdx::MOST_BLOCK)),
        log_size: whole("log_size").unwrap_or(usual.log_size),
        block_state_zero: values.text("block_state_zero").is_none() || values.is_on("block_state_zero"),
    })
}

pub(super) fn vmdk(values: &OptionValues) -> Result<vmdk::CreateOptions, Error> {
    if values.text("backing_fmt").is_some_and(|format| format != Format::Vmdk.name()) {
        return unsupported("backing_file must be a vmdk image");
    }
    let invalid = |name: &str| Error::Unsupported(format!("invalid parameter value: {name}"));
    let adapter_type = match values.text("adapter_type") {
        None => vmdk::AdapterType::default(),
        Some(name) => named(&vmdk::AdapterType::ALL, name).ok_or_else(|| invalid(name))?,
    };
    let subformat = match values.text("subformat") {
        None => vmdk::Subformat::default(),
        Some(name) => named(&vmdk::Subformat::ALL, name).ok_or_else(|| invalid(name))?,
    };
    let given = values.text("hwversion").filter(|version| *version != "undefined").map(str::to_owned);
    let hardware_version = match (values.is_on("compat6"), given) {
        (true, Some(_)) => return unsupported("compat6 cannot be enabled with hwversion set"),
        (true, None) => Some("6".into()),
        (false, given) => given,
    };
    Ok(vmdk::CreateOptions {
        size: size(values)?,
        subformat,
        adapter_type,
        hardware_version,
        tools_version: values.text("toolsversion").map(str::to_owned),
        zeroed_grain: values.is_on("zeroed_grain"),
        backing_file: values.text("backing_file").map(str::to_owned),
        in_place: values.is_on("nocow"),
    })
}

pub(super) fn parallels(values: &OptionValues) -> Result<parallels::CreateOptions, Error> {
    let cluster = values.number("cluster_size").map(|size| size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX));
    let cluster_size = cluster.unwrap_or(parallels::CreateOptions::default().cluster_size);
    Ok(parallels::CreateOptions { size: size(values)?, cluster_size })
}
