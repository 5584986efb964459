//! The public QMP client `qemu.qmp` from PyPI against our server.

mod support;

use std::process::Command;

use qmp::json::Format;
use qmp::{Endpoint, Protocol, Role, Server};
use support::{On, machine, under_each_accelerator};

fn the_client_from_pypi_runs_a_session(on: On) {
    let python = std::env::var_os("BROLGA_PYTHON").unwrap_or_else(|| "python3".into());
    let import = Command::new(&python).args(["-c", "import qemu.qmp"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "SKIPPED: the_client_from_pypi_runs_a_session: {} has no qemu.qmp (BROLGA_PYTHON names one that has)",
            python.display()
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let vm = machine(on, |_| {});
    let server = Server::new(vm.clone(), runtime.handle().clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let endpoint = Endpoint::Unix { path: path.clone(), role: Role::Server { wait: false } };
    server.serve(&endpoint, Protocol::Qmp(Format::Line)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp_client.py");
    let mut session = Command::new(python).arg(script).arg(&path).spawn().unwrap();
    // As the program does: the machine ends, then the server.
    let ended = vm.wait_for_exit_at_most(std::time::Duration::from_secs(60));
    server.close();
    assert!(session.wait().unwrap().success());
    assert_eq!(ended, Some(0));
}

under_each_accelerator!(the_client_from_pypi_runs_a_session,);
