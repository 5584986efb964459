//! The timer of a local APIC: one-shot, periodic and TSC-deadline (SDM volume 3, 11.5.4).
//!
//! It counts at 1 GHz before its divider, as that of KVM does, so a state means the same under both.

/// Least time from one periodic interrupt to the next, nanoseconds; a guest may ask for less than anybody could serve.
const LEAST_PERIOD: u64 = 20_000;

/// How the timer counts (bits 18..17 of its local vector table entry).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    OneShot,
    Periodic,
    Deadline,
}

impl Mode {
    /// The mode that a local vector table entry selects.
    pub(super) fn from_entry(entry: u32) -> Mode {
        match (entry >> 17) & 3 {
            1 => Mode::Periodic,
            2 => Mode::Deadline,
            // 3 is reserved.
            _ => Mode::OneShot,
        }
    }
}

/// Counting, without the interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    pub(super) mode: Mode,
    /// Initial count register.
    pub(super) initial: u32,
    /// Binary logarithm of the divisor.
    shift: u32,
    /// The count at virtual time `from`.
    remaining: u32,
    from: u64,
    /// Virtual time of the deadline; 0: none.
    pub(super) deadline: u64,
    /// When the next interrupt is due.
    due: Option<u64>,
}

impl Counter {
    /// A stopped counter with the divisor of register value `divide`.
    pub(super) fn new(divide: u32) -> Counter {
        Counter { shift: shift(divide), ..Counter::default() }
    }

    /// Continues a counter that stood at `current` at virtual time `now`.
    pub(super) fn load(mode: Mode, divide: u32, initial: u32, current: u32, deadline: u64, now: u64) -> Counter {
        let remaining = if mode == Mode::Periodic && current == 0 { initial } else { current.min(initial) };
        let mut counter = Counter { mode, initial, remaining, from: now, deadline, ..Counter::new(divide) };
        counter.schedule(now);
        counter
    }

    /// Current count register.
    pub(super) fn current(&self, now: u64) -> u32 {
        if self.mode == Mode::Deadline || self.remaining == 0 {
            return 0;
        }
        let counted = now.saturating_sub(self.from) >> self.shift;
        match u64::from(self.remaining).checked_sub(counted) {
            Some(left) if left > 0 => left as u32,
            _ if self.mode == Mode::Periodic && self.initial > 0 => {
                let beyond = counted - u64::from(self.remaining);
                self.initial - (beyond % u64::from(self.initial)) as u32
            }
            _ => 0,
        }
    }

    /// Notes when the next interrupt is due, not before `now`.
    fn schedule(&mut self, now: u64) {
        let end = |count: u64| self.from.saturating_add(count << self.shift);
        let first = end(u64::from(self.remaining));
        self.due = match self.mode {
            Mode::Deadline => (self.deadline != 0).then_some(self.deadline),
            _ if self.remaining == 0 => None,
            Mode::OneShot => Some(first),
            Mode::Periodic if first > now => Some(first),
            Mode::Periodic => {
                let (period, remaining) = (u64::from(self.initial.max(1)), u64::from(self.remaining));
                let counted = now.saturating_sub(self.from) >> self.shift;
                let periods = counted.saturating_sub(remaining) / period + 1;
                Some(end(remaining.saturating_add(periods.saturating_mul(period))))
            }
        };
    }

    /// When the next interrupt is due.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    pub(super) fn set_initial(&mut self, value: u32, now: u64) {
        if self.mode != Mode::Deadline {
            (self.initial, self.remaining, self.from) = (value, value, now);
            self.schedule(now);
        }
    }

    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        (self.remaining, self.from) = (self.current(now), now);
        self.shift = shift(divide);
        self.schedule(now);
    }

    pub(super) fn set_mode(&mut self, mode: Mode, now: u64) {
        if mode == self.mode {
            return;
        }
        if mode == Mode::Deadline || self.mode == Mode::Deadline {
            // Such a change disarms the timer.
            (self.initial, self.remaining, self.deadline) = (0, 0, 0);
        } else {
            (self.remaining, self.from) = (self.current(now), now);
        }
        self.mode = mode;
        self.schedule(now);
    }

    pub(super) fn set_deadline(&mut self, deadline: u64, now: u64) {
        if self.mode == Mode::Deadline {
            self.deadline = deadline;
            self.schedule(now);
        }
    }

    /// True if the interrupt is due; then the next one is scheduled.
    pub(super) fn take_due(&mut self, now: u64) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        match self.mode {
            Mode::OneShot => self.remaining = 0,
            Mode::Deadline => self.deadline = 0,
            Mode::Periodic => {}
        }
        self.schedule(now);
        if self.mode == Mode::Periodic {
            self.due = self.due.map(|due| due.max(now.saturating_add(LEAST_PERIOD)));
        }
        true
    }
}

