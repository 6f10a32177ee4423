//! Before reading: finds the position in the database, and checks that the stream is still the one that filled it.

use super::Pipeline;
use super::ended::PipelineError;
use super::recover::Trouble;
use crate::nats::NatsError;
use crate::position::{Position, Standing, stand};

impl Pipeline {
    /// Finds the position in the database, checks that the stream is still the same, and starts to read after the
    /// position. Returns the position.
    pub(super) async fn bind(&mut self, trouble: &mut Trouble) -> Result<Position, PipelineError> {
        self.source.revive().await?;
        let last = self.writer.run(|writer| writer.position()).await?;
        let state = self.source.stream_state(last.as_ref(), self.mode.may_begin_epoch()).await?;
        let standing = stand(last.as_ref(), &state, self.mode.may_begin_epoch()).map_err(NatsError::from)?;
        let mut position = match standing {
            Standing::Resume(position) => position,
            Standing::Behind(position, gap) => {
                let (first, last) = (gap.first_seq, gap.last_seq);
                self.mode.log_gap(first, last);
                self.telemetry.skipped(last - first + 1);
                self.writer.run(move |writer| writer.skip(&position, gap)).await?
            }
            Standing::Begin { first_seq } => {
                self.writer.run(move |writer| writer.begin_epoch(&state.name, state.created_ns, first_seq)).await?
            }
        };
        // A commit may finish after its round ended. Nobody has announced its rejected messages yet.
        self.mode.tell_of_rejections(position.last_seq);
        if let Some(count) = trouble.single_messages() {
            let read = self.read_singly(&position, count).await?;
            trouble.after_single_messages(read.is_some());
            position = read.unwrap_or(position);
        }
        self.source.start(&position).await?;
        self.mode.epoch_is_settled();
        self.telemetry.bound(position.last_seq);
        tracing::info!(stream = position.stream, epoch = position.epoch, after = position.last_seq, "reading");
        Ok(position)
    }
}
