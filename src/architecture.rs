//! Which architecture the guest has: one program serves them all.

use std::ffi::OsStr;
use std::path::Path;

use accel::Architecture;

use crate::command_line::{Invalid, Options};

const ALL: [Architecture; 2] = [Architecture::X86_64, Architecture::Riscv64];

/// `-arch`, else the name that the program was started under, else the kernel's header, else the host's own.
pub(crate) fn choose(options: &Options, program: Option<&OsStr>) -> Result<Architecture, Invalid> {
    let known = || ALL.map(Architecture::name).join(", ");
    let by_name = |name: &str| ALL.into_iter().find(|architecture| architecture.name() == name);
    if let Some(name) = &options.arch {
        return by_name(name).ok_or_else(|| Invalid::new(format!("-arch {name}: valid are {}", known())));
    }
    let program = program.map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    for prefix in ["brolga-", "qemu-system-"] {
        if let Some(name) = program.strip_prefix(prefix) {
            return by_name(name)
                .ok_or_else(|| Invalid::new(format!("started as {program}: the guest may be {}", known())));
        }
    }
    if let Some(kernel) = &options.kernel
        && let Some(architecture) =
            hw::load::kernel_architecture(kernel).map_err(|error| Invalid::from_error(&error))?
    {
        return Ok(architecture);
    }
    by_name(std::env::consts::ARCH).ok_or_else(|| {
        Invalid::new(format!(
            "there are no guests of this host's architecture, {}; say -arch with one of {}",
            std::env::consts::ARCH,
            known()
        ))
    })
}
