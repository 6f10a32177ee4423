//! `dashboard_metrics` and `_dashboard_outbox`: the numbers that widgets show, evaluated from the states of their
//! series.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, params};

use super::series::{self, SeriesTables};
use super::watermark;
use crate::analytics::dashboard::{self, Dashboards, Expression, SeriesPeriod, Shown, Touched, Widget};
use crate::analytics::{GroupName, GroupSet, Rules, SERIES_PREFIX, current_series, period};
use crate::model::{PeriodType, Timestamp, natural_id};
use crate::store::error::StoreError;
use crate::store::sqlite::ledger::positions;
use crate::store::sqlite::values::to_sql;

const SELECT_SHOWN: &str = "SELECT value, previous_value, change_percent FROM _dashboard_outbox \
     WHERE widget_id = ?1 AND metric_key = ?2 AND is_gone = 0";
const PUT_SHOWN: &str = "INSERT INTO _dashboard_outbox (widget_id, metric_key, value, previous_value, change_percent, \
     updated_at, stream, as_of, change) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
     ON CONFLICT (widget_id, metric_key) DO UPDATE SET value = excluded.value, \
     previous_value = excluded.previous_value, change_percent = excluded.change_percent, \
     updated_at = excluded.updated_at, stream = excluded.stream, as_of = excluded.as_of, change = excluded.change, \
     is_gone = 0";
const PUT_ROW: &str = "INSERT INTO dashboard_metrics (id, widget_id, metric_key, value, previous_value, \
     change_percent, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
     ON CONFLICT DO UPDATE SET id = excluded.id, widget_id = excluded.widget_id, metric_key = excluded.metric_key, \
     value = excluded.value, previous_value = excluded.previous_value, change_percent = excluded.change_percent, \
     updated_at = excluded.updated_at";
const DELETE_ROW: &str = "DELETE FROM dashboard_metrics WHERE id = ?1";
const SELECT_LAST_CHANGE: &str = "SELECT coalesce(max(change), 0) FROM _dashboard_outbox \
     WHERE change < 4611686018427387904 AND typeof(change) = 'integer'";
const UPDATE_MINUTE: &str = "UPDATE dashboard_metrics SET updated_at = ?1 WHERE updated_at <> ?1";
/// Marks a number as gone. The row stays in the outbox, so that the publisher can see whether the number's key still
/// exists.
const LET_GO: &str = "UPDATE _dashboard_outbox SET is_gone = 1, change = ?3 WHERE widget_id = ?1 AND metric_key = ?2";

