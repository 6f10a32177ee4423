//! How a round of reading ends, and how the pipeline continues.

use crate::nats::NatsError;
use crate::store::StoreError;

/// An error that ends the pipeline, or at least a round.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// An error of NATS. It ends the pipeline only if it cannot pass by itself.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// An error of the database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a round of reading ended.
pub(super) enum Ended {
    Stopped,
    /// A replay has read all its messages.
    Reached,
    Interrupted(String),
    /// Messages wait, but are not delivered.
    Stalled,
}

/// Returns why another round begins, or `None` if the pipeline is done. Nothing is lost in any case: committed
/// messages are in the database, and the next round reads the rest again.
///
/// | a round ended with | the pipeline |
/// |---|---|
/// | the stop, or the last message of a replay | is done |
/// | an interruption, or messages that are not delivered | begins another round |
/// | an error of NATS that passes by itself | begins another round |
/// | a position that another program moved, or a damaged table whose group is frozen now | begins another round |
/// | another process's write lock, at the stop | is done: the batch stays in the stream |
/// | any other error | ends with this error |
///
/// # Errors
/// If the pipeline can continue only after somebody acts.
pub(super) fn why_again(
    ended: Result<Ended, PipelineError>,
    is_stopping: bool,
) -> Result<Option<String>, PipelineError> {
    match ended {
        Ok(Ended::Stopped | Ended::Reached) => Ok(None),
        Ok(Ended::Interrupted(why)) => Ok(Some(why)),
        Ok(Ended::Stalled) => Ok(Some("messages wait in the stream, but are not delivered".into())),
        Err(PipelineError::Nats(error)) if error.is_transient() => Ok(Some(error.to_string())),
        Err(PipelineError::Store(error @ (StoreError::PositionMoved | StoreError::Frozen { .. }))) => {
            Ok(Some(error.to_string()))
        }
        Err(PipelineError::Store(StoreError::Busy)) if is_stopping => Ok(None),
        Err(error) => Err(error),
    }
}
