//! Limits on what disks do, alone or in groups: so many bytes and requests a second, and more in bursts.
//!
//! Each limit is a leaky bucket ([`bucket`]). The members of a group take turns, request by request; reads and writes wait for
//! each other only in so far as they fill the same bucket.

mod bucket;
mod config;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub use config::{Limit, MOST, ThrottleConfig, ThrottleError};

use crate::{Clock, Error};
use bucket::Bucket;
use config::Kind;

/// Disks that have limits together.
pub struct ThrottleGroup {
    name: String,
    clock: Arc<dyn Clock>,
    // Lock order: alone.
    state: Mutex<State>,
    /// The limits are others now: who waits looks again for how long.
    changed: Notify,
}

/// Which limits a request is subject to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those of reads.
    Read,
    /// Those of writes, also for what is made zero and given up.
    Write,
}

struct State {
    config: ThrottleConfig,
    buckets: [Bucket; Kind::COUNT],
    /// Until when time emptied the buckets.
    emptied: Duration,
    /// In the order in which they take turns.
    members: Vec<Member>,
    /// By direction, the request whose turn it is. Where there is none, none waits.
    turns: [Option<u64>; 2],
    /// By direction, the member whose turn it was last.
    last: [u64; 2],
    next: u64,
}

struct Member {
    id: u64,
    /// The requests that wait, by direction, in the order of coming.
    waiting: [VecDeque<Waiting>; 2],
}

struct Waiting {
    id: u64,
    /// Told when it is its turn.
    wake: Option<oneshot::Sender<()>>,
}

impl ThrottleGroup {
    /// A group without members.
    pub fn new(
        name: impl Into<String>,
        config: ThrottleConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<ThrottleGroup>, ThrottleError> {
        config.check()?;
        let state = State {
            config,
            buckets: config.limits().map(Bucket::new),
            emptied: clock.now(),
            members: Vec::new(),
            turns: [None; 2],
            last: [0; 2],
            next: 1,
        };
        Ok(Arc::new(ThrottleGroup { name: name.into(), clock, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Its name, the only one among groups.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The limits.
    pub fn config(&self) -> ThrottleConfig {
        self.state.lock().config
    }

    /// Changes the limits. What was done before does not count any more.
    pub fn set_config(&self, config: ThrottleConfig) -> Result<(), ThrottleError> {
        config.check()?;
        let mut state = self.state.lock();
        state.config = config;
        state.buckets = config.limits().map(Bucket::new);
        state.emptied = self.clock.now();
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// A new member.
    pub fn join(self: &Arc<Self>) -> ThrottleMember {
        let mut state = self.state.lock();
        let id = state.number();
        state.members.push(Member { id, waiting: Default::default() });
        ThrottleMember { group: self.clone(), id }
    }
}

/// A disk in a group, until it is dropped.
pub struct ThrottleMember {
    group: Arc<ThrottleGroup>,
    id: u64,
}

impl ThrottleMember {
    /// The group.
    pub fn group(&self) -> &Arc<ThrottleGroup> {
        &self.group
    }

    /// Returns when a request for so many bytes may begin. A request that is given up meanwhile counts for nothing.
    pub async fn admit(&self, direction: Direction, bytes: u64) -> Result<(), Error> {
        let group = &*self.group;
        let (_place, woken) = {
            let mut state = group.state.lock();
            if state.turns[direction as usize].is_none() && state.wait(direction, group.clock.now()).is_zero() {
                state.account(direction, bytes);
                return Ok(());
            }
            let (id, woken) = state.wait_in_line(self.id, direction);
            (Place { member: self, direction, id }, woken)
        };
        if let Some(woken) = woken {
            // The sender is dropped with the place in the line only.
            let _ = woken.await;
        }
        loop {
            let changed = std::pin::pin!(group.changed.notified());
            let wait = {
                let mut state = group.state.lock();
                let wait = state.wait(direction, group.clock.now());
                if wait.is_zero() {
                    state.account(direction, bytes);
                    return Ok(());
                }
                wait
            };
            if let Either::Left((waited, _)) = select(group.clock.wait(wait), changed).await {
                waited?;
            }
        }
    }
}

impl Drop for ThrottleMember {
    fn drop(&mut self) {
        self.group.state.lock().members.retain(|member| member.id != self.id);
    }
}

/// A request's place in the line, until it is dropped.
struct Place<'a> {
    member: &'a ThrottleMember,
    direction: Direction,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.member.group.state.lock().leave(self.member.id, self.direction, self.id);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// For how long a request has to wait, as of now.
    fn wait(&mut self, direction: Direction, now: Duration) -> Duration {
        let time = now.saturating_sub(self.emptied);
        self.emptied = now;
        self.buckets.iter_mut().for_each(|bucket| bucket.leak(time));
        let waits = Kind::places(direction).map(|(place, _)| self.buckets[place].wait());
        waits.into_iter().max().unwrap_or_default()
    }

    /// A request begins.
    fn account(&mut self, direction: Direction, bytes: u64) {
        for (place, kind) in Kind::places(direction) {
            self.buckets[place].fill(self.config.units(kind, bytes));
        }
    }

    /// Puts a request into the line: its number, and what tells when its turn is, unless that is now.
    fn wait_in_line(&mut self, member: u64, direction: Direction) -> (u64, Option<oneshot::Receiver<()>>) {
        let id = self.number();
        let (wake, woken) = if self.turns[direction as usize].is_none() {
            self.turns[direction as usize] = Some(id);
            self.last[direction as usize] = member;
            (None, None)
        } else {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Some(receiver))
        };
        if let Some(member) = self.members.iter_mut().find(|known| known.id == member) {
            member.waiting[direction as usize].push_back(Waiting { id, wake });
        }
        (id, woken)
    }

    /// Takes a request out of the line, as it begins or was given up. If it was its turn, it is the next member's.
    fn leave(&mut self, member: u64, direction: Direction, id: u64) {
        let at = direction as usize;
        if let Some(member) = self.members.iter_mut().find(|known| known.id == member) {
            member.waiting[at].retain(|waiting| waiting.id != id);
        }
        if self.turns[at] != Some(id) {
            return;
        }
        self.turns[at] = None;
        // Numbers grow in the list, so members that are gone do not matter.
        let after = self.members.partition_point(|member| member.id <= self.last[at]);
        let (before, behind) = self.members.split_at_mut(after);
        for member in behind.iter_mut().chain(before) {
            let Some(first) = member.waiting[at].front_mut() else { continue };
            self.turns[at] = Some(first.id);
            self.last[at] = member.id;
            if let Some(wake) = first.wake.take() {
                // Where nobody waits any more, its drop follows.
                let _ = wake.send(());
            }
            return;
        }
    }
}
