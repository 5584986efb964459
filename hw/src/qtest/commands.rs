//! What a client can ask for.

use std::fmt::Write;
use std::sync::Arc;

use super::{Shared, base64, listener};
use crate::bus::Width;
use crate::vm::Vm;

/// Most bytes that one command reads or sets.
const MOST_BYTES: u64 = 64 << 20;
/// How much is moved at a time, bytes.
const PART: usize = 1 << 16;

/// A client, and what it listens to.
pub(super) struct Client {
    shared: Arc<Shared>,
    /// The device whose lines it listens to, and whether those are its inputs.
    listens_to: Option<(String, bool)>,
}

/// What goes before and after a command's name: how wide it accesses.
fn width(letter: &str) -> Option<Width> {
    Some(match letter {
        "b" => Width::Byte,
        "w" => Width::Half,
        "l" => Width::Word,
        "q" => Width::Double,
        _ => return None,
    })
}

/// A number as C writes it: hexadecimal after `0x`, octal after `0`, else decimal; negative ones wrap.
fn number(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok()?,
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

/// The words after a command's name.
struct Words<'a> {
    command: &'a str,
    rest: std::str::SplitAsciiWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn text(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("{}: {what} is missing", self.command))
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        let text = self.text(what)?;
        number(text).ok_or_else(|| format!("{}: {what} is not a number: {text}", self.command))
    }

    fn port(&mut self) -> Result<u16, String> {
        let port = self.number("port")?;
        u16::try_from(port).map_err(|_| format!("{}: ports end at 0xffff: {port:#x}", self.command))
    }

    /// A length that one command can handle.
    fn length(&mut self, least: u64) -> Result<usize, String> {
        let length = self.number("size")?;
        if (least..=MOST_BYTES).contains(&length) {
            Ok(length as usize)
        } else {
            Err(format!("{}: valid sizes are {least} to {MOST_BYTES}: {length}", self.command))
        }
    }
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>) -> Client {
        Client { shared, listens_to: None }
    }

    /// Carries a line out; the answer, unless the line is empty.
    pub(super) fn execute(&mut self, vm: &Vm, line: &str) -> Option<String> {
        let mut rest = line.split_ascii_whitespace();
        let command = rest.next()?;
        Some(match self.command(vm, Words { command, rest }) {
            Ok(answer) if answer.is_empty() => "OK".into(),
            Ok(answer) => format!("OK {answer}"),
            Err(problem) => format!("FAIL {problem}"),
        })
    }

    fn command(&mut self, vm: &Vm, mut words: Words<'_>) -> Result<String, String> {
        match words.command {
            "irq_intercept_in" => self.listen(vm, words.text("path")?, true),
            "irq_intercept_out" => self.listen(vm, words.text("path")?, false),
            "set_irq_in" => set_input(vm, &mut words),
            "clock_step" => step(vm, &mut words),
            "clock_set" => {
                let time = words.number("time")?;
                advance(vm, time)
            }
            "endianness" => Ok("little".into()),
            "read" | "b64read" => {
                let address = words.number("address")?;
                let mut data = vec![0; words.length(1)?];
                for (index, part) in data.chunks_mut(PART).enumerate() {
                    vm.read_physical(address.saturating_add((index * PART) as u64), part);
                }
                Ok(if words.command == "read" { hexadecimal(&data) } else { base64::encode(&data) })
            }
            "write" => {
                let address = words.number("address")?;
                let length = words.length(0)?;
                let digits = words.text("data")?;
                let digits = digits.strip_prefix("0x").filter(|digits| !digits.is_empty());
                let digits = digits.ok_or("invalid argument size")?;
                write_parts(vm, address, length, &from_hexadecimal(digits));
                Ok(String::new())
            }
            "b64write" => {
                let address = words.number("address")?;
                let length = words.length(0)?;
                let data = base64::decode(words.text("data")?).ok_or("b64write: the data is not base 64")?;
                write_parts(vm, address, length.min(data.len()), &data);
                Ok(String::new())
            }
            "memset" => {
                let address = words.number("address")?;
                let length = words.length(0)?;
                let pattern = words.number("value")? as u8;
                write_parts(vm, address, length, &vec![pattern; length]);
                Ok(String::new())
            }
            "module_load" => Err("there are no modules".into()),
            command => {
                let unknown = || format!("Unknown command '{command}'");
                let (name, letter) = command.split_at_checked(command.len() - 1).ok_or_else(unknown)?;
                let width = width(letter).ok_or_else(unknown)?;
                match (name, width) {
                    ("in", Width::Byte | Width::Half | Width::Word) => {
                        Ok(format!("0x{:04x}", vm.read_port(words.port()?, width)))
                    }
                    ("out", Width::Byte | Width::Half | Width::Word) => {
                        let port = words.port()?;
                        vm.write_port(port, width, words.number("value")?);
                        Ok(String::new())
                    }
                    ("read", _) => Ok(format!("0x{:016x}", vm.read_value(words.number("address")?, width))),
                    ("write", _) => {
                        let address = words.number("address")?;
                        vm.write_value(address, width, words.number("value")?);
                        Ok(String::new())
                    }
                    _ => Err(unknown()),
                }
            }
        }
    }

    /// Listens to the lines of one device; there is no way back.
    fn listen(&mut self, vm: &Vm, path: &str, inputs: bool) -> Result<String, String> {
        let device = device(path);
        match &self.listens_to {
            Some(known) if *known == (device.to_owned(), inputs) => return Ok(String::new()),
            Some(_) => return Err("IRQ intercept already enabled".into()),
            None => {}
        }
        let found = if inputs {
            vm.taps().listen_to_inputs(device, Box::new(listener(&self.shared)))
        } else {
            vm.taps().listen_to_outputs(device, listener(&self.shared))
        };
        if !found {
            return Err("Unknown device".into());
        }
        self.listens_to = Some((device.into(), inputs));
        Ok(String::new())
    }
}

