//! Protocols and filters from their options.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::open::{Common, Opening};
use super::options::NodeOptions;
use crate::filters::blkdebug::{InjectError, IoType, SetState};
use crate::filters::quorum::ReadPattern;
use crate::filters::{
    Blkdebug, BlkdebugEvent, BlkdebugOptions, Blkverify, CopyOnRead, CopyOnReadOptions, Quorum, QuorumOptions,
};
use crate::nbd::{Address, Client, ClientOptions, Target};
use crate::protocols::curl::{Curl, CurlOptions, CurlProtocol};
use crate::protocols::{Null, NullKind, NullOptions};
use crate::{Driver, Engine, Error, FileOptions, HostClock, HostFile, HostKind, Sharing};

impl Opening<'_> {
    /// The protocol or filter with a name.
    pub(super) async fn protocol_or_filter(
        &mut self,
        name: &str,
        options: &mut NodeOptions,
        common: Common,
    ) -> Result<Box<dyn Driver>, Error> {
        match name {
            "file" => host_file(HostKind::File, options, common).await,
            "host_device" => host_file(HostKind::Device, options, common).await,
            "host_cdrom" => host_file(HostKind::Cdrom, options, common).await,
            "nbd" => nbd_client(options, common).await,
            "http" | "https" | "ftp" | "ftps" => curl(name, options, common).await,
            "null-co" => null(NullKind::Coroutine, options, common),
            "null-aio" => null(NullKind::Callback, options, common),
            "blkdebug" => {
                let rules = blkdebug(options)?;
                let image = self.required(options, "image", common.for_file()).await?;
                Ok(Box::new(Blkdebug::new(rules, image)?))
            }
            "blkverify" => {
                let test = self.required(options, "test", common.for_file()).await?;
                let raw = self.required(options, "raw", common.for_file()).await?;
                Ok(Box::new(Blkverify::new(test, raw)))
            }
            "copy-on-read" => {
                let bottom = options.take_text("bottom")?;
                let bottom = bottom.map(|name| self.graph.existing_node(&name)).transpose()?;
                let file = self.required(options, "file", common.for_file()).await?;
                Ok(Box::new(CopyOnRead::new(CopyOnReadOptions { bottom }, file)?))
            }
            "quorum" => {
                let quorum = QuorumOptions {
                    vote_threshold: options
                        .take_number("vote-threshold")?
                        .ok_or_else(|| options.missing("vote-threshold"))?,
                    blkverify: options.take_flag("blkverify")?.unwrap_or(false),
                    rewrite_corrupted: options.take_flag("rewrite-corrupted")?.unwrap_or(false),
                    read_pattern: options.take_choice("read-pattern", &ReadPattern::ALL)?.unwrap_or_default(),
                };
                let mut children = Vec::new();
                for child in options.take_children("children")? {
                    let child = self.child(child, common.for_file()).await?;
                    children.push(child.ok_or_else(|| options.missing("children"))?);
                }
                Ok(Box::new(Quorum::new(quorum, children)?))
            }
            "throttle" => Err(Error::Unsupported(
                "driver 'throttle' needs a group that is an object (-object throttle-group), which is not built yet"
                    .into(),
            )),
            _ => Err(Error::Option(format!("Unknown driver '{name}'"))),
        }
    }
}

fn null(kind: NullKind, options: &mut NodeOptions, common: Common) -> Result<Box<dyn Driver>, Error> {
    let usual = NullOptions::default();
    let null = NullOptions {
        size: options.take_number("size")?.unwrap_or(usual.size),
        latency_ns: options.take_number("latency-ns")?.unwrap_or(usual.latency_ns),
        read_zeroes: options.take_flag("read-zeroes")?.unwrap_or(usual.read_zeroes),
        read_only: common.settings.read_only,
    };
    Ok(Box::new(Null::new(kind, null, Arc::new(HostClock))?))
}

async fn curl(name: &str, options: &mut NodeOptions, common: Common) -> Result<Box<dyn Driver>, Error> {
    let known = CurlProtocol::ALL.into_iter().find(|(known, _)| *known == name);
    let (_, protocol) = known.ok_or_else(|| Error::Option(format!("Unknown driver '{name}'")))?;
    if !common.settings.read_only && !common.auto_read_only {
        return Err(Error::Option("curl block device does not support writes".into()));
    }
    let usual = CurlOptions::of(options.take_required("url")?);
    let on_or_off = [("on", true), ("off", false)];
    let curl = CurlOptions {
        readahead: options.take_number("readahead")?.unwrap_or(usual.readahead),
        timeout: options.take_number("timeout")?.unwrap_or(usual.timeout),
        username: options.take_text("username")?,
        proxy_username: options.take_text("proxy-username")?,
        cookie: options.take_text("cookie")?,
        sslverify: options.take_choice("sslverify", &on_or_off)?.unwrap_or(true),
        ..usual
    };
    Ok(Box::new(Curl::open(protocol, curl).await?))
}

