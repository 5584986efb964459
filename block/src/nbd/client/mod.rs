//! A client: a disk of a server elsewhere.

mod handshake;
mod job;
mod link;
mod replies;

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::handshake::{Agreed, Terms};
use self::job::{Answer, Job, Order};
use super::wire::*;
use super::{ClientTls, Failure, Target, runtime};
use crate::driver::{Driver, Status, StatusKind, ZeroFlags, Zeroed};
use crate::{Error, IoVector};

/// How many requests may wait to be taken by the connection; more wait to wait.
const QUEUE: usize = 64;
/// Most bytes of a request without data, where the header has 32 bits for that: a multiple of any block.
const LONGEST: u64 = (u32::MAX - 0xffff) as u64;

/// How a disk of a server is used.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Which disk.
    pub target: Target,
    /// Credentials, where the connection must be secure.
    pub tls: Option<ClientTls>,
    /// Refuses writes.
    pub read_only: bool,
    /// How long requests wait for a new connection when one is lost; zero: they fail at once. Meanwhile, and later, new connections
    /// are tried again and again.
    pub reconnect_delay: Duration,
    /// How long the first connection is tried; zero: once.
    pub open_timeout: Duration,
}

impl ClientOptions {
    /// A disk for reading and writing that fails when the connection does.
    pub fn new(target: Target) -> ClientOptions {
        let (reconnect_delay, open_timeout) = (Duration::ZERO, Duration::ZERO);
        ClientOptions { target, tls: None, read_only: false, reconnect_delay, open_timeout }
    }
}

/// A disk of a server.
pub struct Client {
    orders: mpsc::Sender<Order>,
    terms: Terms,
    read_only: bool,
}

impl Client {
    /// Connects to a server.
    pub async fn connect(options: ClientOptions) -> Result<Client, Error> {
        let failed =
            |error: io::Error| Error::Open { name: options.target.to_string(), why: crate::host_words(&error) };
        if options.target.tls && options.tls.is_none() {
            return Err(failed(io::Error::other("it wants TLS, for which there are no credentials")));
        }
        let name = options.target.export.len();
        if name > MAXIMUM_STRING {
            let text = format!("the name of the export has {name} bytes; valid are at most {MAXIMUM_STRING}");
            return Err(failed(io::Error::other(text)));
        }
        let read_only = options.read_only;
        let handed_on = options.clone();
        let connected = runtime::run(async move {
            let agreed = first(&handed_on).await?;
            let terms = agreed.terms;
            let is_fixed = terms.flags.contains(TransmissionFlags::NBD_FLAG_READ_ONLY);
            if is_fixed && !handed_on.read_only {
                return Err(io::Error::other("the export is read-only, and was to be opened for writing"));
            }
            let (sender, orders) = mpsc::channel(QUEUE);
            tokio::spawn(link::run(handed_on, agreed, orders));
            Ok(Client { orders: sender, terms, read_only })
        });
        connected.await.and_then(|connected| connected).map_err(failed)
    }

    fn can(&self, flag: TransmissionFlags) -> bool {
        self.terms.flags.contains(flag)
    }

    /// Sends a request and waits for its reply.
    async fn ask(
        &self,
        command: u16,
        flags: CommandFlags,
        offset: u64,
        length: u64,
        memory: IoVector,
    ) -> Result<Answer, Failure> {
        let gone = || Failure::new(libc::EIO, "the connection was closed");
        let (done, reply) = oneshot::channel();
        let job = Job { command, flags, offset, length, memory, done, deadline: None };
        self.orders.send(Order::Job(job)).await.map_err(|_| gone())?;
        reply.await.map_err(|_| gone())?
    }

    /// Moves data, in requests that the server takes.
    async fn transfer(&self, command: u16, flags: CommandFlags, offset: u64, memory: &IoVector) -> Result<(), Failure> {
        let mut done = 0;
        while done < memory.len() {
            let part = (memory.len() - done).min(self.terms.maximum as usize);
            self.ask(command, flags, offset + done as u64, part as u64, memory.slice(done, part)).await?;
            done += part;
        }
        Ok(())
    }

    /// Does something to a range, in requests that the server takes.
    async fn sweep(&self, command: u16, flags: CommandFlags, offset: u64, length: u64) -> Result<(), Failure> {
        let most = if self.terms.headers == Headers::Extended { length } else { LONGEST };
        let mut done = 0;
        while done < length {
            let part = (length - done).min(most);
            self.ask(command, flags, offset + done, part, IoVector::empty()).await?;
            done += part;
        }
        Ok(())
    }
}

/// The first connection.
async fn first(options: &ClientOptions) -> io::Result<Agreed> {
    if options.open_timeout.is_zero() {
        return link::connect(options).await;
    }
    let (mut pause, mut why) = (link::first_pause(), None);
    let patient = link::connect_patiently(options, &mut pause, &mut why, |_| Ok(()));
    match tokio::time::timeout(options.open_timeout, patient).await {
        Ok(agreed) => Ok(agreed),
        Err(_) => Err(why.unwrap_or_else(|| {
            let text = format!("the server has not answered within {:?}", options.open_timeout);
            io::Error::new(io::ErrorKind::TimedOut, text)
        })),
    }
}

