//! The commit notice, sent after every commit, and the numbers of widgets that a commit may change.

use std::sync::Arc;

use crate::analytics::Rules;
use crate::analytics::dashboard::Shown;

/// Tells publishers what was committed so far.
#[derive(Debug, Clone)]
pub struct CommitNotice {
    /// The current rules, which include the widgets.
    pub rules: Arc<Rules>,
    /// Number of commits so far.
    pub commits: u64,
    /// The value of `commits` at the last commit that changed a number of a widget.
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
    /// The name of the number within the widget.
    pub metric_key: String,
}

/// The last state of a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// The widget and the name of the number.
    pub key: NumberKey,
    /// What the number shows.
    pub shown: Shown,
    /// The watermark T when the number changed, floored to the minute.
    pub updated_at: String,
    /// The stream of the sequence `as_of`.
    pub stream: String,
    /// The sequence up to which the number was exact when it changed.
    pub as_of: u64,
    /// Increases with every change of any number.
    pub change: i64,
    /// Whether the number is gone from the configuration.
    pub is_gone: bool,
}
