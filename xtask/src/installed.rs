//! A disk with an installed Debian that GRUB starts: what a person's own virtual machine looks like.
//!
//! `mmdebstrap` installs into a folder, `mke2fs` makes a file system of it, and GRUB goes before the first partition.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, KEYRING, as_root};
use crate::{Result, root, run};

const SECTOR: u64 = 512;
/// Where the partition begins, in sectors: at 1 MiB, as partitioning programs put it.
const PARTITION: u64 = 2048;
const PARTITION_MEBIBYTES: u64 = 1500;

/// Programs that make the disk, and their packages.
const PROGRAMS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
];

/// What is installed, besides packages that every Debian has.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,python3-minimal,gcc,libc6-dev";

/// Commands run in the new system; `$1` is its folder. The package `hello` waits to be installed by the guest itself.
const HOOKS: [&str; 5] = [
    r#"cd "$1/root" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download hello"#,
    r#"echo root:brolga | chroot "$1" chpasswd"#,
    r#"echo installed > "$1/etc/hostname""#,
    r#"echo "/dev/vda1 / ext4 defaults 0 1" > "$1/etc/fstab""#,
    // A busy host may be slow: without this a console that is not found within 90 s never has a login prompt.
    r#"mkdir "$1/etc/systemd/system.conf.d" && printf '[Manager]\nDefaultDeviceTimeoutSec=900\nDefaultTimeoutStartSec=900\n' > "$1/etc/systemd/system.conf.d/patient.conf""#,
];

const GRUB_CONFIGURATION: &str = "serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=1
menuentry \"Debian\" {
    linux /vmlinuz root=/dev/vda1 ro console=ttyS0
    initrd /initrd.img
}
";

/// The disk's image. The user `root` has the password `brolga`.
pub(crate) fn disk() -> PathBuf {
    root().join("guests/x86_64/installed.img")
}

/// Makes sure that the disk is there.
pub(crate) fn make() -> Result<()> {
    if disk().exists() {
        return Ok(());
    }
    debian::install(&PROGRAMS)?;
    println!("installing Debian on a disk for the x86_64 guest (once; it takes minutes)");
    let work = root().join("guests/packages/installed");
    let failed = |error: std::io::Error| format!("{}: {error}", work.display());
    let system = work.join("root");
    fs::create_dir_all(&work).map_err(failed)?;
    // What an interrupted run left belongs to root.
    run(as_root("rm").arg("-rf").arg(&system))?;
    let source = format!("deb [signed-by={KEYRING}] {} bookworm main", debian::mirror()?);
    let mut install = as_root("mmdebstrap");
    install.args(["--mode=root", "--variant=apt", "--aptopt=Apt::Install-Recommends \"false\""]);
    install.arg(format!("--include={PACKAGES}"));
    for left_out in ["doc", "man", "locale"] {
        install.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    install.args(HOOKS.map(|hook| format!("--customize-hook={hook}")));
    let menu = work.join("grub.cfg");
    fs::write(&menu, GRUB_CONFIGURATION).map_err(failed)?;
    install.arg(format!("--customize-hook=copy-in {} /boot/grub", menu.display()));
    install.arg("--setup-hook=mkdir -p \"$1/boot/grub\"");
    run(install.args(["bookworm"]).arg(&system).arg(source))?;
    let image = work.join("installed.img");
    write_disk(&work, &system, &image)?;
    run(as_root("rm").arg("-rf").arg(&system))?;
    fs::rename(&image, disk()).map_err(failed)
}

fn write_disk(work: &Path, system: &Path, image: &Path) -> Result<()> {
    let failed = |error: std::io::Error| format!("{}: {error}", image.display());
    let mut file = File::create(image).map_err(failed)?;
    file.set_len(PARTITION * SECTOR + (PARTITION_MEBIBYTES << 20)).map_err(failed)?;
    let offset = format!("offset={}", PARTITION * SECTOR);
    run(as_root("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", &offset, "-d"])
        .arg(system)
        .arg(image)
        .arg(format!("{PARTITION_MEBIBYTES}M")))?;
    // GRUB's own installer wants the disk attached to the host. Its two parts find each other where they are put here: the
    // first loads the one in the sector after it, and that one knows how long it is.
    let core = work.join("core.img");
    let modules = ["biosdisk", "part_msdos", "ext2", "linux", "normal", "serial", "terminal", "configfile"];
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"])
        .arg(&core)
        .args(modules))?;
    let core = fs::read(&core).map_err(failed)?;
    if core.len() as u64 > (PARTITION - 1) * SECTOR {
        return Err(format!("GRUB's {} bytes do not fit before the first partition", core.len()));
    }
    let boot = fs::read("/usr/lib/grub/i386-pc/boot.img").map_err(failed)?;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&master_boot_record(&boot)?)).map_err(failed)?;
    file.write_all(&core).map_err(failed)
}

/// The disk's first sector: GRUB's boot code and one active Linux partition.
fn master_boot_record(boot: &[u8]) -> std::io::Result<[u8; SECTOR as usize]> {
    const TABLE: usize = 446;
    // Where a cylinder, head and sector stand for nothing.
    const NO_GEOMETRY: [u8; 3] = [0xfe, 0xff, 0xff];
    let code = boot.get(..440).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let mut sector = [0; SECTOR as usize];
    sector[..code.len()].copy_from_slice(code);
    let entry = &mut sector[TABLE..TABLE + 16];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&NO_GEOMETRY);
    entry[4] = 0x83;
    entry[5..8].copy_from_slice(&NO_GEOMETRY);
    entry[8..12].copy_from_slice(&(PARTITION as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&((PARTITION_MEBIBYTES << 20) / SECTOR).to_le_bytes()[..4]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}
