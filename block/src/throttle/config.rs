//! How much the members of a group may do.

use crate::throttle::Direction;

/// Most of anything that may be asked for.
pub const MOST: u64 = 1_000_000_000_000_000;

/// How much of one kind may be done: so much a second, and for a while more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How much a second in the long run; 0: there is no limit.
    pub average: u64,
    /// How much a second in a burst; 0: no more, but what is due within a tenth of a second may be done at once.
    pub max: u64,
    /// How long a burst may be, seconds.
    pub max_length: u64,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { average: 0, max: 0, max_length: 1 }
    }
}

impl Limit {
    /// So much a second, without bursts.
    pub fn of(average: u64) -> Limit {
        Limit { average, ..Limit::default() }
    }
}

/// The limits of a group: QEMU's `ThrottleLimits`. The defaults are no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleConfig {
    /// Bytes that are read or written (`bps-total`, `bps-total-max`, `bps-total-max-length`).
    pub bps_total: Limit,
    /// Bytes that are read (`bps-read`...).
    pub bps_read: Limit,
    /// Bytes that are written (`bps-write`...).
    pub bps_write: Limit,
    /// Requests (`iops-total`...).
    pub iops_total: Limit,
    /// Requests that read (`iops-read`...).
    pub iops_read: Limit,
    /// Requests that write (`iops-write`...).
    pub iops_write: Limit,
    /// A request of more bytes than this counts as several (`iops-size`); 0: each counts once.
    pub iops_size: u64,
}

/// Why limits cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThrottleError {
    /// There is a limit for everything, and one for a part.
    #[error("bps/iops/max total values and read/write values cannot be used at the same time")]
    Conflict,
    /// Requests are counted by size, and not limited.
    #[error("iops size requires an iops value to be set")]
    SizeWithoutLimit,
    /// A number is too large.
    #[error("bps/iops/max values must be within [0, {MOST}]")]
    OutOfRange,
    /// Bursts of no time.
    #[error("the burst length cannot be 0")]
    NoLength,
    /// Long bursts of which nothing else is said.
    #[error("burst length set without burst rate")]
    LengthWithoutMax,
    /// A burst would be of more than can be counted.
    #[error("burst length too high for this burst rate")]
    TooLong,
    /// Bursts where there is no limit.
    #[error("bps_max/iops_max require corresponding bps/iops values")]
    MaxWithoutAverage,
    /// Less in bursts than in the long run.
    #[error("bps_max/iops_max cannot be lower than bps/iops")]
    MaxBelowAverage,
}

impl ThrottleConfig {
    /// Checks that the limits can be together.
    pub fn check(&self) -> Result<(), ThrottleError> {
        let conflicts = |total: Limit, read: Limit, write: Limit| {
            let both = |value: fn(Limit) -> u64| value(total) != 0 && (value(read) != 0 || value(write) != 0);
            both(|limit| limit.average) || both(|limit| limit.max)
        };
        if conflicts(self.bps_total, self.bps_read, self.bps_write)
            || conflicts(self.iops_total, self.iops_read, self.iops_write)
        {
            return Err(ThrottleError::Conflict);
        }
        let counts = [self.iops_total, self.iops_read, self.iops_write];
        if self.iops_size != 0 && counts.iter().all(|limit| limit.average == 0) {
            return Err(ThrottleError::SizeWithoutLimit);
        }
        self.limits().iter().try_for_each(|limit| {
            let Limit { average, max, max_length } = *limit;
            match () {
                () if average > MOST || max > MOST => Err(ThrottleError::OutOfRange),
                () if max_length == 0 => Err(ThrottleError::NoLength),
                () if max_length > 1 && max == 0 => Err(ThrottleError::LengthWithoutMax),
                () if max != 0 && max_length > MOST / max => Err(ThrottleError::TooLong),
                () if max != 0 && average == 0 => Err(ThrottleError::MaxWithoutAverage),
                () if max != 0 && max < average => Err(ThrottleError::MaxBelowAverage),
                () => Ok(()),
            }
        })
    }

    /// Something is limited.
    pub fn is_limited(&self) -> bool {
        self.limits().iter().any(|limit| limit.average != 0)
    }

    /// All limits, in the order of [`Kind`].
    pub(super) fn limits(&self) -> [Limit; Kind::COUNT] {
        [self.bps_total, self.bps_read, self.bps_write, self.iops_total, self.iops_read, self.iops_write]
    }

    /// What a request counts for, of this kind.
    pub(super) fn units(&self, kind: Kind, bytes: u64) -> f64 {
        match kind {
            Kind::Bytes => bytes as f64,
            Kind::Requests if self.iops_size != 0 && bytes > self.iops_size => bytes as f64 / self.iops_size as f64,
            Kind::Requests => 1.0,
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bytes,
    Requests,
}

impl Kind {
    /// How many limits there are.
    pub(super) const COUNT: usize = 6;

    /// The places among all limits of those that a request is subject to, and what each counts.
    pub(super) fn places(direction: Direction) -> [(usize, Kind); 4] {
        let own = match direction {
            Direction::Read => 1,
            Direction::Write => 2,
        };
        [(0, Kind::Bytes), (own, Kind::Bytes), (3, Kind::Requests), (3 + own, Kind::Requests)]
    }
}
