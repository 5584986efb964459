//! The bus: from an address to the device that answers there.
//!
//! The map is an immutable, sorted list that is swapped atomically on change, so a look-up takes no lock and a device
//! may change the map from inside an access (a PCI base address register does).

use std::sync::Arc;

use accel::{AddressSpace, IoBus, Unmapped};
use arc_swap::ArcSwap;

use crate::device::Device;

/// What an access to a device makes the machine do, beyond the device itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an effect must reach the machine"]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest changed which memory answers where. The processor that did it executes nothing before that is so.
    MemoryMap,
    /// The guest put the machine to sleep, with its memory kept.
    Suspend,
    /// A device wakes the sleeping machine.
    Wake,
    /// The guest asked for a reset of the machine.
    Reset,
    /// The guest switched the machine off.
    PowerOff {
        /// The exit status that the emulator should end with.
        exit_status: u8,
    },
    /// The guest reported that it failed, and wants the machine to end.
    Failure {
        /// The exit status that the emulator should end with.
        exit_status: u8,
    },
}

/// Width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Half = 2,
    /// 4 bytes.
    Word = 4,
    /// 8 bytes.
    Double = 8,
}

impl Width {
    /// All widths, narrowest first.
    pub const ALL: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

    /// The width of an access of `bytes` bytes, if there is one.
    pub fn from_bytes(bytes: usize) -> Option<Width> {
        Width::ALL.into_iter().find(|width| width.bytes() as usize == bytes)
    }

    /// Number of bytes.
    pub fn bytes(self) -> u64 {
        self as u64
    }

    /// The bits of a value of this width.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Which accesses a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// Narrower accesses get no answer.
    pub narrowest: Width,
    /// Wider accesses get no answer.
    pub widest: Width,
    /// Wider accesses that do get an answer are split into several of this width, lowest address first.
    pub split_to: Width,
    /// Accesses at offsets that are no multiple of their width get an answer.
    pub unaligned: bool,
}

impl AccessRules {
    /// Every aligned access reaches the device as it is.
    pub const ANY: AccessRules =
        AccessRules { narrowest: Width::Byte, widest: Width::Double, split_to: Width::Double, unaligned: false };
    /// Aligned accesses of exactly 4 bytes.
    pub const WORD: AccessRules =
        AccessRules { narrowest: Width::Word, widest: Width::Word, split_to: Width::Word, unaligned: false };
    /// Byte registers; wider accesses reach several of them.
    pub const BYTES: AccessRules =
        AccessRules { narrowest: Width::Byte, widest: Width::Double, split_to: Width::Byte, unaligned: true };
}

/// A device with memory-mapped registers.
///
/// Offsets count from the start of the region that the board mapped, values are little-endian; both are the guest's.
pub trait MmioDevice: Device {
    /// Which accesses it answers; others look unmapped.
    fn access_rules(&self) -> AccessRules {
        AccessRules::ANY
    }
    /// Reads a register. Bits beyond `width` are dropped.
    fn read(&self, offset: u64, width: Width) -> u64;
    /// Writes a register.
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect;

    /// Reads memory that the device has, for the host's eyes: nothing happens to the device. False where it has registers.
    fn peek(&self, offset: u64, data: &mut [u8]) -> bool {
        let _ = (offset, data);
        false
    }
}

/// A device with x86 I/O ports. Byte accesses reach it unless its rules say otherwise.
pub trait PioDevice: Device {
    /// Which accesses it answers; others look unmapped.
    fn port_rules(&self) -> AccessRules {
        AccessRules::BYTES
    }
    /// Reads a port. Bits beyond `width` are dropped.
    fn read_port(&self, offset: u64, width: Width) -> u64;
    /// Writes a port.
    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect;
}

#[derive(Clone)]
enum Target {
    Memory(Arc<dyn MmioDevice>),
    Port(Arc<dyn PioDevice>),
}

impl Target {
    fn rules(&self) -> AccessRules {
        match self {
            Target::Memory(device) => device.access_rules(),
            Target::Port(device) => device.port_rules(),
        }
    }
    fn read(&self, offset: u64, width: Width) -> u64 {
        match self {
            Target::Memory(device) => device.read(offset, width),
            Target::Port(device) => device.read_port(offset, width),
        }
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        match self {
            Target::Memory(device) => device.write(offset, width, value),
            Target::Port(device) => device.write_port(offset, width, value),
        }
    }
    fn label(&self) -> &str {
        match self {
            Target::Memory(device) => device.debug_label(),
            Target::Port(device) => device.debug_label(),
        }
    }
}

