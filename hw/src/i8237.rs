//! The two DMA controllers of a PC, with their page registers.
//!
//! Intel 8237A data sheet (231466), in the arrangement of the PIIX3 data sheet (290550), section 2.5.1: channels 0 to 3 move
//! bytes, channels 5 to 7 move words of 16 bits; channel 4 joins the two. Memory-to-memory transfers, which no PC wires, are
//! left out.

use std::sync::{Arc, Weak};

use accel::memory::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, parse_state, state_value};

/// Ports, their number, and the offset that the device sees for the first: the controller of bytes, the page registers, the
/// controller of words.
pub const PORTS: [(u64, u64, u64); 3] = [(0x00, 0x10, 0x00), (0x80, 0x10, 0x80), (0xc0, 0x20, 0xc0)];

const PAGES: u64 = 0x80;
const WORDS: u64 = 0xc0;

// Registers of a controller, after the addresses and counts of its channels.
const STATUS: u64 = 8;
const REQUEST: u64 = 9;
const MASK_ONE: u64 = 0x0a;
const MODE: u64 = 0x0b;
const CLEAR_FLIP_FLOP: u64 = 0x0c;
const MASTER_CLEAR: u64 = 0x0d;
const CLEAR_MASK: u64 = 0x0e;
const MASK_ALL: u64 = 0x0f;

const COMMAND_DISABLE: u8 = 1 << 2;

const MODE_AUTO: u8 = 1 << 4;
const MODE_DOWN: u8 = 1 << 5;
/// Bits 3 and 2 of a mode.
const MODE_VERIFY: u8 = 0;
const MODE_WRITE: u8 = 1;
const MODE_READ: u8 = 2;

/// Page register of each channel; that of channel 4 refreshed memory.
const PAGE_OF: [usize; 8] = [0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa];

/// A channel's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Channel {
    base_address: u16,
    base_count: u16,
    address: u16,
    count: u16,
    mode: u8,
}

/// A controller's registers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Controller {
    channels: [Channel; 4],
    command: u8,
    /// A bit for each channel that reached its end since the status was read.
    ended: u8,
    /// A bit for each device that asks.
    requests: u8,
    /// A bit for each channel that software asks for.
    software_requests: u8,
    mask: u8,
    /// The high byte of an address or a count is next.
    high: bool,
}

impl Controller {
    fn new() -> Controller {
        Controller {
            channels: [Channel::default(); 4],
            command: 0,
            ended: 0,
            requests: 0,
            software_requests: 0,
            mask: 0x0f,
            high: false,
        }
    }

