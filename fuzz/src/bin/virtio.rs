//! Virtio devices with arbitrary queues in arbitrary memory, and all devices' registers.

fn main() {
    let seeds: Vec<Vec<u8>> = (0..8_u8).map(|seed| (0..200).map(|place| seed.wrapping_mul(37) ^ place).collect()).collect();
    fuzz::run(&seeds, |data| {
        hw::fuzz::fuzz_virtio_queue(data);
        hw::fuzz::fuzz_device_registers(data);
    });
}
