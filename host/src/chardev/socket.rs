//! `unix:` and `tcp:`: a stream socket, listening or connecting.
//!
//! One peer at a time. Without a peer output is dropped. A listening backend waits for the next peer after one left; a
//! connecting one is finished then.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::queue::{ByteQueue, Input};
use super::{CharBackend, CharEvent, CharFrontend, Error};

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// A path in the file system.
    Unix(PathBuf),
    /// A host name or address, and a port (0: any free one).
    Tcp(String, u16),
}

impl std::fmt::Display for SocketAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SocketAddress::Unix(path) => write!(formatter, "unix:{}", path.display()),
            SocketAddress::Tcp(host, port) => write!(formatter, "tcp:{host}:{port}"),
        }
    }
}

/// Which end of the connection the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketRole {
    /// Connects once, when opened.
    Client,
    /// Listens, and goes on without a peer (`server=on,wait=off`).
    Server,
    /// Listens, and opening returns only once a peer is there (`server=on,wait=on`).
    WaitingServer,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connected peer of either family.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl Stream {
    fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }
    fn shutdown(&self) {
        // The peer may have gone first.
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(data),
            Stream::Tcp(stream) => stream.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream socket as a character device.
pub struct SocketBackend {
    description: String,
    address: SocketAddress,
    role: SocketRole,
    shared: Arc<Shared>,
    /// Wakes the thread that waits for a peer, by being dropped.
    end: Option<OwnedFd>,
}

struct Shared {
    output: ByteQueue,
    input: Input,
    /// The connected peer. Lock order: alone.
    peer: Mutex<Option<Arc<Stream>>>,
}

impl SocketBackend {
    /// Opens the socket. A stale file at the path of a listening Unix socket is replaced.
    pub fn open(address: &SocketAddress, role: SocketRole) -> Result<SocketBackend, Error> {
        let failed = |source| Error::Open { what: address.to_string(), source };
        let shared = Arc::new(Shared { output: ByteQueue::default(), input: Input::default(), peer: Mutex::default() });
        let (end, waiter) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map(|(read, write)| (write, read))
            .map_err(|error| failed(error.into()))?;
        let mut bound = address.clone();
        let (listener, first) = match (role, address) {
            (SocketRole::Client, SocketAddress::Unix(path)) => {
                (None, Some(Stream::Unix(UnixStream::connect(path).map_err(failed)?)))
            }
            (SocketRole::Client, SocketAddress::Tcp(host, port)) => {
                let stream = TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                (None, Some(Stream::Tcp(stream)))
            }
            (_, SocketAddress::Unix(path)) => {
                // The process may leave its folder before it removes the socket.
                bound = SocketAddress::Unix(std::path::absolute(path).map_err(failed)?);
                // Only a socket that nobody listens on any more is removed, never another kind of file.
                let is_socket = std::fs::symlink_metadata(path)
                    .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
                if is_socket {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                (Some(Listener::Unix(UnixListener::bind(path).map_err(failed)?)), None)
            }
            (_, SocketAddress::Tcp(host, port)) => {
                let listener = TcpListener::bind((host.as_str(), *port)).map_err(failed)?;
                if let Ok(local) = listener.local_addr() {
                    bound = SocketAddress::Tcp(host.clone(), local.port());
                }
                (Some(Listener::Tcp(listener)), None)
            }
        };
        let first = match (&listener, role) {
            (Some(listener), SocketRole::WaitingServer) => Some(listener.accept().map_err(failed)?),
            _ => first,
        };
        let writer = shared.clone();
        std::thread::Builder::new().name("socket output".into()).spawn(move || write_out(&writer)).map_err(failed)?;
        let reader = shared.clone();
        std::thread::Builder::new()
            .name("socket input".into())
            .spawn(move || serve_peers(&reader, listener, first, &waiter))
            .map_err(failed)?;
        // A path is shown as the user wrote it, a port as the host chose it.
        let shown = if matches!(address, SocketAddress::Unix(_)) { address } else { &bound };
        let description = if role == SocketRole::Client { shown.to_string() } else { format!("{shown},server=on") };
        Ok(SocketBackend { description, address: bound, role, shared, end: Some(end) })
    }

    /// Where it is bound or connected to; the port that the host chose for port 0.
    pub fn address(&self) -> &SocketAddress {
        &self.address
    }
}

fn write_out(shared: &Shared) {
    while let Some((bytes, refused)) = shared.output.take() {
        let peer = shared.peer.lock().clone();
        if let Some(peer) = peer {
            let sent = match &*peer {
                Stream::Unix(stream) => (&mut &*stream).write_all(&bytes),
                Stream::Tcp(stream) => (&mut &*stream).write_all(&bytes),
            };
            if sent.is_err() {
                // The reading side sees the end of the stream and cleans up.
                peer.shutdown();
            }
        }
        if refused {
            shared.input.writable();
        }
    }
}

fn serve_peers(shared: &Shared, listener: Option<Listener>, mut first: Option<Stream>, end: &OwnedFd) {
    loop {
        let stream = match (first.take(), &listener) {
            (Some(stream), _) => stream,
            (None, None) => return,
            (None, Some(listener)) => {
                if !wait_readable(listener, end) {
                    return;
                }
                match listener.accept() {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!("a character device could not accept a connection: {error}");
                        std::thread::sleep(Duration::from_millis(100));
                        continue;
                    }
                }
            }
        };
        let Ok(mut reader) = stream.try_clone() else { continue };
        *shared.peer.lock() = Some(Arc::new(stream));
        // The end may have come between accepting and publishing the peer.
        if shared.input.has_ended() {
            return;
        }
        shared.input.event(CharEvent::Opened);
        let mut buffer = [0; 4096];
        while let Ok(count) = reader.read(&mut buffer) {
            if count == 0 || !shared.input.deliver(&buffer[..count]) {
                break;
            }
        }
        *shared.peer.lock() = None;
        reader.shutdown();
        if shared.output.clear() {
            shared.input.writable();
        }
        shared.input.event(CharEvent::Closed);
        if shared.input.has_ended() {
            return;
        }
    }
}

/// Waits for a peer; false when the backend is dropped.
fn wait_readable(listener: &Listener, end: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let listener = match listener {
        Listener::Unix(listener) => listener.as_fd(),
        Listener::Tcp(listener) => listener.as_fd(),
    };
    loop {
        let mut descriptors = [PollFd::new(&listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) if !descriptors[1].revents().is_empty() => return false,
            Ok(_) if !descriptors[0].revents().is_empty() => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

impl Drop for SocketBackend {
    fn drop(&mut self) {
        self.shared.output.close();
        self.shared.output.flush(Duration::from_millis(200));
        self.shared.input.end();
        if let Some(peer) = self.shared.peer.lock().take() {
            peer.shutdown();
        }
        self.end = None;
        if let (SocketAddress::Unix(path), true) = (&self.address, self.role != SocketRole::Client) {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl CharBackend for SocketBackend {
    fn description(&self) -> String {
        self.description.clone()
    }
    fn write(&self, data: &[u8]) -> usize {
        if !self.is_open() {
            return data.len();
        }
        self.shared.output.push(data)
    }
    fn connect(&self, frontend: Arc<dyn CharFrontend>) {
        self.shared.input.connect(frontend);
        if self.is_open() {
            self.shared.input.event(CharEvent::Opened);
        }
    }
    fn accept_input(&self) {
        self.shared.input.accept();
    }
    fn flush(&self, limit: Duration) {
        self.shared.output.flush(limit);
    }
    fn is_open(&self) -> bool {
        self.shared.peer.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    struct Collector {
        bytes: Mutex<mpsc::Sender<Vec<u8>>>,
        room: Mutex<usize>,
    }

    impl CharFrontend for Collector {
        fn receivable(&self) -> usize {
            *self.room.lock()
        }
        fn receive(&self, data: &[u8]) {
            *self.room.lock() -= data.len();
            self.bytes.lock().send(data.to_vec()).unwrap();
        }
    }

    fn wait_open(backend: &SocketBackend) {
        let limit = Instant::now() + Duration::from_secs(10);
        while !backend.is_open() {
            assert!(Instant::now() < limit, "no peer within ten seconds");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_server_takes_one_peer_after_another_and_input_waits_for_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let backend = SocketBackend::open(&SocketAddress::Unix(path.clone()), SocketRole::Server).unwrap();
        assert_eq!(backend.write(b"nobody hears"), 12);
        let (sender, receiver) = mpsc::channel();
        let frontend = Arc::new(Collector { bytes: Mutex::new(sender), room: Mutex::new(2) });
        backend.connect(frontend.clone());
        for _ in 0..2 {
            let mut peer = UnixStream::connect(&path).unwrap();
            wait_open(&backend);
            assert_eq!(backend.write(b"out"), 3);
            let mut got = [0; 3];
            peer.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"out");
            peer.write_all(b"abc").unwrap();
            assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), b"ab");
            assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
            *frontend.room.lock() = 3;
            backend.accept_input();
            assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), b"c");
            drop(peer);
            let limit = Instant::now() + Duration::from_secs(10);
            while backend.is_open() {
                assert!(Instant::now() < limit, "the peer's end went unnoticed");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(backend);
        assert!(!path.exists());
    }

    #[test]
    fn a_client_talks_to_a_tcp_server_of_its_own_kind() {
        let server = SocketBackend::open(&SocketAddress::Tcp("127.0.0.1".into(), 0), SocketRole::Server).unwrap();
        let client = SocketBackend::open(server.address(), SocketRole::Client).unwrap();
        wait_open(&server);
        wait_open(&client);
        let (sender, receiver) = mpsc::channel();
        client.connect(Arc::new(Collector { bytes: Mutex::new(sender), room: Mutex::new(100) }));
        server.write(b"hello");
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), b"hello");
    }
}
