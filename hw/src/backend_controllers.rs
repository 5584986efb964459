//! The interrupt controllers and the interval timer of a PC that the accelerator keeps, as a device of the machine.
//!
//! Intel 8259A, 82093AA (I/O APIC) and 8254 data sheets. Their registers are the accelerator's; reset, saving and
//! restoring go through [`Accelerator::interrupt_controller_state`].

use std::sync::Arc;

use accel::Accelerator;
use accel::state::ControllerState;

use crate::device::{Device, StateError, impossible, parse_state, state_value};

/// The accelerator's interrupt controllers.
pub struct BackendControllers {
    accelerator: Arc<dyn Accelerator>,
    initial: ControllerState,
}

impl BackendControllers {
    /// The controllers that `accelerator` has created, whose present state is that of a reset.
    pub fn new(accelerator: Arc<dyn Accelerator>) -> Result<Arc<BackendControllers>, accel::Error> {
        let initial = accelerator.interrupt_controller_state()?;
        Ok(Arc::new(BackendControllers { accelerator, initial }))
    }
}

impl Device for BackendControllers {
    fn debug_label(&self) -> &str {
        "interrupt-controllers"
    }
    fn reset(&self) {
        if let Err(error) = self.accelerator.set_interrupt_controller_state(&self.initial) {
            tracing::error!("the interrupt controllers cannot be reset: {error}");
        }
    }
    fn save(&self) -> serde_json::Value {
        match self.accelerator.interrupt_controller_state() {
            Ok(state) => state_value(&state),
            Err(error) => {
                tracing::error!("the interrupt controllers cannot be read: {error}");
                serde_json::Value::Null
            }
        }
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: ControllerState = parse_state(self.debug_label(), state)?;
        let set = self.accelerator.set_interrupt_controller_state(&new);
        set.map_err(|error| impossible(self.debug_label(), error.to_string()))
    }
}
