//! The command line: QEMU's options, in QEMU's spelling.

mod group;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

pub(crate) use group::{Group, size};

/// What is wrong with the command line or with what it names, as one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

impl Invalid {
    pub(crate) fn new(sentence: impl Into<String>) -> Invalid {
        Invalid(sentence.into())
    }

    /// An error of a lower layer, with the errors behind it.
    pub(crate) fn from_error(error: &dyn std::error::Error) -> Invalid {
        let mut sentence = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !sentence.contains(&text) {
                sentence.push_str(": ");
                sentence.push_str(&text);
            }
            source = error.source();
        }
        Invalid(sentence)
    }
}

/// How an option is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// A value; the last one counts.
    One(&'static str),
    /// A value; all count, in their order.
    Many(&'static str),
}

/// Every option: name, value, help.
const OPTIONS: &[(&str, Takes, &str)] = &[
    ("arch", Takes::One("NAME"), "architecture of the guest: riscv64 or x86_64"),
    ("machine", Takes::Many("TYPE[,PROP=VALUE]"), "machine type; 'help' lists them (also -M)"),
    (
        "accel",
        Takes::Many("NAME[,PROP=VALUE]"),
        "accelerator: kvm, jit (tcg), qtest or auto; the first of several that works is taken; 'help' tells which do; translation-cache=on|off|FOLDER says where the JIT keeps compiled code for the next run",
    ),
    ("enable-kvm", Takes::Nothing, "the same as -accel kvm"),
    ("cpu", Takes::One("MODEL"), "processor model; 'help' lists them"),
    ("m", Takes::One("SIZE"), "memory, in MiB or with a suffix K, M, G or T"),
    ("smp", Takes::One("COUNT"), "number of processors: COUNT or cpus=COUNT"),
    ("kernel", Takes::One("FILE"), "kernel to boot directly: Image, ELF or bzImage"),
    ("initrd", Takes::One("FILE"), "initial RAM disk for the kernel"),
    ("append", Takes::One("TEXT"), "command line for the kernel"),
    ("bios", Takes::One("FILE"), "firmware, or 'none'"),
    ("L", Takes::Many("FOLDER"), "folder to look for firmware in"),
    (
        "drive",
        Takes::Many("file=FILE[,PROP=VALUE]"),
        "a disk: file, format=raw|qcow2|..., if=ide|floppy|virtio|none, media=disk|cdrom, bus, unit, index, id, readonly, cache, aio, discard, rerror, werror",
    ),
    (
        "blockdev",
        Takes::Many("DRIVER,node-name=NAME[,PROP=VALUE]"),
        "a node of the block graph, for devices to use; also in JSON, as blockdev-add takes it",
    ),
    ("fda", Takes::One("FILE"), "a disk in the first floppy drive"),
    ("fdb", Takes::One("FILE"), "a disk in the second floppy drive"),
    ("hda", Takes::One("FILE"), "first drive of the first IDE channel (also -hdb, -hdc, -hdd)"),
    ("hdb", Takes::One("FILE"), "second drive of the first IDE channel"),
    ("hdc", Takes::One("FILE"), "first drive of the second IDE channel"),
    ("hdd", Takes::One("FILE"), "second drive of the second IDE channel"),
    ("cdrom", Takes::One("FILE"), "a CD in the first drive of the second IDE channel"),
    ("boot", Takes::One("ORDER"), "what firmware boots from: letters a (floppy), c (disk), d (CD), n (network)"),
    ("device", Takes::Many("DRIVER[,PROP=VALUE]"), "a device; 'help' lists them"),
    ("object", Takes::Many("TYPE,id=ID"), "an object: rng-random"),
    ("chardev", Takes::Many("BACKEND,id=ID"), "a character device: stdio, null, file, socket"),
    (
        "serial",
        Takes::Many("DEVICE"),
        "where a serial port goes: stdio, mon:stdio, null, none, file:, unix:, tcp:, chardev:",
    ),
    ("debugcon", Takes::One("DEVICE"), "where the messages of the debug port go (x86_64); as -serial"),
    ("global", Takes::Many("DRIVER.PROP=VALUE"), "a default for devices: isa-debugcon.iobase"),
    ("monitor", Takes::Many("DEVICE"), "where a human monitor is: stdio, unix:, tcp:, none"),
    ("qmp", Takes::Many("DEVICE"), "where a QMP monitor is: stdio, unix:, tcp:, none"),
    ("qmp-pretty", Takes::Many("DEVICE"), "as -qmp, with indented answers"),
    ("mon", Takes::Many("chardev=ID"), "a monitor on a character device: mode=control|readline, pretty"),
    (
        "qtest",
        Takes::One("DEVICE"),
        "where a client drives the machine by the qtest protocol: unix:, tcp:, stdio, chardev:",
    ),
    (
        "qtest-log",
        Takes::One("FILE"),
        "file for a log of the qtest protocol, instead of standard error; 'none': no log",
    ),
    ("display", Takes::One("TYPE"), "display: only 'none' is built"),
    ("vga", Takes::One("TYPE"), "graphics card: std or none; without -nodefaults there is one (x86_64)"),
    ("vnc", Takes::One("DISPLAY"), "VNC server: only 'none' is built"),
    ("nographic", Takes::Nothing, "no display; serial port and monitor on the terminal"),
    ("nodefaults", Takes::Nothing, "no devices that were not asked for"),
    ("no-user-config", Takes::Nothing, "accepted; there are no user configuration files"),
    ("name", Takes::One("NAME"), "name of the machine"),
    ("uuid", Takes::One("UUID"), "identity of the machine"),
    ("S", Takes::Nothing, "do not start the processors: wait for 'cont'"),
    ("no-reboot", Takes::Nothing, "end instead of rebooting"),
    ("no-shutdown", Takes::Nothing, "stop instead of ending when the guest switches off"),
    ("d", Takes::One("ITEMS"), "log items, separated by commas; 'help' lists them"),
    ("D", Takes::One("FILE"), "file for the log instead of standard error"),
    ("pidfile", Takes::One("FILE"), "file for the number of the process"),
    ("perfmap", Takes::Nothing, "write /tmp/perf-PID.map, by which perf names compiled guest code"),
    ("daemonize", Takes::Nothing, "go to the background once the machine is set up"),
    ("version", Takes::Nothing, "print the version"),
    ("help", Takes::Nothing, "print this (also -h)"),
];

/// The command line, taken apart by option but not yet understood.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) arch: Option<String>,
    pub(crate) machine: Vec<String>,
    pub(crate) accel: Vec<String>,
    pub(crate) enable_kvm: bool,
    pub(crate) cpu: Option<String>,
    pub(crate) memory: Option<String>,
    pub(crate) smp: Option<String>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) append: Option<String>,
    pub(crate) bios: Option<PathBuf>,
    pub(crate) firmware_folders: Vec<PathBuf>,
    pub(crate) drives: Vec<String>,
    pub(crate) blockdevs: Vec<String>,
    /// Option, number of the drive and file of `-hda` to `-hdd` and `-cdrom`.
    pub(crate) ide_files: Vec<(&'static str, usize, PathBuf)>,
    /// Option, number of the drive and file of `-fda` and `-fdb`.
    pub(crate) floppy_files: Vec<(&'static str, usize, PathBuf)>,
    pub(crate) boot: Option<String>,
    pub(crate) devices: Vec<String>,
    pub(crate) objects: Vec<String>,
    pub(crate) chardevs: Vec<String>,
    pub(crate) serials: Vec<String>,
    pub(crate) debugcon: Option<String>,
    pub(crate) globals: Vec<String>,
    pub(crate) monitors: Vec<String>,
    pub(crate) qmp: Vec<String>,
    pub(crate) qmp_pretty: Vec<String>,
    pub(crate) mon: Vec<String>,
    pub(crate) qtest: Option<String>,
    pub(crate) qtest_log: Option<PathBuf>,
    pub(crate) vga: Option<String>,
    pub(crate) nographic: bool,
    pub(crate) nodefaults: bool,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) stopped: bool,
    pub(crate) no_reboot: bool,
    pub(crate) no_shutdown: bool,
    pub(crate) log_items: Option<String>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) daemonize: bool,
    pub(crate) perf_map: bool,
    pub(crate) version: bool,
    pub(crate) help: bool,
}

