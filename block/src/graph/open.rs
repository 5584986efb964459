//! Nodes from options.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Graph;
use super::options::{ChildOptions, NodeOptions};
use crate::neighbours::Neighbours;
use crate::node::{DetectZeroes, Settings};
use crate::open::{Around, Backing, generated_name, open_driver};
use crate::{Driver, Error, FileOptions, Format, HostFile, ImageOptions, Node, Raw, RawOptions, Sharing};

/// What options say of a node, whichever driver it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) settings: Settings,
    /// It is opened for writing only if somebody writes it.
    pub(super) auto_read_only: bool,
    force_share: bool,
}

/// What a child is, unless it says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inherited {
    read_only: bool,
    direct: bool,
    no_flush: bool,
    force_share: bool,
    discard: bool,
    /// Whoever asked would rather have it read-only than not at all.
    auto_read_only: bool,
}

/// Nodes that are being made together: none is in the graph yet.
pub(super) struct Opening<'a> {
    pub(super) graph: &'a Graph,
    names: Vec<String>,
}

impl Common {
    fn take(options: &mut NodeOptions, inherited: Inherited) -> Result<Common, Error> {
        let read_only = options.take_flag("read-only")?;
        let auto_read_only = options.take_flag("auto-read-only")?.unwrap_or(inherited.auto_read_only);
        let mut cache = options.take_group("cache")?;
        let direct = cache.take_flag("direct")?.unwrap_or(inherited.direct);
        let no_flush = cache.take_flag("no-flush")?.unwrap_or(inherited.no_flush);
        cache.finish()?;
        let discard =
            options.take_choice("discard", &[("ignore", false), ("off", false), ("unmap", true), ("on", true)])?;
        let discard = discard.unwrap_or(inherited.discard);
        let detect_zeroes = options.take_choice("detect-zeroes", &DetectZeroes::ALL)?.unwrap_or_default();
        if detect_zeroes == DetectZeroes::Unmap && !discard {
            return Err(Error::Option(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap".into(),
            ));
        }
        let read_only = read_only.unwrap_or(inherited.read_only);
        let force_share = options.take_flag("force-share")?.unwrap_or(inherited.force_share);
        if force_share && !read_only {
            return Err(Error::Option("force-share=on can only be used with read-only images".into()));
        }
        let settings = Settings { discard, detect_zeroes, direct, no_flush, read_only };
        Ok(Common { settings, auto_read_only, force_share })
    }

    pub(super) fn file(self) -> FileOptions {
        FileOptions {
            read_only: self.settings.read_only,
            direct: self.settings.direct,
            no_flush: self.settings.no_flush,
            sharing: if self.force_share { Sharing::Everyone } else { Sharing::Readers },
            ..FileOptions::default()
        }
    }

    /// What the child that has the bytes is, unless it says otherwise.
    pub(super) fn for_file(self) -> Inherited {
        let Settings { direct, no_flush, read_only, .. } = self.settings;
        // Who uses this node decides what is discarded; what comes through is done.
        let (force_share, auto_read_only) = (self.force_share, self.auto_read_only);
        Inherited { read_only, direct, no_flush, force_share, discard: true, auto_read_only }
    }

    /// What the node behind an image is, unless it says otherwise.
    fn for_backing(self) -> Inherited {
        Inherited { read_only: true, auto_read_only: false, discard: self.settings.discard, ..self.for_file() }
    }
}

impl<'a> Opening<'a> {
    pub(super) fn new(graph: &'a Graph) -> Opening<'a> {
        Opening { graph, names: Vec::new() }
    }

    /// Makes the node that these options describe, and those below it.
    pub(super) fn open(
        &mut self,
        options: NodeOptions,
        inherited: Inherited,
    ) -> BoxFuture<'_, Result<Arc<Node>, Error>> {
        self.open_node(options, inherited).boxed()
    }

    async fn open_node(&mut self, mut options: NodeOptions, inherited: Inherited) -> Result<Arc<Node>, Error> {
        let name = match options.take_text("node-name")? {
            Some(name) => {
                self.check_name(&name)?;
                self.names.push(name.clone());
                name
            }
            None => generated_name(),
        };
        let driver = match options.take_text("driver")? {
            Some(driver) => Some(driver),
            None if options.may_probe() => None,
            None => return Err(options.missing("driver")),
        };
        let mut common = Common::take(&mut options, inherited)?;
        let made: Box<dyn Driver> = match driver.as_deref() {
            None => self.format(None, &mut options, &mut common).await?,
            Some(name) => match Format::named(name) {
                Some(format) => self.format(Some(format), &mut options, &mut common).await?,
                None => self.protocol_or_filter(name, &mut options, common).await?,
            },
        };
        options.finish()?;
        Ok(Node::with(name, made, common.settings))
    }

