//! Where connections run.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// How many threads all connections of the process share.
const THREADS: usize = 2;

/// The runtime of all connections, made at first use.
pub(crate) fn handle() -> io::Result<&'static Handle> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let make = || Builder::new_multi_thread().worker_threads(THREADS).thread_name("nbd").enable_all().build();
    match RUNTIME.get_or_init(|| make().map_err(|error| crate::host_words(&error))) {
        Ok(runtime) => Ok(runtime.handle()),
        Err(why) => Err(io::Error::other(format!("no threads for network connections: {why}"))),
    }
}

/// Runs a future there. Whoever waits for it may have any executor.
pub(super) async fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    handle()?.spawn(future).await.map_err(io::Error::other)
}
