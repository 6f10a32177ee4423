//! A replay: messages that a database has accepted, through the same pipeline into a shadow, beside whoever writes.
//!
//! Where the process dies, the file is at some commit, and a replay for the same end goes on from there.

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

/// What is judged at once. A transaction takes many of these, so it waits for them: each key's state is read and written
/// once for all of them.
const BATCH: BatchLimits = BatchLimits { max_messages: 10_000, max_bytes: 8 << 20, max_delay: Duration::from_secs(1) };

/// Messages that may be left for the worker to take in while it waits.
const MAX_LEFT_MESSAGES: u64 = 2_000;
/// Rounds after which the worker takes in what is left, however much: it writes faster than it is followed.
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

/// A file that is being filled.
#[derive(Debug)]
pub struct Replay {
    config: Config,
    /// None where only the rows are read.
    connection: Option<Connection>,
    /// The live database; none where there is none.
    live: Option<Reader>,
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

    /// How far it is.
    pub fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.telemetry)
    }

    /// Closes the file. What was committed is in it, or in the log beside it.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { writer, thread, lock, live, .. } = self;
        drop(writer);
        live.iter().for_each(Reader::close);
        store::blocking(move || thread.join().map_err(|_| StoreError::WriterStopped)).await?;
        drop(lock);
        Ok(())
    }

    /// Follows the live database until the file is close to it, or at the end. Returns the sequence that it stands at.
    ///
    /// # Errors
    /// As [`Replay::follow`]; [`RebuildError::Interrupted`] where the stop comes first.
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

    /// The last sequence that the live database has.
    async fn live_seq(&self) -> Result<Option<u64>, StoreError> {
        match &self.live {
            Some(live) => Ok(live.position().await?.map(|position| position.last_seq)),
            None => Ok(None),
        }
    }

    /// Makes the indexes.
    ///
    /// # Errors
    /// Where the file cannot be written, or the stop comes first.
    pub async fn finish(&self, stop: &CancellationToken) -> Result<(), RebuildError> {
        let mut made = 0;
        while self.writer.run(|writer| writer.make_postponed()).await? {
            made += 1;
            ensure_not_stopped(stop)?;
        }
        tracing::debug!(made, "indexes are made");
        Ok(())
    }

    /// Fills the file up to where the live database stands, or up to an end before that. Returns where it stands; it is
    /// not there yet where it was stopped.
    ///
    /// # Errors
    /// Where the stream is not the one that was read, or a file cannot be read or written.
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

    /// With the stored rows, up to a sequence; and with what was applied late.
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
                mode: Mode::Replay { last_seq: upto },
                telemetry: Arc::clone(&self.telemetry),
            };
            pipeline.run(stop.clone()).await?;
        }
        let position = self.writer.run(|writer| writer.position()).await?;
        position.ok_or_else(|| StoreError::PositionMoved.into())
    }
}
