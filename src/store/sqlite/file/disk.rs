//! Files beside the database, and room for them.

use std::path::{Path, PathBuf};

use crate::store::error::StoreError;

/// A path with something more at its end.
pub(in crate::store) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The folder that a file is in.
pub(in crate::store) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A database's path as SQLite takes it for nothing but a path, to attach it.
pub(in crate::store) fn attachable(path: &Path) -> Result<String, StoreError> {
    let error = |source| StoreError::Io { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(error)?;
    absolute.into_os_string().into_string().map_err(|_| error(std::io::ErrorKind::InvalidFilename.into()))
}

/// Takes away a database that is built aside, and what SQLite keeps beside it.
///
/// # Errors
/// Where the system does not let it.
pub fn remove_database(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let path = with_suffix(path, suffix);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What shadows were called by an earlier version.
const FORMER_SUFFIXES: [&str; 2] = [".replay", ".rebuild"];

/// Takes away what an earlier version has left beside a database: shadows that nobody goes on with any more.
pub(in crate::store) fn remove_former_files(database: &Path) -> Result<(), StoreError> {
    for suffix in FORMER_SUFFIXES {
        let path = with_suffix(database, suffix);
        remove_database(&path)?;
        // It would do no harm.
        let _ = std::fs::remove_file(with_suffix(&path, ".lock"));
    }
    Ok(())
}

/// Another one after each start of the machine; what a file that is not synced holds is certain only until then.
pub(in crate::store) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Bytes of a database, and of its write-ahead log.
pub(in crate::store) fn sizes_bytes(database: &Path) -> (u64, u64) {
    let size_of = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    (size_of(database), size_of(&with_suffix(database, "-wal")))
}

/// Bytes of both.
pub fn size_bytes(database: &Path) -> u64 {
    let (file_bytes, wal_bytes) = sizes_bytes(database);
    file_bytes + wal_bytes
}

/// Makes sure that so many bytes are free where a file is to be.
///
/// # Errors
/// [`StoreError::NoRoom`].
pub fn ensure_room(path: &Path, needed_bytes: u64) -> Result<(), StoreError> {
    let folder = folder_of(path);
    let disk = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::Io { path: folder.to_owned(), source: error.into() })?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free_bytes < needed_bytes {
        return Err(StoreError::NoRoom { path: path.to_owned(), free_bytes, needed_bytes });
    }
    Ok(())
}
