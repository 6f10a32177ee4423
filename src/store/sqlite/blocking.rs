//! SQLite's calls block, so they run on threads that may block.

use crate::store::error::StoreError;

/// Runs blocking calls on a thread for such calls. A panic in the calls continues in the caller.
///
/// # Errors
/// The errors of the calls; [`StoreError::Stopping`] if the runtime ends before the calls begin.
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
