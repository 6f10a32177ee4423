//! A replay: sends the messages that a database has accepted through the same pipeline into a shadow database. The
//! live database can be written meanwhile.
//!
//! If the process dies, the shadow file is at some commit. A replay with the same end continues from that commit.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{RebuildError, Tell, ensure_not_stopped};
use crate::config::Config;
use crate::judge::{BatchLimits, Criteria, Limits};
use crate::nats::{Connection, NatsError, Source};
use crate::pipeline::{Mode, Pipeline, PipelineError};
use crate::position::{Position, stand};
use crate::store::{self, BuiltFrom, Lock, Reader, StoreError, WriterThread};
use crate::telemetry::Telemetry;

/// Limits of a batch in a replay. A transaction waits for many batches: it reads and writes the state of each key
/// once for all of them.
const BATCH: BatchLimits = BatchLimits { max_messages: 10_000, max_bytes: 8 << 20, max_delay: Duration::from_secs(1) };

/// Messages that may be left when a replay stops following. The install takes them in while ingestion waits.
const MAX_LEFT_MESSAGES: u64 = 2_000;
/// Rounds after which a replay stops following, however many messages are left. The worker then writes faster than
/// the replay follows, and the install takes in the rest.
const MAX_ROUNDS: u32 = 20;
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplayEnd {
    /// The epoch.
    pub epoch: i64,
    /// The last sequence.
    pub seq: u64,
}

/// A shadow database that is being filled.
#[derive(Debug)]
pub struct Replay {
    config: Config,
    /// `None` if only stored rows are read.
    connection: Option<Connection>,
    /// The live database, if there is one.
    live: Option<Reader>,
    writer: WriterThread,
    thread: JoinHandle<()>,
    telemetry: Arc<Telemetry>,
    /// The file's lock.
    lock: Lock,
}

impl Replay {
    /// Opens the file to fill: creates it, or continues an earlier replay. The file is filled with the accepted log
    /// of the live database; without a live database, with the messages of the stream.
    ///
    /// # Errors
    /// Fails if a file cannot be opened, or if another replay fills the file.
    pub async fn open(
        config: Config,
        connection: Option<Connection>,
        live: Option<&Path>,
        file: &Path,
    ) -> Result<Self, StoreError> {
        let lock = Lock::try_acquire(file, "rebuild")?;
        let rules = config.rules.clone();
        let live = match live {
            Some(live) => Some(Reader::open(live).await?),
            None => None,
        };
        let (lock, writer) = match &live {
            Some(live) => {
                let built_from = if connection.is_some() { BuiltFrom::Stream } else { BuiltFrom::Rows };
                let live = live.path().to_owned();
                let open = move || Ok((store::open_shadow(&lock, &live, &rules, built_from)?, lock));
                let (writer, lock) = store::blocking(open).await?;
                (lock, writer)
            }
            None => {
                let writer =
                    store::create_shadow(&lock, rules, &format!("{} {:?}", config.stream.name, config.criteria()))
                        .await?;
                (lock, writer)
            }
        };
        let (writer, thread) =
            WriterThread::start(writer).map_err(|source| StoreError::Io { path: file.to_owned(), source })?;
        let telemetry = Arc::default();
        Ok(Self { config, connection, live, writer, thread, telemetry, lock })
    }

    /// The file's writer.
    pub fn writer(&self) -> &WriterThread {
        &self.writer
    }

