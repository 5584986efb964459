//! Small machines without an operating system, one for each accelerator.

use std::path::Path;
use std::process::Command;

use super::brolga;

/// A machine whose processor prints "ready" on the serial port and then counts in a register for ever.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) accelerator: &'static str,
    /// Guest-physical and guest-virtual address at which the program begins.
    pub(crate) program: u64,
    pub(crate) image: Vec<u8>,
    /// What `info registers` shows.
    pub(crate) register: &'static str,
    pub(crate) has_nmi: bool,
}

pub(crate) fn riscv64_on_jit() -> Subject {
    let (t0, t1) = (5_u32, 6_u32);
    let mut words = vec![0x1000_0000 | t0 << 7 | 0x37];
    for byte in *b"ready" {
        words.push(u32::from(byte) << 20 | t1 << 7 | 0x13);
        words.push(t1 << 20 | t0 << 15 | 0x23);
    }
    // addi t1, t1, 1; j . - 4
    words.extend([1 << 20 | t1 << 15 | t1 << 7 | 0x13, 0xffdf_f06f]);
    Subject {
        name: "riscv64 on jit",
        architecture: "riscv64",
        accelerator: "jit",
        program: 0x8000_0000,
        image: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        register: "mstatus",
        has_nmi: false,
    }
}

fn x86_64(name: &'static str, accelerator: &'static str) -> Subject {
    let mut image = vec![0; 0x1_0000];
    // mov dx, 0x3f8
    let mut code = vec![0xba, 0xf8, 0x03];
    for byte in *b"ready" {
        // mov al, byte; out dx, al
        code.extend([0xb0, byte, 0xee]);
    }
    // inc cx; jmp . - 1
    code.extend([0x41, 0xeb, 0xfd]);
    image[..code.len()].copy_from_slice(&code);
    // At the reset vector: jmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    Subject { name, architecture: "x86_64", accelerator, program: 0xf_0000, image, register: "CR0", has_nmi: true }
}

impl Subject {
    /// The program with this machine and a QMP socket; a serial port is to be added.
    pub(crate) fn command(&self, folder: &Path, socket: &Path) -> Command {
        let image = folder.join("image");
        std::fs::write(&image, &self.image).unwrap();
        let mut command = brolga();
        command.args(["-arch", self.architecture, "-accel", self.accelerator]);
        if self.architecture == "x86_64" {
            command.args(["-M", "pc"]).arg("-bios").arg(&image);
        } else {
            command.args(["-M", "virt", "-bios", "none"]).arg("-kernel").arg(&image);
        }
        command.args(["-m", "64", "-name", "subject"]);
        command.args(["-uuid", "5ab2d25b-b5f4-4c6c-8ad8-ba4c1b2f5a7e"]);
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
        command
    }
}

/// Those that this host can run; a line for each that it cannot.
pub(crate) fn all(test: &str) -> Vec<Subject> {
    let mut subjects = vec![riscv64_on_jit(), x86_64("x86_64 on jit", "jit"), x86_64("x86_64 on kvm", "kvm")];
    subjects.retain(|subject| {
        let runs =
            subject.accelerator != "kvm" || std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if !runs {
            eprintln!("SKIPPED: {test} ({}): /dev/kvm cannot be opened here", subject.name);
        }
        runs
    });
    subjects
}
