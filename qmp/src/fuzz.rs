//! The entry for fuzzing.

use std::sync::Arc;

use hw::vm::Vm;

use crate::commands::Execution;
use crate::json::{Format, Reader, write};
use crate::session::{Answer, Dialogue};

/// Has `data` from a hostile client read and answered by the protocol of a machine `vm`, up to the commands that do
/// more than read published state, which are checked and not carried out.
///
/// Must not panic, hang, or need more memory than a multiple of the data. What is read once is also read byte by byte
/// and, as it was written, again, with the same result.
pub fn fuzz_qmp_input(vm: &Arc<Vm>, data: &[u8]) {
    let mut dialogue = Dialogue::new(vm.clone());
    let (agreed, data) = data.split_first().map_or((false, data), |(first, rest)| (first & 1 == 1, rest));
    if agreed {
        dialogue.push(b"{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}");
    }
    dialogue.push(data);
    while let Some(request) = dialogue.next_request() {
        match dialogue.begin(request) {
            (Answer::Message(message), _) => drop(write(&message, Format::Line)),
            (Answer::Call(call), _) if call.execution() == Execution::Immediate => {
                if let Ok(value) = call.run() {
                    drop(write(&value, Format::Pretty));
                }
            }
            (Answer::Call(_), _) => {}
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
            assert_eq!(again.next_message(), Some(Ok(message)), "what is written is not what was read");
        }
    }
    assert_eq!(whole.next_message(), None);
}
