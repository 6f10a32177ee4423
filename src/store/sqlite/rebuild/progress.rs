//! How far a rebuild of groups is.

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Raw rows that are in it.
    pub rows: u64,
    /// Raw rows that there were when it began.
    pub total: u64,
}

/// The place of a raw row in the stream. Rows that came another way have epoch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamPlace {
    pub(super) epoch: i64,
    pub(super) stream_seq: i64,
}

/// Before any raw row.
pub(super) const BEFORE_ALL: StreamPlace = StreamPlace { epoch: -1, stream_seq: 0 };

/// Where a build stands: what of the raw rows is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShadowState {
    pub(super) upto: StreamPlace,
    pub(super) retries_upto: i64,
    pub(super) progress: RebuildProgress,
}
