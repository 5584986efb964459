//! Tells the translator who it is: saved translations are of use only to the very translator that made them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    // Versions of the code generators are in the workspace's lock file.
    let mut sources = BTreeSet::from([PathBuf::from("build.rs"), PathBuf::from("../Cargo.lock")]);
    files(Path::new("src"), &mut sources)?;
    let mut hasher = DefaultHasher::new();
    for source in &sources {
        source.hash(&mut hasher);
        fs::read(source)?.hash(&mut hasher);
    }
    // The layout of structures is the compiler's choice.
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Command::new(compiler).arg("-vV").output()?.stdout.hash(&mut hasher);
    for setting in ["PROFILE", "OPT_LEVEL", "DEBUG", "TARGET", "CARGO_ENCODED_RUSTFLAGS", "CARGO_CFG_TARGET_FEATURE"] {
        env::var_os(setting).hash(&mut hasher);
    }
    println!("cargo::rustc-env=TRANSLATOR_IDENTITY={:016x}", hasher.finish());
    for source in ["build.rs", "src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={source}");
    }
    Ok(())
}
