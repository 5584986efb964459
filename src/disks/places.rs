//! Places of drives in the machine.

use accel::Architecture;
use hw::ide::Drive;
use hw::machine::Config;

use crate::command_line::{Group, Invalid};

/// Where the user wants an IDE drive, as far as it was said.
pub(crate) struct Place {
    /// Number of the channel.
    pub(crate) bus: Option<usize>,
    /// Number of the drive on its channel.
    pub(crate) unit: Option<usize>,
    /// Number of the drive among all four.
    pub(crate) index: Option<usize>,
}

/// Number of the first free place for an IDE drive that fits.
pub(crate) fn ide(config: &Config, group: &Group, place: Place) -> Result<usize, Invalid> {
    let fits = |number: &usize| {
        place.index.is_none_or(|index| index == *number)
            && place.bus.is_none_or(|bus| bus == number / 2)
            && place.unit.is_none_or(|unit| unit == number % 2)
    };
    let number = (0..config.ide.len()).find(|number| fits(number) && config.ide[*number].is_none());
    number.ok_or_else(|| group.invalid("there is no such free place; there are 2 channels with 2 drives each"))
}

/// Puts an IDE drive into its place.
pub(crate) fn add_ide(config: &mut Config, number: usize, mut drive: Drive) {
    if drive.serial.is_empty() {
        drive.serial = format!("QM{:05}", number + 1);
    }
    config.ide[number] = Some(drive);
}

/// Number of a floppy drive: `index`, or the first free one.
pub(crate) fn floppy(
    config: &Config,
    group: &Group,
    index: Option<usize>,
    architecture: Architecture,
) -> Result<usize, Invalid> {
    if architecture != Architecture::X86_64 {
        return Err(group.invalid(format!("machines for {} have no floppy drives", architecture.name())));
    }
    let fits = |number: &usize| index.is_none_or(|index| index == *number);
    let number = (0..config.floppies.len()).find(|number| fits(number) && config.floppies[*number].is_none());
    number.ok_or_else(|| group.invalid("there is no such free floppy drive; there are two"))
}
