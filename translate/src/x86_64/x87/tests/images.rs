use super::*;

/// A state with every field filled.
fn full(numbers: &mut Numbers) -> X87 {
    let mut unit = numbers.unit();
    unit.note_instruction(0x5d9, (0x33, 0x1234_5678), Some((0x2b, 0x9abc_def0)));
    unit
}

#[test]
fn images_are_loaded_as_they_were_saved() {
    let mut numbers = Numbers(5);
    for _ in 0..1000 {
        let unit = full(&mut numbers);
        for format in [
            EnvironmentFormat::Real16,
            EnvironmentFormat::Protected16,
            EnvironmentFormat::Real32,
            EnvironmentFormat::Protected32,
        ] {
            let mut saved = unit;
            let (environment, registers) = saved.fnsave(format);
            assert_eq!(saved, X87 { registers: unit.registers, ..X87::default() });
            let mut loaded = X87::default();
            loaded.frstor(format, &environment, &registers);
            let address = match format {
                EnvironmentFormat::Protected32 => 0x1234_5678,
                EnvironmentFormat::Protected16 => 0x5678,
                EnvironmentFormat::Real16 => (0x1234_5678 + 0x330) & 0xf_ffff,
                EnvironmentFormat::Real32 => 0x1234_5678 + 0x330,
            };
            assert_eq!(loaded.instruction_pointer, address, "{format:?}");
            assert_eq!(loaded.opcode, if format == EnvironmentFormat::Protected16 { 0 } else { 0x5d9 });
            let want = X87 {
                opcode: loaded.opcode,
                instruction_pointer: loaded.instruction_pointer,
                instruction_segment: loaded.instruction_segment,
                data_pointer: loaded.data_pointer,
                data_segment: loaded.data_segment,
                ..unit
            };
            assert_eq!(loaded, want);
        }
        let mut loaded = X87::default();
        loaded.fxrstor(false, &unit.fxsave(false));
        assert_eq!(loaded, unit);
        loaded.fxrstor(true, &unit.fxsave(true));
        assert_eq!(loaded, X87 { instruction_segment: 0, data_segment: 0, ..unit });
    }
}

#[test]
fn the_host_reads_our_images() {
    let mut numbers = Numbers(7);
    #[repr(align(16))]
    struct Image([u8; 512]);
    for _ in 0..1000 {
        let unit = numbers.unit();
        let mut image = Image([0; 512]);
        image.0[..FXSAVE_BYTES].copy_from_slice(&unit.fxsave(false));
        image.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        let mut own = Image([0; 512]);
        let mut saved = Image([0; 512]);
        let mut legacy = [0_u8; 108];
        // SAFETY: the images are aligned and long enough; the processor's own state is restored.
        unsafe {
            asm!("fxsave [{own}]", "fxrstor [{image}]", "fxsave [{saved}]", "fnsave [{legacy}]", "fxrstor [{own}]",
                own = in(reg) &raw mut own, image = in(reg) &raw const image, saved = in(reg) &raw mut saved,
                legacy = in(reg) &raw mut legacy);
        }
        let mut loaded = X87::default();
        loaded.fxrstor(false, saved.0[..FXSAVE_BYTES].try_into().unwrap());
        assert_eq!(loaded, unit);
        let mut ours = unit;
        let (environment, registers) = ours.fnsave(EnvironmentFormat::Protected32);
        assert_eq!(environment[..12], legacy[..12], "control, status, tags");
        assert_eq!(registers, legacy[28..]);
    }
}