/// Deletes the stored series and rows that the configuration no longer has. Numbers that it no longer has stay in the
/// outbox, marked as gone.
pub(in crate::store) fn define(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<()> {
    let dashboards = &rules.dashboards;
    let groups: Vec<String> =
        tx.prepare("SELECT name FROM _groups")?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for group in groups {
        if let Some(name) = group.strip_prefix(SERIES_PREFIX).filter(|name| dashboards.by_name(name).is_none()) {
            series::forget(tx, dashboard::key_of(name))?;
            tx.execute("DELETE FROM _groups WHERE name = ?1", [&group])?;
        }
    }
    // Rows that another program wrote.
    for table in ["_dashboard_outbox", "dashboard_metrics"] {
        let sql = format!("DELETE FROM {table} WHERE typeof(widget_id) <> 'text' OR typeof(metric_key) <> 'text'");
        tx.execute(&sql, [])?;
    }
    let is_wanted = |widget_id: &str, metric_key: &str| {
        let widget = dashboards.widgets.iter().find(|widget| widget.id == widget_id);
        widget.is_some_and(|widget| widget.metrics.contains_key(metric_key))
    };
    let keys = |sql: &str| -> rusqlite::Result<Vec<(String, String)>> {
        tx.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    for (widget_id, metric_key) in keys("SELECT widget_id, metric_key FROM _dashboard_outbox WHERE is_gone = 0")? {
        if !is_wanted(&widget_id, &metric_key) {
            tx.execute(LET_GO, params![widget_id, metric_key, last_change(tx)? + 1])?;
            tracing::info!(widget_id, metric_key, "removed a number that the configuration no longer has");
        }
    }
    for (widget_id, metric_key) in keys("SELECT widget_id, metric_key FROM dashboard_metrics")? {
        if !is_wanted(&widget_id, &metric_key) {
            tx.execute(
                "DELETE FROM dashboard_metrics WHERE widget_id = ?1 AND metric_key = ?2",
                [widget_id, metric_key],
            )?;
        }
    }
    Ok(())
}

fn last_change(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached(SELECT_LAST_CHANGE)?.query_row([], |row| row.get(0))
}

/// Returns the id of a number's row in `dashboard_metrics`.
fn id_of(widget_id: &str, metric_key: &str) -> String {
    natural_id::of(&format!("dashboard_metrics|{widget_id}|{metric_key}"))
}

/// Evaluates the numbers that may have changed. A number is due if its series was touched, or if T entered a new
/// period of its widget. A number per unit of time is also due if T's minute changed. Numbers of frozen series stay
/// as they are, and so do all numbers while the sessions, which keep T, are frozen. Returns whether any number
/// changed.
pub(in crate::store) fn evaluate(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: &GroupSet,
    touched: &Touched,
) -> Result<bool, StoreError> {
    let dashboards = &rules.dashboards;
    if dashboards.widgets.is_empty() || !groups.contains(&GroupName::Sessions) {
        return Ok(false);
    }
    let Some(t) = watermark::get(tx)? else { return Ok(false) };
    let is_new_minute = touched.is_new_minute(t);
    if touched.has_entered(PeriodType::Hourly, t) {
        series::prune(tx, rules, t)?;
    }
    if !is_new_minute && touched.series.is_empty() {
        return Ok(false);
    }
    let current = current_series(dashboards, groups);
    let mut evaluation = Evaluation::prepare(tx, dashboards, t)?;
    evaluation.writes_all = touched.t_before.is_none();
    for widget in &dashboards.widgets {
        for (key, expression) in &widget.metrics {
            let Some(at) = dashboards.place_of(&expression.series).filter(|at| current.contains(at)) else { continue };
            if touched.is_due(widget.period, expression.measure, at, t) {
                evaluation.evaluate(widget, key, expression, at)?;
            }
        }
    }
    let has_changed = evaluation.has_changed;
    if is_new_minute {
        tx.prepare_cached(UPDATE_MINUTE)?.execute([dashboard::minute(t).to_string()])?;
    }
    Ok(has_changed)
}

struct Evaluation<'tx> {
    tx: &'tx Connection,
    t: Timestamp,
    tables: SeriesTables<'tx>,
    select_shown: CachedStatement<'tx>,
    /// The stream and the sequence up to which the numbers are exact.
    as_of: Option<(String, i64)>,
    /// The number of the last change.
    change: i64,
    has_changed: bool,
    /// Whether to write also the rows whose numbers have not changed: another program may have altered them.
    writes_all: bool,
}

impl<'tx> Evaluation<'tx> {
    fn prepare(tx: &'tx Transaction<'_>, dashboards: &Dashboards, t: Timestamp) -> rusqlite::Result<Self> {
        let as_of = positions::last(tx)?.map(|last| (last.stream, to_sql(last.last_seq)));
        Ok(Self {
            tx,
            t,
            tables: SeriesTables::prepare(tx, dashboards)?,
            select_shown: tx.prepare_cached(SELECT_SHOWN)?,
            as_of,
            change: last_change(tx)?,
            has_changed: false,
            writes_all: false,
        })
    }

    fn evaluate(&mut self, widget: &Widget, key: &str, expression: &Expression, at: usize) -> Result<(), StoreError> {
        let period_type = widget.period;
        let mut tally = |start| self.tables.tally(&SeriesPeriod { at, period_type, start });
        let current = tally(period::start(period_type, self.t))?.unwrap_or_default();
        let previous = tally(period::before(period_type, self.t))?.unwrap_or_default();
        let shown = Shown::of(expression.measure, period_type, self.t, &current, &previous);
        // Another program may have stored a value that is not a number. Such a row counts as changed.
        let stored = self.select_shown.query_row([&widget.id, key], |row| {
            let number = |column| row.get::<_, Option<f64>>(column).ok();
            let triple = (number(0), number(1), number(2));
            Ok(if let (Some(value), Some(previous_value), Some(change_percent)) = triple {
                Some(Shown { value, previous_value, change_percent })
            } else {
                None
            })
        });
        let has_changed = stored.optional()?.flatten() != Some(shown);
        if has_changed || self.writes_all {
            self.put_row(widget, key, &shown)?;
        }
        if has_changed {
            self.put_shown(widget, key, &shown)?;
        }
        Ok(())
    }

    fn put_row(&self, widget: &Widget, key: &str, shown: &Shown) -> rusqlite::Result<()> {
        let Shown { value, previous_value, change_percent } = *shown;
        let updated_at = dashboard::minute(self.t).to_string();
        let id = id_of(&widget.id, key);
        match value {
            Some(value) => {
                let row = params![id, widget.id, key, value, previous_value, change_percent, updated_at];
                self.tx.prepare_cached(PUT_ROW)?.execute(row)?;
            }
            None => {
                self.tx.prepare_cached(DELETE_ROW)?.execute([id])?;
            }
        }
        Ok(())
    }

    fn put_shown(&mut self, widget: &Widget, key: &str, shown: &Shown) -> rusqlite::Result<()> {
        let Shown { value, previous_value, change_percent } = *shown;
        let updated_at = dashboard::minute(self.t).to_string();
        let (stream, as_of) = self.as_of.clone().unwrap_or_default();
        self.change += 1;
        self.has_changed = true;
        self.tx.prepare_cached(PUT_SHOWN)?.execute(params![
            widget.id,
            key,
            value,
            previous_value,
            change_percent,
            updated_at,
            stream,
            as_of,
            self.change
        ])?;
        Ok(())
    }
}
