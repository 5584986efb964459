//! Which options the new images of each format have.

use crate::options::FormatOption as Of;
use crate::{Format, FormatOption};

/// Options of images in files, whatever their format.
const FILE: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::switch("nocow", "on: the file's bytes are overwritten in place (btrfs only)"),
    Of::text("preallocation", "what is made ready: off, falloc or full"),
    Of::size("extent_size_hint", "room that the file system is asked to give at once; 0: as it likes"),
];

const RAW: &[FormatOption] = &[Of::size("size", "length of the disk")];

const QCOW2: &[FormatOption] = &[
    Of::switch("encryption", "on: encrypted by AES, as encrypt.format=aes"),
    Of::text("encrypt.format", "how data is encrypted: aes or luks"),
    Of::text("encrypt.key-secret", "ID of the secret with the passphrase"),
    Of::text("encrypt.cipher-alg", "cipher"),
    Of::text("encrypt.cipher-mode", "mode of the cipher"),
    Of::text("encrypt.ivgen-alg", "what makes initialization vectors"),
    Of::text("encrypt.ivgen-hash-alg", "hash for the initialization vectors"),
    Of::text("encrypt.hash-alg", "hash for keys"),
    Of::number("encrypt.iter-time", "milliseconds that to make a key of a passphrase takes"),
    Of::size("cluster_size", "bytes of a cluster").or("65536"),
    Of::switch("extended_l2", "on: parts of clusters are there or not, each").or("off"),
    Of::text("preallocation", "what is made ready: off, metadata, falloc or full"),
    Of::text("compression_type", "how clusters are compressed: zlib or zstd").or("zlib"),
    Of::size("size", "length of the disk"),
    Of::text("compat", "version: 0.10 (v2) or 1.1 (v3)"),
    Of::text("backing_file", "image behind this one"),
    Of::text("backing_fmt", "format of the image behind this one"),
    Of::text("data_file", "file with the data, apart from the metadata"),
    Of::switch("data_file_raw", "on: the file with the data is also a raw image"),
    Of::switch("lazy_refcounts", "on: reference counts are written later").or("off"),
    Of::number("refcount_bits", "bits of a reference count").or("16"),
];

const QCOW: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::text("backing_file", "image behind this one"),
    Of::text("backing_fmt", "format of the image behind this one, which the image does not keep"),
    Of::switch("encryption", "on: encrypted by AES, as encrypt.format=aes"),
    Of::text("encrypt.format", "how data is encrypted: aes"),
    Of::text("encrypt.key-secret", "ID of the secret with the passphrase"),
];

const VDI: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::switch("static", "on: all blocks have a place from the beginning").or("off"),
];

const VPC: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::text("subformat", "kind of image: dynamic (if none is given) or fixed"),
    Of::switch("force_size", "on: the length is not rounded up to what cylinders, heads and sectors can tell"),
];

const VHDX: &[FormatOption] = &[
    Of::size("size", "length of the disk, at most 64 TiB"),
    Of::size("log_size", "bytes of the log, in whole MiB").or("1048576"),
    Of::size("block_size", "bytes of a block, from 1 MiB to 256 MiB; 0: what fits the disk").or("0"),
    Of::text("subformat", "kind of image: dynamic (if none is given) or fixed"),
    Of::switch("block_state_zero", "off: blocks without data are said to be nowhere, and not to be zeros"),
];

const VMDK: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::text("adapter_type", "what the disk is for: ide (if none is given), buslogic, lsilogic or legacyESX"),
    Of::text("backing_file", "image behind this one"),
    Of::text("backing_fmt", "format of the image behind this one: vmdk"),
    Of::switch("compat6", "on: for version 6 of the virtual hardware").or("off"),
    Of::text("hwversion", "version of the virtual hardware").or("undefined"),
    Of::text("toolsversion", "version of the guest's tools"),
    Of::text(
        "subformat",
        "of what files it is made: monolithicSparse (if none is given), monolithicFlat, twoGbMaxExtentSparse, \
         twoGbMaxExtentFlat or streamOptimized",
    ),
    Of::switch("zeroed_grain", "on: grains can be said to be zero"),
];

const PARALLELS: &[FormatOption] =
    &[Of::size("size", "length of the disk"), Of::size("cluster_size", "bytes of a cluster").or("1048576")];

/// What can be changed of a qcow2 image that is there.
const QCOW2_AMEND: &[FormatOption] = &[
    Of::text("encrypt.state", "what the keys in question become: active or inactive"),
    Of::number("encrypt.keyslot", "the one place of a key that changes"),
    Of::text("encrypt.old-secret", "all keys change that this passphrase opens"),
    Of::text("encrypt.new-secret", "passphrase for the places that change; empty: none"),
    Of::number("encrypt.iter-time", "milliseconds that to make a key of a passphrase takes"),
    Of::size("size", "length of the disk"),
    Of::text("compat", "version: 0.10 (v2) or 1.1 (v3)"),
    Of::text("backing_file", "image behind this one"),
    Of::text("backing_fmt", "format of the image behind this one"),
    Of::text("data_file", "file with the data, apart from the metadata"),
    Of::switch("data_file_raw", "on: the file with the data is also a raw image"),
    Of::switch("lazy_refcounts", "on: reference counts are written later"),
    Of::number("refcount_bits", "bits of a reference count"),
];

impl Format {
    /// The options that its images have of which values can be changed; `None` if there are none.
    pub fn amend_options(self) -> Option<&'static [FormatOption]> {
        (self == Format::Qcow2).then_some(QCOW2_AMEND)
    }

    /// The options that its new images have, in the order in which they are shown; `None` if none can be made.
    pub fn create_options(self) -> Option<&'static [FormatOption]> {
        match self {
            Format::Raw => Some(RAW),
            Format::Qcow2 => Some(QCOW2),
            Format::Qcow => Some(QCOW),
            Format::Vdi => Some(VDI),
            Format::Vhdx => Some(VHDX),
            Format::Vmdk => Some(VMDK),
            Format::Vpc => Some(VPC),
            Format::Parallels => Some(PARALLELS),
            Format::Bochs | Format::Cloop | Format::Dmg => None,
        }
    }

    /// The options of its new images in files: its own, and then those of the file.
    pub fn create_options_in_file(self) -> Option<Vec<FormatOption>> {
        let mut options = self.create_options()?.to_vec();
        for option in FILE {
            if !options.iter().any(|own| own.name == option.name) {
                options.push(*option);
            }
        }
        Some(options)
    }

    /// Its images may have compressed data.
    pub fn has_compression(self) -> bool {
        match self {
            Format::Qcow2 | Format::Qcow | Format::Vmdk => true,
            Format::Raw | Format::Vdi | Format::Vhdx | Format::Vpc | Format::Parallels => false,
            Format::Bochs | Format::Cloop | Format::Dmg => false,
        }
    }
}
