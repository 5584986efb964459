//! A leaky bucket: what was done fills it, time empties it, and who would do more waits while there is too much in it.

use std::time::Duration;

use super::config::Limit;

/// How much was done of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    limit: Limit,
    /// What is in it: it leaks by the average.
    level: f64,
    /// What was done in this burst: it leaks by the rate of bursts, so that they are no faster than that.
    burst: f64,
}

impl Bucket {
    pub(super) fn new(limit: Limit) -> Bucket {
        Bucket { limit, level: 0.0, burst: 0.0 }
    }

    fn has_long_bursts(&self) -> bool {
        self.limit.max_length > 1
    }

    /// Time went by.
    pub(super) fn leak(&mut self, time: Duration) {
        let left = |level: f64, rate: u64| (level - rate as f64 * time.as_secs_f64()).max(0.0);
        self.level = left(self.level, self.limit.average);
        if self.has_long_bursts() {
            self.burst = left(self.burst, self.limit.max);
        }
    }

    /// Something was done.
    pub(super) fn fill(&mut self, units: f64) {
        self.level += units;
        if self.has_long_bursts() {
            self.burst += units;
        }
    }

    /// For how long nothing more may be done.
    pub(super) fn wait(&self) -> Duration {
        let Limit { average, max, max_length } = self.limit;
        if average == 0 {
            return Duration::ZERO;
        }
        // Without bursts, too, some room is needed: or else requests that come together would be slower than the limit says.
        let room = if max == 0 { average as f64 / 10.0 } else { max as f64 * max_length as f64 };
        let over = (self.level - room) / average as f64;
        let burst_over = if self.has_long_bursts() { (self.burst - max as f64 / 10.0) / max as f64 } else { 0.0 };
        let wait = if over > 0.0 { over } else { burst_over.max(0.0) };
        Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)
    }
}
