//! What most of several disks say.

use crate::{Error, IoVector};

/// Groups what was read by content: the numbers of the disks that agree, for each version, that of the first disk first.
pub(super) fn versions(answers: &[(usize, IoVector)]) -> Vec<Vec<usize>> {
    let mut versions: Vec<(&IoVector, Vec<usize>)> = Vec::new();
    for (disk, content) in answers {
        let same = versions.iter_mut().find(|(known, _)| known.first_difference(content).is_none());
        match same {
            Some((_, disks)) => disks.push(*disk),
            None => versions.push((content, vec![*disk])),
        }
    }
    versions.into_iter().map(|(_, disks)| disks).collect()
}

/// The error that most disks have; of several, that of the first disk.
pub(super) fn most_frequent(errors: Vec<Error>) -> Option<Error> {
    let numbers: Vec<i32> = errors.iter().map(Error::errno).collect();
    let count = |number: i32| numbers.iter().filter(|other| **other == number).count();
    let most = numbers.iter().map(|number| count(*number)).max()?;
    errors.into_iter().find(|error| count(error.errno()) == most)
}
