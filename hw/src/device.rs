//! What every device has in common.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A device of a machine. Its state survives [`Device::save`] and [`Device::restore`].
///
/// Lifecycle: the board makes the device in its reset state; then, in any order and number, accesses of the guest and
/// of the host side come at any time from any thread, and the control thread of the machine calls the methods below
/// while no vCPU runs.
pub trait Device: Send + Sync {
    /// The name by which logs and errors call it, unique in its machine: `serial0`, `virtio-mmio@10008000`.
    fn debug_label(&self) -> &str;

    /// Puts all guest-visible state back to what it was at power-on. Called by the control thread while no vCPU runs.
    fn reset(&self);

    /// Finishes or suspends work of the device's own threads, so that neither its state nor guest memory changes until
    /// [`Device::resume`]. Called after the vCPUs have stopped.
    fn pause(&self) {}

    /// Ends a [`Device::pause`]. Called before the vCPUs go on.
    fn resume(&self) {}

    /// The guest-visible state as data. Called between [`Device::pause`] and [`Device::resume`].
    fn save(&self) -> serde_json::Value;

    /// Takes over what [`Device::save`] returned, from this or another process. On an error the device is as it was.
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError>;
}

/// A saved state that a device cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not have the device's form.
    #[error("the saved state of {device} is not understood: {source}")]
    Form {
        /// The device's label.
        device: String,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// It has the form, but no such device can be in that state.
    #[error("the saved state of {device} is impossible: {problem}")]
    Impossible {
        /// The device's label.
        device: String,
        /// What is impossible.
        problem: String,
    },
}

/// Reads a device's typed state.
pub fn parse_state<T: DeserializeOwned>(device: &str, state: &serde_json::Value) -> Result<T, StateError> {
    T::deserialize(state).map_err(|source| StateError::Form { device: device.into(), source })
}

/// Writes a device's typed state.
pub fn state_value<T: Serialize>(state: &T) -> serde_json::Value {
    // Device states are plain structs of numbers, lists and strings, for which this cannot fail.
    serde_json::to_value(state).unwrap_or(serde_json::Value::Null)
}

/// Refuses a state that no such device can be in.
pub(crate) fn impossible(device: &str, problem: impl Into<String>) -> StateError {
    StateError::Impossible { device: device.into(), problem: problem.into() }
}
