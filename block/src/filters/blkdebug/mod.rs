//! The `blkdebug` filter: a disk whose requests fail when they are told to, to test what is above it.
//!
//! Formats and filters tell the node below them what they do ([`Node::event`]). Rules ([`rules`]) say which requests fail after an
//! event, and events lead from state to state, so that rules can be about what happens after something else.

mod config;
mod event;
mod rules;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;

pub use event::BlkdebugEvent;
pub use rules::{InjectError, IoType, SetState};

use super::status_through;
use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::{Error, IoVector, Node};
use rules::Rules;

/// QEMU's `BlockdevOptionsBlkdebug`. Where nothing else is said, what is not given is as it is for the disk below.
#[derive(Clone, Debug, Default)]
pub struct BlkdebugOptions {
    /// A file with rules, which come before those in the lists (`config`).
    pub config: Option<PathBuf>,
    /// What requests are a multiple of, bytes: a power of two (`align`).
    pub align: Option<u64>,
    /// Most bytes of one read or write (`max-transfer`).
    pub max_transfer: Option<u64>,
    /// What is made zero at once, bytes (`opt-write-zero`): less is written.
    pub opt_write_zero: Option<u64>,
    /// Most bytes that are made zero by one request (`max-write-zero`).
    pub max_write_zero: Option<u64>,
    /// What is given up at once, bytes (`opt-discard`): less stays.
    pub opt_discard: Option<u64>,
    /// Most bytes that are given up by one request (`max-discard`).
    pub max_discard: Option<u64>,
    /// Rules by which requests fail (`inject-error`).
    pub inject_error: Vec<InjectError>,
    /// Rules by which states change (`set-state`).
    pub set_state: Vec<SetState>,
    /// Permissions that the filter asks for on its child (`take-child-perms`). They are accepted, and nothing comes of them.
    pub take_child_perms: Vec<String>,
    /// Permissions that the filter does not share with other users of its child (`unshare-child-perms`). They are accepted, and nothing
    /// comes of them.
    pub unshare_child_perms: Vec<String>,
}

/// A disk whose requests fail by rules.
pub struct Blkdebug {
    image: Arc<Node>,
    rules: Rules,
    align: u64,
    max_transfer: u64,
    opt_write_zero: u64,
    max_write_zero: u64,
    opt_discard: u64,
    max_discard: u64,
}

impl Blkdebug {
    /// The disk of `image`, with rules.
    pub fn new(options: BlkdebugOptions, image: Arc<Node>) -> Result<Blkdebug, Error> {
        let (mut errors, mut states) = match &options.config {
            Some(path) => config::read(path)?,
            None => Default::default(),
        };
        errors.extend(options.inject_error);
        states.extend(options.set_state);
        let below = image.driver().alignment() as u64;
        let checked = |name: &str, value: Option<u64>, is_valid: &dyn Fn(u64) -> bool| match value {
            None | Some(0) => Ok(None),
            Some(value) if value < i32::MAX as u64 && is_valid(value) => Ok(Some(value)),
            Some(value) => Err(Error::Unsupported(format!("Cannot meet constraints with {name} {value}"))),
        };
        let align = checked("align", options.align, &u64::is_power_of_two)?.unwrap_or(1).max(below);
        let unit = |name, value, unit: u64| checked(name, value, &|value: u64| value.is_multiple_of(unit));
        let max_transfer = unit("max-transfer", options.max_transfer, align)?;
        let opt_write_zero = unit("opt-write-zero", options.opt_write_zero, align)?.unwrap_or(align);
        let max_write_zero = unit("max-write-zero", options.max_write_zero, opt_write_zero.max(align))?;
        let opt_discard = unit("opt-discard", options.opt_discard, align)?.unwrap_or(align);
        let max_discard = unit("max-discard", options.max_discard, opt_discard.max(align))?;
        let rules = Rules::new(errors, states);
        rules.event(BlkdebugEvent::None);
        Ok(Blkdebug {
            image,
            rules,
            align,
            max_transfer: max_transfer.unwrap_or(u64::MAX),
            opt_write_zero,
            max_write_zero: max_write_zero.unwrap_or(u64::MAX),
            opt_discard,
            max_discard: max_discard.unwrap_or(u64::MAX),
        })
    }

