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

/// Files of the riscv64 guest.
pub(crate) struct Riscv64 {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) firmware: PathBuf,
}

impl Riscv64 {
    fn at(folder: &Path) -> Riscv64 {
        Riscv64 {
            kernel: folder.join("Image"),
            initrd: folder.join("initrd.cpio"),
            firmware: folder.join("fw_dynamic.bin"),
        }
    }

    fn is_complete(&self) -> bool {
        self.kernel.exists() && self.initrd.exists() && self.firmware.exists()
    }
}

/// Makes sure that the guests are there.
pub(crate) fn fetch() -> Result<Riscv64> {
    let folder = root().join("guests/riscv64");
    let guest = Riscv64::at(&folder);
    if guest.is_complete() {
        return Ok(guest);
    }
    println!("fetching the riscv64 guest from Debian's packages (about 115 MB, once)");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let work = root().join("guests/packages");
    let suite = Suite::open(&work, "trixie", "riscv64")?;
    let busybox = suite.unpack("busybox-static")?;
    let busybox = ["usr/bin/busybox", "bin/busybox"].map(|path| busybox.join(path));
    let busybox = busybox.iter().find(|path| path.exists()).ok_or("package busybox-static has no busybox")?;
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.folder(name);
    }
    archive.program("bin/busybox", &fs::read(busybox).map_err(failed)?);
    archive.program("init", INIT.as_bytes());
    write(&guest.initrd, &archive.finish())?;
    let firmware = suite.unpack("opensbi")?.join("usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin");
    write(&guest.firmware, &fs::read(firmware).map_err(failed)?)?;
    let unpacked = suite.unpack(&suite.first_dependency("linux-image-riscv64")?)?;
    let boot = fs::read_dir(unpacked.join("boot")).map_err(failed)?;
    let kernel = boot
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinu")))
        .ok_or("the kernel's package has no kernel")?;
    write(&guest.kernel, &fs::read(kernel).map_err(failed)?)?;
    // The unpacked modules are many and are not needed.
    fs::remove_dir_all(&work).map_err(failed)?;
    Ok(guest)
}

/// Writes a file so that it is either whole or absent.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}
