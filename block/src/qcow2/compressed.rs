//! Compressed clusters.

use std::io::Read;

use super::entries::Cluster;
use super::header::CompressionType;
use super::image::Qcow2;
use crate::deflate::{Wrapper, deflate, inflate};
use crate::filters::BlkdebugEvent;
use crate::{Error, IoVector};

/// How far back deflated data refers, as a power of two: who reads it may have no more memory than for that.
const WINDOW_BITS: u8 = 12;

impl Qcow2 {
    /// The cluster whose compressed data is at `host`, in at most `length` bytes.
    pub(super) async fn read_compressed(&self, host: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.file.event(BlkdebugEvent::ReadCompressed);
        let data = self.file.read_vec(host, length as usize).await?;
        let plain = decompress(self.compression, data, self.layout.cluster() as usize).await;
        plain.ok_or_else(|| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "compressed data is damaged");
            Error::host("decompress a cluster", error)
        })
    }

    /// The compressed form of a whole cluster, or of the last part of the disk; `None` where that takes no less room.
    pub(super) async fn compress_cluster(&self, plain: IoVector) -> Option<Vec<u8>> {
        let mut bytes = plain.to_vec();
        bytes.resize(self.layout.cluster() as usize, 0);
        compress(self.compression, bytes).await
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
        if self.data_file.is_some() {
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
        self.file.event(BlkdebugEvent::WriteCompressed);
        let written = self.file.write_bytes(host, &data).await;
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
async fn decompress(method: CompressionType, data: Vec<u8>, cluster: usize) -> Option<Vec<u8>> {
    match method {
        CompressionType::Zlib => {
            let plain = inflate(data, cluster, Wrapper::None).await.ok()?;
            (plain.len() == cluster).then_some(plain)
        }
        CompressionType::Zstd => {
            let unpack = move || {
                let mut plain = vec![0; cluster];
                let mut reader = zstd::stream::read::Decoder::with_buffer(&data[..]).ok()?.single_frame();
                reader.read_exact(&mut plain).ok()?;
                Some(plain)
            };
            blocking::unblock(unpack).await
        }
    }
}

/// The compressed form of a cluster, if it is shorter.
async fn compress(method: CompressionType, plain: Vec<u8>) -> Option<Vec<u8>> {
    let most = plain.len();
    match method {
        CompressionType::Zlib => deflate(plain, most, Wrapper::None, WINDOW_BITS).await.ok()?,
        CompressionType::Zstd => {
            let pack = move || {
                let mut data = vec![0; most - 1];
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                let length = zstd::bulk::compress_to_buffer(&plain, &mut data, level).ok()?;
                data.truncate(length);
                Some(data)
            };
            blocking::unblock(pack).await
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn what_is_compressed_is_the_same_again() {
        for method in [CompressionType::Zlib, CompressionType::Zstd] {
            let plain: Vec<u8> = (0..65536_u32).map(|at| (at / 100) as u8).collect();
            let mut data = block_on(compress(method, plain.clone())).unwrap();
            assert!(data.len() < 10000);
            data.extend([0xaa; 300]);
            assert_eq!(block_on(decompress(method, data.clone(), 65536)).unwrap(), plain, "{method}");
            assert_eq!(block_on(decompress(method, data[..50].to_vec(), 65536)), None);
            assert_eq!(block_on(decompress(method, vec![0xff; 100], 65536)), None);
            let mut seed = 1_u64;
            let noise = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                (seed >> 56) as u8
            });
            let noise: Vec<u8> = noise.take(65536).collect();
            assert_eq!(block_on(compress(method, noise)), None);
        }
    }
}