/// A number that may be negative, or a state.
fn small(options: &mut NodeOptions, name: &str) -> Result<Option<i32>, Error> {
    let wrong = |value| Error::Option(format!("Parameter '{name}' is {value}; valid are numbers up to {}", i32::MAX));
    options.take_number(name)?.map(|value| i32::try_from(value).map_err(|_| wrong(value))).transpose()
}

fn blkdebug(options: &mut NodeOptions) -> Result<BlkdebugOptions, Error> {
    let mut rules = BlkdebugOptions {
        config: options.take_text("config")?.map(Into::into),
        align: options.take_number("align")?,
        max_transfer: options.take_number("max-transfer")?,
        opt_write_zero: options.take_number("opt-write-zero")?,
        max_write_zero: options.take_number("max-write-zero")?,
        opt_discard: options.take_number("opt-discard")?,
        max_discard: options.take_number("max-discard")?,
        ..BlkdebugOptions::default()
    };
    let event = |options: &mut NodeOptions| {
        options.take_choice("event", BlkdebugEvent::ALL)?.ok_or_else(|| options.missing("event"))
    };
    for mut rule in options.take_groups("inject-error")? {
        let usual = InjectError::after(event(&mut rule)?);
        rules.inject_error.push(InjectError {
            state: small(&mut rule, "state")?,
            iotype: rule.take_choice("iotype", &IoType::ALL)?,
            errno: small(&mut rule, "errno")?.unwrap_or(usual.errno),
            sector: rule.take_number("sector")?,
            once: rule.take_flag("once")?.unwrap_or(false),
            immediately: rule.take_flag("immediately")?.unwrap_or(false),
            ..usual
        });
        rule.finish()?;
    }
    for mut rule in options.take_groups("set-state")? {
        let event = event(&mut rule)?;
        let state = small(&mut rule, "state")?;
        let new_state = small(&mut rule, "new_state")?.ok_or_else(|| rule.missing("new_state"))?;
        rules.set_state.push(SetState { event, state, new_state });
        rule.finish()?;
    }
    Ok(rules)
}

async fn nbd_client(options: &mut NodeOptions, common: Common) -> Result<Box<dyn Driver>, Error> {
    let mut server = options.take_group("server")?;
    let mut kind = server.take_text("type")?;
    // Flat names, as command lines had them once.
    for name in ["path", "host", "port"] {
        if let Some(value) = options.take_text(name)? {
            server.set_default(name, value);
            kind.get_or_insert_with(|| if name == "path" { "unix" } else { "inet" }.into());
        }
    }
    let address = match kind.as_deref() {
        Some("unix") => Address::Unix(server.take_required("path")?.into()),
        Some("inet") => {
            let port = server.take_text("port")?.unwrap_or_else(|| "10809".into());
            let port = port.parse().map_err(|_| {
                Error::Option(format!("Parameter 'server.port' is '{port}'; valid is a number between 1 and 65535"))
            })?;
            Address::Tcp { host: server.take_required("host")?, port }
        }
        Some(other) => {
            return Err(Error::Option(format!(
                "Parameter 'server.type' does not accept value '{other}'; valid are inet, unix"
            )));
        }
        None => return Err(server.missing("type")),
    };
    server.finish()?;
    let target = Target { address, export: options.take_text("export")?.unwrap_or_default(), tls: false };
    let seconds = |value: Option<u64>| Duration::from_secs(value.unwrap_or(0));
    let client = ClientOptions {
        read_only: common.settings.read_only,
        reconnect_delay: seconds(options.take_number("reconnect-delay")?),
        open_timeout: seconds(options.take_number("open-timeout")?),
        ..ClientOptions::new(target)
    };
    Ok(Box::new(Client::connect(client).await?))
}

async fn host_file(kind: HostKind, options: &mut NodeOptions, common: Common) -> Result<Box<dyn Driver>, Error> {
    let path = options.take_required("filename")?;
    let engine = options.take_choice(
        "aio",
        &[("threads", Engine::Threads), ("native", Engine::IoUring), ("io_uring", Engine::IoUring)],
    )?;
    let locking = options.take_choice("locking", &[("auto", true), ("on", true), ("off", false)])?.unwrap_or(true);
    let mut file = FileOptions { engine: engine.unwrap_or_default(), kind, ..common.file() };
    if !locking {
        file.sharing = Sharing::Unlocked;
    }
    // Who only reads must not stand in the way of others who do.
    file.read_only |= common.auto_read_only;
    Ok(Box::new(blocking::unblock(move || HostFile::open(Path::new(&path), file)).await?))
}
