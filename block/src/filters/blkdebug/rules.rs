//! Which requests fail: rules that events of a disk bring into force.

use parking_lot::Mutex;

use super::BlkdebugEvent;

/// A kind of request: QEMU's `BlkdebugIOType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoType {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It makes zero.
    WriteZeroes,
    /// It gives up.
    Discard,
    /// It makes durable.
    Flush,
    /// It asks what is there.
    BlockStatus,
}

impl IoType {
    /// The kinds, by name.
    pub const ALL: [(&str, IoType); 6] = [
        ("read", IoType::Read),
        ("write", IoType::Write),
        ("write-zeroes", IoType::WriteZeroes),
        ("discard", IoType::Discard),
        ("flush", IoType::Flush),
        ("block-status", IoType::BlockStatus),
    ];

    /// The kind with a name.
    pub fn named(name: &str) -> Option<IoType> {
        IoType::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind)
    }
}

/// After an event requests fail: QEMU's `BlkdebugInjectErrorOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectError {
    /// The event that brings the rule into force, in place of those that were.
    pub event: BlkdebugEvent,
    /// The state in which it does; any, if it is not given.
    pub state: Option<i32>,
    /// The kind of requests; all but those for what is there, if it is not given.
    pub iotype: Option<IoType>,
    /// The number of the host's error; EIO if it is not given. With 0 the request succeeds, whatever other rules say.
    pub errno: i32,
    /// The sector, of 512 bytes, that a request must touch; any, if it is not given.
    pub sector: Option<u64>,
    /// Only one request fails; false if it is not given.
    pub once: bool,
    /// It fails before others get a turn; false if it is not given.
    pub immediately: bool,
}

impl InjectError {
    /// The rule for an event, with what is so if nothing else is given.
    pub fn after(event: BlkdebugEvent) -> InjectError {
        InjectError {
            event,
            state: None,
            iotype: None,
            errno: libc::EIO,
            sector: None,
            once: false,
            immediately: false,
        }
    }

    fn is_for(&self, offset: u64, length: u64, kind: IoType) -> bool {
        let is_there = self.sector.is_none_or(|sector| {
            let start = sector.saturating_mul(512);
            length > 0 && start >= offset && start - offset < length
        });
        is_there && self.iotype.map_or(kind != IoType::BlockStatus, |wanted| wanted == kind)
    }
}

/// An event leads from one state to another: QEMU's `BlkdebugSetStateOptions`. The first state is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetState {
    /// The event.
    pub event: BlkdebugEvent,
    /// The state in which it matters; any, if it is not given.
    pub state: Option<i32>,
    /// The state afterwards.
    pub new_state: i32,
}

/// A request is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Injected {
    pub(super) errno: i32,
    pub(super) immediately: bool,
}

/// The rules of a disk, and which are in force.
pub(super) struct Rules {
    // Lock order: alone.
    inner: Mutex<Inner>,
}

struct Inner {
    state: i32,
    /// Each with its number.
    errors: Vec<(usize, InjectError)>,
    states: Vec<SetState>,
    /// Numbers of the rules in force; the first of them that is for a request counts.
    in_force: Vec<usize>,
}

impl Rules {
    /// The rules, in the order in which they were given.
    pub(super) fn new(errors: Vec<InjectError>, states: Vec<SetState>) -> Rules {
        let errors = errors.into_iter().enumerate().collect();
        Rules { inner: Mutex::new(Inner { state: 1, errors, states, in_force: Vec::new() }) }
    }

    /// Something happened.
    pub(super) fn event(&self, event: BlkdebugEvent) {
        let mut inner = self.inner.lock();
        let state = inner.state;
        let is_in_state = |wanted: Option<i32>| wanted.is_none_or(|wanted| wanted == state);
        let new = |(_, rule): &&(usize, InjectError)| rule.event == event && is_in_state(rule.state);
        let in_force: Vec<usize> = inner.errors.iter().filter(new).map(|(number, _)| *number).collect();
        if !in_force.is_empty() {
            inner.in_force = in_force;
        }
        let next = inner.states.iter().find(|rule| rule.event == event && is_in_state(rule.state));
        if let Some(next) = next.map(|rule| rule.new_state) {
            inner.state = next;
        }
    }

    /// What becomes of a request.
    pub(super) fn check(&self, offset: u64, length: u64, kind: IoType) -> Option<Injected> {
        let mut inner = self.inner.lock();
        let rule = |number: &usize| inner.errors.iter().find(|(known, _)| known == number).copied();
        let mut found = inner.in_force.iter().filter_map(rule);
        let (number, rule) = found.find(|(_, rule)| rule.is_for(offset, length, kind))?;
        if rule.errno == 0 {
            return None;
        }
        if rule.once {
            inner.errors.retain(|(known, _)| *known != number);
            inner.in_force.retain(|known| *known != number);
        }
        Some(Injected { errno: rule.errno, immediately: rule.immediately })
    }
}
