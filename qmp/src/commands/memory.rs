//! Commands about guest memory.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use hw::vm::Vm;

use super::declare::commands;
use super::{Context, check_cpu_index};
use crate::error::Error;
use crate::schema::{Address, Empty};
use crate::structure;

/// How much is read from the guest at a time, bytes.
const CHUNK: usize = 1 << 20;

structure! {
    /// Arguments of `memsave`.
    pub(crate) struct MemsaveArguments {
        /// Guest-virtual address of the first byte.
        "val" => address: Address,
        /// Number of bytes.
        "size" => size: i64,
        /// File to write; it is created or replaced.
        "filename" => path: String,
        /// Number of the processor whose address translation counts; the first one by default.
        "cpu-index" | "cpu" => cpu: Option<i64>,
    }
}

structure! {
    /// Arguments of `pmemsave`.
    pub(crate) struct PmemsaveArguments {
        /// Guest-physical address of the first byte.
        "val" => address: Address,
        /// Number of bytes.
        "size" => size: i64,
        /// File to write; it is created or replaced.
        "filename" => path: String,
    }
}

commands! {
    /// Writes guest memory at a virtual address to a file. At an address that is not mapped it fails, and the file has
    /// what comes before.
    "memsave" Blocking => memsave(MemsaveArguments) -> Empty,
    /// Writes guest memory at a physical address to a file. What is no memory reads as zero.
    "pmemsave" Blocking => pmemsave(PmemsaveArguments) -> Empty,
}

fn memsave(context: &Context, arguments: MemsaveArguments) -> Result<Empty, Error> {
    let cpu = check_cpu_index(&context.vm, "cpu-index", arguments.cpu.unwrap_or(0))?;
    save_virtual(&context.vm, cpu, arguments.address.0, arguments.size, &arguments.path).map(|()| Empty)
}

fn pmemsave(context: &Context, arguments: PmemsaveArguments) -> Result<Empty, Error> {
    save_physical(&context.vm, arguments.address.0, arguments.size, &arguments.path).map(|()| Empty)
}

/// Writes `size` bytes at the virtual `address` of processor `cpu` to the file at `path`.
pub(crate) fn save_virtual(vm: &Vm, cpu: u32, address: u64, size: i64, path: &str) -> Result<(), Error> {
    save(address, size, path, |address, buffer| match vm.read_virtual(cpu, address, buffer) {
        Ok(()) => Ok(buffer.len()),
        Err(hw::vm::Error::NotMapped(at)) => Ok(usize::try_from(at.wrapping_sub(address)).unwrap_or(0)),
        Err(error) => Err(error.into()),
    })
}

/// Writes `size` bytes at the physical `address` to the file at `path`.
pub(crate) fn save_physical(vm: &Vm, address: u64, size: i64, path: &str) -> Result<(), Error> {
    save(address, size, path, |address, buffer| {
        vm.read_physical(address, buffer);
        Ok(buffer.len())
    })
}

/// Copies memory to a file. `read` fills the buffer, at least partly, and returns how much of it counts.
fn save(
    address: u64,
    size: i64,
    path: &str,
    read: impl Fn(u64, &mut [u8]) -> Result<usize, Error>,
) -> Result<(), Error> {
    let size = u64::try_from(size).map_err(|_| Error::wrong_value("size", "a size, which is not negative"))?;
    let mut file = File::create(Path::new(path))
        .map_err(|error| Error::generic(format!("Could not open '{path}': {}", reason(&error))))?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let part = buffer.len().min(usize::try_from(size - done).unwrap_or(usize::MAX));
        let part = &mut buffer[..part];
        let here = address.wrapping_add(done);
        let valid = read(here, part)?.min(part.len());
        file.write_all(&part[..valid])
            .map_err(|error| Error::generic(format!("Could not write to '{path}': {}", reason(&error))))?;
        if valid < part.len() {
            let end = here.wrapping_add(valid as u64);
            return Err(Error::generic(format!("Invalid addr {end:#018x} specified")));
        }
        done += part.len() as u64;
    }
    Ok(())
}

/// What the host says went wrong, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text).to_owned()
        }
        None => error.to_string(),
    }
}
