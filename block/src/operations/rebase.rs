//! Makes an image read the same in front of another one.

use std::sync::Arc;

use super::copy::{CopyError, Progress, TellProgress};
use super::{REQUEST, SECTOR, length_in_sectors};
use crate::{IoVector, Node};

/// Writes into `image` what it reads from behind it where that differs from `new_backing`, or from zeros where there is none.
///
/// Then `image` reads the same with `new_backing` behind it.
pub async fn copy_differences(
    image: &Arc<Node>,
    new_backing: Option<&Arc<Node>>,
    progress: TellProgress,
) -> Result<(), CopyError> {
    let total = length_in_sectors(image);
    let new_length = new_backing.map_or(0, |node| length_in_sectors(node));
    let cluster = image.driver().cluster_size().max(SECTOR);
    let [old, new] = [(); 2].map(|()| IoVector::zeroed(REQUEST.max(cluster) as usize));
    let mut at = 0;
    while at < total {
        progress(Progress { done: at, total });
        let status = image.status(at, total - at).await.map_err(|error| CopyError::Status { offset: at, error })?;
        if status.is_here {
            at += status.length;
            continue;
        }
        // Up to the end of a cluster, so that parts of one are written at once.
        let most = (at + old.len() as u64) / cluster * cluster;
        let end = (at + status.length).min(most).min(total);
        let length = (end - at) as usize;
        let (old, new) = (old.slice(0, length), new.slice(0, length));
        image.read(at, old.clone()).await.map_err(|error| CopyError::Read { offset: at, error })?;
        new.fill(0);
        if let Some(node) = new_backing.filter(|_| at < new_length) {
            let part = new.slice(0, (new_length - at).min(length as u64) as usize);
            node.read(at, part).await.map_err(|error| CopyError::Read { offset: at, error })?;
        }
        let mut done = 0;
        while done < length {
            let offset = at + done as u64;
            let part = ((offset / cluster + 1) * cluster - offset).min((length - done) as u64) as usize;
            let (old, new) = (old.slice(done, part), new.slice(done, part));
            if old.first_difference(&new).is_some() {
                image.write(offset, old).await.map_err(|error| CopyError::Write { offset, error })?;
            }
            done += part;
        }
        at = end;
    }
    progress(Progress { done: total, total });
    Ok(())
}
