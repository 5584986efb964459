//! What a processor is doing, for a profile by samples: each change is one store, and a thread that is there only where the log asks for
//! it looks a thousand times a second.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cpu::Signals;

/// What a processor's thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    /// Nothing for the guest: it waits for an interrupt, or is stopped.
    #[default]
    Waiting,
    /// It finds out what to execute next: looks code up, takes interrupts and exceptions.
    Dispatching,
    /// It lifts blocks, or places compiled code of an earlier run.
    Translating,
    /// It compiles a block.
    Compiling,
    /// It interprets a block.
    Interpreting,
    /// It executes compiled code, and helpers that this calls.
    Compiled,
    /// Compiled code accesses memory that is not in the soft TLB, or not at once.
    SlowMemory,
    /// A device answers.
    Device,
}

const ALL: [(Activity, &str); 8] = [
    (Activity::Waiting, "waiting"),
    (Activity::Dispatching, "dispatching"),
    (Activity::Translating, "translating"),
    (Activity::Compiling, "compiling blocks"),
    (Activity::Interpreting, "interpreting"),
    (Activity::Compiled, "compiled code"),
    (Activity::SlowMemory, "memory off the fast path"),
    (Activity::Device, "devices"),
];

/// What a processor does at present.
#[derive(Debug, Default)]
pub(crate) struct Present(AtomicU8);

impl Present {
    /// Begins something else; gives what was done before.
    #[inline]
    pub(crate) fn begin(&self, activity: Activity) -> u8 {
        // Only the processor's own thread writes.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(activity as u8, Ordering::Relaxed);
        before
    }

    /// Goes on with what [`Present::begin`] gave.
    #[inline]
    pub(crate) fn resume(&self, before: u8) {
        self.0.store(before, Ordering::Relaxed);
    }
}

/// How often a processor was seen at each activity.
#[derive(Debug, Default)]
pub(crate) struct Samples([AtomicU64; ALL.len()]);

impl Samples {
    /// Looks at a processor until it is gone. `None` where no thread can be started.
    pub(crate) fn take(signals: &Arc<Signals>) -> Option<Arc<Samples>> {
        let (samples, signals) = (Arc::new(Samples::default()), Arc::downgrade(signals));
        let counts = samples.clone();
        let look = move || {
            while let Some(signals) = Weak::upgrade(&signals) {
                let activity = usize::from(signals.activity.0.load(Ordering::Relaxed));
                counts.0[activity % ALL.len()].fetch_add(1, Ordering::Relaxed);
                drop(signals);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        std::thread::Builder::new().name("profile".into()).spawn(look).ok()?;
        Some(samples)
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = ALL.map(|(activity, name)| (self.0[activity as usize].load(Ordering::Relaxed), name));
        let all = counts.iter().map(|(count, _)| count).sum::<u64>().max(1);
        f.write_str("time: ")?;
        for (index, (count, name)) in counts.into_iter().enumerate() {
            write!(f, "{}{:.1}% {name}", if index == 0 { "" } else { ", " }, 100.0 * count as f64 / all as f64)?;
        }
        Ok(())
    }
}
