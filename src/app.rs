//! The worker, wired together, and how it stops. No SQL, no subjects.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::analytics::Rules;
use crate::config::Config;
use crate::http::{self, Health, Live, Served};
use crate::judge::Criteria;
use crate::nats::{self, DashboardPublisher, DeadLetters, Instance, NatsError, Source};
use crate::pipeline::{Pipeline, PipelineError};
use crate::rebuild::Rebuild;
use crate::store::{self, Board, Lock, StoreError, WriterThread};
use crate::telemetry::Telemetry;

// A graceful stop takes 5 s at most: finish the batch, commit, acknowledge, drain. Together these are less.
/// How long the stop waits for another process's write lock before the batch is left in the stream.
const STOP_BUSY_PATIENCE: Duration = Duration::from_millis(2_500);
/// How long a batch may then still take.
const ABANDON_PATIENCE: Duration = Duration::from_millis(500);
/// How long dead letters and live numbers that are not published yet may take; the rest wait for the next start.
const DRAIN_PATIENCE: Duration = Duration::from_millis(750);
const FLUSH_PATIENCE: Duration = Duration::from_millis(250);
/// How long a step of what is built aside may take; it is repeated at the next start.
const REBUILD_PATIENCE: Duration = Duration::from_millis(500);
/// How long closing the database may take; a WAL that is left behind is read at the next start.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);
/// How often to look whether another command asks for something.
const LOOK_FOR_REQUESTS_EVERY: Duration = Duration::from_millis(200);
/// How long to wait where what is asked for fails, say for want of space.
const ATTEND_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What ends a worker.
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
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread or a task.
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

/// Runs a worker until `stop`: takes the lock, migrates the file, reads the stream, serves HTTP. Its rules are those of the
/// configuration until `rules` brings others.
///
/// # Errors
/// Where going on needs somebody to do something. Nothing is lost: the stream holds what the database does not.
pub async fn run(
    config: Config,
    new_epoch: bool,
    rules: watch::Receiver<Rules>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let health = Arc::new(Health::default());
    let telemetry = Arc::new(Telemetry::default());
    let live = Arc::new(Live::default());
    let open = async {
        let lock = Lock::acquire(&config.database_path, "run").await?;
        let told = Served::new(
            Arc::clone(&health),
            Arc::clone(&telemetry),
            Arc::clone(&live),
            config.http.token.clone(),
            stop.clone(),
        );
        let serving = serve(&config, told, &stop).await?;
        let writer = store::open_writer(&lock, config.rules.clone()).await?;
        let pool = store::open_reader(lock.database()).await?;
        Ok::<_, AppError>((lock, serving, writer, pool))
    };
    let (lock, serving, writer, pool) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = open => opened?,
    };
    health.set_migrated();
    let (builds, board) = (writer.builds(), writer.board());
    let (writer, thread) = WriterThread::start(writer).map_err(|error| AppError::Internal(error.to_string()))?;

    let rebuild = Rebuild { builds, database: lock.database().to_owned(), writer: writer.clone() };
    let mut rebuilding = tokio::spawn(rebuild.run(stop.clone()));
    let following = tokio::spawn(follow(rules, writer.clone()));
    let attending = tokio::spawn(attend(writer.clone(), config.criteria(), stop.clone()));
    let source = http::Source {
        database: lock.database().to_owned(),
        pool: pool.clone(),
        board: board.clone(),
        health: Arc::clone(&health),
        telemetry: Arc::clone(&telemetry),
    };
    let watched = stop.clone();
    let showing = tokio::spawn(async move { live.run(source, watched).await });
    let worker = Worker { config, new_epoch, health, telemetry, writer, board, pool: pool.clone(), stop: stop.clone() };
    let result = worker.run(&lock).await;

    stop.cancel();
    let _ = tokio::time::timeout(REBUILD_PATIENCE, &mut rebuilding).await;
    rebuilding.abort();
    following.abort();
    attending.abort();
    showing.abort();
    // The last handle of the writer is gone: its thread ends and its connection closes, which empties the WAL.
    pool.close().await;
    let closed = async {
        while !thread.is_finished() {
            tokio::time::sleep(POLL).await;
        }
    };
    let _ = tokio::time::timeout(FLUSH_PATIENCE, serving).await;
    let _ = tokio::time::timeout(CLOSE_PATIENCE, closed).await;
    result
}

/// Has the writer do what other commands ask for, between batches.
async fn attend(writer: WriterThread, criteria: Criteria, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let criteria = criteria.clone();
        let pause = match writer.run(move |writer| writer.attend(&criteria)).await {
            Ok(true) => continue,
            Ok(false) => LOOK_FOR_REQUESTS_EVERY,
            Err(error @ StoreError::Frozen { .. }) => {
                tracing::warn!("{error}");
                continue;
            }
            Err(error) => {
                tracing::warn!("what a command asks for waits: {error}");
                ATTEND_AGAIN_AFTER
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Hands new rules to the writer.
async fn follow(mut rules: watch::Receiver<Rules>, writer: WriterThread) {
    while rules.changed().await.is_ok() {
        let new = rules.borrow_and_update().clone();
        match writer.run(move |writer| writer.set_rules(new)).await {
            Ok(()) => tracing::info!("the new rules are in force"),
            Err(error) => tracing::error!("the new rules are not in force, send SIGHUP again: {error}"),
        }
    }
}

async fn serve(
    config: &Config,
    told: Served,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, AppError> {
    let address = config.http.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| AppError::Listen { address, source })?;
    tracing::info!("listening on http://{bound}");
    Ok(tokio::spawn(http::serve(listener, told.router(), stop.clone())))
}

/// What a worker works with, once the database is open.
struct Worker {
    config: Config,
    new_epoch: bool,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    writer: WriterThread,
    board: watch::Receiver<Board>,
    pool: sqlx::SqlitePool,
    stop: CancellationToken,
}

impl Worker {
    /// Connects, and reads until the stop.
    async fn run(self, lock: &Lock) -> Result<(), AppError> {
        let connection = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            connection = nats::connect(&self.config.nats) => connection?,
        };
        tracing::info!("connected to NATS");
        self.health.set_connection(connection.clone());
        let stream = &self.config.stream;
        let (rejections, rejected) = watch::channel(0);
        let instance = Instance::new(lock.database());
        let pipeline = Pipeline {
            source: Source::new(connection.clone(), stream.clone(), self.config.batch, instance),
            writer: self.writer.clone(),
            criteria: self.config.criteria(),
            batch: self.config.batch,
            upto: None,
            new_epoch: self.new_epoch,
            rejections,
            telemetry: Arc::clone(&self.telemetry),
        };
        let dead_letters = DeadLetters::new(connection.clone(), stream.clone(), self.pool.clone(), self.writer.clone());
        let numbers = DashboardPublisher {
            connection: connection.clone(),
            config: self.config.dashboard.clone(),
            stream: stream.clone(),
            pool: self.pool.clone(),
            board: self.board.clone(),
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
                tracing::warn!("stopping without the batch that is being written; the stream still has it");
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

    /// Ready when a stop has taken too long.
    async fn overdue(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(STOP_BUSY_PATIENCE).await;
        self.writer.stop_waiting();
        tokio::time::sleep(ABANDON_PATIENCE).await;
    }
}
