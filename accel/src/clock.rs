//! The virtual clock: nanoseconds that pass only while the machine runs, and timers on it.
//!
//! One thread serves all timers of a machine. It is a thread and not a task of an async runtime because guests program
//! timers of tens of microseconds, and async timer wheels tick in milliseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// A clock that stands still until [`VirtualClock::resume`] and whenever the machine is stopped.
pub struct VirtualClock {
    shared: Arc<Shared>,
}

struct Shared {
    // Lock order: alone; no callback runs while it is held.
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

struct Schedule {
    /// Virtual time at `base`.
    elapsed: Duration,
    /// Host time at which `elapsed` was right; `None` while the clock stands still.
    base: Option<Instant>,
    /// Armed timers by deadline, then by timer number.
    armed: BTreeMap<(u64, u64), Weak<TimerInner>>,
    next_number: u64,
    /// Time passes only by [`VirtualClock::advance_to`].
    stepped: bool,
    ended: bool,
}

impl Schedule {
    fn now(&self) -> u64 {
        let running = self.base.filter(|_| !self.stepped).map_or(Duration::ZERO, |base| base.elapsed());
        u64::try_from((self.elapsed + running).as_nanos()).unwrap_or(u64::MAX)
    }
}

struct TimerInner {
    number: u64,
    callback: Box<dyn Fn() + Send + Sync>,
    // Lock order: before `Shared::schedule`.
    deadline: Mutex<Option<u64>>,
}

/// A one-shot timer on a [`VirtualClock`]; it is disarmed when dropped.
pub struct Timer {
    shared: Arc<Shared>,
    inner: Arc<TimerInner>,
}

impl VirtualClock {
    fn with(stepped: bool) -> Arc<VirtualClock> {
        let shared = Arc::new(Shared {
            schedule: Mutex::new(Schedule {
                elapsed: Duration::ZERO,
                base: None,
                armed: BTreeMap::new(),
                next_number: 0,
                stepped,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        Arc::new(VirtualClock { shared })
    }

    /// A clock at zero on which time passes only by [`VirtualClock::advance_to`], also while the machine runs.
    pub fn stepped() -> Arc<VirtualClock> {
        VirtualClock::with(true)
    }

    /// A clock at zero, standing still.
    pub fn new() -> Arc<VirtualClock> {
        let clock = VirtualClock::with(false);
        let thread_shared = clock.shared.clone();
        std::thread::Builder::new()
            .name("timers".into())
            .spawn(move || serve(&thread_shared))
            .expect("the host refuses a thread for the virtual clock");
        clock
    }

    /// True for a clock made by [`VirtualClock::stepped`].
    pub fn is_stepped(&self) -> bool {
        self.shared.schedule.lock().stepped
    }

    /// Moves a stepped clock on to `nanoseconds`; back if that is earlier. While the machine runs, each timer that comes due
    /// on the way fires at its deadline, on the calling thread. Returns the time that it is then. Does nothing on another
    /// clock.
    pub fn advance_to(&self, nanoseconds: u64) -> u64 {
        let mut schedule = self.shared.schedule.lock();
        if !schedule.stepped {
            return schedule.now();
        }
        while schedule.base.is_some() && !schedule.ended {
            let Some((&(deadline, number), _)) = schedule.armed.first_key_value() else { break };
            if deadline > nanoseconds {
                break;
            }
            schedule.elapsed = schedule.elapsed.max(Duration::from_nanos(deadline));
            fire(&mut schedule, deadline, number);
        }
        schedule.elapsed = Duration::from_nanos(nanoseconds);
        schedule.now()
    }

    /// The earliest time at which a timer is due, if one is armed.
    pub fn next_deadline(&self) -> Option<u64> {
        self.shared.schedule.lock().armed.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    /// Nanoseconds of virtual time.
    pub fn now(&self) -> u64 {
        self.shared.schedule.lock().now()
    }

    /// Lets time pass. Does nothing on a clock that runs.
    pub fn resume(&self) {
        let mut schedule = self.shared.schedule.lock();
        if schedule.base.is_none() {
            schedule.base = Some(Instant::now());
        }
        let (stepped, now) = (schedule.stepped, schedule.now());
        self.shared.changed.notify_one();
        drop(schedule);
        if stepped {
            self.advance_to(now);
        }
    }

    /// Stops time; no timer fires until [`resume`](VirtualClock::resume). A callback that began goes on.
    pub fn pause(&self) {
        let mut schedule = self.shared.schedule.lock();
        if let Some(base) = schedule.base.take().filter(|_| !schedule.stepped) {
            schedule.elapsed += base.elapsed();
        }
    }

    /// Sets virtual time, as loading a saved machine does. Timers that went off do not go off again: who sets the clock back sets up what
    /// depends on it anew, the processors' state too.
    pub fn set(&self, nanoseconds: u64) {
        let mut schedule = self.shared.schedule.lock();
        schedule.elapsed = Duration::from_nanos(nanoseconds);
        if schedule.base.is_some() {
            schedule.base = Some(Instant::now());
        }
        self.shared.changed.notify_one();
    }

    /// Makes a disarmed timer. `callback` runs on the clock's thread: it must be short and must not wait for a vCPU.
    pub fn timer(&self, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let mut schedule = self.shared.schedule.lock();
        schedule.next_number += 1;
        let inner = Arc::new(TimerInner {
            number: schedule.next_number,
            callback: Box::new(callback),
            deadline: Mutex::new(None),
        });
        Timer { shared: self.shared.clone(), inner }
    }
}

impl Drop for VirtualClock {
    fn drop(&mut self) {
        self.shared.schedule.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

impl Timer {
    /// Makes the timer fire once virtual time reaches `deadline` nanoseconds; replaces an earlier deadline.
    pub fn arm(&self, deadline: u64) {
        let mut current = self.inner.deadline.lock();
        let mut schedule = self.shared.schedule.lock();
        if let Some(old) = current.replace(deadline) {
            schedule.armed.remove(&(old, self.inner.number));
        }
        schedule.armed.insert((deadline, self.inner.number), Arc::downgrade(&self.inner));
        let is_first = schedule.armed.first_key_value().is_some_and(|(&(first, _), _)| first == deadline);
        if is_first {
            self.shared.changed.notify_one();
        }
    }

    /// Takes the deadline away. A callback that began goes on.
    pub fn disarm(&self) {
        let mut current = self.inner.deadline.lock();
        if let Some(old) = current.take() {
            self.shared.schedule.lock().armed.remove(&(old, self.inner.number));
        }
    }

    /// The deadline, while armed.
    pub fn deadline(&self) -> Option<u64> {
        *self.inner.deadline.lock()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

fn serve(shared: &Shared) {
    let mut schedule = shared.schedule.lock();
    while !schedule.ended {
        let Some((&(deadline, number), _)) = schedule.armed.first_key_value() else {
            shared.changed.wait(&mut schedule);
            continue;
        };
        if schedule.base.is_none() {
            shared.changed.wait(&mut schedule);
            continue;
        }
        let now = schedule.now();
        if deadline > now {
            shared.changed.wait_for(&mut schedule, Duration::from_nanos(deadline - now));
            continue;
        }
        fire(&mut schedule, deadline, number);
    }
}

/// Fires the timer that was armed for `deadline`, without the lock.
fn fire(schedule: &mut MutexGuard<'_, Schedule>, deadline: u64, number: u64) {
    let timer = schedule.armed.remove(&(deadline, number)).and_then(|timer| timer.upgrade());
    if let Some(timer) = timer {
        MutexGuard::unlocked(schedule, || {
            let due = {
                let mut current = timer.deadline.lock();
                // Armed anew, or disarmed, between the two locks: then this firing is void.
                let due = *current == Some(deadline);
                if due {
                    *current = None;
                }
                due
            };
            if due {
                (timer.callback)();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_timer_fires_once_and_not_before_its_deadline() {
        let clock = VirtualClock::new();
        let (sender, receiver) = mpsc::channel();
        let reader = clock.clone();
        let timer = clock.timer(move || sender.send(reader.now()).unwrap());
        timer.arm(2_000_000);
        clock.resume();
        let fired = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(fired >= 2_000_000, "fired at {fired}");
        assert_eq!(timer.deadline(), None);
        assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
    }

    #[test]
    fn nothing_fires_while_the_clock_stands_still() {
        let clock = VirtualClock::new();
        let (sender, receiver) = mpsc::channel();
        let timer = clock.timer(move || sender.send(()).unwrap());
        timer.arm(0);
        assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
        assert_eq!(clock.now(), 0);
        clock.resume();
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_disarmed_timer_stays_silent_and_a_later_deadline_replaces_an_earlier_one() {
        let clock = VirtualClock::new();
        let (sender, receiver) = mpsc::channel();
        let timer = clock.timer(move || sender.send(()).unwrap());
        timer.arm(1_000_000);
        timer.disarm();
        clock.resume();
        assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
        timer.arm(0);
        timer.arm(u64::MAX);
        timer.arm(1);
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_stepped_clock_fires_each_timer_at_its_deadline_and_not_while_the_machine_stands() {
        let clock = VirtualClock::stepped();
        let fired = Arc::new(Mutex::new(Vec::new()));
        let timer = Arc::new(Mutex::new(None::<Timer>));
        let (log, reader, again) = (fired.clone(), clock.clone(), timer.clone());
        // Periodic: each firing arms the next.
        let periodic = clock.timer(move || {
            log.lock().push(reader.now());
            if let Some(timer) = &*again.lock() {
                timer.arm(reader.now() + 10);
            }
        });
        periodic.arm(10);
        *timer.lock() = Some(periodic);
        assert_eq!(clock.advance_to(5), 5);
        clock.resume();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!((clock.now(), clock.next_deadline()), (5, Some(10)));
        assert_eq!(clock.advance_to(35), 35);
        assert_eq!(*fired.lock(), [10, 20, 30]);
        clock.pause();
        clock.advance_to(100);
        assert_eq!(fired.lock().len(), 3);
        clock.resume();
        assert_eq!(fired.lock()[3..], [100]);
        timer.lock().take();
    }
}