fn nbd(operation: &'static str) -> impl FnOnce(Failure) -> Error {
    move |why| Error::Nbd { operation, why }
}

#[async_trait]
impl Driver for Client {
    fn name(&self) -> &'static str {
        "nbd"
    }
    fn length(&self) -> u64 {
        self.terms.length
    }
    fn alignment(&self) -> usize {
        self.terms.minimum as usize
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }

    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.length().saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(there, to.len() - there).fill(0);
        let data = to.slice(0, there);
        self.transfer(NBD_CMD_READ, CommandFlags::empty(), offset, &data).await.map_err(nbd("read"))
    }

    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let disk = self.length();
        if offset.checked_add(from.len() as u64).is_none_or(|end| end > disk) {
            let text = format!("the disk has {disk} bytes, and {} at {offset} go beyond its end", from.len());
            return Err(nbd("write")(Failure::new(libc::ENOSPC, text)));
        }
        let mut flags = CommandFlags::empty();
        flags.set(CommandFlags::NBD_CMD_FLAG_PAYLOAD_LEN, self.terms.headers == Headers::Extended);
        self.transfer(NBD_CMD_WRITE, flags, offset, &from).await.map_err(nbd("write"))
    }

    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let must_be_fast = flags.contains(ZeroFlags::NO_FALLBACK);
        let is_possible = self.can(TransmissionFlags::NBD_FLAG_SEND_WRITE_ZEROES)
            && (!must_be_fast || self.can(TransmissionFlags::NBD_FLAG_SEND_FAST_ZERO));
        if !is_possible || offset.checked_add(length).is_none_or(|end| end > self.length()) {
            return Ok(Zeroed::NotBuilt);
        }
        let mut how = CommandFlags::empty();
        how.set(CommandFlags::NBD_CMD_FLAG_NO_HOLE, !flags.contains(ZeroFlags::MAY_UNMAP));
        how.set(CommandFlags::NBD_CMD_FLAG_FAST_ZERO, must_be_fast);
        match self.sweep(NBD_CMD_WRITE_ZEROES, how, offset, length).await {
            Ok(()) => Ok(Zeroed::Done),
            Err(failure) if failure.errno == libc::ENOTSUP => Ok(Zeroed::NotBuilt),
            Err(failure) => Err(nbd("make zero")(failure)),
        }
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        if !self.can(TransmissionFlags::NBD_FLAG_SEND_TRIM) {
            return Ok(());
        }
        self.sweep(NBD_CMD_TRIM, CommandFlags::empty(), offset, length).await.map_err(nbd("discard"))
    }

    async fn flush(&self) -> Result<(), Error> {
        if !self.can(TransmissionFlags::NBD_FLAG_SEND_FLUSH) {
            return Ok(());
        }
        let flushed = self.ask(NBD_CMD_FLUSH, CommandFlags::empty(), 0, 0, IoVector::empty()).await;
        flushed.map(|_| ()).map_err(nbd("flush"))
    }

    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status =
            |length, kind| Ok(Status { length, kind, is_here: true, file_offset: Some(offset), is_compressed: false });
        if self.terms.allocation.is_none() {
            return status(length, StatusKind::Data);
        }
        let block = u64::from(self.terms.minimum);
        let start = offset / block * block;
        let asked = (offset + length).next_multiple_of(block).min(self.length()) - start;
        let asked = if self.terms.headers == Headers::Extended { asked } else { asked.min(LONGEST) };
        let one = CommandFlags::NBD_CMD_FLAG_REQ_ONE;
        let answer = self.ask(NBD_CMD_BLOCK_STATUS, one, start, asked, IoVector::empty()).await;
        let Answer::Extent(extent) = answer.map_err(nbd("tell the status of blocks"))? else {
            return status(length, StatusKind::Data);
        };
        let (is_hole, is_zero) = (extent.flags as u32 & NBD_STATE_HOLE != 0, extent.flags as u32 & NBD_STATE_ZERO != 0);
        let kind = match (is_zero, is_hole) {
            (false, _) => StatusKind::Data,
            (true, true) => StatusKind::Zero,
            (true, false) => StatusKind::ZeroAllocated,
        };
        // Of a part of a block, nothing is said.
        match extent.length.min(asked).saturating_sub(offset - start) {
            0 => status(1, StatusKind::Data),
            found => status(found.min(length), kind),
        }
    }

    async fn close(&self) -> Result<(), Error> {
        let flushed = if self.read_only { Ok(()) } else { self.flush().await };
        let (left, leaving) = oneshot::channel();
        if self.orders.send(Order::Leave(left)).await.is_ok() {
            // It ends with an error: nothing is ever sent.
            let _ = leaving.await;
        }
        flushed
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
