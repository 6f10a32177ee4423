//! A replay: messages that a database has accepted, through the same pipeline into a new file, beside whoever writes.
//!
//! Where the process dies, the file is at some commit, and a replay for the same end goes on from there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::judge::{BatchLimits, Criteria, Limits};
use crate::nats::{Connection, NatsError, Source};
use crate::pipeline::{Pipeline, PipelineError};
use crate::position::{Position, stand};
use crate::store::{self, Lock, MadeOf, StoreError, WriterThread};
use crate::telemetry::Telemetry;

/// What is judged at once. A transaction takes many of these, so it waits for them: each key's state is read and written
/// once for all of them.
const BATCH: BatchLimits = BatchLimits { max_messages: 10_000, max_bytes: 8 << 20, max_delay: Duration::from_secs(1) };

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The epoch.
    pub epoch: i64,
    /// The last sequence.
    pub seq: u64,
}

/// A file that is being filled.
#[derive(Debug)]
pub struct Replay {
    config: Config,
    /// None where only the rows are read.
    connection: Option<Connection>,
    live: Option<PathBuf>,
    writer: WriterThread,
    thread: JoinHandle<()>,
    telemetry: Arc<Telemetry>,
    /// The file's lock.
    lock: Lock,
}

impl Replay {
    /// Begins, or goes on with, a file that is filled with what the live database has accepted; with what the stream holds
    /// where there is none.
    ///
    /// # Errors
    /// Where a file cannot be opened, or another replay is filling it.
    pub async fn open(
        config: Config,
        connection: Option<Connection>,
        live: Option<&Path>,
        file: &Path,
    ) -> Result<Self, StoreError> {
        let lock = Lock::try_acquire(file, "rebuild")?;
        let rules = config.rules.clone();
        let (lock, writer) = match live.map(Path::to_owned) {
            Some(live) => {
                let made_of = if connection.is_some() { MadeOf::Stream } else { MadeOf::Rows };
                let open = move || Ok((store::open_replica(&lock, &live, &rules, made_of)?, lock));
                let (writer, lock) = store::blocking(open).await?;
                (lock, writer)
            }
            None => {
                let writer =
                    store::create_replica(&lock, rules, &format!("{} {:?}", config.stream.name, config.criteria()))
                        .await?;
                (lock, writer)
            }
        };
        let (writer, thread) =
            WriterThread::start(writer).map_err(|source| StoreError::Io { path: file.to_owned(), source })?;
        let telemetry = Arc::default();
        Ok(Self { config, connection, live: live.map(Path::to_owned), writer, thread, telemetry, lock })
    }

    /// The file's writer.
    pub fn writer(&self) -> &WriterThread {
        &self.writer
    }

    /// How far it is.
    pub fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.telemetry)
    }

    /// Closes the file. What was committed is in it, or in the log beside it.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { writer, thread, lock, .. } = self;
        drop(writer);
        store::blocking(move || thread.join().map_err(|_| StoreError::WriterStopped)).await?;
        drop(lock);
        Ok(())
    }

    /// Fills the file up to where the live database stands, or up to an end before that. Returns where it stands; it is
    /// not there yet where it was stopped.
    ///
    /// # Errors
    /// Where the stream is not the one that was read, or a file cannot be read or written.
    pub async fn follow(&self, end: Option<End>, stop: &CancellationToken) -> Result<Option<Position>, PipelineError> {
        let Some(live) = self.live.clone() else {
            return self.follow_stream(end.map_or(u64::MAX, |end| end.seq), stop).await.map(Some);
        };
        let epochs = store::blocking(move || store::positions(&live)).await?;
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
            stands = Some(self.stand_in(at, upto, stop).await?);
            if stop.is_cancelled() {
                break;
            }
        }
        Ok(stands)
    }

    /// With the stored rows, up to a sequence; and with what was applied late.
    async fn stand_in(&self, mut at: Position, upto: u64, stop: &CancellationToken) -> Result<Position, StoreError> {
        loop {
            let is_there = at.last_seq >= upto;
            let upto = upto.max(at.last_seq);
            at = self.writer.run(move |writer| writer.stand_in(&at, upto)).await?;
            self.telemetry.replayed(at.last_seq);
            if is_there || stop.is_cancelled() {
                return Ok(at);
            }
        }
    }

    async fn ensure_same_stream(&self, epoch: &Position) -> Result<(), PipelineError> {
        let Some(mut source) = self.source() else { return Ok(()) };
        let state = source.stream_state(Some(epoch), false).await?;
        stand(Some(epoch), &state, false).map_err(NatsError::from)?;
        Ok(())
    }

    /// Limits are those of the configuration only where nothing says what was accepted.
    fn criteria(&self) -> Criteria {
        let criteria = self.config.criteria();
        if self.live.is_some() { Criteria { limits: Limits::NONE, ..criteria } } else { criteria }
    }

    fn source(&self) -> Option<Source> {
        Some(Source::replay(self.connection.clone()?, self.config.stream.clone(), BATCH))
    }

    /// With what the stream holds, up to a sequence.
    async fn follow_stream(&self, upto: u64, stop: &CancellationToken) -> Result<Position, PipelineError> {
        if let Some(source) = self.source() {
            let pipeline = Pipeline {
                source,
                writer: self.writer.clone(),
                criteria: self.criteria(),
                batch: BATCH,
                upto: Some(upto),
                new_epoch: false,
                rejections: watch::Sender::new(0),
                telemetry: Arc::clone(&self.telemetry),
            };
            pipeline.run(stop.clone()).await?;
        }
        let position = self.writer.run(|writer| writer.position()).await?;
        position.ok_or_else(|| StoreError::PositionMoved.into())
    }
}
