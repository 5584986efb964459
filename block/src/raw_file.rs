//! `raw` over `file`: an image whose bytes are the disk's.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use crate::{BlockNode, Error, check_bounds};

/// A file or block device of the host as a disk.
pub struct RawFile {
    file: File,
    length: u64,
    read_only: bool,
}

impl RawFile {
    /// Opens the image at `path`. Its length is that of the file, or of the block device.
    pub fn open(path: &Path, read_only: bool) -> Result<RawFile, Error> {
        let failed = |source| Error::Open { path: path.display().to_string(), source };
        // To open one may take for ever.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(failed(io::Error::other("it is a FIFO, which has no bytes at any place")));
        }
        let mut file = File::options().read(true).write(!read_only).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // Seeking tells the length of block devices too, whose metadata says 0.
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(RawFile { file, length, read_only })
    }
}

impl BlockNode for RawFile {
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        check_bounds(offset, buffer.len(), self.length)?;
        self.file.read_exact_at(buffer, offset).map_err(|source| Error::Host { operation: "read", source })
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        check_bounds(offset, data.len(), self.length)?;
        self.file.write_all_at(data, offset).map_err(|source| Error::Host { operation: "write", source })
    }
    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(|source| Error::Host { operation: "flush", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(length: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; length]).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_back_and_reaches_the_file() {
        let file = image(1024);
        let disk = RawFile::open(file.path(), false).unwrap();
        assert_eq!(disk.length(), 1024);
        disk.write_at(510, b"abcd").unwrap();
        disk.flush().unwrap();
        let mut buffer = [0; 6];
        disk.read_at(509, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\x07abcd\x07");
        assert_eq!(&std::fs::read(file.path()).unwrap()[510..514], b"abcd");
    }

    #[test]
    fn nothing_goes_beyond_the_end() {
        let file = image(512);
        let disk = RawFile::open(file.path(), false).unwrap();
        for offset in [509, 512, u64::MAX] {
            assert!(matches!(disk.write_at(offset, b"abcd"), Err(Error::OutOfBounds { .. })), "{offset}");
            assert!(matches!(disk.read_at(offset, &mut [0; 4]), Err(Error::OutOfBounds { .. })), "{offset}");
        }
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512);
    }

    #[test]
    fn a_read_only_disk_refuses_writes() {
        let file = image(512);
        let disk = RawFile::open(file.path(), true).unwrap();
        assert!(disk.is_read_only());
        assert!(matches!(disk.write_at(0, b"x"), Err(Error::ReadOnly)));
        disk.flush().unwrap();
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = RawFile::open(&path, true).err().unwrap();
        assert!(error.to_string().contains("FIFO"), "{error}");
    }

    #[test]
    fn a_folder_or_nothing_is_no_image() {
        assert!(RawFile::open(Path::new("/"), true).is_err());
        let error = RawFile::open(Path::new("/nonexistent.img"), true).err().unwrap();
        assert!(error.to_string().contains("/nonexistent.img"), "{error}");
    }
}
