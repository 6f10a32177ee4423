//! Handles SIGTERM and SIGINT.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;

/// Returns a token that the first of the two signals cancels. If `then` is given, it is logged after the signal.
pub(super) fn stop_token(then: Option<&'static str>) -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Cancels before it logs: the stop must work even if nobody reads the log any more.
        on_signal.cancel();
        if let Some(then) = then {
            tracing::info!("{then}");
        }
    });
    Ok(stop)
}