/// The name of a device in the path of an object.
fn device(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn set_input(vm: &Vm, words: &mut Words<'_>) -> Result<String, String> {
    let path = words.text("path")?;
    // A device has one list of inputs.
    words.text("name")?;
    let number = words.number("number")?;
    let level = words.number("level")? as i64 != 0;
    let number = u32::try_from(number).map_err(|_| format!("set_irq_in: there is no input {number}"))?;
    if vm.taps().set_input(device(path), number, level) { Ok(String::new()) } else { Err("Unknown device".into()) }
}

/// Moves the clock by so many nanoseconds, or to where the next timer is due.
fn step(vm: &Vm, words: &mut Words<'_>) -> Result<String, String> {
    let clock = vm.clock();
    let now = clock.now();
    let time = match words.rest.next() {
        None => clock.next_deadline().unwrap_or(now).max(now),
        Some(text) => {
            let step = number(text).ok_or_else(|| format!("clock_step: time is not a number: {text}"))?;
            now.saturating_add(step)
        }
    };
    advance(vm, time)
}

fn advance(vm: &Vm, time: u64) -> Result<String, String> {
    if !vm.clock().is_stepped() {
        return Err("the clock runs by itself; -accel qtest makes it stand still".into());
    }
    // Times are signed numbers of nanoseconds to clients.
    let now = vm.clock().advance_to(time.min(i64::MAX as u64));
    vm.settle();
    Ok(now.to_string())
}

/// Writes the first `length` bytes of `data`, and zeroes where it is shorter.
fn write_parts(vm: &Vm, address: u64, length: usize, data: &[u8]) {
    let mut data = data.to_vec();
    data.resize(length, 0);
    vm.write_as_processor(address, &data);
}

fn hexadecimal(data: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * data.len());
    text.push_str("0x");
    for byte in data {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Bytes of two digits each; what is no digit counts as 0.
fn from_hexadecimal(digits: &str) -> Vec<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    let pair = |pair: &[u8]| match pair {
        [high, low] => value(*high) << 4 | value(*low),
        [high] => value(*high) << 4,
        _ => 0,
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_c() {
        for (text, value) in [("10", 10), ("0x10", 16), ("010", 8), ("0", 0), ("-1", u64::MAX)] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in ["", "0x", "ten", "18446744073709551616", "08"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_in_pairs_of_digits() {
        assert_eq!(hexadecimal(&[0, 0xab]), "0x00ab");
        assert_eq!(from_hexadecimal("00aBc"), [0, 0xab, 0xc0]);
    }
}
