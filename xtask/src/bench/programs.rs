//! What runs in the guest: our programs of `benchmarks/`, compiled for it, and Debian's Python and C compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::debian::{self, Suite};
use crate::guests::{Guest, write};
use crate::{Result, output, root, run};

/// First process of the guest. The kernel passes `work=` and `seconds=` of its command line on as variables: the work is done over and over until
/// the guest has run that long, and once in any case.
const INIT: &str = "#!/bin/busybox sh
echo @ready
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export PYTHONDONTWRITEBYTECODE=1
while :; do
    for name in $(echo $work | tr , ' '); do
        case $name in
            python) echo @begin python; result=$(python3 /bench/python.py); echo @end python $result;;
            compile) echo @begin compile; result=$(sh /bench/compile.sh); echo @end compile $result;;
            *) work $name;;
        esac
    done
    [ $(cut -d. -f1 /proc/uptime) -lt ${seconds:-0} ] || break
    echo @round again
done
echo @round last
poweroff -f
";

/// Debian's compiler works on our own sources, which were preprocessed for the guest.
const COMPILE: &str = "for file in compress control; do
    cc1 -quiet -fpreprocessed -O2 /bench/$file.i -o /tmp/$file.s || exit 1
done
cat /tmp/*.s | md5sum
";
/// The sources that [`COMPILE`] names.
const COMPILED: [&str; 2] = ["compress", "control"];

/// What was built for one guest.
pub(super) struct Programs {
    /// The initial RAM disk.
    pub(super) initrd: PathBuf,
    /// Names of all workloads.
    pub(super) names: Vec<String>,
    /// Names of those in our own program.
    pub(super) own: Vec<String>,
    /// Our own program.
    pub(super) program: PathBuf,
}

/// Compiles and gathers everything.
pub(super) fn build(guest: &Guest) -> Result<Programs> {
    let sources = root().join("benchmarks");
    let folder = root().join("guests").join(guest.architecture);
    let program = folder.join("work");
    let compiler = compiler(guest)?;
    let mut files: Vec<PathBuf> = list(&sources)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
    run(Command::new(&compiler).args(["-O2", "-static", "-pthread", "-o"]).arg(&program).args(&files).arg("-lm"))?;
    // The names are the same for every guest, so the source says them, whatever can run here.
    let own = names(&fs::read_to_string(sources.join("main.c")).map_err(|error| error.to_string())?);
    let mut archive = Archive::default();
    archive.folder("bench");
    archive.program("init", INIT.as_bytes());
    archive.folder("bin");
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    archive.program("bin/work", &read(&program)?);
    archive.program("bench/compile.sh", COMPILE.as_bytes());
    for name in COMPILED {
        let mut preprocess = Command::new(&compiler);
        preprocess.args(["-E", "-O2"]).arg(sources.join(name).with_extension("c"));
        archive.program(&format!("bench/{name}.i"), output(&mut preprocess)?.as_bytes());
    }
    archive.program("bench/python.py", &read(&sources.join("python.py"))?);
    // Archives may follow one another; what comes later replaces what came before.
    let mut initrd = read(&guest.initrd())?;
    initrd.extend(read(&debian_programs(guest, &folder)?)?);
    initrd.extend(archive.finish());
    let path = folder.join("benchmark.cpio");
    write(&path, &initrd)?;
    let names = own.iter().map(String::as_str).chain(["python", "compile"]).map(str::to_owned).collect();
    Ok(Programs { initrd: path, names, own, program })
}

/// The compiler for a guest's programs, installed if need be.
fn compiler(guest: &Guest) -> Result<String> {
    if guest.architecture == std::env::consts::ARCH {
        debian::install(&[("cc", "gcc"), ("/usr/include/stdio.h", "libc6-dev")])?;
        return Ok("cc".into());
    }
    let debian_name = guest.architecture.replace('_', "-");
    let program = format!("{}-linux-gnu-gcc", guest.architecture);
    let package = format!("gcc-{debian_name}-linux-gnu");
    let library = format!("libc6-dev-{}-cross", guest.debian_architecture);
    let header = format!("/usr/{}-linux-gnu/include/stdio.h", guest.architecture);
    debian::install(&[(&program, &package), (&header, &library)])?;
    Ok(program)
}

/// The workloads of `main.c`'s table.
fn names(source: &str) -> Vec<String> {
    let entries = source.lines().filter_map(|line| line.trim().strip_prefix("{\""));
    entries.filter_map(|entry| entry.split('"').next()).map(str::to_owned).collect()
}

/// An archive with Debian's Python and C compiler of the guest's architecture, made once.
fn debian_programs(guest: &Guest, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("debian-programs.cpio");
    if path.exists() {
        return Ok(path);
    }
    let work = root().join("guests/packages").join(format!("{}-programs", guest.architecture));
    let suite = Suite::open(&work, guest.suite, guest.debian_architecture)?;
    let python = output(suite.apt("apt-cache").args(["depends", "python3-minimal"]))?;
    let python = python
        .lines()
        .filter_map(|line| line.trim().split_once("Depends: "))
        .map(|(_, name)| name)
        .find(|name| name.starts_with("python3."))
        .ok_or("Debian's package python3-minimal depends on no python3")?
        .to_owned();
    let mut unpacked = PathBuf::new();
    let libraries = ["libc6", "zlib1g", "libexpat1", "libgmp10", "libmpfr6", "libmpc3", "libisl23", "libzstd1"];
    for package in [&python, &format!("lib{python}")].into_iter().map(String::as_str).chain(libraries) {
        unpacked = suite.unpack(package)?;
    }
    suite.unpack(guest.compiler_package)?;
    let mut archive = Archive::default();
    for name in ["usr", "usr/bin"] {
        archive.folder(name);
    }
    let interpreter = python.trim_end_matches("-minimal");
    let compiler = find(&unpacked.join("usr"), "cc1")?.ok_or("the compiler's package has no cc1")?;
    for (from, name) in [(unpacked.join("usr/bin").join(interpreter), interpreter), (compiler, "cc1")] {
        let content = fs::read(&from).map_err(|error| format!("{}: {error}", from.display()))?;
        archive.program(&format!("usr/bin/{name}"), &content);
    }
    archive.link("usr/bin/python3", interpreter);
    for name in ["lib", "lib64", "usr/lib"] {
        if unpacked.join(name).exists() {
            add(&mut archive, &unpacked, name)?;
        } else if unpacked.join("usr").join(name).exists() {
            archive.link(name, &format!("usr/{name}"));
        }
    }
    write(&path, &archive.finish())?;
    fs::remove_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    Ok(path)
}

/// The file of a name in a folder or the folders in it.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in list(folder)? {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Adds a folder and everything in it, but for what nothing here needs: the compiler's folder and character sets.
fn add(archive: &mut Archive, from: &Path, name: &str) -> Result<()> {
    archive.folder(name);
    for path in list(&from.join(name))? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let inside = format!("{name}/{file}");
        let failed = |error| format!("{}: {error}", path.display());
        let kind = fs::symlink_metadata(&path).map_err(failed)?.file_type();
        if kind.is_symlink() {
            archive.link(&inside, &fs::read_link(&path).map_err(failed)?.to_string_lossy());
        } else if kind.is_dir() {
            if !["gconv", "audit", "gcc"].contains(&file.as_str()) {
                add(archive, from, &inside)?;
            }
        } else {
            archive.program(&inside, &fs::read(&path).map_err(failed)?);
        }
    }
    Ok(())
}

/// What a folder holds, in order of the names.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
