//! Debian packages of any suite and architecture, fetched without touching what is installed.
//!
//! apt gets lists, a cache and a status of its own. The mirror is the one that the system itself uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, output, run};

/// The keys of Debian's archive.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of one suite for one architecture.
pub(crate) struct Suite {
    folder: PathBuf,
    options: Vec<String>,
}

/// Where the system itself gets Debian's packages from.
pub(crate) fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Identifier: Packages",
    ]))
    .map_err(|error| format!("guests come from Debian's packages, for which apt is needed: {error}"))?;
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, suite)| !codename.is_empty() && *suite == codename)
        .map(|(mirror, _)| mirror.to_owned())
        .ok_or_else(|| format!("apt's sources name no mirror of this system's release ({codename:?})"))
}

impl Suite {
    /// Reads the lists of `suite` for `architecture`; everything is kept below `folder`.
    pub(crate) fn open(folder: &Path, suite: &str, architecture: &str) -> Result<Suite> {
        let folder = folder.join(format!("{suite}-{architecture}"));
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder.join("lists/partial")).map_err(failed)?;
        fs::create_dir_all(folder.join("cache/archives/partial")).map_err(failed)?;
        fs::write(folder.join("status"), "").map_err(failed)?;
        let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
        fs::write(folder.join("sources.list"), source).map_err(failed)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            // Fetching needs no rights, and the folder may be one that apt's own user cannot enter.
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".into(), option]).collect();
        let suite = Suite { folder, options };
        run(suite.apt("apt-get").args(["-q", "update"]))?;
        Ok(suite)
    }

    /// `program`, one of apt's, on this suite's lists.
    pub(crate) fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).current_dir(&self.folder);
        command
    }

    /// The package that a metapackage such as `linux-image-riscv64` stands for today.
    pub(crate) fn first_dependency(&self, package: &str) -> Result<String> {
        let text = output(self.apt("apt-cache").args(["depends", package]))?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .ok_or_else(|| format!("package {package} depends on nothing"))
    }

    /// Downloads a package and unpacks it below the result.
    pub(crate) fn unpack(&self, package: &str) -> Result<PathBuf> {
        println!("fetching {package}");
        run(self.apt("apt-get").args(["-q", "download", package]))?;
        let prefix = format!("{package}_");
        let entries = fs::read_dir(&self.folder).map_err(|error| error.to_string())?;
        let file = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
            .ok_or_else(|| format!("apt-get downloaded {package}, but not to {}", self.folder.display()))?;
        let to = self.folder.join("unpacked");
        run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&to))?;
        fs::remove_file(&file).map_err(|error| error.to_string())?;
        Ok(to)
    }
}

/// `program`, to be run as root: as it is, or with `sudo` where that asks for no password.
pub(crate) fn as_root(program: &str) -> Command {
    let id = output(Command::new("id").arg("-u")).unwrap_or_default();
    if id.trim() == "0" {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Installs the packages of those programs (program or absolute path, package) that the host lacks.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Programs of the administrator are often not on the path of others.
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let present = |program: &str| folders.iter().any(|folder| folder.join(program).exists());
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !present(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    run(as_root("apt-get").args(["-q", "update"]))?;
    run(as_root("apt-get").args(["-q", "install", "-y", "--no-install-recommends"]).args(missing))
}
