//! How far a long command is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Draws a second.
const DRAW_HZ: u8 = 5;
/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    began: Instant,
    next_line_at: Instant,
}

impl Progress {
    /// Of something that is measured in bytes, of so many, where that is known.
    pub(super) fn of_bytes(what: &'static str, size_bytes: Option<u64>) -> Self {
        let (bar, template) = match size_bytes {
            Some(size) => (ProgressBar::new(size), "{prefix} {wide_bar} {percent}%, {msg}, {eta} left"),
            None => (ProgressBar::no_length(), "{prefix} {bytes}, {msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
        // A template of ours that does not parse leaves the bar as it is.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_prefix(what);
        let began = Instant::now();
        Self { what, bar, began, next_line_at: began + LINE_EVERY }
    }

    /// Of messages or rows, of which it is told later how many there are.
    pub(super) fn of_messages(what: &'static str) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
        let template = "{prefix} {wide_bar} {pos} of {len} messages, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_prefix(what);
        let began = Instant::now();
        Self { what, bar, began, next_line_at: began + LINE_EVERY }
    }

    /// So far.
    pub(super) fn set(&mut self, seq: u64) {
        self.bar.set_position(seq);
        if self.bar.is_hidden() && Instant::now() >= self.next_line_at {
            self.next_line_at += LINE_EVERY;
            let (of, left_s) = (self.bar.length().unwrap_or_default(), self.bar.eta().as_secs());
            tracing::info!(done = seq, of, rate_per_s = self.bar.per_sec().round(), left_s, "{}", self.what);
        }
    }

    /// So far, of so many.
    pub(super) fn set_of(&mut self, done: u64, of: u64) {
        if self.bar.position() == 0 {
            // What was done before does not count for the rate.
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        self.bar.set_length(of);
        self.set(done);
    }

    /// So many bytes more; `done` is what came of all of them.
    pub(super) fn advance(&mut self, bytes: u64, done: u64) {
        self.bar.inc(bytes);
        // A look at the clock for each message would cost more than the message.
        if !done.is_multiple_of(128) {
            return;
        }
        let rate = done as f64 / self.began.elapsed().as_secs_f64().max(f64::EPSILON);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{done} done, {rate:.0}/s"));
        } else if Instant::now() >= self.next_line_at {
            self.next_line_at += LINE_EVERY;
            tracing::info!(done, rate_per_s = rate.round(), "{}", self.what);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
