//! Reads for commands, the page and the outboxes. Each call is one read transaction, on a thread that may block.

mod dashboard_outbox;
mod digest;
mod fingerprints;
mod funnels;
mod overview;
mod positions;
mod status;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;

pub use digest::Digest;
pub use funnels::{ActorHits, FunnelReport};
pub use overview::{HourValue, HourlyValues, Overview, ShownNumber};
pub use status::{GapRange, Rebuilding, Status, StreamStatus};

use super::blocking::blocking;
use super::file::migrate;
use super::file::pragmas::open_for_reading;
use super::ledger::rejections::{
    self, ClosedDeadLetters, DeadLetter, DeadLetterId, DeadLetterKey, DeadLetterMessage, Selection, Unpublished,
};
use super::rebuild::compare::Compared;
use super::rebuild::progress::RebuildProgress;
use super::rebuild::sample::sample;
use super::rebuild::shadow_groups::wanted_progress;
use crate::analytics::Rules;
use crate::analytics::funnel::Funnel;
use crate::model::Timestamp;
use crate::position::Position;
use crate::store::error::StoreError;
use crate::store::notice::Number;

/// Connections that read at once. Further calls wait.
const MAX_READERS: usize = 4;

/// Reads a database while another thread or process writes to it. Clones share the connections.
///
/// Every method except [`Reader::open`] fails if SQLite cannot read the file, or if the reader is closed.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Permits to read. Closed together with the reader.
    places: Arc<Semaphore>,
}