#[derive(Clone)]
struct Region {
    start: u64,
    /// Last address, so that a region may reach the end of the address space.
    last: u64,
    /// Offset that the device sees for `start`.
    first_offset: u64,
    target: Target,
}

/// Regions in order of address; they do not overlap.
type Map = Vec<Region>;

/// Where effects of accesses go; called on vCPU threads, must not wait.
pub type EffectSink = Arc<dyn Fn(Effect) + Send + Sync>;

/// Memory-mapped and port-mapped devices of one machine.
pub struct Bus {
    memory: ArcSwap<Map>,
    ports: ArcSwap<Map>,
    effects: EffectSink,
}

/// A region that cannot be mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Empty, or beyond the end of the address space.
    #[error("{device} cannot answer at {start:#x} (length {length:#x}): the range is empty or too long")]
    Range {
        /// The device's label.
        device: String,
        /// First address.
        start: u64,
        /// Length in bytes.
        length: u64,
    },
    /// Another device is there.
    #[error("{device} cannot answer at {start:#x} (length {length:#x}): {other} does already")]
    Overlap {
        /// The device's label.
        device: String,
        /// First address.
        start: u64,
        /// Length in bytes.
        length: u64,
        /// The label of the device that is there.
        other: String,
    },
}

impl Bus {
    /// An empty bus.
    pub fn new(effects: EffectSink) -> Bus {
        Bus { memory: ArcSwap::default(), ports: ArcSwap::default(), effects }
    }

    /// Makes `device` answer at guest-physical addresses `start..start + length`.
    pub fn map_memory(&self, start: u64, length: u64, device: Arc<dyn MmioDevice>) -> Result<(), MapError> {
        insert(&self.memory, start, length, 0, u64::MAX, Target::Memory(device))
    }

    /// Makes `device` answer at `length` I/O ports from `start` on; the device sees `first_offset` for the first.
    pub fn map_ports(
        &self,
        start: u64,
        length: u64,
        first_offset: u64,
        device: Arc<dyn PioDevice>,
    ) -> Result<(), MapError> {
        insert(&self.ports, start, length, first_offset, 0xffff, Target::Port(device))
    }

    /// Takes the region that begins at `start` away; false if there is none. Accesses that began go on.
    pub fn unmap(&self, space: AddressSpace, start: u64) -> bool {
        let mut found = false;
        self.map(space).rcu(|map| {
            let mut map = Map::clone(map);
            let before = map.len();
            map.retain(|region| region.start != start);
            found = map.len() != before;
            map
        });
        found
    }

    /// Reads memory of a device as [`MmioDevice::peek`] does; false where there is none.
    pub fn peek(&self, address: u64, data: &mut [u8]) -> bool {
        let map = self.memory.load();
        match find(&map, address, data.len()) {
            Some(Region { start, first_offset, target: Target::Memory(device), .. }) => {
                device.peek(address - start + first_offset, data)
            }
            _ => false,
        }
    }

    /// True if a device answers at any guest-physical address from `first` to `last`.
    pub fn answers_in(&self, first: u64, last: u64) -> bool {
        let map = self.memory.load();
        map.get(map.partition_point(|region| region.last < first)).is_some_and(|region| region.start <= last)
    }

    fn map(&self, space: AddressSpace) -> &ArcSwap<Map> {
        match space {
            AddressSpace::Memory => &self.memory,
            AddressSpace::Port => &self.ports,
        }
    }

    /// Has an effect carried out that comes of no access.
    pub fn raise(&self, effect: Effect) {
        self.apply(effect);
    }

    fn apply(&self, effect: Effect) {
        if effect != Effect::None {
            (self.effects)(effect);
        }
    }
}

fn insert(
    map: &ArcSwap<Map>,
    start: u64,
    length: u64,
    first_offset: u64,
    limit: u64,
    target: Target,
) -> Result<(), MapError> {
    let range = || MapError::Range { device: target.label().into(), start, length };
    let last = length.checked_sub(1).and_then(|more| start.checked_add(more)).filter(|last| *last <= limit);
    let last = last.ok_or_else(range)?;
    first_offset.checked_add(length).ok_or_else(range)?;
    let mut result = Ok(());
    map.rcu(|map| {
        let position = map.partition_point(|region| region.last < start);
        if let Some(other) = map.get(position).filter(|region| region.start <= last) {
            let (device, other) = (target.label().into(), other.target.label().into());
            result = Err(MapError::Overlap { device, start, length, other });
            return map.clone();
        }
        result = Ok(());
        let mut map = Map::clone(map);
        map.insert(position, Region { start, last, first_offset, target: target.clone() });
        Arc::new(map)
    });
    result
}

/// One access of a width that the device takes, or what it was split into.
struct Split {
    offset: u64,
    step: Width,
}

