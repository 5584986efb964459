//! New images.

mod new_file;
mod tables;
mod values;

use std::path::Path;

use crate::driver::{Driver, Preallocation};
use crate::operations::SECTOR;
use crate::{Error, Format, HostFile, Node, OptionValues, host_words, parallels, qcow, qcow2, vdi, vhdx, vmdk, vpc};

pub(crate) use new_file::NewFile;

/// Makes a new image in a file, whose former content is lost, and closes it.
///
/// A file that this made is not there if it fails.
pub async fn create(path: &Path, format: Format, values: &OptionValues) -> Result<(), Error> {
    if values.number("extent_size_hint").is_some_and(|hint| hint != 0) {
        return Err(Error::Unsupported("extent_size_hint is not built yet; 0 asks for none".into()));
    }
    let in_place = values.is_on("nocow");
    match format {
        Format::Raw => {
            let (size, preallocation) = (values.number("size").unwrap_or(0), values::refuse_metadata(values)?);
            // Longer ones the host refuses.
            let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
            let (file, protocol) = NewFile::make(path, in_place)?;
            file.keep_if(fill(&protocol, size, preallocation).await)
        }
        Format::Qcow2 => {
            let options = values::qcow2(values)?;
            let (file, protocol) = NewFile::make(path, in_place)?;
            let done = async {
                let data = match &options.data_file {
                    Some(name) => Some(NewFile::make(&path.parent().unwrap_or(Path::new("")).join(name), in_place)?),
                    None => None,
                };
                let (data_file, data_protocol) = data.unzip();
                let data_node = data_protocol.map(|protocol| Node::new("data-file", protocol));
                let done = qcow2::create(Node::new("file", protocol), data_node, &options).await;
                match data_file {
                    Some(data_file) => data_file.keep_if(done),
                    None => done,
                }
            };
            let done = done.await;
            file.keep_if(done)
        }
        Format::Vmdk => {
            values::refuse_metadata(values)?;
            vmdk::create(path, &values::vmdk(values)?).await
        }
        Format::Qcow => in_file(path, values, async |file| qcow::create(file, &values::qcow(values)?).await).await,
        Format::Vdi => in_file(path, values, async |file| vdi::create(file, &values::vdi(values)?).await).await,
        Format::Vhdx => in_file(path, values, async |file| vhdx::create(file, &values::vhdx(values)?).await).await,
        Format::Vpc => in_file(path, values, async |file| vpc::create(file, &values::vpc(values)?).await).await,
        Format::Parallels => {
            in_file(path, values, async |file| parallels::create(file, &values::parallels(values)?).await).await
        }
        Format::Bochs | Format::Cloop | Format::Dmg => {
            let text = format!("Format driver '{}' does not support image creation", format.name());
            Err(Error::Unsupported(text))
        }
    }
}

/// Makes an image of one file, of whose length the format alone decides: nothing is made ready in it.
async fn in_file(
    path: &Path,
    values: &OptionValues,
    make: impl AsyncFnOnce(&Node) -> Result<(), Error>,
) -> Result<(), Error> {
    let (file, protocol) = NewFile::make(path, values.is_on("nocow"))?;
    let node = Node::new("file", protocol);
    let done = match values::refuse_metadata(values) {
        Ok(_) => make(&node).await,
        Err(error) => Err(error),
    };
    file.keep_if(done)
}

async fn fill(file: &HostFile, size: u64, preallocation: Preallocation) -> Result<(), Error> {
    file.truncate(0, Preallocation::Off).await?;
    file.truncate(size, preallocation).await.map_err(|error| match error {
        Error::Host { source, .. } if source.raw_os_error() == Some(libc::EFBIG) => {
            Error::Unsupported("The image size is too large for file format 'raw'".into())
        }
        Error::Host { source, .. } => Error::Unsupported(format!("Could not resize file: {}", host_words(&source))),
        other => other,
    })
}
