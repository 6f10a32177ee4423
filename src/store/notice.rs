//! What is told after every commit, and the numbers that may have changed with it.

use std::sync::Arc;

use crate::analytics::Rules;
use crate::analytics::dashboard::Shown;

/// What was committed so far, as far as those who publish need to know.
#[derive(Debug, Clone)]
pub struct CommitNotice {
    /// The rules of now, the widgets among them.
    pub rules: Arc<Rules>,
    /// Counts up with every commit.
    pub commits: u64,
    /// The last of them that changed a number of a widget.
    pub shown: u64,
}

impl CommitNotice {
    pub(super) fn of(rules: &Arc<Rules>) -> Self {
        Self { rules: Arc::clone(rules), commits: 0, shown: 0 }
    }

    pub(super) fn commit(&mut self, rules: &Arc<Rules>, has_shown: bool) {
        self.rules = Arc::clone(rules);
        self.commits += 1;
        self.shown = if has_shown { self.commits } else { self.shown };
    }
}

/// Names a number of a widget.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NumberKey {
    /// The widget.
    pub widget_id: String,
    /// The number's name within it.
    pub metric_key: String,
}

/// The last state of a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// Which.
    pub key: NumberKey,
    /// What it shows.
    pub shown: Shown,
    /// T when it changed, floored to the minute.
    pub updated_at: String,
    /// The stream.
    pub stream: String,
    /// The sequence up to which it was exact when it changed.
    pub as_of: u64,
    /// Counts up with every change of any number.
    pub change: i64,
    /// The configuration does not have it any more.
    pub is_gone: bool,
}