impl Region {
    /// The offset and step of an access, if the rules of the device allow it.
    fn split(&self, address: u64, length: usize) -> Option<Split> {
        let rules = self.target.rules();
        let width = Width::from_bytes(length)?;
        let offset = address - self.start + self.first_offset;
        let aligned = offset.is_multiple_of(width.bytes());
        let answered = (rules.narrowest..=rules.widest).contains(&width) && (aligned || rules.unaligned);
        answered.then_some(Split { offset, step: width.min(rules.split_to) })
    }
}

fn find(map: &Map, address: u64, length: usize) -> Option<&Region> {
    let region = map.get(map.partition_point(|region| region.last < address))?;
    let last = address.checked_add((length as u64).checked_sub(1)?)?;
    (region.start <= address && last <= region.last).then_some(region)
}

impl IoBus for Bus {
    fn read(&self, space: AddressSpace, address: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        let map = self.map(space).load();
        if let Some(region) = find(&map, address, data.len()) {
            let split = region.split(address, data.len()).ok_or(Unmapped)?;
            let mut offset = split.offset;
            for part in data.chunks_mut(split.step.bytes() as usize) {
                let value = region.target.read(offset, split.step).to_le_bytes();
                part.copy_from_slice(&value[..part.len()]);
                offset = offset.wrapping_add(split.step.bytes());
            }
            return Ok(());
        }
        // A port access may reach two devices that lie side by side; what nobody answers reads as ones.
        if space == AddressSpace::Port && data.len() > 1 {
            let mut result = Err(Unmapped);
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = 0xff;
                if self.read(space, address.wrapping_add(index as u64), std::slice::from_mut(byte)).is_ok() {
                    result = Ok(());
                }
            }
            return result;
        }
        Err(Unmapped)
    }

    fn write(&self, space: AddressSpace, address: u64, data: &[u8]) -> Result<(), Unmapped> {
        let map = self.map(space).load();
        if let Some(region) = find(&map, address, data.len()) {
            let split = region.split(address, data.len()).ok_or(Unmapped)?;
            let mut offset = split.offset;
            for part in data.chunks(split.step.bytes() as usize) {
                let mut value = [0; 8];
                value[..part.len()].copy_from_slice(part);
                self.apply(region.target.write(offset, split.step, u64::from_le_bytes(value)));
                offset = offset.wrapping_add(split.step.bytes());
            }
            return Ok(());
        }
        if space == AddressSpace::Port && data.len() > 1 {
            let mut result = Err(Unmapped);
            for (index, byte) in data.iter().enumerate() {
                if self.write(space, address.wrapping_add(index as u64), std::slice::from_ref(byte)).is_ok() {
                    result = Ok(());
                }
            }
            return result;
        }
        Err(Unmapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    struct Probe {
        rules: AccessRules,
        log: Mutex<Vec<(u64, Width, Option<u64>)>>,
    }

    impl Probe {
        fn new(rules: AccessRules) -> Arc<Probe> {
            Arc::new(Probe { rules, log: Mutex::default() })
        }
        fn take(&self) -> Vec<(u64, Width, Option<u64>)> {
            std::mem::take(&mut self.log.lock())
        }
    }

    impl Device for Probe {
        fn debug_label(&self) -> &str {
            "probe"
        }
        fn reset(&self) {}
        fn save(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn restore(&self, _: &serde_json::Value) -> Result<(), crate::device::StateError> {
            Ok(())
        }
    }

    impl MmioDevice for Probe {
        fn access_rules(&self) -> AccessRules {
            self.rules
        }
        fn read(&self, offset: u64, width: Width) -> u64 {
            self.log.lock().push((offset, width, None));
            0x1122_3344_5566_7700 + offset
        }
        fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
            self.log.lock().push((offset, width, Some(value)));
            if offset == 8 { Effect::Reset } else { Effect::None }
        }
    }

    impl PioDevice for Probe {
        fn read_port(&self, offset: u64, width: Width) -> u64 {
            MmioDevice::read(self, offset, width)
        }
        fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
            MmioDevice::write(self, offset, width, value)
        }
    }

    fn bus() -> (Bus, Arc<Mutex<Vec<Effect>>>) {
        let effects = Arc::new(Mutex::new(Vec::new()));
        let sink = effects.clone();
        (Bus::new(Arc::new(move |effect| sink.lock().push(effect))), effects)
    }

    #[test]
    fn an_access_reaches_the_device_at_its_offset_in_guest_byte_order() {
        let (bus, effects) = bus();
        let probe = Probe::new(AccessRules::ANY);
        bus.map_memory(0x1000, 0x10, probe.clone()).unwrap();
        let mut data = [0; 4];
        bus.read(AddressSpace::Memory, 0x1004, &mut data).unwrap();
        assert_eq!(data, [0x04, 0x77, 0x66, 0x55]);
        bus.write(AddressSpace::Memory, 0x1008, &[1, 2]).unwrap();
        assert_eq!(probe.take(), [(4, Width::Word, None), (8, Width::Half, Some(0x201))]);
        assert_eq!(*effects.lock(), [Effect::Reset]);
        assert_eq!(bus.read(AddressSpace::Port, 0x1004, &mut data), Err(Unmapped));
    }

    #[test]
    fn addresses_beside_across_and_beyond_a_region_are_unmapped() {
        let (bus, _) = bus();
        let probe = Probe::new(AccessRules::BYTES);
        bus.map_memory(0x1000, 0x10, probe.clone()).unwrap();
        bus.map_memory(u64::MAX - 0xf, 0x10, probe.clone()).unwrap();
        for address in [0, 0xfff, 0x100d, 0x1010, u64::MAX - 2] {
            assert_eq!(bus.read(AddressSpace::Memory, address, &mut [0; 4]), Err(Unmapped), "{address:#x}");
            assert_eq!(bus.write(AddressSpace::Memory, address, &[0; 4]), Err(Unmapped), "{address:#x}");
        }
        assert_eq!(bus.read(AddressSpace::Memory, 0x1000, &mut []), Err(Unmapped));
        assert_eq!(bus.read(AddressSpace::Memory, 0x1000, &mut [0; 3]), Err(Unmapped));
        assert!(probe.take().is_empty());
        bus.read(AddressSpace::Memory, u64::MAX - 3, &mut [0; 4]).unwrap();
    }

    #[test]
    fn a_device_gets_only_the_widths_and_alignments_of_its_rules() {
        let (bus, _) = bus();
        let probe = Probe::new(AccessRules::WORD);
        bus.map_memory(0, 0x10, probe.clone()).unwrap();
        for (address, length) in [(0, 1), (0, 2), (0, 8), (2, 4)] {
            assert_eq!(bus.write(AddressSpace::Memory, address, &[0; 8][..length]), Err(Unmapped));
        }
        assert!(probe.take().is_empty());
        let probe = Probe::new(AccessRules::BYTES);
        bus.map_memory(0x100, 0x10, probe.clone()).unwrap();
        bus.write(AddressSpace::Memory, 0x103, &[5, 6]).unwrap();
        assert_eq!(probe.take(), [(3, Width::Byte, Some(5)), (4, Width::Byte, Some(6))]);
    }

    #[test]
    fn a_port_access_across_two_devices_is_split_and_gaps_read_as_ones() {
        let (bus, _) = bus();
        let (low, high) = (Probe::new(AccessRules::BYTES), Probe::new(AccessRules::BYTES));
        bus.map_ports(0x60, 1, 0, low.clone()).unwrap();
        bus.map_ports(0x61, 1, 4, high.clone()).unwrap();
        bus.write(AddressSpace::Port, 0x60, &[1, 2]).unwrap();
        assert_eq!(low.take(), [(0, Width::Byte, Some(1))]);
        assert_eq!(high.take(), [(4, Width::Byte, Some(2))]);
        let mut data = [0; 4];
        bus.read(AddressSpace::Port, 0x60, &mut data).unwrap();
        assert_eq!(data, [0, 4, 0xff, 0xff]);
        assert_eq!(bus.read(AddressSpace::Port, 0xffff, &mut data), Err(Unmapped));
    }

    #[test]
    fn overlaps_and_impossible_ranges_are_refused_and_unmapping_makes_room() {
        let (bus, _) = bus();
        let probe = Probe::new(AccessRules::ANY);
        bus.map_memory(0x1000, 0x1000, probe.clone()).unwrap();
        for (start, length) in [(0x1000, 1), (0x1fff, 2), (0, 0x1001), (0x1800, 0x10)] {
            let error = bus.map_memory(start, length, probe.clone()).unwrap_err();
            assert!(matches!(error, MapError::Overlap { .. }), "{error}");
        }
        assert!(matches!(bus.map_memory(0, 0, probe.clone()), Err(MapError::Range { .. })));
        assert!(matches!(bus.map_memory(u64::MAX, 2, probe.clone()), Err(MapError::Range { .. })));
        assert!(matches!(bus.map_ports(0xffff, 2, 0, probe.clone()), Err(MapError::Range { .. })));
        assert!(!bus.unmap(AddressSpace::Memory, 0x1001));
        assert!(bus.unmap(AddressSpace::Memory, 0x1000));
        bus.map_memory(0x1800, 0x10, probe).unwrap();
    }
}
