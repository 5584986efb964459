//! What these tests share.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;

use crate::nbd::{Address, Client, ClientOptions, Export, Server, ServerOptions, Target};
use crate::{Backend, FileOptions, HostFile, Node, Raw, Sharing};

/// Longest that one program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program to its end and gives what it printed; fails where it fails.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

/// Runs a program to its end, whatever it says.
pub(super) fn output(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let id = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(id);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}

/// Ends a process that is a child of ours.
pub(super) fn kill(id: u32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(id as i32, libc::SIGKILL) };
}

/// A folder with a socket's name in it, and a file.
pub(super) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(super) fn address(&self) -> Address {
        Address::Unix(self.path("socket").into())
    }

    /// The URI of an export there.
    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("socket"))
    }

    /// A file with these bytes.
    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A raw image as a disk; others may use it, too.
pub(super) fn disk(path: &str, read_only: bool) -> Arc<Backend> {
    let options = FileOptions { read_only, sharing: Sharing::Unlocked, ..FileOptions::default() };
    let file = Node::new("file", HostFile::open(Path::new(path), options).unwrap());
    Backend::new(Node::new("disk", Raw::new(file)))
}

pub(super) fn start(address: &Address) -> Server {
    block_on(Server::start(address, ServerOptions::default())).unwrap()
}

/// An export that can be written.
pub(super) fn writable(name: &str, backend: Arc<Backend>) -> Export {
    Export { writable: true, ..Export::new(name, backend) }
}

pub(super) fn any_port() -> Address {
    Address::Tcp { host: "127.0.0.1".into(), port: 0 }
}

/// Bytes that are different everywhere, the same each time.
pub(super) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Numbers that look like chance, the same each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Waits until something is so.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} has not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program in the background; it ends with this.
pub(super) struct Background {
    child: Option<Child>,
}

impl Background {
    pub(super) fn start(command: &mut Command) -> Background {
        let name = command.get_program().to_owned();
        let child = command.stdout(Stdio::null()).spawn();
        Background { child: Some(child.unwrap_or_else(|error| panic!("{name:?} is needed for this test: {error}"))) }
    }

    /// `qemu-nbd` for a raw image, at a socket of the place.
    pub(super) fn qemu_nbd(place: &Place, image: &str, more: &[&str]) -> Background {
        let mut command = Command::new("qemu-nbd");
        command.args(["-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k", &place.path("socket")]);
        Background::start(command.args(more).arg(image).stdin(Stdio::null()))
    }

    /// `qemu-nbd` at a port that is free.
    pub(super) fn qemu_nbd_by_tcp(image: &str, more: &[&str]) -> (Background, Address) {
        // The program takes a socket that listens, in descriptor 3.
        let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec qemu-nbd \"$@\" 3<&0 0</dev/null";
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", "-t", "-e", "8", "-f", "raw", "--discard=unmap"]);
        let background = Background::start(command.args(more).arg(image).stdin(OwnedFd::from(listener)));
        (background, Address::Tcp { host: "127.0.0.1".into(), port })
    }

    /// Ends it, as a crash does.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

/// The export of a server that is being started.
pub(super) fn options(address: &Address, export: &str) -> ClientOptions {
    let target = Target::new(address.clone(), export);
    ClientOptions { open_timeout: PATIENCE, ..ClientOptions::new(target) }
}

/// The disk of a client.
pub(super) fn connect(options: ClientOptions) -> Arc<Backend> {
    Backend::new(Node::new("nbd", block_on(Client::connect(options)).unwrap()))
}

/// What a future gives; fails where that takes too long.
pub(super) fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let runtime = crate::nbd::runtime::handle().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }).unwrap_or_else(|_| panic!("{what} hangs"))
}