    /// Fails a request if a rule says so.
    async fn check(&self, offset: u64, length: u64, kind: IoType, verb: &'static str) -> Result<(), Error> {
        let Some(injected) = self.rules.check(offset, length, kind) else { return Ok(()) };
        if !injected.immediately {
            give_way().await;
        }
        Err(Error::host(verb, std::io::Error::from_raw_os_error(injected.errno)))
    }

    /// Writes zeros as bytes.
    async fn write_zero_bytes(&self, offset: u64, length: u64) -> Result<(), Error> {
        for (at, part) in parts(offset, length, self.max_transfer.min(1 << 20)) {
            self.write(at, IoVector::zeroed(part as usize)).await?;
        }
        Ok(())
    }
}

/// Lets others have a turn.
async fn give_way() {
    let mut was_given = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut was_given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A stretch in parts of at most so many bytes: offset and length of each.
fn parts(offset: u64, length: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(most)).map(move |part| (offset + part * most, most.min(length - part * most)))
}

#[async_trait]
impl Driver for Blkdebug {
    fn name(&self) -> &'static str {
        "blkdebug"
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn length(&self) -> u64 {
        self.image.length()
    }
    fn is_read_only(&self) -> bool {
        self.image.is_read_only()
    }
    fn alignment(&self) -> usize {
        self.align as usize
    }
    fn cluster_size(&self) -> u64 {
        self.image.driver().cluster_size()
    }
    fn event(&self, event: BlkdebugEvent) {
        self.rules.event(event);
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        for (at, part) in parts(offset, to.len() as u64, self.max_transfer) {
            self.check(at, part, IoType::Read, "read").await?;
            self.image.read(at, to.slice((at - offset) as usize, part as usize)).await?;
        }
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.event(BlkdebugEvent::Pwritev);
        for (at, part) in parts(offset, from.len() as u64, self.max_transfer) {
            self.check(at, part, IoType::Write, "write").await?;
            self.image.write(at, from.slice((at - offset) as usize, part as usize)).await?;
        }
        self.event(BlkdebugEvent::PwritevDone);
        Ok(())
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let end = offset.saturating_add(length);
        let first = offset.checked_next_multiple_of(self.opt_write_zero).unwrap_or(end);
        let last = end / self.opt_write_zero * self.opt_write_zero;
        if first >= last {
            return Ok(Zeroed::NotBuilt);
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) && (first, last) != (offset, end) {
            return Ok(Zeroed::NotBuilt);
        }
        self.write_zero_bytes(offset, first - offset).await?;
        self.event(BlkdebugEvent::PwritevZero);
        for (at, part) in parts(first, last - first, self.max_write_zero) {
            self.check(at, part, IoType::WriteZeroes, "make zero").await?;
            self.image.write_zeroes(at, part, flags).await?;
        }
        self.event(BlkdebugEvent::PwritevDone);
        self.write_zero_bytes(last, end - last).await?;
        Ok(Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length);
        let first = offset.checked_next_multiple_of(self.opt_discard).unwrap_or(end);
        let last = end / self.opt_discard * self.opt_discard;
        for (at, part) in parts(first, last.saturating_sub(first), self.max_discard) {
            self.check(at, part, IoType::Discard, "discard").await?;
            self.image.discard(at, part).await?;
        }
        Ok(())
    }
    async fn flush(&self) -> Result<(), Error> {
        self.check(0, 0, IoType::Flush, "flush").await?;
        self.image.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        self.check(offset, length, IoType::BlockStatus, "tell what is there").await?;
        status_through(&self.image, offset, length).await
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.image.truncate(length, preallocation).await
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::File, self.image.clone())]
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
