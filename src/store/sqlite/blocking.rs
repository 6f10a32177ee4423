//! SQLite's calls block, so they run on threads that may.

use crate::store::error::StoreError;

/// Runs calls that block on a thread for such calls. A panic in them goes on in the caller.
///
/// # Errors
/// Those of the calls; [`StoreError::Stopping`] where the runtime ends before they begin.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopping),
        },
    }
}
