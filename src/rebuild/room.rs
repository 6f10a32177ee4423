//! How much free disk space each rebuild needs. It is checked before the rebuild begins.

use std::path::Path;

use crate::store::{self, MIN_FREE_BYTES, StoreError};

/// To install a rebuilt database, as a multiple of its size. The disk holds three copies: the database, its shadow, and
/// the shadow's pages in the database's write-ahead log.
const INSTALL_FACTOR: u64 = 3;
/// To fill a file beside the database, as a multiple of its size: the file and its write-ahead log.
const FILE_FACTOR: u64 = 2;
/// To rebuild groups of derived tables, as a part of the database's size. Raw rows and their indexes stay as they are.
const GROUPS_DIVISOR: u64 = 2;

/// For `rebuild`: a shadow is filled and installed. What an earlier run has filled is on the disk already.
pub(super) fn ensure_for_install(live: &Path, shadow: &Path) -> Result<(), StoreError> {
    let needed_bytes = store::size_bytes(live) * INSTALL_FACTOR;
    store::ensure_room(shadow, needed_bytes.saturating_sub(store::size_bytes(shadow)))
}

/// For `verify` and `rebuild --into`: a file is filled. What an earlier run has filled is on the disk already.
pub(super) fn ensure_for_file(live: &Path, file: &Path) -> Result<(), StoreError> {
    let needed_bytes = store::size_bytes(live) * FILE_FACTOR;
    store::ensure_room(file, needed_bytes.saturating_sub(store::size_bytes(file)))
}

/// For `rebuild --only` and `--from database`: groups of derived tables are rebuilt.
pub(super) fn ensure_for_groups(live: &Path) -> Result<(), StoreError> {
    store::ensure_room(live, MIN_FREE_BYTES + store::size_bytes(live) / GROUPS_DIVISOR)
}