    fn read(&mut self, register: u64) -> u8 {
        match register {
            0..8 => {
                let channel = &self.channels[(register / 2) as usize];
                let value = if register.is_multiple_of(2) { channel.address } else { channel.count };
                let byte = value.to_le_bytes()[usize::from(self.high)];
                self.high = !self.high;
                byte
            }
            STATUS => std::mem::take(&mut self.ended) | (self.requests | self.software_requests) << 4,
            MASK_ALL => self.mask | 0xf0,
            // The temporary register is that of memory-to-memory transfers.
            MASTER_CLEAR => 0,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u64, value: u8) {
        let one = 1 << (value & 3);
        match register {
            0..8 => {
                let channel = &mut self.channels[(register / 2) as usize];
                let (base, current) = if register.is_multiple_of(2) {
                    (&mut channel.base_address, &mut channel.address)
                } else {
                    (&mut channel.base_count, &mut channel.count)
                };
                let mut bytes = base.to_le_bytes();
                bytes[usize::from(self.high)] = value;
                *base = u16::from_le_bytes(bytes);
                *current = *base;
                self.high = !self.high;
            }
            STATUS => self.command = value,
            REQUEST if value & 4 != 0 => self.software_requests |= one,
            REQUEST => self.software_requests &= !one,
            MASK_ONE if value & 4 != 0 => self.mask |= one,
            MASK_ONE => self.mask &= !one,
            MODE => self.channels[usize::from(value & 3)].mode = value & 0xfc,
            CLEAR_FLIP_FLOP => self.high = false,
            MASTER_CLEAR => {
                let (channels, requests) = (self.channels, self.requests);
                *self = Controller { channels, requests, ..Controller::new() };
            }
            CLEAR_MASK => self.mask = 0,
            MASK_ALL => self.mask = value & 0x0f,
            _ => {}
        }
    }

    fn is_open(&self, channel: usize) -> bool {
        self.command & COMMAND_DISABLE == 0 && self.mask >> channel & 1 == 0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Registers {
    controllers: [Controller; 2],
    pages: [u8; 16],
}

impl Registers {
    fn new() -> Registers {
        Registers { controllers: [Controller::new(); 2], pages: [0; 16] }
    }
}

/// A device that moves its data through a channel.
pub trait DmaDevice: Send + Sync {
    /// The channel for which the device asked may have been opened. Called without locks of the controllers.
    fn channel_opened(&self);
}

/// What came of moving data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// How many bytes were moved.
    pub bytes: usize,
    /// The channel's count ended.
    pub ended: bool,
}

/// Which way the device wants data to go.
enum Data<'a> {
    ToMemory(&'a [u8]),
    FromMemory(&'a mut [u8]),
}

/// The controllers.
pub struct I8237 {
    memory: Arc<GuestMemory>,
    // Lock order: after devices'. `devices` is locked alone.
    registers: Mutex<Registers>,
    devices: Mutex<[Option<Weak<dyn DmaDevice>>; 8]>,
}

impl I8237 {
    /// Controllers that move data from and to `memory`.
    pub fn new(memory: Arc<GuestMemory>) -> Arc<I8237> {
        let devices = Mutex::new([const { None }; 8]);
        Arc::new(I8237 { memory, registers: Mutex::new(Registers::new()), devices })
    }

    /// Wires a device to a channel, 0 to 7.
    pub fn connect(&self, channel: usize, device: Weak<dyn DmaDevice>) {
        if let Some(place) = self.devices.lock().get_mut(channel) {
            *place = Some(device);
        }
    }

    /// The device on `channel` asks for transfers (DREQ), or does not.
    pub fn set_request(&self, channel: usize, level: bool) {
        let mut registers = self.registers.lock();
        if let Some(controller) = registers.controllers.get_mut(channel / 4) {
            let bit = 1 << (channel % 4);
            controller.requests = if level { controller.requests | bit } else { controller.requests & !bit };
        }
    }

    /// Moves bytes of the device to memory, at most to the end of the channel's count. `None` while the channel is closed
    /// or goes the other way.
    pub fn to_memory(&self, channel: usize, data: &[u8]) -> Option<Moved> {
        self.transfer(channel, Data::ToMemory(data))
    }

    /// Moves bytes of memory to the device, as [`I8237::to_memory`] does.
    pub fn from_memory(&self, channel: usize, data: &mut [u8]) -> Option<Moved> {
        self.transfer(channel, Data::FromMemory(data))
    }

    fn transfer(&self, number: usize, mut data: Data<'_>) -> Option<Moved> {
        let mut registers = self.registers.lock();
        let page = registers.pages[*PAGE_OF.get(number)?];
        let controller = registers.controllers.get_mut(number / 4)?;
        if !controller.is_open(number % 4) {
            return None;
        }
        let width: usize = if number < 4 { 1 } else { 2 };
        let channel = &mut controller.channels[number % 4];
        let (length, wanted) = match &data {
            Data::ToMemory(data) => (data.len(), MODE_WRITE),
            Data::FromMemory(data) => (data.len(), MODE_READ),
        };
        let direction = (channel.mode >> 2) & 3;
        if direction != wanted && direction != MODE_VERIFY {
            return None;
        }
        let units = (length / width).min(usize::from(channel.count) + 1);
        for unit in 0..units {
            let address = match width {
                1 => u64::from(page) << 16 | u64::from(channel.address),
                _ => u64::from(page & 0xfe) << 16 | u64::from(channel.address) << 1,
            };
            let part = unit * width..(unit + 1) * width;
            // Where there is no memory nothing is kept and ones are read.
            match &mut data {
                Data::ToMemory(data) if direction == MODE_WRITE => {
                    let _ = self.memory.write_slice(&data[part], GuestAddress(address));
                }
                Data::FromMemory(data) if direction == MODE_READ => {
                    let part = &mut data[part];
                    if self.memory.read_slice(part, GuestAddress(address)).is_err() {
                        part.fill(0xff);
                    }
                }
                Data::FromMemory(data) => data[part].fill(0xff),
                Data::ToMemory(_) => {}
            }
            // The page does not change with the address.
            channel.address = match channel.mode & MODE_DOWN {
                0 => channel.address.wrapping_add(1),
                _ => channel.address.wrapping_sub(1),
            };
            channel.count = channel.count.wrapping_sub(1);
        }
        // The count is one less than the number of transfers, and ends below 0.
        let ended = units > 0 && channel.count == u16::MAX;
        if ended {
            let bit = 1 << (number % 4);
            let auto = channel.mode & MODE_AUTO != 0;
            if auto {
                (channel.address, channel.count) = (channel.base_address, channel.base_count);
            } else {
                controller.mask |= bit;
            }
            controller.ended |= bit;
            controller.software_requests &= !bit;
        }
        Some(Moved { bytes: units * width, ended })
    }

    /// Tells devices that ask about channels that are open.
    fn tell_devices(&self) {
        let open: Vec<usize> = {
            let registers = self.registers.lock();
            let asks = |channel: &usize| {
                let controller = &registers.controllers[channel / 4];
                controller.requests >> (channel % 4) & 1 != 0 && controller.is_open(channel % 4)
            };
            (0..8).filter(asks).collect()
        };
        for channel in open {
            let device = self.devices.lock()[channel].as_ref().and_then(Weak::upgrade);
            if let Some(device) = device {
                device.channel_opened();
            }
        }
    }
}

impl Device for I8237 {
    fn debug_label(&self) -> &str {
        "i8237"
    }
    fn reset(&self) {
        *self.registers.lock() = Registers::new();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.registers.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        *self.registers.lock() = parse_state(self.debug_label(), state)?;
        Ok(())
    }
}

impl PioDevice for I8237 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut registers = self.registers.lock();
        u64::from(match offset {
            0..0x10 => registers.controllers[0].read(offset),
            PAGES..=0x8f => registers.pages[(offset - PAGES) as usize],
            // Registers of the second controller are two ports apart.
            WORDS..=0xdf if offset.is_multiple_of(2) => registers.controllers[1].read((offset - WORDS) / 2),
            _ => 0xff,
        })
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let value = value as u8;
        {
            let mut registers = self.registers.lock();
            match offset {
                0..0x10 => registers.controllers[0].write(offset, value),
                PAGES..=0x8f => registers.pages[(offset - PAGES) as usize] = value,
                WORDS..=0xdf if offset.is_multiple_of(2) => registers.controllers[1].write((offset - WORDS) / 2, value),
                _ => {}
            }
        }
        self.tell_devices();
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::memory;

    fn write(dma: &I8237, writes: &[(u64, u8)]) {
        for (port, value) in writes {
            let _ = dma.write_port(*port, Width::Byte, u64::from(*value));
        }
    }
    fn read(dma: &I8237, port: u64) -> u8 {
        dma.read_port(port, Width::Byte) as u8
    }

    #[test]
    fn a_channel_moves_bytes_to_its_end() {
        let memory = memory(0x4_0000);
        let dma = I8237::new(memory.clone());
        assert_eq!(dma.to_memory(2, &[1]), None);
        // Channel 2 to 0x1fffe, four bytes, single mode.
        write(&dma, &[(0x0c, 0), (4, 0xfe), (4, 0xff), (5, 3), (5, 0), (0x81, 1), (0x0b, 0x46), (0x0a, 2)]);
        assert_eq!(dma.from_memory(2, &mut [0]), None);
        assert_eq!(dma.to_memory(2, b"ab"), Some(Moved { bytes: 2, ended: false }));
        write(&dma, &[(0x0c, 0)]);
        assert_eq!((read(&dma, 4), read(&dma, 4), read(&dma, 5), read(&dma, 5)), (0, 0, 1, 0));
        // The address wraps within its page.
        assert_eq!(dma.to_memory(2, b"cdef"), Some(Moved { bytes: 2, ended: true }));
        assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x1_fffe)).unwrap(), *b"ab");
        assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x1_0000)).unwrap(), *b"cd");
        assert_eq!((read(&dma, 8), read(&dma, 8), read(&dma, 0x0f) & 0x0f), (4, 0, 0x0f));
    }

    #[test]
    fn words_auto_initialisation_and_counting_down() {
        let memory = memory(0x4_0000);
        let dma = I8237::new(memory.clone());
        memory.write_slice(&[1, 2, 3, 4], GuestAddress(0x2_0002)).unwrap();
        // Channel 5 from 0x20004 down, two words, over and over.
        write(&dma, &[(0xd8, 0), (0xc4, 2), (0xc4, 0), (0xc6, 1), (0xc6, 0), (0x8b, 3), (0xd6, 0x79), (0xd4, 1)]);
        let mut data = [0; 6];
        assert_eq!(dma.from_memory(5, &mut data), Some(Moved { bytes: 4, ended: true }));
        assert_eq!(data, [3, 4, 1, 2, 0, 0]);
        assert_eq!(dma.from_memory(5, &mut data).map(|moved| moved.bytes), Some(4));
        assert_eq!(read(&dma, 0xd0) & 0x0f, 2);
    }
}
