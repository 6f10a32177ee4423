//! Wires the worker together, and stops it: every time that a stop may take is here. Contains no SQL and no subjects.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::analytics::Rules;
use crate::config::{Config, MAX_BATCH_DELAY};
use crate::http::{self, Health, LivePage, PageSource, Served};
use crate::judge::Criteria;
use crate::nats::{self, DashboardOutbox, DeadLetterOutbox, Instance, NatsError, Source};
use crate::pipeline::{Mode, Pipeline, PipelineError};
use crate::rebuild::GroupRebuilder;
use crate::store::{self, CommitNotice, Lock, Reader, StoreError, WriterThread};
use crate::telemetry::Telemetry;

/// Longest time of a graceful stop: finish the batch, commit, acknowledge, drain, close.
const STOP_BUDGET: Duration = Duration::from_secs(5);
/// How long the stop waits for the current batch. A batch that still waits for another process's write lock is then
/// left in the stream.
const STOP_BUSY_PATIENCE: Duration = Duration::from_millis(2_400);
/// How much longer the stop then waits for a batch that is being written, before it leaves that batch in the stream.
const ABANDON_PATIENCE: Duration = Duration::from_millis(500);
/// How long the stop waits for unpublished dead letters and live numbers. The rest are published after the next
/// start.
const DRAIN_PATIENCE: Duration = Duration::from_millis(750);
/// How long the last bytes may take to reach NATS.
const FLUSH_PATIENCE: Duration = Duration::from_millis(250);
/// How long the stop waits for a step of a rebuild. An unfinished step is repeated at the next start.
const REBUILD_PATIENCE: Duration = Duration::from_millis(250);
/// How long the stop waits for open HTTP responses.
const SERVE_PATIENCE: Duration = Duration::from_millis(250);
/// How long the stop waits for the database to close. A write-ahead log that remains is read at the next start.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
/// How long the end of the process itself may take.
const EXIT_PATIENCE: Duration = Duration::from_millis(100);
const _: () = {
    // A stop waits for each in turn, in this order.
    let stop_ms = STOP_BUSY_PATIENCE.as_millis()
        + ABANDON_PATIENCE.as_millis()
        + DRAIN_PATIENCE.as_millis()
        + FLUSH_PATIENCE.as_millis()
        + REBUILD_PATIENCE.as_millis()
        + SERVE_PATIENCE.as_millis()
        + CLOSE_PATIENCE.as_millis()
        + EXIT_PATIENCE.as_millis();
    assert!(stop_ms <= STOP_BUDGET.as_millis(), "a stop could take longer than is promised");
    assert!(MAX_BATCH_DELAY.as_millis() < STOP_BUSY_PATIENCE.as_millis(), "a stop could not wait for a batch");
};
const POLL: Duration = Duration::from_millis(5);
/// How often the worker looks for requests of other commands.
const LOOK_FOR_REQUESTS_EVERY: Duration = Duration::from_millis(200);
/// Pause after a request failed, for example because the disk is full.
const DO_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// An error that ends the worker.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP address.
    #[error("cannot listen on {address} (http.listen): {source}; is another streamgauge running?")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A thread or a task failed.
    #[error("{0}")]
    Internal(String),
}

impl From<PipelineError> for AppError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Nats(error) => Self::Nats(error),
            PipelineError::Store(error) => Self::Store(error),
        }
    }
}

/// Runs a worker until `stop`: takes the lock, migrates the file, reads the stream, serves HTTP. The rules are those
/// of the configuration until `rules` sends new ones.
///
/// # Errors
/// Fails if the worker cannot continue without an operator. No message is lost: the stream holds every message that
/// the database does not.
pub async fn run(
    config: Config,
    new_epoch: bool,
    rules: watch::Receiver<Rules>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let health = Arc::new(Health::default());
    let telemetry = Arc::new(Telemetry::default());
    let page = Arc::new(LivePage::default());
    let open = async {
        let lock = Lock::acquire(&config.database_path, "run").await?;
        let served = Served::new(
            Arc::clone(&health),
            Arc::clone(&telemetry),
            Arc::clone(&page),
            config.http.token.clone(),
            stop.clone(),
        );
        let serving = serve(&config, served, &stop).await?;
        let writer = store::open_writer(&lock, config.rules.clone()).await?;
        // The page has its own connections: many pages must not keep the outboxes waiting.
        let readers = (Reader::open(lock.database()).await?, Reader::open(lock.database()).await?);
        Ok::<_, AppError>((lock, serving, writer, readers))
    };
    let (lock, serving, writer, (reader, page_reader)) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = open => opened?,
    };
    health.set_migrated();
    let (rebuilds, notices) = (writer.rebuilds(), writer.notices());
    let (writer, thread) = WriterThread::start(writer).map_err(|error| AppError::Internal(error.to_string()))?;

    let rebuilder = GroupRebuilder { rebuilds, database: lock.database().to_owned(), writer: writer.clone() };
    let stopped = stop.clone();
    let mut rebuilding =
        tokio::spawn(restarted("rebuilding of groups", move || rebuilder.clone().run(stopped.clone())));
    let following = tokio::spawn(follow(rules, writer.clone()));
    let doing_requests = tokio::spawn(do_requests(writer.clone(), config.criteria(), stop.clone()));
    let source = PageSource {
        reader: page_reader.clone(),
        notices: notices.clone(),
        health: Arc::clone(&health),
        telemetry: Arc::clone(&telemetry),
    };
    let stopped = stop.clone();
    let showing = tokio::spawn(restarted("the page", move || {
        let (page, source, stopped) = (Arc::clone(&page), source.clone(), stopped.clone());
        async move { page.run(source, stopped).await }
    }));
    let worker =
        Worker { config, new_epoch, health, telemetry, writer, notices, reader: reader.clone(), stop: stop.clone() };
    let result = worker.run(&lock).await;

    stop.cancel();
    let _ = tokio::time::timeout(REBUILD_PATIENCE, &mut rebuilding).await;
    rebuilding.abort();
    following.abort();
    doing_requests.abort();
    showing.abort();
    // The last handle of the writer is dropped: its thread ends and its connection closes. The close empties the
    // write-ahead log.
    reader.close();
    page_reader.close();
    let closed = async {
        while !thread.is_finished() {
            tokio::time::sleep(POLL).await;
        }
    };
    let _ = tokio::time::timeout(SERVE_PATIENCE, serving).await;
    let _ = tokio::time::timeout(CLOSE_PATIENCE, closed).await;
    result
}

