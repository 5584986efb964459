//! Requests that are parts of one.

use futures_util::future::join_all;

use crate::Error;

/// Makes all requests at once, and gives the first error of those that fail.
///
/// All are waited for also where one fails: the host would go on with those that were given up, and move bytes to or from memory that
/// has other uses by then, or write to places that have become another's.
pub(crate) async fn all_of(
    requests: impl IntoIterator<Item = impl Future<Output = Result<(), Error>>>,
) -> Result<(), Error> {
    join_all(requests).await.into_iter().collect()
}
