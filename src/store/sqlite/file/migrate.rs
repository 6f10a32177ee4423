//! Migrations: lists those in `migrations/` and those that a file has, applies them and reverts them.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::lock::Lock;
use crate::store::error::StoreError;

static MIGRATOR: Migrator = sqlx::migrate!();

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its version, a date and a number.
    pub version: i64,
    /// What it changes, in a few words.
    pub description: String,
    /// Whether the file has this migration.
    pub is_applied: bool,
}

/// The migrations of a file that the caller has locked.
#[derive(Debug)]
pub struct Migrations<'a> {
    lock: &'a Lock,
}

impl<'a> Migrations<'a> {
    /// Returns the migrations of the locked file.
    pub fn of(lock: &'a Lock) -> Self {
        Self { lock }
    }

    /// Applies the missing migrations. Creates the file if there is none.
    ///
    /// # Errors
    /// Fails if a migration fails; this migration is rolled back.
    pub async fn up(&self) -> Result<(), StoreError> {
        up(self.lock).await
    }

    /// Reverts the last migration, and deletes all rows of its tables. Returns that migration; `None` if no migration
    /// was applied.
    ///
    /// # Errors
    /// Fails if the migration cannot be reverted; it stays applied then.
    pub async fn down(&self) -> Result<Option<Migration>, StoreError> {
        let mut connection = connect(self.lock).await?;
        let applied: Vec<_> = list(&mut connection).await?.into_iter().filter(|one| one.is_applied).collect();
        let Some((last, earlier)) = applied.split_last() else { return Ok(None) };
        let target = earlier.last().map_or(0, |migration| migration.version);
        MIGRATOR.undo(&mut connection, target).await?;
        connection.close().await?;
        Ok(Some(last.clone()))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Migration(error.to_string())
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        Self::Migration(error.to_string())
    }
}

/// Returns why this program cannot read a file: how many migrations it lacks. `None` if the file has all of them.
pub(in crate::store) fn missing(connection: &rusqlite::Connection) -> rusqlite::Result<Option<String>> {
    let is_there = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let is_there: i64 = connection.query_row(is_there, [], |row| row.get(0))?;
    let mut applied = std::collections::BTreeSet::<i64>::new();
    if is_there > 0 {
        let mut select = connection.prepare("SELECT version FROM _sqlx_migrations WHERE success")?;
        applied = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    }
    let all: Vec<i64> = up_migrations().map(|migration| migration.version).collect();
    let missing = all.iter().filter(|version| !applied.contains(version)).count();
    Ok((missing > 0).then(|| format!("{missing} of {} migrations are missing", all.len())))
}

/// Returns all migrations, and which of them a file has.
///
/// # Errors
/// Fails if there is no file, or if the file cannot be read.
pub async fn migration_status(path: &Path) -> Result<Vec<Migration>, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let migrations = list(&mut connection).await?;
    connection.close().await?;
    Ok(migrations)
}

pub(in crate::store) async fn up(lock: &Lock) -> Result<(), StoreError> {
    let mut connection = connect(lock).await?;
    MIGRATOR.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

async fn connect(lock: &Lock) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(lock.database())
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(30));
    Ok(SqliteConnection::connect_with(&options).await?)
}

fn up_migrations() -> impl Iterator<Item = &'static sqlx::migrate::Migration> {
    MIGRATOR.iter().filter(|migration| migration.migration_type.is_up_migration())
}

async fn list(connection: &mut SqliteConnection) -> Result<Vec<Migration>, StoreError> {
    let is_there: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await?;
    let applied: Vec<i64> = if is_there == 0 {
        Vec::new()
    } else {
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(connection)
            .await?
    };
    Ok(up_migrations()
        .map(|migration| Migration {
            version: migration.version,
            description: migration.description.to_string(),
            is_applied: applied.contains(&migration.version),
        })
        .collect())
}
