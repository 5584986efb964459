//! What the kernel says of devices.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::HostKind;

// The kernel's `linux/fs.h` has these.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKDISCARD: libc::Ioctl = 0x1277;

impl HostKind {
    /// Why the file at a path is not for this driver, in QEMU's words, if it is not. One that is not there is for any.
    pub(super) fn refusal(self, path: &Path) -> Option<String> {
        let kind = std::fs::metadata(path).ok()?.file_type();
        let is_device = kind.is_block_device() || kind.is_char_device();
        let (driver, needs_device) = match self {
            HostKind::Any => return None,
            HostKind::File => ("file", false),
            HostKind::Device => ("host_device", true),
            HostKind::Cdrom => ("host_cdrom", true),
        };
        let name = path.display();
        match (needs_device, is_device || !needs_device && !kind.is_file()) {
            (true, false) => {
                Some(format!("'{driver}' driver requires '{name}' to be either a character or block device"))
            }
            (false, true) => Some(format!("'{driver}' driver requires '{name}' to be a regular file")),
            _ => None,
        }
    }
}

/// Length of a block device, bytes; 0 where it has no medium.
pub(super) fn length(device: &File) -> io::Result<u64> {
    let mut length = 0_u64;
    // SAFETY: the kernel writes a number of 64 bits.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &mut length) } {
        0 => Ok(length),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOMEDIUM) => Ok(0),
            error => Err(error),
        },
    }
}

/// What direct access to a block device asks for, bytes, if the kernel says that.
pub(super) fn alignment(device: &File) -> Option<usize> {
    let mut sector = 0_i32;
    // SAFETY: the kernel writes an `int`.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &mut sector) };
    usize::try_from(sector).ok().filter(|sector| answer == 0 && sector.is_power_of_two())
}

/// Tells a block device that a range is not needed. One that does not care for that is no error.
pub(super) fn discard(device: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the kernel reads two numbers of 64 bits.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, &range) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileOptions, HostFile};

    #[test]
    fn each_driver_refuses_what_is_not_for_it_as_qemu_does() {
        let folder = tempfile::tempdir().unwrap();
        let regular = folder.path().join("disk");
        std::fs::write(&regular, [0; 512]).unwrap();
        for (kind, driver) in
            [(HostKind::File, "file"), (HostKind::Device, "host_device"), (HostKind::Cdrom, "host_cdrom")]
        {
            // What is no CD drive has no medium, as QEMU sees it.
            let null = (kind != HostKind::Cdrom).then_some(Path::new("/dev/null"));
            for path in [Some(&*regular), null].into_iter().flatten() {
                let ours = match HostFile::open(path, FileOptions { kind, ..FileOptions::default() }) {
                    Ok(file) => {
                        assert_eq!(crate::Driver::name(&file), driver);
                        format!("{} bytes\n", crate::Driver::length(&file))
                    }
                    Err(error) => format!("qemu-io: can't open: {error}\n"),
                };
                let image = format!("driver={driver},filename={}", path.display());
                let output =
                    std::process::Command::new("qemu-io").args(["--image-opts", &image, "-c", "length"]).output();
                let Ok(output) = output else {
                    eprintln!("SKIPPED: each_driver_refuses_what_is_not_for_it_as_qemu_does: no qemu-io");
                    return;
                };
                let theirs = [output.stderr, output.stdout].concat();
                assert_eq!(String::from_utf8_lossy(&theirs), ours, "{image}");
            }
        }
        assert!(length(&File::open(&regular).unwrap()).is_err());
        assert_eq!(alignment(&File::open(&regular).unwrap()), None);
    }

    /// A loop device over a file, until it is dropped.
    struct Loop(String);

    impl Loop {
        /// `None` where the host gives none.
        fn over(file: &Path) -> Option<Loop> {
            let output = std::process::Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
            output.status.success().then(|| Loop(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
        }
    }

    #[test]
    fn a_block_device_is_read_written_and_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, vec![7; 1 << 20]).unwrap();
        let Some(device) = Loop::over(&file) else {
            eprintln!("SKIPPED: a_block_device_is_read_written_and_given_up: no loop devices");
            return;
        };
        for direct in [false, true] {
            let options = FileOptions { kind: HostKind::Device, direct, ..FileOptions::default() };
            let node = crate::Node::new("disk", HostFile::open(Path::new(&device.0), options).unwrap());
            assert_eq!((node.driver().name(), node.length()), ("host_device", 1 << 20));
            assert_eq!(node.driver().alignment(), if direct { 512 } else { 1 });
            futures_executor::block_on(async {
                node.write_bytes(1000, &[1; 1000]).await.unwrap();
                assert_eq!(node.read_vec(999, 1002).await.unwrap(), [&[7][..], &[1; 1000], &[7]].concat());
                node.discard(512 << 10, 64 << 10).await.unwrap();
                assert!(node.truncate(2 << 20, crate::Preallocation::Off).await.is_err());
                node.close().await.unwrap();
            });
        }
        let as_file = FileOptions { kind: HostKind::File, ..FileOptions::default() };
        assert!(HostFile::open(Path::new(&device.0), as_file).is_err());
        drop(device);
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!((bytes[999], bytes[1000], bytes[1999], bytes[2000]), (7, 1, 1, 7));
        // Room that was given up reads as zeros, where the file system can do that.
        assert!([0, 7].contains(&bytes[600 << 10]));
    }
}
