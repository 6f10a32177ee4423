//! Files beside the database, and free disk space for them.

use std::path::{Path, PathBuf};

use crate::store::error::StoreError;

/// Returns a path with a suffix appended to its file name.
pub(in crate::store) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the folder of a file; `.` if the path names no folder.
pub(in crate::store) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the absolute path of a database for ATTACH, so that SQLite cannot take it for anything but a path.
pub(in crate::store) fn attachable(path: &Path) -> Result<String, StoreError> {
    let error = |source| StoreError::Io { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(error)?;
    absolute.into_os_string().into_string().map_err(|_| error(std::io::ErrorKind::InvalidFilename.into()))
}

/// Removes a shadow database or shadow file, and the files that SQLite keeps beside it.
///
/// # Errors
/// Fails if the system refuses to remove a file.
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

/// Returns an id that changes with each start of the machine. The contents of a file that is not synced are certain
/// only until the next start.
pub(in crate::store) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Returns the bytes of a database, and those of its write-ahead log.
pub(in crate::store) fn sizes_bytes(database: &Path) -> (u64, u64) {
    let size_of = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    (size_of(database), size_of(&with_suffix(database, "-wal")))
}

/// Returns the bytes of a database and its write-ahead log together.
pub fn size_bytes(database: &Path) -> u64 {
    let (file_bytes, wal_bytes) = sizes_bytes(database);
    file_bytes + wal_bytes
}

/// Checks that `needed_bytes` are free on the disk of a file. The file need not exist yet.
///
/// # Errors
/// [`StoreError::NoRoom`] if fewer bytes are free.
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