    /// How far the replay is.
    pub fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.telemetry)
    }

    /// Closes the file. Committed data is in the file or in its write-ahead log.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { writer, thread, lock, live, .. } = self;
        drop(writer);
        live.iter().for_each(Reader::close);
        store::blocking(move || thread.join().map_err(|_| StoreError::WriterStopped)).await?;
        drop(lock);
        Ok(())
    }

    /// Follows the live database until the file is close to it, or at the end. Returns the last sequence in the file.
    ///
    /// # Errors
    /// Fails like [`Replay::follow`]; with [`RebuildError::Interrupted`] if the stop comes first.
    pub async fn follow_closely(
        &self,
        end: Option<ReplayEnd>,
        stop: &CancellationToken,
        tell: Tell<'_>,
    ) -> Result<u64, RebuildError> {
        let mut seq = 0;
        for _ in 0..MAX_ROUNDS {
            let last_seq = self.live_seq().await?;
            let upto = end.map(|end| end.seq).or(last_seq).unwrap_or_default();
            let following = self.follow(end, stop);
            tokio::pin!(following);
            let stands = loop {
                tokio::select! {
                    stands = &mut following => break stands?,
                    () = tokio::time::sleep(TELL_EVERY) => tell(self.telemetry.applied(), upto),
                }
            };
            ensure_not_stopped(stop)?;
            seq = stands.map_or(0, |stands| stands.last_seq);
            if self.live.is_none() || end.is_some() {
                break;
            }
            if self.live_seq().await?.is_none_or(|last_seq| last_seq.saturating_sub(seq) <= MAX_LEFT_MESSAGES) {
                break;
            }
        }
        Ok(seq)
    }

    /// Returns the last sequence of the live database; `None` if there is no live database, or it has no position
    /// yet.
    async fn live_seq(&self) -> Result<Option<u64>, StoreError> {
        match &self.live {
            Some(live) => Ok(live.position().await?.map(|position| position.last_seq)),
            None => Ok(None),
        }
    }

    /// Creates the indexes, views and triggers that were postponed while the file was filled.
    ///
    /// # Errors
    /// Fails if the file cannot be written, or if the stop comes first.
    pub async fn finish(&self, stop: &CancellationToken) -> Result<(), RebuildError> {
        let mut made = 0;
        while self.writer.run(|writer| writer.make_postponed()).await? {
            made += 1;
            ensure_not_stopped(stop)?;
        }
        tracing::debug!(made, "postponed indexes are created");
        Ok(())
    }

    /// Fills the file up to the position of the live database, or up to an earlier end. Returns the position of the
    /// file. After a stop, this position can be before the end.
    ///
    /// # Errors
    /// Fails if the stream is not the one that the live database read, or if a file cannot be read or written.
    pub async fn follow(
        &self,
        end: Option<ReplayEnd>,
        stop: &CancellationToken,
    ) -> Result<Option<Position>, PipelineError> {
        let Some(live) = &self.live else {
            return self.follow_stream(end.map_or(u64::MAX, |end| end.seq), stop).await.map(Some);
        };
        let epochs = live.positions().await?;
        let last = epochs.last().map(|last| last.epoch);
        let mut stands = None;
        for epoch in epochs {
            let upto = match end {
                Some(end) if end.epoch < epoch.epoch => break,
                Some(end) if end.epoch == epoch.epoch => end.seq.min(epoch.last_seq),
                _ => epoch.last_seq,
            };
            let begun = epoch.clone();
            let mut at = self.writer.run(move |writer| writer.position_in(&begun)).await?;
            if Some(epoch.epoch) == last && self.connection.is_some() && at.last_seq < upto {
                self.ensure_same_stream(&epoch).await?;
                at = self.follow_stream(upto, stop).await?;
            }
            stands = Some(self.copy_stored_rows(at, upto, stop).await?);
            if stop.is_cancelled() {
                break;
            }
        }
        Ok(stands)
    }

    /// Fills the file from stored rows, up to a sequence. Also writes the dead letters that were applied late.
    async fn copy_stored_rows(
        &self,
        mut at: Position,
        upto: u64,
        stop: &CancellationToken,
    ) -> Result<Position, StoreError> {
        loop {
            let is_there = at.last_seq >= upto;
            let upto = upto.max(at.last_seq);
            at = self.writer.run(move |writer| writer.copy_stored_rows(&at, upto)).await?;
            self.telemetry.replayed(at.last_seq);
            if is_there || stop.is_cancelled() {
                return Ok(at);
            }
        }
    }

    /// Ensures that the stream is still the one that this epoch was read from.
    async fn ensure_same_stream(&self, epoch: &Position) -> Result<(), PipelineError> {
        let Some(mut source) = self.source() else { return Ok(()) };
        let state = source.stream_state(Some(epoch), false).await?;
        stand(Some(epoch), &state, false).map_err(NatsError::from)?;
        Ok(())
    }

    /// Returns the criteria of the configuration. With a live database, no limits apply: its accepted log decides
    /// instead.
    fn criteria(&self) -> Criteria {
        let criteria = self.config.criteria();
        if self.live.is_some() { Criteria { limits: Limits::NONE, ..criteria } } else { criteria }
    }

    /// Returns the stream as a source; `None` if only stored rows are read.
    fn source(&self) -> Option<Source> {
        Some(Source::replay(self.connection.clone()?, self.config.stream.clone(), BATCH))
    }

    /// Fills the file from the stream, up to a sequence. Returns the position of the file.
    async fn follow_stream(&self, upto: u64, stop: &CancellationToken) -> Result<Position, PipelineError> {
        if let Some(source) = self.source() {
            let pipeline = Pipeline {
                source,
                writer: self.writer.clone(),
                criteria: self.criteria(),
                batch: BATCH,
                mode: Mode::Replay { last_seq: upto },
                telemetry: Arc::clone(&self.telemetry),
            };
            pipeline.run(stop.clone()).await?;
        }
        let position = self.writer.run(|writer| writer.position()).await?;
        position.ok_or_else(|| StoreError::PositionMoved.into())
    }
}
