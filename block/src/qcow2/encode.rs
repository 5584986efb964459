//! The first cluster, as it is written.

use super::extensions::{BACKING_FORMAT, BITMAPS, DATA_FILE, ENCRYPTION_HEADER, END, FEATURE_NAME, FEATURE_NAMES};
use super::header::{MAGIC, V3_HEADER};
use super::image::Qcow2;
use super::{Header, Metadata};
use crate::Error;

/// Names of features: type (0 incompatible, 1 compatible, 2 autoclear), bit and name, for programs that do not know them.
const NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

impl Metadata {
    /// The header, its extensions and the backing file's name, as they stand at the file's beginning. Behind them the first cluster is
    /// zero.
    pub(super) fn first_cluster(&self) -> Result<Vec<u8>, Error> {
        self.encode(&NAMES)
    }

    /// The same without the names of features, which nobody needs.
    pub(super) fn first_cluster_without_names(&self) -> Result<Vec<u8>, Error> {
        self.encode(&[])
    }

    fn encode(&self, feature_names: &[(u8, u8, &str)]) -> Result<Vec<u8>, Error> {
        let header = &self.header;
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let length = bytes.len();
        let mut put = |kind: u32, content: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend((content.len() as u32).to_be_bytes());
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        };
        let extensions = &self.extensions;
        if let (Some(format), true) = (&extensions.backing_format, self.backing_file.is_some()) {
            put(BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &extensions.data_file {
            put(DATA_FILE, name.as_bytes());
        }
        if let Some((offset, length)) = extensions.encryption_header {
            put(ENCRYPTION_HEADER, &[offset.to_be_bytes(), length.to_be_bytes()].concat());
        }
        if header.version >= 3 && !feature_names.is_empty() {
            let mut names = Vec::with_capacity(feature_names.len() * FEATURE_NAME);
            for (kind, bit, name) in feature_names {
                names.extend([*kind, *bit]);
                names.extend(name.as_bytes());
                names.resize(names.len().next_multiple_of(FEATURE_NAME), 0);
            }
            put(FEATURE_NAMES, &names);
        }
        if let Some(directory) = &extensions.bitmaps {
            put(BITMAPS, &directory.encode());
        }
        for (kind, content) in &extensions.unknown {
            put(*kind, content);
        }
        put(END, &[]);
        if let Some(name) = &self.backing_file {
            let place = bytes.len() as u64;
            bytes.extend(name.as_bytes());
            // The fields behind magic number and version.
            bytes[8..16].copy_from_slice(&place.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        }
        let room = header.cluster_size() as usize;
        if bytes.len() > room {
            let needed = bytes.len() - length;
            return Err(Error::Unsupported(format!(
                "names and header extensions take {needed} bytes, and the first cluster has {}",
                room - length
            )));
        }
        Ok(bytes)
    }
}

impl Qcow2 {
    /// Writes the name and the format of the image behind, or that there is none.
    pub(super) async fn name_backing(&self, backing: Option<(&str, Option<&str>)>) -> Result<(), Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        self.flush_all().await?;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        // What else is in the header stays as it is stored.
        let mut stored = Metadata::read(&state.file).await?;
        if backing.is_some() && stored.header.data_file_is_raw() {
            let text = "Backing file and data-file-raw cannot be used at the same time";
            return Err(Error::Unsupported(text.into()));
        }
        stored.backing_file = backing.map(|(name, _)| name.to_owned());
        stored.extensions.backing_format = backing.and_then(|(_, format)| format.map(str::to_owned));
        let mut bytes = stored.first_cluster()?;
        bytes.resize(self.layout.cluster() as usize, 0);
        state.file.write_bytes(0, &bytes).await?;
        state.file.flush().await?;
        state.metadata.backing_file = stored.backing_file;
        state.metadata.extensions.backing_format = stored.extensions.backing_format;
        Ok(())
    }
}

impl Header {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_be_bytes());
        // The backing file's name is put in where its place is known.
        bytes.extend([0; 12]);
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend((self.encryption as u32).to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(self.l1_table.to_be_bytes());
        bytes.extend(self.refcount_table.to_be_bytes());
        bytes.extend(self.refcount_table_clusters.to_be_bytes());
        bytes.extend(self.snapshots.to_be_bytes());
        bytes.extend(self.snapshot_table.to_be_bytes());
        if self.version < 3 {
            return;
        }
        bytes.extend(self.incompatible_features.to_be_bytes());
        bytes.extend(self.compatible_features.to_be_bytes());
        bytes.extend(self.autoclear_features.to_be_bytes());
        bytes.extend(self.refcount_order.to_be_bytes());
        bytes.extend((self.length.max(V3_HEADER) as u32).to_be_bytes());
        bytes.push(self.compression as u8);
        // Fields that are not known yet are zero.
        bytes.resize(self.length.max(V3_HEADER) as usize, 0);
    }
}
