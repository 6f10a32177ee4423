//! Shows the progress of a long command: a bar on a terminal, else a log line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn, in Hz.
const DRAW_HZ: u8 = 5;
/// Time between log lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    began: Instant,
    next_line_at: Instant,
}

impl Progress {
    /// Starts progress in bytes, with the total if it is known.
    pub(super) fn of_bytes(what: &'static str, size_bytes: Option<u64>) -> Self {
        let (bar, template) = match size_bytes {
            Some(size) => (ProgressBar::new(size), "{prefix} {wide_bar} {percent}%, {msg}, {eta} left"),
            None => (ProgressBar::no_length(), "{prefix} {bytes}, {msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
        // If the template does not parse, the bar keeps its default style.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_prefix(what);
        let began = Instant::now();
        Self { what, bar, began, next_line_at: began + LINE_EVERY }
    }

    /// Starts progress in messages or rows. [`Progress::set_of`] gives the total later.
    pub(super) fn of_messages(what: &'static str) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
        let template = "{prefix} {wide_bar} {pos} of {len} messages, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_prefix(what);
        let began = Instant::now();
        Self { what, bar, began, next_line_at: began + LINE_EVERY }
    }

    /// Sets how much is done.
    pub(super) fn set(&mut self, seq: u64) {
        self.bar.set_position(seq);
        if self.bar.is_hidden() && Instant::now() >= self.next_line_at {
            self.next_line_at += LINE_EVERY;
            let (of, left_s) = (self.bar.length().unwrap_or_default(), self.bar.eta().as_secs());
            tracing::info!(done = seq, of, rate_per_s = self.bar.per_sec().round(), left_s, "{}", self.what);
        }
    }

    /// Sets how much is done, and the total.
    pub(super) fn set_of(&mut self, done: u64, of: u64) {
        if self.bar.position() == 0 {
            // Work of an earlier run does not count for the rate.
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        self.bar.set_length(of);
        self.set(done);
    }

    /// Adds bytes. `done` is the number of messages that are done so far, from all bytes.
    pub(super) fn advance(&mut self, bytes: u64, done: u64) {
        self.bar.inc(bytes);
        // To read the clock for each message would cost more than the message itself.
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
