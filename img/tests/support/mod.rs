//! Runs this tool and `qemu-img` with the same arguments on the same files.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The formats whose images are read and written. A line here, and all tests have it.
pub(crate) const FORMATS: &[&str] = &["raw", "qcow2", "qcow", "vdi", "vhdx", "vmdk", "vpc", "parallels"];

/// Those whose images become longer and shorter.
pub(crate) const RESIZED: &[&str] = &["raw", "qcow2"];

/// Those in which there is no disk of no length: `qemu-img` cannot make or open one.
pub(crate) const NEVER_EMPTY: &[&str] = &["qcow", "vmdk"];

/// Those that `qemu-img check` does not check.
pub(crate) const UNCHECKED: &[&str] = &["raw", "qcow", "vpc"];

/// Two folders with the same files: one for this tool, one for `qemu-img`.
pub(crate) struct Pair {
    ours: TempDir,
    theirs: TempDir,
}

/// What a command left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    fn of(output: &Output) -> Answer {
        // Both speak of themselves by name.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("qemu-img", "brolga-img");
        let mut stderr = text(&output.stderr);
        // `qemu-img` says this twice.
        if let Some(start) = stderr.find("Could not open '") {
            let sentence = stderr[start..].split_inclusive(": ").next().unwrap_or_default().to_owned();
            stderr = stderr.replacen(&sentence.repeat(2), &sentence, 1);
        }
        Answer { code: output.status.code(), stdout: text(&output.stdout), stderr }
    }

    /// The first line of what was said to be wrong.
    pub(crate) fn first_error(&self) -> &str {
        self.stderr.lines().next().unwrap_or_default()
    }
}

impl Pair {
    pub(crate) fn new() -> Pair {
        Pair { ours: tempfile::tempdir().unwrap(), theirs: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn folders(&self) -> [&Path; 2] {
        [self.ours.path(), self.theirs.path()]
    }

    /// The path of a file that our tool has.
    pub(crate) fn ours(&self, name: &str) -> PathBuf {
        self.ours.path().join(name)
    }

    pub(crate) fn theirs(&self, name: &str) -> PathBuf {
        self.theirs.path().join(name)
    }

    /// Makes a sparse file of `length` bytes with data at these offsets.
    pub(crate) fn file(&self, name: &str, length: u64, data: &[(u64, Vec<u8>)]) {
        for folder in self.folders() {
            let file = File::create(folder.join(name)).unwrap();
            file.set_len(length).unwrap();
            for (offset, bytes) in data {
                file.write_all_at(bytes, *offset).unwrap();
            }
        }
    }

    /// Has `qemu-img` make the same in both folders.
    pub(crate) fn prepare(&self, arguments: &[&str]) {
        for folder in self.folders() {
            qemu_img(folder, arguments);
        }
    }

    /// Runs both.
    pub(crate) fn both(&self, arguments: &[&str]) -> [Answer; 2] {
        let theirs = Command::new("qemu-img")
            .current_dir(self.theirs.path())
            .args(arguments)
            .output()
            .expect("qemu-img must be installed");
        [self.ours_alone(arguments), Answer::of(&theirs)]
    }

    /// Runs our tool.
    pub(crate) fn ours_alone(&self, arguments: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brolga-img"));
        Answer::of(&command.current_dir(self.ours.path()).args(arguments).output().unwrap())
    }

    /// Runs both, which print the same to standard output and end the same, and returns what ours said.
    pub(crate) fn same(&self, arguments: &[&str]) -> Answer {
        let [ours, theirs] = self.both(arguments);
        assert_eq!((&ours.stdout, ours.code), (&theirs.stdout, theirs.code), "{arguments:?}: {ours:?} {theirs:?}");
        assert_eq!(ours.stderr.is_empty(), theirs.stderr.is_empty(), "{arguments:?}: {ours:?} {theirs:?}");
        ours
    }

    /// Runs both, which also say the same to be wrong, in the first line at least.
    pub(crate) fn same_error(&self, arguments: &[&str]) {
        let [ours, theirs] = self.both(arguments);
        let of = |answer: &Answer| (answer.code, answer.stdout.clone(), answer.first_error().to_owned());
        assert_eq!(of(&ours), of(&theirs), "{arguments:?}");
    }

    /// A file has the same bytes in both folders.
    pub(crate) fn same_bytes(&self, name: &str) {
        let [ours, theirs] = self.folders().map(|folder| std::fs::read(folder.join(name)).unwrap());
        assert_eq!(ours.len(), theirs.len(), "{name}");
        assert!(ours == theirs, "{name} differs at {:?}", ours.iter().zip(&theirs).position(|(a, b)| a != b));
    }

    /// An image has the same disk in both folders, in the same format; ours is sound.
    pub(crate) fn same_disk(&self, name: &str, format: &str) {
        if format == "raw" {
            return self.same_bytes(name);
        }
        if !UNCHECKED.contains(&format) {
            qemu_img(self.ours.path(), &["check", "-q", "-f", format, name]);
        }
        let theirs = self.theirs(name);
        qemu_img(self.ours.path(), &["compare", "-q", "-f", format, "-F", format, name, theirs.to_str().unwrap()]);
    }

    /// Our file takes no more room than theirs: metadata and what file systems add for themselves apart.
    #[track_caller]
    pub(crate) fn same_room(&self, name: &str, format: &str) {
        let [ours, theirs] = self.folders().map(|folder| std::fs::metadata(folder.join(name)).unwrap().blocks() * 512);
        let allowed = if format == "raw" { 16 << 10 } else { 256 << 10 };
        assert!(ours <= theirs + allowed, "{name}: {ours} and {theirs}");
    }
}

/// What `info` says, without what differs from image to image: room on the file system, and identifiers.
pub(crate) fn comparable_info(text: &str) -> String {
    let differs = |line: &&str| ["disk size", "file length", "cid:"].iter().any(|part| line.contains(part));
    text.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n")
}

/// Runs `qemu-img`, which succeeds.
pub(crate) fn qemu_img(folder: &Path, arguments: &[&str]) {
    let output = Command::new("qemu-img").current_dir(folder).args(arguments).output();
    let output = output.expect("qemu-img must be installed");
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Data, holes, zeros that take room, and short stretches of zeros in data: 5 MiB and a half sector.
pub(crate) fn mixed() -> (u64, Vec<(u64, Vec<u8>)>) {
    let mut spotted = noise(300_000, 3);
    spotted[1000..9000].fill(0);
    spotted[20_480..86_016].fill(0);
    spotted[200_000..200_600].fill(0);
    let data =
        vec![(0, noise(1 << 20, 1)), (2 << 20, vec![0; 1 << 20]), ((3 << 20) + 4096, spotted), (5 << 20, vec![7; 256])];
    ((5 << 20) + 256, data)
}