fn command() -> Command {
    let option = |(name, takes, help): &(&'static str, Takes, &'static str)| {
        let argument = Arg::new(*name).long(*name).help(*help);
        match takes {
            Takes::Nothing => argument.action(ArgAction::Count),
            Takes::One(value) | Takes::Many(value) => {
                argument.action(ArgAction::Append).value_name(*value).allow_hyphen_values(true)
            }
        }
    };
    Command::new("brolga").disable_help_flag(true).disable_version_flag(true).args(OPTIONS.iter().map(option))
}

/// Rewrites QEMU's spelling (`-m 512`, `--m 512`, `-M virt`, `-h`) to what `clap` takes (`--m=512`).
fn rewrite(arguments: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, Invalid> {
    let mut arguments = arguments;
    let mut rewritten = vec![OsString::from("brolga")];
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let Some(name) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            return Err(Invalid::new(format!(
                "{text:?} is no option; a disk is given with -drive file={text},format=raw"
            )));
        };
        let name = match name {
            "M" => "machine",
            "h" | "?" => "help",
            other => other,
        };
        let Some((name, takes, _)) = OPTIONS.iter().find(|(known, ..)| *known == name) else {
            return Err(Invalid::new(format!("-{name} is not an option of Brolga; -help lists those that are")));
        };
        let mut whole = OsString::from(format!("--{name}"));
        if *takes != Takes::Nothing {
            let Some(value) = arguments.next() else {
                return Err(Invalid::new(format!("-{name} needs a value")));
            };
            whole.push("=");
            whole.push(value);
        }
        rewritten.push(whole);
    }
    Ok(rewritten)
}

