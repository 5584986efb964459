//! The translator's accesses to what no RAM answers, as accesses to an [`IoBus`].

use translate::platform::BusError;

use crate::{AddressSpace, IoBus};

/// Reads `width` bytes of memory, little-endian.
pub(crate) fn read(io: &dyn IoBus, address: u64, width: u64) -> Result<u64, BusError> {
    let mut bytes = [0; 8];
    let data = bytes.get_mut(..width as usize).ok_or(BusError)?;
    io.read(AddressSpace::Memory, address, data).map_err(|_| BusError)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes `width` bytes, little-endian.
pub(crate) fn write(io: &dyn IoBus, space: AddressSpace, address: u64, width: u64, value: u64) -> Result<(), BusError> {
    let bytes = value.to_le_bytes();
    let data = bytes.get(..width as usize).ok_or(BusError)?;
    io.write(space, address, data).map_err(|_| BusError)
}

/// Reads `width` bytes of an I/O port; all ones where nothing answers.
pub(crate) fn read_port(io: &dyn IoBus, port: u16, width: u64) -> u64 {
    let mut bytes = [0xff; 8];
    if let Some(data) = bytes.get_mut(..width as usize)
        && io.read(AddressSpace::Port, u64::from(port), data).is_err()
    {
        data.fill(0xff);
    }
    u64::from_le_bytes(bytes) & u64::MAX >> (64 - 8 * width)
}
