//! Which accelerator runs the guest: the first of the user's list that works here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use accel::clock::VirtualClock;
use accel::jit::{CpuModel, Jit};
use accel::kvm::Kvm;
use accel::qtest::Qtest;
use accel::switchable::Switchable;
use accel::{Accelerator, Architecture, Error, probe};

use crate::command_line::{Group, Invalid, Options};

const KNOWN: &str = "kvm, jit (tcg), qtest and auto";

/// An accelerator that the user named.
struct Named {
    name: String,
    /// Where the JIT keeps compiled code for the next run.
    keep: Option<PathBuf>,
}

impl Named {
    fn new(name: impl Into<String>) -> Named {
        Named { name: name.into(), keep: cache_folder() }
    }
}

/// The user's folder for what can be made again, by the XDG base directory specification; `None` where the user has none.
fn cache_folder() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("brolga"))
}

/// What the user named, in order of preference; `machine` is what `-machine accel=` said.
fn names(options: &Options, machine: Option<&str>) -> Result<Vec<Named>, Invalid> {
    let mut names = Vec::new();
    for text in &options.accel {
        let mut group = Group::parse("accel", text)?;
        let name = group.take_first("accel").ok_or_else(|| group.invalid(format!("valid are {KNOWN}")))?;
        match group.take("thread").as_deref() {
            None | Some("multi") => {}
            Some(other) => return Err(group.invalid(format!("thread={other} is not built; valid is thread=multi"))),
        }
        let is_jit = matches!(name.as_str(), "jit" | "tcg" | "auto");
        let keep = match group.take("translation-cache").as_deref() {
            Some(_) if !is_jit => {
                return Err(group.invalid("translation-cache is for the accelerators jit, tcg and auto"));
            }
            None | Some("on") => cache_folder(),
            Some("off") => None,
            Some(folder) if Path::new(folder).is_absolute() => Some(folder.into()),
            Some(other) => {
                let valid = "valid are on, off and the absolute path of a folder";
                return Err(group.invalid(format!("translation-cache={other}: {valid}")));
            }
        };
        group.finish("thread and translation-cache")?;
        names.push(Named { name, keep });
    }
    if options.enable_kvm {
        names.push(Named::new("kvm"));
    }
    if names.is_empty() {
        names.extend(machine.into_iter().flat_map(|list| list.split(':')).map(Named::new));
    }
    if names.is_empty() {
        names.push(Named::new("auto"));
    }
    Ok(names)
}

/// True if there shall be no processor: a test client drives the machine.
pub(crate) fn is_qtest(options: &Options, machine: Option<&str>) -> Result<bool, Invalid> {
    Ok(names(options, machine)?.first().is_some_and(|first| first.name == "qtest"))
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
        "accelerators for {} guests:\n  kvm    {kvm}\n  jit    {jit} (also tcg)\n  qtest  no processor: -qtest drives the machine\n  auto   {}: {}\n",
        architecture.name(),
        choice.accelerator,
        choice.reason
    )
}

/// What the machine's processors are to be.
pub(crate) struct Processors {
    /// What x86-64 ones are.
    pub(crate) model: CpuModel,
    /// The user chose that, and not what the accelerator has.
    pub(crate) chosen: bool,
    /// How many.
    pub(crate) count: u32,
}

/// Opens the first accelerator that works; with `switchable`, all that the guest can move between, that one to begin with.
pub(crate) fn open(
    options: &Options,
    machine: Option<&str>,
    architecture: Architecture,
    processors: &Processors,
    switchable: bool,
    clock: &Arc<VirtualClock>,
) -> Result<Arc<dyn Accelerator>, Invalid> {
    let names = names(options, machine)?;
    let mut problems = Vec::new();
    for Named { name, keep } in names {
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
            "kvm" | "jit" if switchable => return open_all(name, architecture, processors, clock, keep),
            "kvm" if processors.chosen => {
                Kvm::open_with_model(architecture, processors.model.clone(), processors.count)
                    .map(|(kvm, _)| Arc::new(kvm) as _)
            }
            "kvm" => Kvm::open(architecture).map(|kvm| Arc::new(kvm) as _),
            "qtest" => Ok(Arc::new(Qtest::open(architecture)) as _),
            "jit" => open_jit(architecture, &processors.model, clock, keep),
            other => return Err(Invalid::new(format!("-accel {other}: valid are {KNOWN}"))),
        };
        match opened {
            Ok(accelerator) => return Ok(accelerator),
            Err(error) => problems.push(Invalid::from_error(&error).to_string()),
        }
    }
    Err(Invalid::new(problems.join("; ")))
}

fn open_jit(
    architecture: Architecture,
    model: &CpuModel,
    clock: &Arc<VirtualClock>,
    keep: Option<PathBuf>,
) -> Result<Arc<dyn Accelerator>, Error> {
    Jit::open_with_model(architecture, clock.clone(), model.clone(), keep).map(|jit| Arc::new(jit) as _)
}

/// KVM and the JIT, with processors that are the same under both.
fn open_all(
    first: &str,
    architecture: Architecture,
    processors: &Processors,
    clock: &Arc<VirtualClock>,
    keep: Option<PathBuf>,
) -> Result<Arc<dyn Accelerator>, Invalid> {
    let open = || {
        let (kvm, model) = Kvm::open_with_model(architecture, processors.model.clone(), processors.count)?;
        Ok::<_, Error>(vec![Arc::new(kvm) as Arc<dyn Accelerator>, open_jit(architecture, &model, clock, keep)?])
    };
    let backends = open().map_err(|error| {
        let problem = Invalid::from_error(&error);
        Invalid::new(format!("-machine switchable=on needs both accelerators kvm and jit: {problem}"))
    })?;
    let position = backends.iter().position(|backend| backend.name() == first).unwrap_or(0);
    Ok(Arc::new(Switchable::new(backends, position)))
}