/// Runs a task again after a panic. A bug in it must not stop ingestion, and must not leave the task undone in silence.
async fn restarted<F: Future<Output = ()>>(what: &str, task: impl Fn() -> F) {
    // The panic's own message is on stderr.
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        tracing::error!(retry_in_s = DO_AGAIN_AFTER.as_secs(), "{what} panicked");
        tokio::time::sleep(DO_AGAIN_AFTER).await;
    }
}

/// Makes the writer serve the requests of other commands, between batches.
async fn do_requests(writer: WriterThread, criteria: Criteria, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let criteria = criteria.clone();
        let pause = match writer.run(move |writer| writer.do_next_request(&criteria)).await {
            Ok(true) => continue,
            Ok(false) => LOOK_FOR_REQUESTS_EVERY,
            Err(error @ StoreError::Frozen { .. }) => {
                tracing::warn!("{error}");
                continue;
            }
            Err(error) => {
                tracing::warn!("the request of another command waits: {error}");
                DO_AGAIN_AFTER
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Passes new rules to the writer.
async fn follow(mut rules: watch::Receiver<Rules>, writer: WriterThread) {
    while rules.changed().await.is_ok() {
        let new = rules.borrow_and_update().clone();
        match writer.run(move |writer| writer.set_rules(new)).await {
            Ok(()) => tracing::info!("the new rules are in force"),
            Err(error) => tracing::error!("the new rules are not in force; send SIGHUP again: {error}"),
        }
    }
}

/// Listens on `http.listen`, and serves HTTP in a task of its own.
async fn serve(
    config: &Config,
    served: Served,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, AppError> {
    let address = config.http.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| AppError::Listen { address, source })?;
    tracing::info!("listening on http://{bound}");
    Ok(tokio::spawn(http::serve(listener, http::router(served), stop.clone())))
}

/// The parts of a worker whose database is open.
struct Worker {
    config: Config,
    new_epoch: bool,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    writer: WriterThread,
    notices: watch::Receiver<CommitNotice>,
    reader: Reader,
    stop: CancellationToken,
}

impl Worker {
    /// Connects to NATS, then reads and publishes until the stop.
    async fn run(self, lock: &Lock) -> Result<(), AppError> {
        let connection = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            connection = nats::connect(&self.config.nats) => connection?,
        };
        tracing::info!("connected to NATS");
        self.health.set_connection(connection.connected_flag());
        let stream = &self.config.stream;
        let (rejections, rejected) = watch::channel(0);
        let instance = Instance::new(lock.database());
        let pipeline = Pipeline {
            source: Source::live(connection.clone(), stream.clone(), self.config.batch, instance),
            writer: self.writer.clone(),
            criteria: self.config.criteria(),
            batch: self.config.batch,
            mode: Mode::Live { new_epoch: self.new_epoch, rejections },
            telemetry: Arc::clone(&self.telemetry),
        };
        let dead_letters =
            DeadLetterOutbox::new(connection.clone(), stream.clone(), self.reader.clone(), self.writer.clone());
        let numbers = DashboardOutbox {
            connection: connection.clone(),
            config: self.config.dashboard.clone(),
            stream: stream.clone(),
            reader: self.reader.clone(),
            notices: self.notices.clone(),
        };
        let reading_ended = CancellationToken::new();
        let ended = reading_ended.clone();
        let publishing = async move {
            let (dead_letters, numbers) = (dead_letters.run(rejected, ended.clone()), numbers.run(ended));
            tokio::try_join!(dead_letters, numbers).map(drop)
        };
        let result = self.read_and_publish(pipeline, publishing, reading_ended).await;
        connection.flush(FLUSH_PATIENCE).await;
        result
    }

    async fn read_and_publish(
        &self,
        pipeline: Pipeline,
        publishing: impl Future<Output = Result<(), StoreError>> + Send + 'static,
        reading_ended: CancellationToken,
    ) -> Result<(), AppError> {
        let mut publishing = tokio::spawn(publishing);
        let mut has_ended = false;
        let result = tokio::select! {
            result = pipeline.run(self.stop.clone()) => result.map_err(AppError::from),
            ended = &mut publishing => {
                has_ended = true;
                match ended {
                    Ok(Err(StoreError::Busy)) if self.stop.is_cancelled() => Ok(()),
                    Ok(Err(error)) => Err(AppError::Store(error)),
                    other => Err(AppError::Internal(format!("publishing ended: {other:?}"))),
                }
            }
            () = self.overdue() => {
                tracing::warn!("stopping before the current batch is written; the stream still has it");
                Ok(())
            }
        };
        reading_ended.cancel();
        if !has_ended {
            let _ = tokio::time::timeout(DRAIN_PATIENCE, &mut publishing).await;
            publishing.abort();
        }
        result
    }

    /// Returns when a stop has taken too long.
    async fn overdue(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(STOP_BUSY_PATIENCE).await;
        self.writer.stop_waiting();
        tokio::time::sleep(ABANDON_PATIENCE).await;
    }
}
