//! The `brolga` program: from a command line to a running machine.
//!
//! Nothing else lives here: [`command_line`] takes the options apart, [`machine`], [`devices`], [`consoles`] and
//! [`accelerator`] understand them, and this file puts the parts together. Read [`run`] first.

mod accelerator;
mod architecture;
mod command_line;
mod consoles;
mod devices;
mod disks;
mod log;
mod machine;
mod process;
mod terminal;

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;

use accel::clock::VirtualClock;
use accelerator::Processors;
use command_line::{Invalid, Options};
use consoles::Consoles;
use host::chardev::CharBackend;
use hw::machine::Firmware;
use hw::vm::Vm;
use qmp::Server;

/// For the memory of translations, of which there are hundreds of thousands: this one takes huge pages where the host has them, without which
/// compiled code spends a tenth of its time on misses of the host's address translation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let status = match run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("brolga: {error}");
            1
        }
    };
    // Destructors have run: terminal, sockets and pid file are as they should be.
    std::process::exit(status);
}

/// Runs the machine of the command line; gives the exit status.
fn run() -> Result<i32, Invalid> {
    let mut arguments = std::env::args_os();
    let program: Option<OsString> = arguments.next();
    let options = command_line::parse(arguments)?;
    if options.help {
        return print(&command_line::help());
    }
    if options.version {
        return print(concat!("Brolga ", env!("CARGO_PKG_VERSION"), " (compatible with QEMU 10.0.0)\n"));
    }
    if options.log_items.as_deref() == Some("help") {
        return print(&log::help());
    }
    if options.devices.iter().any(|device| device == "help") {
        return print(&devices::help());
    }
    let architecture = architecture::choose(&options, program.as_deref())?;
    if options.machine.iter().any(|machine| machine == "help") {
        return print(&machine::machine_help(architecture));
    }
    if options.accel.iter().any(|accelerator| accelerator == "help") {
        return print(&accelerator::help(architecture));
    }
    if options.cpu.as_deref() == Some("help") {
        return print(&machine::cpu_help(architecture));
    }
    // First of all, while there is one thread only.
    let background = if options.daemonize { Some(process::daemonize()?) } else { None };
    // Before anything is touched that belongs to another instance with the same file.
    let _pidfile = options.pidfile.as_deref().map(process::PidFile::create).transpose()?;
    log::start(options.log_items.as_deref(), options.log_file.as_deref())?;

    if options.perf_map {
        accel::jit::enable_perf_map().map_err(|error| Invalid::new(format!("-perfmap: {error}")))?;
    }

    let machine_options = machine::machine_options(&options, architecture)?;
    let accelerators = machine_options.accelerators.as_deref();
    let is_qtest = accelerator::is_qtest(&options, accelerators)?;
    let mut config = machine::config(&options, machine_options.name, architecture)?;
    config.system_management = machine_options.system_management;
    if is_qtest && config.boot.firmware == Firmware::Default {
        // Nobody would execute it.
        config.boot.firmware = Firmware::None;
    }
    let model = machine::cpu_model(&options, architecture)?;
    let mut consoles = Consoles::new(&options)?;
    config.serial = consoles.serial_ports(&options)?;
    consoles.monitors(&options)?;
    devices::add(&options, &mut consoles, &mut config, architecture)?;
    let test_client = consoles.qtest(&options)?;
    let clock = if is_qtest { VirtualClock::stepped() } else { VirtualClock::new() };
    let chosen = options.cpu.as_deref().is_some_and(|cpu| !matches!(cpu, "host" | "max"));
    let processors = Processors { model, chosen, count: config.vcpus };
    let switchable = machine_options.switchable;
    let accelerator = accelerator::open(&options, accelerators, architecture, &processors, switchable, &clock)?;
    let disks = config.disks.clone();
    let vm = Vm::new(config, accelerator, clock).map_err(|error| Invalid::from_error(&error))?;
    let vm = Arc::new(vm);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("management")
        .enable_all()
        .build()
        .map_err(|error| Invalid::new(format!("the threads for monitors cannot be started: {error}")))?;
    let signals = {
        let _runtime = runtime.enter();
        process::Signals::new().map_err(|error| Invalid::new(format!("signals cannot be handled: {error}")))?
    };
    runtime.spawn(signals.end(vm.clone()));
    runtime.spawn(terminal::follow_job_control());
    let server = Server::new(vm.clone(), runtime.handle().clone());
    let status = live(&vm, &mut consoles, &server, background, test_client, &options);
    for (node, error) in disks.close_blocking() {
        eprintln!("brolga: disk {node}: {error}");
    }
    // Also after a failure, for the sockets that are there already.
    server.close();
    runtime.shutdown_background();
    status
}

/// Serves the client of `-qtest`.
fn qtest(vm: &Arc<Vm>, backend: Arc<dyn CharBackend>, options: &Options) -> Result<hw::qtest::Server, Invalid> {
    let log: Option<hw::qtest::Log> = match options.qtest_log.as_deref() {
        None => Some(Box::new(std::io::stderr())),
        Some(path) if path.as_os_str() == "none" => None,
        Some(path) => {
            let file = std::fs::File::create(path);
            Some(Box::new(file.map_err(|error| Invalid::new(format!("-qtest-log {}: {error}", path.display())))?))
        }
    };
    hw::qtest::Server::start(vm, backend, log).map_err(|error| Invalid::new(format!("-qtest: {error}")))
}

/// The life of the machine, from its first client to its end; gives the exit status.
fn live(
    vm: &Arc<Vm>,
    consoles: &mut Consoles,
    server: &Server,
    background: Option<process::Background>,
    test_client: Option<Arc<dyn CharBackend>>,
    options: &Options,
) -> Result<i32, Invalid> {
    consoles.serve(vm, server)?;
    let started = if options.stopped { Ok(()) } else { vm.cont() };
    match started {
        // It was asked to end while it waited for its clients.
        Ok(()) | Err(hw::vm::Error::Ended) => {}
        Err(error) => return Err(Invalid::from_error(&error)),
    }
    // Not before the clock runs, for which the client need not wait.
    let _qtest = test_client.map(|backend| qtest(vm, backend, options)).transpose()?;
    if let Some(background) = background {
        background.ready()?;
    }
    let status = vm.wait_for_exit();
    if let Some((cpu, error)) = vm.last_internal_error() {
        eprintln!("brolga: processor {cpu}: {error}");
    }
    Ok(status)
}

fn print(text: &str) -> Result<i32, Invalid> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(0),
        Err(error) => Err(Invalid::new(format!("standard output: {error}"))),
    }
}
