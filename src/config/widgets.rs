//! Checks the widgets in the configuration.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::{is_key, milliseconds};
use super::error::ConfigError;
use super::raw;
use crate::analytics::dashboard::{self, Dashboards, Expression, Series, Widget};

const DEFAULT_MAX_RATE: Duration = Duration::from_millis(500);
const MAX_MAX_RATE: Duration = Duration::from_secs(3_600);
const HISTORIES: RangeInclusive<Duration> = Duration::from_secs(3_600)..=Duration::from_secs(3_660 * 86_400);
const MAX_TITLE_CHARS: usize = 256;

pub(super) fn check(config: &raw::Config) -> Result<Dashboards, ConfigError> {
    let history = config.dashboard.history.0;
    if !HISTORIES.contains(&history) {
        return Err(ConfigError::Value { key: "dashboard.history", error: "must be 1h to 3660d".into() });
    }
    let funnels: BTreeSet<&str> = config.funnels.iter().map(|funnel| funnel.name.as_str()).collect();
    let mut ids = BTreeSet::new();
    let mut widgets = Vec::new();
    for widget in &config.widgets {
        let checked = check_widget(widget, &funnels).and_then(|checked| match ids.insert(&widget.id) {
            true => Ok(checked),
            false => Err("two widgets have this id".into()),
        });
        let wrong = |why| ConfigError::Value { key: "widgets", error: format!("widget {:?}: {why}", widget.id) };
        widgets.push(checked.map_err(wrong)?);
    }
    Ok(Dashboards::new(widgets, milliseconds(history)))
}

fn check_widget(widget: &raw::Widget, funnels: &BTreeSet<&str>) -> Result<Widget, String> {
    let ensure = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    ensure(is_key(&widget.id), "id must be 1 to 128 letters, digits, _ or -")?;
    let is_short = |title: &String| title.chars().nth(MAX_TITLE_CHARS).is_none();
    ensure(widget.title.as_ref().is_none_or(is_short), "title must have at most 256 characters")?;
    let period = dashboard::period_of(widget.period.as_deref().unwrap_or("1h"));
    let period = period.ok_or("period must be 1h, 1d, 7d (the ISO week) or 1mo")?;
    let max_rate = widget.max_rate.map_or(DEFAULT_MAX_RATE, |max_rate| max_rate.0);
    ensure(max_rate <= MAX_MAX_RATE, "max_rate must be at most 1h")?;
    ensure(!widget.metrics.is_empty(), "metrics must name at least one number")?;
    let metrics = widget.metrics.iter().map(|(key, text)| {
        ensure(is_key(key), &format!("metrics, key {key:?}: must be 1 to 128 letters, digits, _ or -"))?;
        let expression: Expression = text.parse().map_err(|error| format!("metrics.{key}: {error}"))?;
        match &expression.series {
            Series::Episodes { funnel } if !funnels.contains(funnel.as_str()) => {
                Err(format!("metrics.{key}: there is no funnel {funnel:?} among [[funnels]]"))
            }
            _ => Ok((key.clone(), expression)),
        }
    });
    Ok(Widget {
        id: widget.id.clone(),
        title: widget.title.clone(),
        period,
        max_rate,
        metrics: metrics.collect::<Result<_, String>>()?,
    })
}
