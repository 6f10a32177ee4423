//! How a round of reading ends, and what is done then.

use crate::nats::NatsError;
use crate::store::StoreError;

/// What ends the pipeline.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// NATS, for good.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a round of reading ended.
pub(super) enum Ended {
    Stopped,
    /// A replay has read what there is.
    Reached,
    Interrupted(String),
    /// There are messages, but they are not delivered.
    Stalled,
}

/// Why another round begins; none where the pipeline is done. Nothing is lost in any case: what was committed is in the
/// database, and the next round reads the rest again.
///
/// | a round ended with | the pipeline |
/// |---|---|
/// | the stop, or the last message of a replay | is done |
/// | an interruption, or messages that are not delivered | begins another round |
/// | an error of NATS that passes by itself | begins another round |
/// | a position that somebody else moved, a damaged table that is frozen now | begins another round |
/// | another process's write lock, at the stop | is done: the batch is left in the stream |
/// | any other error | ends with it |
///
/// # Errors
/// Where going on needs somebody to do something.
pub(super) fn why_again(
    ended: Result<Ended, PipelineError>,
    is_stopping: bool,
) -> Result<Option<String>, PipelineError> {
    match ended {
        Ok(Ended::Stopped | Ended::Reached) => Ok(None),
        Ok(Ended::Interrupted(why)) => Ok(Some(why)),
        Ok(Ended::Stalled) => Ok(Some("messages are there, but not delivered".into())),
        Err(PipelineError::Nats(error)) if error.is_transient() => Ok(Some(error.to_string())),
        Err(PipelineError::Store(error @ (StoreError::PositionMoved | StoreError::Frozen { .. }))) => {
            Ok(Some(error.to_string()))
        }
        Err(PipelineError::Store(StoreError::Busy)) if is_stopping => Ok(None),
        Err(error) => Err(error),
    }
}
