//! The guests that are booted: Debian's kernel and firmware, and an initial RAM disk with busybox, in `guests/`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::debian::Suite;
use crate::{Result, root};

/// First process of the guest: a busybox shell on the console.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo \"guest is ready with $(nproc) processors\"
exec setsid cttyhack sh
";

/// A guest that can be booted: Debian's kernel of one architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// The name that `-arch` takes.
    pub(crate) architecture: &'static str,
    /// What to give Brolga and QEMU besides files.
    pub(crate) machine: &'static str,
    pub(crate) debian_architecture: &'static str,
    pub(crate) suite: &'static str,
    kernel_package: &'static str,
    /// The C compiler without its driver, for the benchmark.
    pub(crate) compiler_package: &'static str,
    has_firmware: bool,
}

/// Debian 13 for riscv64, started through OpenSBI.
pub(crate) const RISCV64: Guest = Guest {
    architecture: "riscv64",
    machine: "virt",
    debian_architecture: "riscv64",
    suite: "trixie",
    kernel_package: "linux-image-riscv64",
    compiler_package: "cpp-14-riscv64-linux-gnu",
    has_firmware: true,
};

/// Debian 12 for x86-64, started directly.
pub(crate) const X86_64: Guest = Guest {
    architecture: "x86_64",
    machine: "pc",
    debian_architecture: "amd64",
    suite: "bookworm",
    kernel_package: "linux-image-cloud-amd64",
    compiler_package: "cpp-12",
    has_firmware: false,
};

impl Guest {
    fn folder(&self) -> PathBuf {
        root().join("guests").join(self.architecture)
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder().join("Image")
    }

    /// The initial RAM disk.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.folder().join("initrd.cpio")
    }

    /// The firmware, for guests that need one.
    pub(crate) fn firmware(&self) -> Option<PathBuf> {
        self.has_firmware.then(|| self.folder().join("fw_dynamic.bin"))
    }

    /// What the tests of the PC start: package, file in it.
    fn test_files(&self) -> &'static [(&'static str, &'static str)] {
        match self.architecture {
            "x86_64" => &[
                ("seabios", "usr/share/seabios/bios-256k.bin"),
                ("seabios", "usr/share/seabios/vgabios-stdvga.bin"),
                ("grub-rescue-pc", "usr/lib/grub-rescue/grub-rescue-floppy.img"),
                ("grub-rescue-pc", "usr/lib/grub-rescue/grub-rescue-cdrom.iso"),
                ("ipxe", "usr/lib/ipxe/ipxe.iso"),
                ("memtest86+", "usr/lib/memtest86+/memtest86+x64.iso"),
                ("ovmf", "usr/share/ovmf/OVMF.fd"),
            ],
            _ => &[],
        }
    }

    /// Where a test file is kept, by its name.
    fn test_file(&self, path: &str) -> PathBuf {
        self.folder().join(path.rsplit('/').next().unwrap_or(path))
    }

    fn is_complete(&self) -> bool {
        let has_firmware = self.firmware().is_none_or(|firmware| firmware.exists());
        let has_test_files = self.test_files().iter().all(|(_, path)| self.test_file(path).exists());
        self.kernel().exists() && self.initrd().exists() && has_firmware && has_test_files
    }

    /// Makes sure that the guest's files are there.
    pub(crate) fn fetch(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        println!("fetching the {} guest from Debian's packages (once)", self.architecture);
        let folder = self.folder();
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        let work = root().join("guests/packages").join(self.architecture);
        let suite = Suite::open(&work, self.suite, self.debian_architecture)?;
        let busybox = suite.unpack("busybox-static")?;
        let busybox = ["usr/bin/busybox", "bin/busybox"].map(|path| busybox.join(path));
        let busybox = busybox.iter().find(|path| path.exists()).ok_or("package busybox-static has no busybox")?;
        let mut archive = Archive::default();
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.folder(name);
        }
        archive.program("bin/busybox", &fs::read(busybox).map_err(failed)?);
        archive.program("init", INIT.as_bytes());
        write(&self.initrd(), &archive.finish())?;
        if let Some(path) = self.firmware() {
            let unpacked = suite.unpack("opensbi")?;
            let firmware = unpacked.join("usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin");
            write(&path, &fs::read(firmware).map_err(failed)?)?;
        }
        let mut unpacked_package = None;
        for (package, path) in self.test_files() {
            let unpacked = match &unpacked_package {
                Some((name, unpacked)) if name == package => unpacked,
                _ => &unpacked_package.insert((*package, suite.unpack(package)?)).1,
            };
            write(&self.test_file(path), &fs::read(unpacked.join(path)).map_err(failed)?)?;
        }
        let unpacked = suite.unpack(&suite.first_dependency(self.kernel_package)?)?;
        let boot = fs::read_dir(unpacked.join("boot")).map_err(failed)?;
        let kernel = boot
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinu")))
            .ok_or("the kernel's package has no kernel")?;
        write(&self.kernel(), &fs::read(kernel).map_err(failed)?)?;
        // The unpacked modules are many and are not needed.
        fs::remove_dir_all(&work).map_err(failed)
    }
}

/// The guest of an architecture.
pub(crate) fn named(architecture: &str) -> Result<&'static Guest> {
    let known = [&RISCV64, &X86_64];
    known.into_iter().find(|guest| guest.architecture == architecture).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|guest| guest.architecture).collect();
        format!("there is no guest {architecture:?}; known are {}", names.join(" and "))
    })
}

/// Makes sure that every guest is there.
pub(crate) fn fetch() -> Result<()> {
    RISCV64.fetch()?;
    X86_64.fetch()
}

/// Writes a file so that it is either whole or absent.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}
