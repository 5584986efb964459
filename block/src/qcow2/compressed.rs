//! Compressed clusters.

use std::io::Read;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::entries::Cluster;
use super::header::CompressionType;
use super::image::Qcow2;
use crate::{Error, IoVector};

/// How far back deflated data refers, as a power of two: who reads it may have no more memory than for that.
const WINDOW_BITS: u8 = 12;

impl Qcow2 {
    /// The cluster whose compressed data is at `host`, in at most `length` bytes.
    pub(super) async fn read_compressed(&self, host: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.files.file.event(crate::filters::BlkdebugEvent::ReadCompressed);
        let data = self.files.file.read_vec(host, length as usize).await?;
        let (cluster, method) = (self.layout.cluster() as usize, self.compression);
        let plain = blocking::unblock(move || decompress(method, &data, cluster)).await;
        plain.ok_or_else(|| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "compressed data is damaged");
            Error::host("decompress a cluster", error)
        })
    }

    /// The compressed form of a whole cluster, or of the last part of the disk; `None` where that takes no less room.
    pub(super) async fn compress_cluster(&self, plain: IoVector) -> Option<Vec<u8>> {
        let (method, cluster) = (self.compression, self.layout.cluster() as usize);
        blocking::unblock(move || {
            let mut bytes = plain.to_vec();
            bytes.resize(cluster, 0);
            compress(method, &bytes)
        })
        .await
    }

    /// Writes a whole cluster, or the last part of the disk, in its compressed form; as it is where there is none.
    pub(super) async fn write_compressed_cluster(
        &self,
        offset: u64,
        from: IoVector,
        data: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        use crate::Driver;
        let cluster = self.layout.cluster();
        let length = from.len() as u64;
        let is_whole = length == cluster || length < cluster && offset + length == self.length();
        if !offset.is_multiple_of(cluster) || !is_whole {
            return Err(Error::Unsupported("compressed data is written in whole clusters only".into()));
        }
        if self.files.data_file.is_some() {
            return Err(Error::Unsupported("an image with a data file has no compressed data".into()));
        }
        let Some(data) = data else { return self.write_disk(offset, from).await };
        let _turn = self.requests.exclusive(offset..offset + cluster).await;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        let host = match state.allocate_bytes(data.len() as u64).await {
            Ok(host) => host,
            Err(error) => return Err(state.mark_corrupt(error).await),
        };
        drop(state);
        self.files.file.event(crate::filters::BlkdebugEvent::WriteCompressed);
        let written = self.files.file.write_bytes(host, &data).await;
        let new = Cluster::Compressed { host, length: data.len() as u64 };
        let mut state = self.state.lock().await;
        match written {
            Ok(()) => {
                let done = state.set_cluster(offset, new).await;
                self.keep_changes_few(&mut state).await?;
                done
            }
            Err(error) => {
                state.release(new);
                Err(error)
            }
        }
    }
}

/// The cluster that compressed data has, if it has a whole one. Behind it there may be anything.
fn decompress(method: CompressionType, data: &[u8], cluster: usize) -> Option<Vec<u8>> {
    let mut plain = vec![0; cluster];
    match method {
        CompressionType::Zlib => {
            let mut stream = Decompress::new(false);
            let status = stream.decompress(data, &mut plain, FlushDecompress::Finish).ok()?;
            let is_whole = stream.total_out() == cluster as u64;
            (is_whole && matches!(status, Status::StreamEnd | Status::Ok | Status::BufError)).then_some(plain)
        }
        CompressionType::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(data).ok()?.single_frame();
            reader.read_exact(&mut plain).ok()?;
            Some(plain)
        }
    }
}

/// The compressed form of a cluster, if it is shorter.
fn compress(method: CompressionType, plain: &[u8]) -> Option<Vec<u8>> {
    let mut data = vec![0; plain.len() - 1];
    let length = match method {
        CompressionType::Zlib => {
            let mut stream = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
            let status = stream.compress(plain, &mut data, FlushCompress::Finish).ok()?;
            if status != Status::StreamEnd {
                return None;
            }
            stream.total_out() as usize
        }
        CompressionType::Zstd => {
            zstd::bulk::compress_to_buffer(plain, &mut data, zstd::DEFAULT_COMPRESSION_LEVEL).ok()?
        }
    };
    data.truncate(length);
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_the_same_again() {
        for method in [CompressionType::Zlib, CompressionType::Zstd] {
            let plain: Vec<u8> = (0..65536_u32).map(|at| (at / 100) as u8).collect();
            let mut data = compress(method, &plain).unwrap();
            assert!(data.len() < 10000);
            data.extend([0xaa; 300]);
            assert_eq!(decompress(method, &data, 65536).unwrap(), plain, "{method}");
            assert_eq!(decompress(method, &data[..50], 65536), None);
            assert_eq!(decompress(method, &[0xff; 100], 65536), None);
            let mut seed = 1_u64;
            let noise = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                (seed >> 56) as u8
            });
            let noise: Vec<u8> = noise.take(65536).collect();
            assert_eq!(compress(method, &noise), None);
        }
    }
}