impl Reader {
    /// Opens a database that exists and is migrated.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::NotMigrated`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let reader = Self::open_unchecked(path);
        let not_migrated = |error| StoreError::NotMigrated { path: path.to_owned(), error };
        match reader.read(|tx| Ok(migrate::missing(tx)?)).await {
            Ok(None) => Ok(reader),
            Ok(Some(error)) => Err(not_migrated(error)),
            Err(StoreError::Sqlite { message, .. }) => Err(not_migrated(message)),
            Err(error) => Err(error),
        }
    }

    /// Opens a database that may be missing or not migrated, such as a shadow. In that case reads fail.
    pub fn open_unchecked(path: &Path) -> Self {
        let places = Arc::new(Semaphore::new(MAX_READERS));
        Self(Arc::new(Shared { path: path.to_owned(), idle: Mutex::default(), places }))
    }

    /// Returns the path of the database.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Closes the connections. Running reads finish. Later reads fail.
    pub fn close(&self) {
        self.0.places.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(place) = Arc::clone(&self.0.places).acquire_owned().await else { return Err(StoreError::Stopping) };
        let shared = Arc::clone(&self.0);
        blocking(move || {
            let mut connection = shared.connection()?;
            let read = connection.transaction()?;
            let result = work(&read)?;
            drop(read);
            shared.put_back(connection);
            drop(place);
            Ok(result)
        })
        .await
    }

    /// Reads the status.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let path = self.0.path.clone();
        self.read(move |tx| Ok(status::status(tx, &path)?)).await
    }

    /// Counts the dead letters that are no longer open. Reads the whole ledger, so no page and no metric uses it.
    pub async fn closed_dead_letters(&self) -> Result<ClosedDeadLetters, StoreError> {
        self.read(|tx| Ok(rejections::count_closed(tx)?)).await
    }

    /// Reads what the page shows.
    pub async fn overview(&self, rules: Arc<Rules>) -> Result<Overview, StoreError> {
        self.read(move |tx| overview::overview(tx, &rules)).await
    }

    /// Reads the hourly values behind the charts.
    pub async fn hourly_values(&self, rules: Arc<Rules>) -> Result<HourlyValues, StoreError> {
        self.read(move |tx| overview::hourly_values(tx, &rules.dashboards)).await
    }

    /// Reads the numbers of widgets that changed after the change `after`, in the order of their last change.
    pub async fn numbers_changed(&self, after: i64) -> Result<Vec<Number>, StoreError> {
        self.read(move |tx| Ok(dashboard_outbox::numbers_changed(tx, after)?)).await
    }

    /// Reads up to `limit` dead letters that are committed but not yet published, in stream order after `after`.
    pub async fn unpublished(&self, after: Option<DeadLetterKey>, limit: u32) -> Result<Vec<Unpublished>, StoreError> {
        self.read(move |tx| Ok(rejections::unpublished(tx, after, limit)?)).await
    }

    /// Reads a dead letter as it is published. `None` if there is no such dead letter.
    pub async fn dead_letter_message(&self, key: DeadLetterKey) -> Result<Option<DeadLetterMessage>, StoreError> {
        self.read(move |tx| Ok(rejections::message_of(tx, key)?)).await
    }

    /// Reads one dead letter and its payload. `None` if there is no such dead letter.
    pub async fn dead_letter(&self, id: DeadLetterId) -> Result<Option<(DeadLetter, Vec<u8>)>, StoreError> {
        self.read(move |tx| Ok(rejections::dead_letter_with_payload(tx, id)?)).await
    }

    /// Passes the selected dead letters in the given state to `take`, in the order of the stream, until `take`
    /// returns false. A state of `None` means any state.
    pub async fn for_each_dead_letter(
        &self,
        which: Selection,
        state: Option<String>,
        take: impl FnMut(DeadLetter) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        self.read(move |tx| Ok(rejections::for_each_dead_letter(tx, &which, state.as_deref(), take)?)).await
    }

    /// Reads the position of each epoch, in the order of epochs.
    pub async fn positions(&self) -> Result<Vec<Position>, StoreError> {
        self.read(|tx| Ok(super::ledger::positions::all(tx)?)).await
    }

    /// Reads the position of the database: that of its last epoch.
    pub async fn position(&self) -> Result<Option<Position>, StoreError> {
        self.read(|tx| Ok(super::ledger::positions::last(tx)?)).await
    }

    /// Reads the epoch and the sequence of the last message that was received before a time and is stored or
    /// rejected.
    pub async fn last_place_before(&self, time: Timestamp) -> Result<Option<(i64, u64)>, StoreError> {
        self.read(move |tx| Ok(positions::last_place_before(tx, time)?)).await
    }

    /// Hashes the public tables, rows in primary-key order. Fails with [`StoreError::NotMigrated`] if the tables are
    /// missing.
    pub async fn digest(&self) -> Result<Digest, StoreError> {
        let path = self.0.path.clone();
        self.read(move |tx| digest::digest(tx, &path)).await
    }

    /// Reads the numbers of all funnels, or of the named funnel, in the order of names.
    pub async fn funnel_reports(&self, name: Option<String>) -> Result<Vec<FunnelReport>, StoreError> {
        self.read(move |tx| Ok(funnels::funnel_reports(tx, name.as_deref())?)).await
    }

    /// Reads the hits of a user, of an anonymous id or of a session in a funnel. Returns `None` if the database is
    /// rebuilding the funnel, or has another definition of it than the given one. Returns no hits if nothing matched.
    pub async fn funnel_hits(
        &self,
        rules: Arc<Rules>,
        funnel: Arc<Funnel>,
        id: String,
    ) -> Result<Option<ActorHits>, StoreError> {
        self.read(move |tx| funnels::funnel_hits(tx, &rules, &funnel, &id)).await
    }

    /// Returns the names of the groups of derived tables that these rules did not make, or that are being rebuilt.
    pub async fn differing_groups(&self, rules: Arc<Rules>) -> Result<Vec<String>, StoreError> {
        self.read(move |tx| Ok(fingerprints::differing_groups(tx, &rules)?)).await
    }

    /// Returns what a writer with these rules would delete or rebuild: groups that these rules do not have or define
    /// otherwise, and numbers of widgets that these rules do not have.
    pub async fn undone_by(&self, rules: Arc<Rules>) -> Result<Vec<String>, StoreError> {
        self.read(move |tx| Ok(fingerprints::undone_by(tx, &rules)?)).await
    }

    /// Returns how far the wanted rebuild of groups is. `None` if no rebuild is wanted, or if it has not begun.
    pub async fn rebuild_progress(&self) -> Result<Option<RebuildProgress>, StoreError> {
        let path = self.0.path.clone();
        self.read(move |tx| Ok(wanted_progress(tx, &path)?)).await
    }

    /// Checks `keys` users and `keys` hours of metrics, chosen at random. Returns the result of each table.
    pub async fn sample(&self, rules: Arc<Rules>, keys: u32) -> Result<Vec<Compared>, StoreError> {
        self.read(move |tx| sample(tx, &rules, keys)).await
    }
}

impl Shared {
    fn connection(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| open_for_reading(&self.path), Ok)
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.places.is_closed() {
            idle.push(connection);
        }
    }
}