    /// A name for a new node: well formed, and nobody else's.
    fn check_name(&self, name: &str) -> Result<(), Error> {
        let is_well_formed = name.len() < 32
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !is_well_formed {
            return Err(Error::Option(format!(
                "Invalid node-name: '{name}'; valid are a letter and at most 30 letters, digits, '-', '.' and '_'"
            )));
        }
        if self.graph.backend(name).is_some() {
            return Err(Error::Option(format!("node-name={name} is conflicting with a device id")));
        }
        if self.names.iter().any(|other| other == name) || self.graph.node(name).is_some() {
            return Err(Error::Option(format!("Duplicate nodes with node-name='{name}'")));
        }
        Ok(())
    }

    /// The node that an option names or describes.
    pub(super) async fn child(
        &mut self,
        child: ChildOptions,
        inherited: Inherited,
    ) -> Result<Option<Arc<Node>>, Error> {
        match child {
            ChildOptions::Nothing => Ok(None),
            ChildOptions::Named(name) => self.graph.existing_node(&name).map(Some),
            ChildOptions::New(options) => self.open(options, inherited).await.map(Some),
        }
    }

    /// A child that must be there.
    pub(super) async fn required(
        &mut self,
        options: &mut NodeOptions,
        name: &str,
        inherited: Inherited,
    ) -> Result<Arc<Node>, Error> {
        let child = options.take_child(name)?.ok_or_else(|| options.missing(name))?;
        self.child(child, inherited).await?.ok_or_else(|| options.missing(name))
    }

    async fn format(
        &mut self,
        format: Option<Format>,
        options: &mut NodeOptions,
        common: &mut Common,
    ) -> Result<Box<dyn Driver>, Error> {
        let file = self.required(options, "file", common.for_file()).await?;
        if !common.settings.read_only && file.is_read_only() {
            match set_read_only(&file, false).await {
                Ok(()) => {}
                Err(_) if common.auto_read_only => common.settings.read_only = true,
                Err(_) => return Err(Error::Option(format!("Block node '{}' is read-only", file.name()))),
            }
        }
        let path = file_of(&file).and_then(|node| node.driver_as::<HostFile>()?.path().map(Path::to_owned));
        let found = match format {
            Some(format) => format,
            None => Format::probe_named(path.as_deref().unwrap_or(Path::new("")), &file).await?,
        };
        let mut around = Around::default();
        if matches!(found, Format::Qcow2 | Format::Qcow | Format::Vmdk) {
            around.backing = match options.take_child("backing")? {
                None => Backing::AsNamed,
                Some(child) => match self.child(child, common.for_backing()).await? {
                    None => Backing::Nothing,
                    Some(node) => Backing::Node(node),
                },
            };
        }
        if found == Format::Qcow2
            && let Some(child) = options.take_child("data-file")?
        {
            around.data_file = self.child(child, common.for_file()).await?;
        }
        if format == Some(Format::Raw) {
            let (offset, size) = (options.take_number("offset")?.unwrap_or(0), options.take_number("size")?);
            return Ok(Box::new(Raw::part(RawOptions { offset, size }, file)?));
        }
        let image =
            ImageOptions { format, file: common.file(), discard: common.settings.discard, ..ImageOptions::default() };
        let neighbours = match path {
            Some(path) => Neighbours::of(&path, image),
            None => Neighbours::of_no_file(image),
        };
        let name = file.filename();
        let failed = |error: Error| match name {
            Some(name) => error.while_opening(Path::new(&name)),
            None => error,
        };
        open_driver(file, format, &neighbours, around).await.map_err(failed)
    }
}

/// The node with the host's file, below nodes that only have its bytes.
fn file_of(node: &Arc<Node>) -> Option<Arc<Node>> {
    let mut node = node.clone();
    while node.driver_as::<HostFile>().is_none() {
        if !node.driver().is_filter() {
            return None;
        }
        node = node.child(crate::Role::File)?;
    }
    Some(node)
}

/// Has a node and what is below it refuse writes, or allow them. No request is under way.
pub(crate) fn set_read_only(node: &Arc<Node>, read_only: bool) -> BoxFuture<'_, Result<(), Error>> {
    async move {
        if node.is_read_only() == read_only {
            return Ok(());
        }
        let driver = node.driver();
        if !driver.can_set_read_only() {
            let why = if read_only { "read-only" } else { "writable" };
            let text =
                format!("node '{}' (driver '{}') cannot be made {why} while it is open", node.name(), driver.name());
            return Err(Error::Unsupported(text));
        }
        let below: Vec<_> = driver
            .children()
            .into_iter()
            .filter(|(role, _)| *role != crate::Role::Backing)
            .map(|(_, child)| child)
            .collect();
        // Above is never less restricted than below.
        if read_only {
            driver.set_read_only(true).await?;
        }
        for child in &below {
            // Files that were opened for writing may stay so: others may use them.
            if !read_only {
                set_read_only(child, false).await?;
            }
        }
        if !read_only {
            driver.set_read_only(false).await?;
        }
        node.set(Settings { read_only, ..node.settings() });
        Ok(())
    }
    .boxed()
}
