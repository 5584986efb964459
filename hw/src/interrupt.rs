//! Interrupt lines: how a device signals without knowing to whom.

use std::sync::Arc;

use accel::VcpuHandle;

/// Something with numbered, level-sensitive interrupt inputs.
pub trait InterruptController: Send + Sync {
    /// Sets the level of input `number`. Never waits for a device or a vCPU.
    fn set_input(&self, number: u32, level: bool);
}

/// A device's interrupt output, wired to one input of some controller.
#[derive(Clone, Default)]
pub struct InterruptLine {
    target: Option<(Arc<dyn InterruptController>, u32)>,
}

impl InterruptLine {
    /// A line to input `number` of `controller`.
    pub fn new(controller: Arc<dyn InterruptController>, number: u32) -> InterruptLine {
        InterruptLine { target: Some((controller, number)) }
    }

    /// A line to one of a processor's own inputs, numbered as in [`VcpuHandle::set_interrupt`].
    pub fn to_vcpu(vcpu: Arc<dyn VcpuHandle>, input: u32) -> InterruptLine {
        InterruptLine::new(Arc::new(VcpuInputs(vcpu)), input)
    }

    /// A line that leads nowhere.
    pub fn disconnected() -> InterruptLine {
        InterruptLine::default()
    }

    /// Sets the level of the line.
    pub fn set(&self, level: bool) {
        if let Some((controller, number)) = &self.target {
            controller.set_input(*number, level);
        }
    }
}

/// The interrupt inputs of a processor.
struct VcpuInputs(Arc<dyn VcpuHandle>);

impl InterruptController for VcpuInputs {
    fn set_input(&self, number: u32, level: bool) {
        self.0.set_interrupt(number, level);
    }
}
