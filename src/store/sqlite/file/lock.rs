//! The lock by which only one process writes: an OS lock on `<database>.lock`. It ends with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::{folder_of, remove_database, with_suffix};
use crate::model::Timestamp;
use crate::store::error::{Holder, StoreError};

/// How long `run` waits for a command that holds the lock.
const WAIT_FOR_COMMAND: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// How many symbolic links to follow: as many as Linux does.
const MAX_LINKS: usize = 40;

/// The right to write to a database. The OS releases the lock when the process ends, however it ends.
///
/// Only for local disks: network file systems do not guarantee this.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    database: PathBuf,
}

impl Lock {
    /// Takes the lock for `command`. `run` waits up to 10 s for another command, and not at all for another `run`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the holder.
    pub async fn acquire(database: &Path, command: &str) -> Result<Self, StoreError> {
        let mut waited = Duration::ZERO;
        loop {
            match Self::try_acquire(database, command) {
                Err(StoreError::Locked { path, holder }) => {
                    // At the first try, the file may still name the previous holder.
                    let is_run = holder.command == "run" && waited > Duration::ZERO;
                    if command != "run" || is_run || waited >= WAIT_FOR_COMMAND {
                        return Err(StoreError::Locked { path, holder });
                    }
                }
                result => return result,
            }
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the holder.
    pub fn try_acquire(database: &Path, command: &str) -> Result<Self, StoreError> {
        let database = canonical(database)?;
        let path = lock_path(&database);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| StoreError::Io { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(StoreError::Io { path, source }),
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: database, holder: read_holder(&mut file) });
            }
        }
        // The previous holder may have removed the file.
        let is_there =
            std::fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|file| file.ino() == now.ino()));
        if !is_there {
            return Self::try_acquire(&database, command);
        }
        let holder = Holder { pid: std::process::id(), command: command.into(), since: Timestamp::now().to_string() };
        write_holder(&mut file, &holder).map_err(|source| StoreError::Io { path, source })?;
        Ok(Self { _file: file, database })
    }

    /// Removes the database and its lock file.
    ///
    /// # Errors
    /// Fails if the system refuses to remove a file of the database.
    pub(in crate::store) fn remove_database(self) -> Result<(), StoreError> {
        remove_database(&self.database)?;
        self.discard();
        Ok(())
    }

    /// Removes the lock file of a database that nobody will open any more.
    pub fn discard(self) {
        // A lock file that stays does no harm: the next holder would create it anyway.
        let _ = std::fs::remove_file(lock_path(&self.database));
    }

    /// Removes the lock file of a database, unless another process holds the lock.
    pub fn discard_of(database: &Path) {
        // Another process may hold the lock already.
        if let Ok(lock) = Self::try_acquire(database, "rebuild") {
            lock.discard();
        }
    }

    /// Returns the database's path with symbolic links resolved: two names of one file share one lock.
    pub fn database(&self) -> &Path {
        &self.database
    }
}

/// Returns `<database>.lock`.
fn lock_path(database: &Path) -> PathBuf {
    with_suffix(database, ".lock")
}

/// Returns the path with symbolic links resolved, even if it names no file yet: two names of one file share one lock.
fn canonical(database: &Path) -> Result<PathBuf, StoreError> {
    let mut path = database.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(path) = path.canonicalize() {
            return Ok(path);
        }
        let folder = folder_of(&path);
        match path.read_link() {
            Ok(target) => path = folder.join(target),
            Err(_) => {
                let folder =
                    folder.canonicalize().map_err(|source| StoreError::Io { path: folder.to_owned(), source })?;
                return Ok(folder.join(path.file_name().unwrap_or_default()));
            }
        }
    }
    let source = std::io::Error::other("too many symbolic links");
    Err(StoreError::Io { path: database.to_owned(), source })
}

/// Reads the holder. Its process id is 0 if the process has taken the lock but not yet written its name.
fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_else(|| Holder {
        pid: 0,
        command: String::new(),
        since: String::new(),
    })
}

fn write_holder(file: &mut File, holder: &Holder) -> std::io::Result<()> {
    let text = serde_json::to_vec(holder)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)
}