/// Takes the arguments of the process apart, without its name.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, Invalid> {
    let matches = command()
        .try_get_matches_from(rewrite(arguments)?)
        .map_err(|error| Invalid::new(error.to_string().lines().next().unwrap_or_default()))?;
    let many =
        |name: &str| -> Vec<String> { matches.get_many::<String>(name).into_iter().flatten().cloned().collect() };
    let one = |name: &str| many(name).pop();
    let path = |name: &str| one(name).map(PathBuf::from);
    let given = |name: &str| matches.get_count(name) > 0;
    for (name, only) in [("display", "none"), ("vnc", "none")] {
        if let Some(value) = one(name).filter(|value| value != only) {
            return Err(Invalid::new(format!("-{name} {value}: Brolga has no displays yet; valid is {only}")));
        }
    }
    Ok(Options {
        arch: one("arch"),
        machine: many("machine"),
        accel: many("accel"),
        enable_kvm: given("enable-kvm"),
        cpu: one("cpu"),
        memory: one("m"),
        smp: one("smp"),
        kernel: path("kernel"),
        initrd: path("initrd"),
        append: one("append"),
        bios: path("bios"),
        firmware_folders: many("L").into_iter().map(PathBuf::from).collect(),
        drives: many("drive"),
        blockdevs: many("blockdev"),
        ide_files: [("hda", 0), ("hdb", 1), ("hdc", 2), ("hdd", 3), ("cdrom", 2)]
            .into_iter()
            .filter_map(|(option, index)| Some((option, index, path(option)?)))
            .collect(),
        floppy_files: [("fda", 0), ("fdb", 1)]
            .into_iter()
            .filter_map(|(option, index)| Some((option, index, path(option)?)))
            .collect(),
        boot: one("boot"),
        devices: many("device"),
        objects: many("object"),
        chardevs: many("chardev"),
        serials: many("serial"),
        debugcon: one("debugcon"),
        globals: many("global"),
        monitors: many("monitor"),
        qmp: many("qmp"),
        qmp_pretty: many("qmp-pretty"),
        mon: many("mon"),
        qtest: one("qtest"),
        qtest_log: path("qtest-log"),
        vga: one("vga"),
        nographic: given("nographic"),
        nodefaults: given("nodefaults"),
        name: one("name"),
        uuid: one("uuid"),
        stopped: given("S"),
        no_reboot: given("no-reboot"),
        no_shutdown: given("no-shutdown"),
        log_items: one("d"),
        log_file: path("D"),
        pidfile: path("pidfile"),
        daemonize: given("daemonize"),
        perf_map: given("perfmap"),
        version: given("version"),
        help: given("help"),
    })
}

/// What `-help` prints.
pub(crate) fn help() -> String {
    let mut text = String::from("usage: brolga [options]\n\noptions:\n");
    for (name, takes, help) in OPTIONS {
        let left = match takes {
            Takes::Nothing => format!("-{name}"),
            Takes::One(value) | Takes::Many(value) => format!("-{name} {value}"),
        };
        text.push_str(&format!("  {left:<36} {help}\n"));
    }
    text.push_str(
        "\nOn the terminal of -nographic: Ctrl-A x ends, Ctrl-A c switches to the monitor, Ctrl-A h helps.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, Invalid> {
        parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn qemu_spellings_are_accepted() {
        let options = options("-M virt --accel jit -m 512 -append -quiet -device a -device b -S").unwrap();
        assert_eq!(options.machine, ["virt"]);
        assert_eq!(options.accel, ["jit"]);
        assert_eq!(options.memory.as_deref(), Some("512"));
        assert_eq!(options.append.as_deref(), Some("-quiet"));
        assert_eq!(options.devices, ["a", "b"]);
        assert!(options.stopped);
    }

    #[test]
    fn bad_options_are_named() {
        assert_eq!(
            options("-nosuch").unwrap_err().to_string(),
            "-nosuch is not an option of Brolga; -help lists those that are"
        );
        assert_eq!(options("-m").unwrap_err().to_string(), "-m needs a value");
        assert!(options("disk.img").unwrap_err().to_string().contains("-drive file=disk.img"));
        assert!(options("-display gtk").unwrap_err().to_string().contains("-display gtk"));
    }
}
