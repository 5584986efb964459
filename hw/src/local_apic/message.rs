//! Interrupt messages: what I/O APICs, devices and local APICs send to local APICs.
//!
//! SDM volume 3, 11.6 (interprocessor interrupts), 11.6.2 (destinations) and 11.11 (message-signalled interrupts).

use accel::Msi;

/// How a message is delivered (three bits of every format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To all addressed processors.
    Fixed,
    /// To the one of the addressed processors with the lowest priority.
    LowestPriority,
    /// System-management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up; reserved outside interprocessor interrupts.
    StartUp,
    /// The vector comes from the 8259; for local interrupts.
    External,
    /// Reserved.
    Reserved,
}

impl DeliveryMode {
    /// The mode in bits 2..0.
    pub fn from_bits(bits: u32) -> DeliveryMode {
        match bits & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            7 => DeliveryMode::External,
            _ => DeliveryMode::Reserved,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this id.
    Physical(u32),
    /// Those that this message destination address selects by their logical destination registers.
    Logical(u32),
    /// All.
    All,
    /// All but the processor with this index.
    AllBut(u32),
    /// The processor with this index.
    Itself(u32),
}

impl Destination {
    /// A physical destination of eight bits, of which 0xff is all.
    pub fn physical_8_bit(id: u32) -> Destination {
        if id == 0xff { Destination::All } else { Destination::Physical(id) }
    }

    /// A logical destination of eight bits, of which 0xff is all.
    pub fn logical_8_bit(address: u32) -> Destination {
        if address == 0xff { Destination::All } else { Destination::Logical(address) }
    }

    fn wide(destination: u32, logical: bool) -> Destination {
        match (destination, logical) {
            (u32::MAX, _) => Destination::All,
            (_, true) => Destination::Logical(destination),
            (_, false) => Destination::Physical(destination),
        }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for.
    pub destination: Destination,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// Vector; of a start-up message the page to start at.
    pub vector: u8,
    /// It is level-triggered: the I/O APIC wants to know when it was served.
    pub level: bool,
}

/// First address that devices write interrupt messages to.
const MSI_ADDRESS: u64 = 0xfee0_0000;
const MSI_LENGTH: u64 = 0x10_0000;

impl Message {
    /// The message that a device's write stands for; `None` if the write is none.
    pub fn from_msi(msi: Msi) -> Option<Message> {
        if !(MSI_ADDRESS..MSI_ADDRESS + MSI_LENGTH).contains(&msi.address) {
            return None;
        }
        let destination = (msi.address >> 12) as u32 & 0xff;
        let (redirection_hint, logical) = (msi.address & 8 != 0, msi.address & 4 != 0);
        let mode = match DeliveryMode::from_bits(msi.data >> 8) {
            // The hint asks for one of the processors only.
            DeliveryMode::Fixed if redirection_hint => DeliveryMode::LowestPriority,
            mode => mode,
        };
        Some(Message {
            destination: if logical {
                Destination::logical_8_bit(destination)
            } else {
                Destination::physical_8_bit(destination)
            },
            mode,
            vector: msi.data as u8,
            level: msi.data & (1 << 15) != 0,
        })
    }

    /// The interprocessor interrupt that processor `index` sends by writing `low` and `high` to its interrupt command
    /// register. `None`: a level de-assert, which today's processors ignore.
    pub(super) fn from_command(index: u32, low: u32, high: u32, is_x2apic: bool) -> Option<Message> {
        let (assert, level) = (low & (1 << 14) != 0, low & (1 << 15) != 0);
        let mode = DeliveryMode::from_bits(low >> 8);
        if mode == DeliveryMode::Init && level && !assert {
            return None;
        }
        let logical = low & (1 << 11) != 0;
        let destination = match (low >> 18) & 3 {
            1 => Destination::Itself(index),
            2 => Destination::All,
            3 => Destination::AllBut(index),
            _ if is_x2apic => Destination::wide(high, logical),
            _ if logical => Destination::logical_8_bit(high >> 24),
            _ => Destination::physical_8_bit(high >> 24),
        };
        Some(Message { destination, mode, vector: low as u8, level: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_a_device_is_a_message() {
        let message = |address, data| Message::from_msi(Msi { address, data });
        let expected =
            Message { destination: Destination::Physical(3), mode: DeliveryMode::Fixed, vector: 0x41, level: false };
        assert_eq!(message(0xfee0_3000, 0x0041), Some(expected));
        let expected = Message {
            destination: Destination::Logical(5),
            mode: DeliveryMode::LowestPriority,
            vector: 0x52,
            level: true,
        };
        assert_eq!(message(0xfee0_500c, 0x8152), Some(expected));
        assert_eq!(message(0xfeef_f000, 0x0400).map(|message| message.destination), Some(Destination::All));
        assert_eq!(message(0xfed0_0000, 0x41), None);
        assert_eq!(message(0x1_fee0_0000, 0x41), None);
    }

    #[test]
    fn commands_name_their_destinations() {
        let to = |low, high, wide| Message::from_command(7, low, high, wide).unwrap().destination;
        assert_eq!(to(0x0_4030, 0x0500_0000, false), Destination::Physical(5));
        assert_eq!(to(0x0_4830, 0x0500_0000, false), Destination::Logical(5));
        assert_eq!(to(0x0_4030, 0xff00_0000, false), Destination::All);
        assert_eq!(to(0x0_4030, 0x0001_0005, true), Destination::Physical(0x1_0005));
        assert_eq!(to(0x0_4830, u32::MAX, true), Destination::All);
        assert_eq!(to(0x4_4030, 0, false), Destination::Itself(7));
        assert_eq!((to(0x8_4030, 0, true), to(0xc_4030, 0, false)), (Destination::All, Destination::AllBut(7)));
        assert_eq!(Message::from_command(0, 0xc_8500, 0, false), None);
        assert!(Message::from_command(0, 0xc_c500, 0, false).is_some());
    }
}
