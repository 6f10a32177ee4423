//! What widgets show: told after every commit, and read from `_dashboard_outbox`.

use std::sync::Arc;

use sqlx::{FromRow, SqlitePool};

use super::{StoreError, from_sql};
use crate::analytics::Rules;
use crate::analytics::dashboard::Shown;

/// What was committed so far, as far as those who publish need to know.
#[derive(Debug, Clone)]
pub struct Board {
    /// The rules of now, the widgets among them.
    pub rules: Arc<Rules>,
    /// Counts up with every commit.
    pub commits: u64,
    /// The last of them that changed a number of a widget.
    pub shown: u64,
}

impl Board {
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

#[derive(FromRow)]
struct Row {
    widget_id: String,
    metric_key: String,
    value: Option<f64>,
    previous_value: Option<f64>,
    change_percent: Option<f64>,
    updated_at: String,
    stream: String,
    as_of: i64,
    change: i64,
    is_gone: bool,
}

impl From<Row> for Number {
    fn from(row: Row) -> Self {
        let Row { widget_id, metric_key, value, previous_value, change_percent, .. } = row;
        Self {
            key: NumberKey { widget_id, metric_key },
            shown: Shown { value, previous_value, change_percent },
            updated_at: row.updated_at,
            stream: row.stream,
            as_of: from_sql(row.as_of),
            change: row.change,
            is_gone: row.is_gone,
        }
    }
}

/// What of the outbox a worker wrote.
const IS_READABLE: &str = "typeof(widget_id) = 'text' AND typeof(metric_key) = 'text' AND typeof(updated_at) = 'text' \
     AND typeof(stream) = 'text' AND typeof(as_of) = 'integer' AND typeof(change) = 'integer' \
     AND typeof(value) IN ('real', 'null') AND typeof(previous_value) IN ('real', 'null') \
     AND typeof(change_percent) IN ('real', 'null') AND is_gone IN (0, 1)";

/// The numbers that changed after a change, in the order of their last.
///
/// # Errors
/// Where the database cannot be read.
pub async fn numbers_changed(pool: &SqlitePool, after: i64) -> Result<Vec<Number>, StoreError> {
    let sql = format!(
        "SELECT widget_id, metric_key, value, previous_value, change_percent, updated_at, stream, as_of, change, is_gone \
         FROM _dashboard_outbox WHERE change > ?1 AND {IS_READABLE} ORDER BY change"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(after).fetch_all(pool).await?;
    Ok(rows.into_iter().map(Number::from).collect())
}
