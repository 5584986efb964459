//! The entries for fuzzing.

use std::sync::Arc;

use hw::vm::Vm;
use serde_json::Value;

use crate::commands::Execution;
use crate::hmp::Monitor;
use crate::json::{Format, Reader, write};
use crate::session::{Answer, Dialogue};

/// Has `data` from a hostile client read and answered by the protocol of a machine `vm`, up to the commands that do
/// more than read published state, which are checked and not carried out.
///
/// Must not panic, hang, or need more memory than a multiple of the data. The first byte says whether capabilities are
/// negotiated already. What is read at once is also read byte by byte and, as we write it, again, with the same result.
pub fn fuzz_qmp_input(vm: &Arc<Vm>, data: &[u8]) {
    let mut dialogue = Dialogue::new(vm.clone());
    let (agreed, data) = data.split_first().map_or((false, data), |(first, rest)| (first & 1 == 1, rest));
    if agreed {
        dialogue.push(b"{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}");
    }
    dialogue.push(data);
    while let Some(request) = dialogue.next_request() {
        match dialogue.begin(request) {
            Answer::Message(message) => drop(write(&message, Format::Line)),
            Answer::Call(call) if call.execution() == Execution::Immediate => {
                drop(write(&call.run(), Format::Pretty));
            }
            Answer::Call(_) => {}
        }
    }

    let mut whole = Reader::new();
    whole.push(data);
    let mut pieces = Reader::new();
    for byte in data {
        pieces.push(std::slice::from_ref(byte));
        while let Some(message) = pieces.next_message() {
            assert_eq!(whole.next_message().as_ref(), Some(&message), "framing depends on packets");
            let Ok(message) = message else { continue };
            let mut again = Reader::new();
            again.push(&write(&message, Format::Pretty));
            let same = matches!(again.next_message(), Some(Ok(again)) if is_same(&again, &message));
            assert!(same, "what is written is not what was read");
        }
    }
    assert_eq!(whole.next_message(), None);
}

/// Has `data` carried out as lines that a hostile person types into the human monitor of a machine `vm`: those commands
/// that look at the machine and change nothing.
///
/// Must not panic, hang, or print without bound.
pub fn fuzz_monitor_input(vm: &Arc<Vm>, data: &[u8]) {
    let mut monitor = Monitor::new(vm.clone());
    for line in String::from_utf8_lossy(data).lines() {
        let end = line.trim_start().find(|character: char| !character.is_ascii_lowercase()).unwrap_or(line.len());
        if let Some("x" | "xp" | "p" | "print" | "info" | "help" | "cpu") = line.trim_start().get(..end) {
            monitor.execute(line);
        }
    }
}

/// Equality in which an integer may equal a double: 1e3 is written as 1000.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let mut members = left.iter().zip(right);
            left.len() == right.len() && members.all(|(left, right)| left.0 == right.0 && is_same(left.1, right.1))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{On, machine};

    #[test]
    fn awkward_lines_are_survived() {
        let vm = machine(On::JitRiscv64, |_| {});
        let line = b"x/8xg $sp+'a'*(0x80000000-1)\nxp/16c -~(1)/3%$x2\nprint/c 010 ^ 'x'\ninfo registers -a\ncpu $pc\n";
        fuzz_monitor_input(&vm, line);
        for (at, _) in line.iter().enumerate() {
            for bit in 0..8 {
                let mut line = line.to_vec();
                line[at] ^= 1 << bit;
                fuzz_monitor_input(&vm, &line);
            }
        }
    }

    #[test]
    fn awkward_inputs_are_survived() {
        let vm = machine(On::JitRiscv64, |_| {});
        let wire = include_bytes!("../tests/data/qemu-7.2-wire.txt");
        let deep = [&b"1"[..], &b"{'id':".repeat(3000), &b"["[..].repeat(3000), &b"}]".repeat(3000)].concat();
        for data in
            [&wire[..], &deep, b"", b"1", b"1{'execute':'query-commands','id':[1e308,-0.0,18446744073709551615]}"]
        {
            fuzz_qmp_input(&vm, data);
        }
        // Any cut, any flipped bit.
        for (at, _) in wire.iter().enumerate().step_by(7) {
            let mut data = wire[at.saturating_sub(200)..at].to_vec();
            if let Some(byte) = data.get_mut(at % 199) {
                *byte ^= 1 << (at % 8);
            }
            fuzz_qmp_input(&vm, &data);
        }
    }
}
