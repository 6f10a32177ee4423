//! The writer's thread. SQLite's calls block, so they run on a thread of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::error::StoreError;
use super::writer::Writer;

type WriterJob = Box<dyn FnOnce(&mut Writer) + Send>;

/// How many jobs may wait. The pipeline has one job at a time, and the outbox has another.
const MAX_QUEUED_JOBS: usize = 8;

/// Handle of the thread that owns the [`Writer`]. The thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct WriterThread {
    jobs: mpsc::Sender<WriterJob>,
    stop_waiting: Arc<AtomicBool>,
}

impl WriterThread {
    /// Starts the thread. Join the second value after the last handle is dropped.
    ///
    /// # Errors
    /// Fails if the system cannot start a thread.
    pub fn start(mut writer: Writer) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<WriterJob>(MAX_QUEUED_JOBS);
        let stop_waiting = writer.stop_waiting_flag();
        let thread = std::thread::Builder::new().name("writer".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut writer);
            }
        })?;
        Ok((Self { jobs, stop_waiting }, thread))
    }

    /// Runs a job on the writer. The job runs to its end even if the future is dropped.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.clone();
        let job: WriterJob = Box::new(move |writer| {
            // The caller may be gone; then nobody needs the answer.
            let _ = reply.send(job(writer));
        });
        Box::pin(async move {
            jobs.send(job).await.map_err(|_| StoreError::WriterStopped)?;
            answer.await.map_err(|_| StoreError::WriterStopped)?
        })
    }

    /// Makes jobs fail if they wait for another process's write lock. For a process that is about to stop.
    pub fn stop_waiting(&self) {
        self.stop_waiting.store(true, Ordering::Relaxed);
    }
}
