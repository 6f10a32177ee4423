//! The database that a pipeline fills: the live database, or a shadow database.

use tokio::sync::watch;

/// The database that a pipeline fills, and so the messages that it reads.
#[derive(Debug)]
pub enum Mode {
    /// The live database: messages are read as they arrive, until the stop.
    Live {
        /// Whether the operator allows a new epoch if the old one cannot continue.
        new_epoch: bool,
        /// Gets the last sequence of every commit that added rejected messages to the ledger.
        rejections: watch::Sender<u64>,
    },
    /// A shadow database: the messages in the stream are read, up to a sequence.
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

    /// Ends the permission for a new epoch. The operator gave it once, for the stream of that time; a later change of
    /// the stream needs another decision.
    pub(super) fn epoch_is_settled(&mut self) {
        if let Self::Live { new_epoch, .. } = self {
            *new_epoch = false;
        }
    }

    /// Whether a sequence lies after the last one that a replay reads. Never true in live mode.
    pub(super) fn is_beyond(&self, seq: u64) -> bool {
        matches!(self, Self::Replay { last_seq } if seq > *last_seq)
    }

    /// Whether a replay that has read up to `seq` is done. Never true in live mode.
    pub(super) fn has_reached(&self, seq: u64, has_backlog: bool) -> bool {
        matches!(self, Self::Replay { last_seq } if seq >= *last_seq || !has_backlog)
    }

    /// Returns how many waiting messages make a backlog, for which a larger transaction is worth the wait. In live
    /// mode, the backlog must fill at least one more batch. If messages only keep coming, they are written as soon as
    /// the writer is free.
    pub(super) fn least_backlog(&self, batch_messages: usize) -> u64 {
        match self {
            Self::Live { .. } => batch_messages as u64,
            Self::Replay { .. } => 1,
        }
    }

    /// Returns how many batches are read ahead of the transaction. In a replay, the next batches are read and judged
    /// while the writer updates the derived tables.
    pub(super) fn batches_ahead(&self) -> usize {
        match self {
            Self::Live { .. } => 1,
            Self::Replay { .. } => 3,
        }
    }

    /// Logs that messages are gone from the stream. A replay expects that, so it does not warn.
    pub(super) fn log_gap(&self, first: u64, last: u64) {
        match self {
            Self::Live { .. } => tracing::warn!(first, last, "messages were gone before they were read"),
            Self::Replay { .. } => tracing::info!(first, last, "the stream no longer holds these messages"),
        }
    }

    /// Tells the outbox of dead letters that there may be new ones up to a sequence.
    pub(super) fn tell_of_rejections(&self, upto_seq: u64) {
        if let Self::Live { rejections, .. } = self {
            rejections.send_replace(upto_seq);
        }
    }
}
