//! The progress of a rebuild of groups.

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Raw rows that the rebuild has applied.
    pub rows: u64,
    /// Raw rows that existed when the rebuild began.
    pub total: u64,
}

/// The place of a raw row in the stream. Rows that did not come from a stream have epoch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamPlace {
    pub(super) epoch: i64,
    pub(super) stream_seq: i64,
}

/// The place before all raw rows.
pub(super) const BEFORE_ALL: StreamPlace = StreamPlace { epoch: -1, stream_seq: 0 };

/// Which raw rows a shadow file of groups contains.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShadowState {
    pub(super) upto: StreamPlace,
    pub(super) retries_upto: i64,
    pub(super) progress: RebuildProgress,
}
