//! What a pipeline reads for: the live database, or a shadow of it.

use tokio::sync::watch;

/// What a pipeline reads for.
#[derive(Debug)]
pub enum Mode {
    /// The live database: messages as they come, until the stop.
    Live {
        /// Whether the operator lets a stream that cannot go on begin a new epoch.
        new_epoch: bool,
        /// Told of every commit that put something into the ledger: its last sequence.
        rejections: watch::Sender<u64>,
    },
    /// A shadow: what the stream holds, up to a sequence.
    Replay {
        /// The last sequence to read.
        last_seq: u64,
    },
}

impl Mode {
    /// Whether a new epoch may begin.
    pub(super) fn may_begin_epoch(&self) -> bool {
        matches!(self, Self::Live { new_epoch: true, .. })
    }

    /// A new epoch was named once, for the stream of then: what happens to this one is another decision.
    pub(super) fn epoch_is_settled(&mut self) {
        if let Self::Live { new_epoch, .. } = self {
            *new_epoch = false;
        }
    }

    /// Whether a sequence lies beyond what is to be read.
    pub(super) fn is_beyond(&self, seq: u64) -> bool {
        matches!(self, Self::Replay { last_seq } if seq > *last_seq)
    }

    /// Whether all that is to be read is read, where the last message is at a sequence.
    pub(super) fn has_reached(&self, seq: u64, has_backlog: bool) -> bool {
        matches!(self, Self::Replay { last_seq } if seq >= *last_seq || !has_backlog)
    }

    /// From how many waiting messages on larger transactions are worth waiting for. Live, at least one more batch must
    /// fill: where messages merely keep coming, what is there is written as soon as the writer is free.
    pub(super) fn least_backlog(&self, batch_messages: usize) -> u64 {
        match self {
            Self::Live { .. } => batch_messages as u64,
            Self::Replay { .. } => 1,
        }
    }

    /// Batches that are read ahead of the transaction. In a replay the rules go over the next ones while the writer
    /// derives.
    pub(super) fn batches_ahead(&self) -> usize {
        match self {
            Self::Live { .. } => 1,
            Self::Replay { .. } => 3,
        }
    }

    /// Tells of messages that are gone from the stream.
    pub(super) fn log_gap(&self, first: u64, last: u64) {
        match self {
            Self::Live { .. } => tracing::warn!(first, last, "messages were gone before they were read"),
            Self::Replay { .. } => tracing::info!(first, last, "the stream does not hold these messages any more"),
        }
    }

    /// Tells those who publish dead letters that there may be some up to a sequence.
    pub(super) fn tell_of_rejections(&self, upto_seq: u64) {
        if let Self::Live { rejections, .. } = self {
            rejections.send_replace(upto_seq);
        }
    }
}