/// Binary logarithm of the divisor that the divide configuration register's bits 3, 1 and 0 select.
fn shift(divide: u32) -> u32 {
    let value = (divide & 3) | ((divide >> 1) & 4);
    (value + 1) & 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors() {
        let shifts = [0, 1, 2, 3, 8, 9, 10, 11].map(shift);
        assert_eq!(shifts, [1, 2, 3, 4, 5, 6, 7, 0]);
    }

    #[test]
    fn one_shot_counts_to_zero_and_stays() {
        let mut counter = Counter::new(0);
        counter.set_initial(1000, 50);
        assert_eq!((counter.current(50), counter.current(52), counter.current(5000)), (1000, 999, 0));
        assert_eq!(counter.due(), Some(2050));
        assert!(!counter.take_due(2049));
        assert!(counter.take_due(2050));
        assert_eq!(counter.due(), None);
    }

    #[test]
    fn a_counter_that_has_ended_stays_so_in_another_mode() {
        let mut counter = Counter::new(11);
        counter.set_initial(1000, 0);
        counter.set_mode(Mode::Periodic, 2000);
        assert_eq!((counter.current(2500), counter.due()), (0, None));
    }

    #[test]
    fn periodic_reloads_and_keeps_its_phase() {
        let mut counter = Counter::new(11);
        counter.set_mode(Mode::Periodic, 0);
        counter.set_initial(100_000, 0);
        assert_eq!((counter.current(99_999), counter.current(100_000), counter.current(250_000)), (1, 100_000, 50_000));
        assert!(counter.take_due(130_000));
        assert_eq!(counter.due(), Some(200_000));
        assert!(counter.take_due(650_000));
        assert_eq!(counter.due(), Some(700_000));
    }

    #[test]
    fn too_short_periods_are_stretched() {
        let mut counter = Counter::new(11);
        counter.set_mode(Mode::Periodic, 0);
        counter.set_initial(1, 0);
        assert!(counter.take_due(10));
        assert!(counter.due().unwrap() >= 10 + LEAST_PERIOD);
    }

    #[test]
    fn another_divisor_goes_on_from_the_present_count() {
        let mut counter = Counter::new(11);
        counter.set_initial(1000, 0);
        counter.set_divide(0, 400);
        assert_eq!((counter.current(400), counter.due()), (600, Some(1600)));
    }

    #[test]
    fn a_deadline_fires_once_and_reads_as_zero_after() {
        let mut counter = Counter::new(0);
        counter.set_deadline(100, 0);
        assert_eq!(counter.due(), None, "the mode is another one");
        counter.set_mode(Mode::Deadline, 0);
        counter.set_initial(100, 0);
        assert_eq!((counter.due(), counter.current(1)), (None, 0));
        counter.set_deadline(100, 0);
        assert!(!counter.take_due(99));
        assert!(counter.take_due(100));
        assert_eq!((counter.deadline, counter.due()), (0, None));
        counter.set_deadline(200, 150);
        counter.set_mode(Mode::OneShot, 160);
        assert_eq!((counter.deadline, counter.due()), (0, None));
    }

    #[test]
    fn hostile_counts_do_not_overflow() {
        for mode in [Mode::OneShot, Mode::Periodic] {
            let mut counter = Counter::load(mode, 10, u32::MAX, u32::MAX, 0, u64::MAX - 5);
            assert!(counter.due().is_some());
            counter.take_due(u64::MAX);
            counter.set_divide(0, 0);
            counter.current(u64::MAX);
        }
    }
}
