//! A program as a list of parts that can be left out one by one.

/// One random instruction with what it needs before and behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    /// Loads the registers that the instruction takes its operands' addresses from.
    pub(crate) setup: Vec<u8>,
    /// The instruction, or a few that belong together.
    pub(crate) code: Vec<u8>,
    pub(crate) fixup: Option<Fixup>,
    /// Takes away what the architecture leaves undefined.
    pub(crate) after: Vec<u8>,
}

/// A displacement in [`Item::code`] that depends on where the item is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixup {
    /// Offset of the displacement.
    pub(crate) at: usize,
    /// Its length: 1 or 4.
    pub(crate) length: usize,
    /// Offset of what it is relative to.
    pub(crate) from: usize,
    pub(crate) to: Target,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Address(u64),
    /// The item that comes after so many others.
    Skip(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) origin: u64,
    pub(crate) items: Vec<Item>,
}

pub(crate) const INT3: u8 = 0xcc;

impl Program {
    /// Addresses of the items and of the end.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let mut address = self.origin;
        let mut addresses = vec![address];
        for item in &self.items {
            address += item.length() as u64;
            addresses.push(address);
        }
        addresses
    }

    pub(crate) fn assemble(&self) -> Vec<u8> {
        let addresses = self.addresses();
        let mut bytes = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            bytes.extend(&item.setup);
            let mut code = item.code.clone();
            if let Some(fixup) = item.fixup {
                let from = addresses[index] + (item.setup.len() + fixup.from) as u64;
                let to = match fixup.to {
                    Target::Address(address) => address,
                    Target::Skip(items) => addresses[(index + 1 + items).min(self.items.len())],
                };
                let distance = to.wrapping_sub(from).to_le_bytes();
                code[fixup.at..fixup.at + fixup.length].copy_from_slice(&distance[..fixup.length]);
            }
            bytes.extend(code);
            bytes.extend(&item.after);
        }
        bytes.extend([INT3; 16]);
        bytes
    }

    /// Where execution begins in each item's [`Item::code`], with its bytes.
    pub(crate) fn listing(&self) -> String {
        use std::fmt::Write;
        let bytes = self.assemble();
        let mut text = String::new();
        let mut decoder = iced_x86::Decoder::with_ip(64, &bytes, self.origin, iced_x86::DecoderOptions::NONE);
        for instruction in &mut decoder {
            let at = (instruction.ip() - self.origin) as usize;
            let _ = write!(text, "  {:#x}:", instruction.ip());
            for byte in &bytes[at..at + instruction.len()] {
                let _ = write!(text, " {byte:02x}");
            }
            let _ = writeln!(text, "  {:?}", instruction.code());
            if instruction.code() == iced_x86::Code::Int3 {
                break;
            }
        }
        text
    }
}

impl Item {
    pub(crate) fn length(&self) -> usize {
        self.setup.len() + self.code.len() + self.after.len()
    }
}
