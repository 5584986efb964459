//! Which accelerator runs the guest: the first of the user's list that works here.

use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::jit::{CpuModel, Jit};
use accel::kvm::Kvm;
use accel::{Accelerator, Architecture, Error, probe};

use crate::command_line::{Group, Invalid, Options};

const KNOWN: &str = "kvm, jit (tcg) and auto";

/// The names that the user gave, in order of preference; `machine` is what `-machine accel=` said.
fn names(options: &Options, machine: Option<&str>) -> Result<Vec<String>, Invalid> {
    let mut names = Vec::new();
    for text in &options.accel {
        let mut group = Group::parse("accel", text)?;
        let name = group.take_first("accel").ok_or_else(|| group.invalid(format!("valid are {KNOWN}")))?;
        match group.take("thread").as_deref() {
            None | Some("multi") => {}
            Some(other) => return Err(group.invalid(format!("thread={other} is not built; valid is thread=multi"))),
        }
        group.finish("thread")?;
        names.push(name);
    }
    if options.enable_kvm {
        names.push("kvm".into());
    }
    if names.is_empty() {
        names.extend(machine.into_iter().flat_map(|list| list.split(':')).map(str::to_owned));
    }
    if names.is_empty() {
        names.push("auto".into());
    }
    Ok(names)
}

/// What `-accel help` prints: the accelerators, whether they work here, and which of them `auto` takes.
pub(crate) fn help(architecture: Architecture) -> String {
    let works = |result: Result<(), Error>| match result {
        Ok(()) => "works here".into(),
        Err(error) => Invalid::from_error(&error).to_string(),
    };
    let kvm = works(Kvm::open(architecture).map(drop));
    let jit = works(Jit::open(architecture, VirtualClock::new()).map(drop));
    let choice = probe::choose(architecture);
    format!(
        "accelerators for {} guests:\n  kvm    {kvm}\n  jit    {jit} (also tcg)\n  auto   {}: {}\n",
        architecture.name(),
        choice.accelerator,
        choice.reason
    )
}

/// Opens the first accelerator that works; `model` is what the JIT's x86-64 processors are.
pub(crate) fn open(
    options: &Options,
    machine: Option<&str>,
    architecture: Architecture,
    model: &CpuModel,
    clock: &Arc<VirtualClock>,
) -> Result<Arc<dyn Accelerator>, Invalid> {
    let names = names(options, machine)?;
    let mut problems = Vec::new();
    for name in &names {
        let name = match name.as_str() {
            "auto" => {
                let choice = probe::choose(architecture);
                tracing::info!("{}", choice.reason);
                choice.accelerator
            }
            "tcg" => "jit",
            name => name,
        };
        let opened: Result<Arc<dyn Accelerator>, Error> = match name {
            "kvm" => Kvm::open(architecture).map(|kvm| Arc::new(kvm) as _),
            "jit" => Jit::open_with_model(architecture, clock.clone(), model.clone()).map(|jit| Arc::new(jit) as _),
            other => return Err(Invalid::new(format!("-accel {other}: valid are {KNOWN}"))),
        };
        match opened {
            Ok(accelerator) => return Ok(accelerator),
            Err(error) => problems.push(Invalid::from_error(&error).to_string()),
        }
    }
    Err(Invalid::new(problems.join("; ")))
}
