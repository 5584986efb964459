//! Connections, and how they come about.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Address;
use crate::IoVector;

/// Bytes that are moved between a socket and memory at once.
const PIECE: usize = 64 << 10;

/// A way for bytes in both directions.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// A connection of whatever kind.
pub(super) type Stream = Box<dyn Transport>;

/// Connects to a server.
pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            prepare(&stream);
            Ok(Box::new(stream))
        }
    }
}

/// Requests and replies are awaited, and a peer that is gone is noticed. A socket that cannot do it works, too.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
}

/// What clients connect to. A socket in the file system goes with it.
pub(super) struct Listener {
    socket: Socket,
    _file: Option<SocketFile>,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The name of a socket in the file system.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at `address`; returns where that is, with the port's number. A socket that another process left behind at a
    /// path is replaced.
    pub(super) async fn bind(address: &Address) -> io::Result<(Listener, Address)> {
        match address {
            Address::Unix(path) => {
                // The process may leave its folder before it ends.
                let whole = std::path::absolute(path)?;
                let left_behind = whole.clone();
                blocking::unblock(move || remove_socket(&left_behind)).await?;
                let socket = Socket::Unix(UnixListener::bind(&whole)?);
                Ok((Listener { socket, _file: Some(SocketFile(whole)) }, address.clone()))
            }
            Address::Tcp { host, port } => {
                let name = if host.is_empty() { "0.0.0.0" } else { host };
                let listener = TcpListener::bind((name, *port)).await?;
                let port = listener.local_addr()?.port();
                let address = Address::Tcp { host: host.clone(), port };
                Ok((Listener { socket: Socket::Tcp(listener), _file: None }, address))
            }
        }
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                prepare(&stream);
                Ok(Box::new(stream))
            }
        }
    }
}

fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Fills `to` with what comes.
pub(super) async fn receive(from: &mut (impl AsyncRead + Unpin), to: &IoVector) -> io::Result<()> {
    let mut piece = vec![0; to.len().min(PIECE)];
    let mut done = 0;
    while done < to.len() {
        let length = (to.len() - done).min(PIECE);
        from.read_exact(&mut piece[..length]).await?;
        to.slice(done, length).copy_from(&piece[..length]);
        done += length;
    }
    Ok(())
}

/// Takes so many bytes that nobody needs.
pub(super) async fn skip(from: &mut (impl AsyncRead + Unpin), length: u64) -> io::Result<()> {
    let mut piece = [0; 4096];
    let mut left = length;
    while left > 0 {
        let part = left.min(piece.len() as u64) as usize;
        from.read_exact(&mut piece[..part]).await?;
        left -= part as u64;
    }
    Ok(())
}

/// Sends `head`, and `data` behind it.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), head: &[u8], data: &IoVector) -> io::Result<()> {
    let mut piece = Vec::with_capacity(head.len() + data.len().min(PIECE));
    piece.extend_from_slice(head);
    let mut done = 0;
    loop {
        let (filled, length) = (piece.len(), (data.len() - done).min(PIECE));
        piece.resize(filled + length, 0);
        data.slice(done, length).copy_to(&mut piece[filled..]);
        to.write_all(&piece).await?;
        piece.clear();
        done += length;
        if done == data.len() {
            return to.flush().await;
        }
    }
}
