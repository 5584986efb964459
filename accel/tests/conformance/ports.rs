//! x86 port I/O.

use accel::AddressSpace;

use crate::bus::{Access, DONE_PORT, PATTERN_PORT};
use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

fn access(port: u16, written: Option<&[u8]>, width: usize) -> Access {
    Access { space: AddressSpace::Port, address: u64::from(port), written: written.map(<[u8]>::to_vec), width }
}

/// `mov edx, port`
fn select(port: u16) -> [u8; 5] {
    let [low, high] = port.to_le_bytes();
    [0xba, low, high, 0, 0]
}

/// IN and OUT of each width reach the bus once.
pub(crate) fn port_io_of_each_width(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    let encodings: [(&[u8], &[u8], Width); 3] =
        [(&[0xee], &[0xec], Width::One), (&[0x66, 0xef], &[0x66, 0xed], Width::Two), (&[0xef], &[0xed], Width::Four)];
    for (n, (out, input, _)) in (0..).zip(encodings) {
        program.set(0x8877_6655).raw(&select(0x100)).raw(out);
        program.set(0).raw(&select(PATTERN_PORT)).raw(input).store(Width::Eight, data + 8 * n);
    }
    program.raw(&select(DONE_PORT)).raw(&[0xee]).spin();
    machine.load(&program);
    machine.run_to_end();
    let mut expected = Vec::new();
    for (n, (_, _, width)) in (0..).zip(encodings) {
        expected.push(access(0x100, Some(&0x8877_6655_u32.to_le_bytes()[..width.bytes()]), width.bytes()));
        expected.push(access(PATTERN_PORT, None, width.bytes()));
        assert_eq!(machine.read_u64(data + 8 * n), width.truncate(0x1312_1110), "{width:?}");
    }
    assert_eq!(machine.bus.take_log(), expected);
    Ok(())
}

/// Repeated string I/O reaches the bus once for each element.
pub(crate) fn string_port_io(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    machine.write(data, b"brolga");
    let pointer = |opcode: u8, address: u64| {
        let mut code = vec![opcode];
        code.extend((address as u32).to_le_bytes());
        code
    };
    let mut program = machine.program();
    // mov esi, data; mov ecx, 6; mov edx, 0x100; rep outsb
    program.raw(&pointer(0xbe, data)).raw(&[0xb9, 6, 0, 0, 0]).raw(&select(0x100)).raw(&[0xf3, 0x6e]);
    // mov edi, data + 0x100; mov ecx, 3; mov edx, port; rep insw
    program.raw(&pointer(0xbf, data + 0x100)).raw(&[0xb9, 3, 0, 0, 0]).raw(&select(PATTERN_PORT));
    program.raw(&[0xf3, 0x66, 0x6d]).raw(&select(DONE_PORT)).raw(&[0xee]).spin();
    machine.load(&program);
    machine.run_to_end();
    let mut expected: Vec<_> = b"brolga".iter().map(|byte| access(0x100, Some(&[*byte]), 1)).collect();
    expected.extend(std::iter::repeat_n(access(PATTERN_PORT, None, 2), 3));
    assert_eq!(machine.bus.take_log(), expected);
    assert_eq!(machine.read_u64(data + 0x100), 0x1110_1110_1110);
    Ok(())
}

/// A port that nobody answers reads as all ones.
pub(crate) fn unmapped_port(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    // in eax, dx
    program.set(0).raw(&select(0x100)).raw(&[0xed]).store(Width::Eight, data);
    program.raw(&select(DONE_PORT)).raw(&[0xee]).spin();
    machine.load(&program);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 0xffff_ffff);
    Ok(())
}
