//! Interrupt lines: how a device signals without knowing to whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use accel::VcpuHandle;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

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

/// Called with the number and the level of a line. Called with locks of devices held: it must not wait or call a device.
pub type LineListener = Box<dyn Fn(u32, bool) + Send + Sync>;

/// Places in a machine's interrupt wiring where a test client may listen instead of what is wired there, by the name of the
/// device whose inputs or outputs they are.
#[derive(Default)]
pub struct Taps {
    // Lock order: alone.
    devices: Mutex<BTreeMap<String, DeviceTaps>>,
}

#[derive(Default)]
struct DeviceTaps {
    inputs: Option<Arc<Tap>>,
    outputs: Vec<Arc<Tap>>,
}

struct Tap {
    target: Arc<dyn InterruptController>,
    listener: ArcSwapOption<LineListener>,
}

impl InterruptController for Tap {
    fn set_input(&self, number: u32, level: bool) {
        match &*self.listener.load() {
            Some(listener) => listener(number, level),
            None => self.target.set_input(number, level),
        }
    }
}

/// A single line as a controller whose input number does not matter.
impl InterruptController for InterruptLine {
    fn set_input(&self, _number: u32, level: bool) {
        self.set(level);
    }
}

impl Taps {
    /// The inputs of `device`, which is `controller`, with a place to listen at.
    pub fn inputs(&self, device: &str, controller: Arc<dyn InterruptController>) -> Arc<dyn InterruptController> {
        let tap = Arc::new(Tap { target: controller, listener: ArcSwapOption::empty() });
        self.devices.lock().entry(device.into()).or_default().inputs = Some(tap.clone());
        tap
    }

    /// The next output of `device`, which leads to `line`, with a place to listen at. Outputs are numbered from 0 on.
    pub fn output(&self, device: &str, line: InterruptLine) -> InterruptLine {
        let mut devices = self.devices.lock();
        let outputs = &mut devices.entry(device.into()).or_default().outputs;
        let number = outputs.len() as u32;
        let tap = Arc::new(Tap { target: Arc::new(line), listener: ArcSwapOption::empty() });
        outputs.push(tap.clone());
        InterruptLine::new(tap, number)
    }

    /// Has `listener` called from now on instead of setting the inputs of `device`; false if there is no such device.
    pub fn listen_to_inputs(&self, device: &str, listener: LineListener) -> bool {
        let devices = self.devices.lock();
        let tap = devices.get(device).and_then(|taps| taps.inputs.as_ref());
        if let Some(tap) = tap {
            tap.listener.store(Some(Arc::new(listener)));
        }
        tap.is_some()
    }

    /// Has `listener` called from now on instead of what the outputs of `device` lead to; false if it has none.
    pub fn listen_to_outputs(&self, device: &str, listener: impl Fn(u32, bool) + Send + Sync + 'static) -> bool {
        let devices = self.devices.lock();
        let outputs = devices.get(device).map(|taps| taps.outputs.as_slice()).unwrap_or_default();
        let listener = Arc::new(listener);
        for tap in outputs {
            let listener = listener.clone();
            let own: LineListener = Box::new(move |number, level| listener(number, level));
            tap.listener.store(Some(Arc::new(own)));
        }
        !outputs.is_empty()
    }

    /// Sets an input of `device`, whoever listens; false if there is no such device.
    pub fn set_input(&self, device: &str, number: u32, level: bool) -> bool {
        let tap = self.devices.lock().get(device).and_then(|taps| taps.inputs.clone());
        if let Some(tap) = &tap {
            tap.target.set_input(number, level);
        }
        tap.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    #[test]
    fn a_listener_hears_instead_of_what_is_wired() {
        let (taps, lines, heard) = (Taps::default(), Lines::new(), Arc::new(Mutex::new(Vec::new())));
        let inputs = taps.inputs("controller", lines.clone());
        let output = taps.output("device", InterruptLine::new(inputs.clone(), 3));
        output.set(true);
        assert!(lines.level(3));
        let log = heard.clone();
        assert!(taps.listen_to_inputs("controller", Box::new(move |number, level| log.lock().push((number, level)))));
        output.set(false);
        assert!(lines.level(3));
        assert!(taps.set_input("controller", 3, false) && !lines.level(3));
        let log = heard.clone();
        assert!(taps.listen_to_outputs("device", move |number, level| log.lock().push((100 + number, level))));
        output.set(true);
        assert_eq!(*heard.lock(), [(3, false), (100, true)]);
        let refused = taps.listen_to_outputs("controller", |_, _| {}) || taps.set_input("device", 0, true);
        assert!(!refused && !taps.listen_to_inputs("nobody", Box::new(|_, _| {})));
    }
}
