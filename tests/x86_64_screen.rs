//! What a `pc` shows on the screen of its graphics card: firmware, and what it starts from floppy disks and CDs.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::qmp::Client;
use support::running_guest::Guest;
use support::{LIMIT, brolga};

/// A machine with a screen; it is ended when dropped.
struct Machine {
    child: Child,
    client: Client,
    folder: tempfile::TempDir,
}

impl Machine {
    fn start(guest: &Path, arguments: &[&str]) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let mut command = brolga();
        command.args(["-arch", "x86_64", "-M", "pc", "-accel", "jit", "-m", "64", "-display", "none"]);
        command.arg("-L").arg(guest).arg("-bios").arg(guest.join("bios-256k.bin"));
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display())).args(arguments);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let client = Client::connect(&socket);
        Machine { child, client, folder }
    }

    /// The text on the screen, read as a user of the monitor would.
    fn screen(&mut self) -> String {
        let file = self.folder.path().join("screen");
        self.client.execute("pmemsave", json!({"val": 0xb_8000, "size": 4000, "filename": file}));
        let memory = std::fs::read(&file).unwrap();
        let character = |cell: &[u8]| if cell[0].is_ascii_graphic() { char::from(cell[0]) } else { ' ' };
        let line = |line: &[u8]| line.chunks(2).map(character).collect::<String>().trim_end().to_owned();
        memory.chunks(160).map(line).collect::<Vec<_>>().join("\n")
    }

    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{text:?} is not on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn monitor(&mut self, line: &str) -> String {
        let answer = self.client.execute("human-monitor-command", json!({"command-line": line}));
        answer.as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the PC's guest, if it has these files.
fn guest(test: &str, files: &[&str]) -> Option<PathBuf> {
    let folder = support::guest(test, "x86_64")?;
    match files.iter().find(|file| !folder.join(file).exists()) {
        None => Some(folder),
        Some(file) => {
            eprintln!("SKIPPED: {test}: there is no {file}; `./x guests` fetches it");
            None
        }
    }
}

#[test]
fn firmware_shows_itself_on_the_screen() {
    let files = ["bios-256k.bin", "vgabios-stdvga.bin"];
    let Some(folder) = guest("firmware_shows_itself_on_the_screen", &files) else { return };
    let mut machine = Machine::start(&folder, &["-serial", "null"]);
    machine.wait_for("SeaBIOS (version");
    machine.wait_for("No bootable device.");
    // The first letters, in the monitor's other way of looking: S, e, a and their colours.
    let shown = machine.monitor("xp /6xb 0xb8000");
    let wanted = (0..25).any(|row| {
        let address = 0xb_8000 + row * 160;
        machine.monitor(&format!("xp /6xb {address:#x}")).contains("0x53 0x07 0x65 0x07 0x61 0x07")
    });
    assert!(wanted, "{shown}");
}

#[test]
fn grub_starts_from_a_floppy_disk() {
    let files = ["bios-256k.bin", "vgabios-stdvga.bin", "grub-rescue-floppy.img"];
    let Some(folder) = guest("grub_starts_from_a_floppy_disk", &files) else { return };
    let image = folder.join("grub-rescue-floppy.img");
    let drive = format!("if=floppy,format=raw,readonly=on,file={}", image.display());
    let mut machine = Machine::start(&folder, &["-drive", &drive, "-boot", "a"]);
    let screen = machine.wait_for("The highlighted entry will be executed");
    assert!(screen.contains("GNU GRUB") && screen.contains("Memtest86+"), "{screen}");
}

/// Starts an image of Debian's from the CD drive and waits for `text` on the screen.
fn starts_from_a_cd(test: &str, image: &str, text: &str) -> Option<(Machine, String)> {
    let folder = guest(test, &["bios-256k.bin", "vgabios-stdvga.bin", image])?;
    let image = folder.join(image);
    let mut machine = Machine::start(&folder, &["-cdrom", &image.to_string_lossy(), "-boot", "d"]);
    let screen = machine.wait_for(text);
    Some((machine, screen))
}

#[test]
fn grub_starts_from_a_cd() {
    let image = "grub-rescue-cdrom.iso";
    let started = starts_from_a_cd("grub_starts_from_a_cd", image, "The highlighted entry will be executed");
    let Some((_, screen)) = started else { return };
    assert!(screen.contains("GNU GRUB"), "{screen}");
}

#[test]
fn ipxe_starts_from_a_cd() {
    let started = starts_from_a_cd("ipxe_starts_from_a_cd", "ipxe.iso", "Open Source Network Boot Firmware");
    let Some((mut machine, _)) = started else { return };
    machine.wait_for("Press Ctrl-B for the iPXE command line");
}

#[test]
fn memtest86_tests_memory() {
    let started = starts_from_a_cd("memtest86_tests_memory", "memtest86+x64.iso", "Status: Testing");
    let Some((mut machine, _)) = started else { return };
    // One of the later tests of the first pass, which takes some seconds.
    let screen = machine.wait_for("Moving inversions, 64 bit pattern");
    assert!(screen.contains("Errors: 0"), "{screen}");
}

#[test]
fn ovmf_reaches_its_shell() {
    let Some(folder) = guest("ovmf_reaches_its_shell", &["OVMF.fd"]) else { return };
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc", "-accel", "jit", "-m", "128", "-nographic", "-L"]).arg(&folder);
    command.arg("-bios").arg(folder.join("OVMF.fd"));
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for("UEFI Interactive Shell", LIMIT).unwrap();
    guest.wait_for("Shell>", LIMIT).unwrap();
    guest.type_line("ver\r").unwrap();
    guest.wait_for("UEFI v2.", LIMIT).unwrap();
}
