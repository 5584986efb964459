//! `file:PATH`: output goes to a file, no input comes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{ByteQueue, Input};
use super::{CharBackend, CharFrontend, Error};

/// A file that collects a guest device's output.
pub struct FileBackend {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    output: ByteQueue,
    input: Input,
}

impl FileBackend {
    /// Creates or truncates the file at `path`; with `append` it is kept and written after.
    pub fn open(path: &Path, append: bool) -> Result<FileBackend, Error> {
        let failed = |source| Error::Open { what: format!("file:{}", path.display()), source };
        let mut options = File::options();
        options.create(true);
        let options = if append { options.append(true) } else { options.write(true).truncate(true) };
        let mut file = options.open(path).map_err(failed)?;
        let shared = Arc::new(Shared { output: ByteQueue::default(), input: Input::default() });
        let writer = shared.clone();
        let name = path.to_owned();
        std::thread::Builder::new()
            .name("file output".into())
            .spawn(move || {
                while let Some((bytes, refused)) = writer.output.take() {
                    if let Err(error) = file.write_all(&bytes) {
                        tracing::warn!("{}: {error}; output is lost", name.display());
                    }
                    if refused {
                        writer.input.writable();
                    }
                }
            })
            .map_err(failed)?;
        Ok(FileBackend { path: path.to_owned(), shared })
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        self.shared.output.close();
        self.shared.output.flush(Duration::from_secs(1));
    }
}

impl CharBackend for FileBackend {
    fn description(&self) -> String {
        format!("file:{}", self.path.display())
    }
    fn write(&self, data: &[u8]) -> usize {
        self.shared.output.push(data)
    }
    fn connect(&self, frontend: Arc<dyn CharFrontend>) {
        self.shared.input.connect(frontend);
    }
    fn accept_input(&self) {}
    fn flush(&self, limit: Duration) {
        self.shared.output.flush(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_written_is_in_the_file_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let backend = FileBackend::open(&path, false).unwrap();
        assert_eq!(backend.write(b"first "), 6);
        assert_eq!(backend.write(b"second"), 6);
        backend.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read(&path).unwrap(), b"first second");
        drop(backend);
        let backend = FileBackend::open(&path, true).unwrap();
        backend.write(b"!");
        backend.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read(&path).unwrap(), b"first second!");
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_named() {
        let error = FileBackend::open(Path::new("/nonexistent/log"), false).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/log"), "{error}");
    }
}
