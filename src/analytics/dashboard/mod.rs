//! Dashboards: numbers over the period of now and the one before (`SEMANTICS` section 7).
//!
//! ```text
//! message, session or episode -> facts   what is counted, hour by hour: series
//! hours -> periods                       those that widgets ask for, as far back as is kept
//! Tally of this period and the last      Shown: value, previous value, change
//! ```
//! Expressions that count the same share a [`Series`], whose hours are the history behind the charts.

mod due;
mod expression;
mod facts;
mod measure;
mod shown;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

pub use due::Touched;
pub use expression::{Expression, ExpressionError, Series};
pub use facts::{SeriesFact, SeriesFacts, SeriesGroup, SeriesPeriod, SessionHours};
pub use measure::Measure;
pub use shown::{Shown, minute, whole_minutes};
pub use tally::{Counters, Tally};

use super::period;
use crate::model::{PeriodType, Timestamp, natural_id};

/// Periods as the configuration names them.
const PERIODS: [(&str, PeriodType); 4] =
    [("1h", PeriodType::Hourly), ("1d", PeriodType::Daily), ("7d", PeriodType::Weekly), ("1mo", PeriodType::Monthly)];

/// The period of a name, if it is one.
pub fn period_of(name: &str) -> Option<PeriodType> {
    PERIODS.iter().find(|(own, _)| *own == name).map(|(_, period)| *period)
}

/// The name of a period.
pub fn period_name(period: PeriodType) -> &'static str {
    PERIODS.iter().find(|(_, own)| *own == period).map_or("", |(name, _)| name)
}

/// A widget: numbers that stand together.
#[derive(Debug, Clone, PartialEq)]
pub struct Widget {
    /// `[A-Za-z0-9_-]+`
    pub id: String,
    /// What it is called.
    pub title: Option<String>,
    /// Over which period its numbers are.
    pub period: PeriodType,
    /// The least time between two publications.
    pub max_rate: Duration,
    /// Its numbers by their keys.
    pub metrics: BTreeMap<String, Expression>,
}

/// Something that is counted, with the periods that are asked for beside the hours.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// What.
    pub series: Series,
    /// In which periods, hours among them.
    pub periods: BTreeSet<PeriodType>,
    /// As it is named among the groups.
    pub name: String,
    /// The first 8 bytes of an id that comes of its name: as internal tables name it.
    pub key: i64,
}

/// The first 8 bytes of the id of the series of a name.
pub fn key_of(name: &str) -> i64 {
    natural_id::uuid(&format!("series|{name}")).as_u64_pair().0.cast_signed()
}

/// All widgets, and what they count.
#[derive(Debug, Clone, Default)]
pub struct Dashboards(Arc<Index>);

impl PartialEq for Dashboards {
    fn eq(&self, other: &Self) -> bool {
        self.widgets == other.widgets && self.history_ms == other.history_ms
    }
}

/// What widgets count, found by what messages say.
#[derive(Debug, Default)]
pub struct Index {
    /// In the order of the configuration.
    pub widgets: Vec<Widget>,
    /// What they count.
    pub counted: Vec<Counted>,
    /// For how long before T hours are kept.
    pub history_ms: i64,
    by_series: BTreeMap<Series, usize>,
    by_name: HashMap<String, usize>,
    events: Option<usize>,
    events_by_name: HashMap<String, usize>,
    users: Option<usize>,
    sessions: Option<usize>,
    usages: HashMap<String, usize>,
    feature_users: HashMap<String, usize>,
    samples_by_name: HashMap<String, Vec<usize>>,
    episodes: HashMap<String, usize>,
}

impl Deref for Dashboards {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.0
    }
}

impl Dashboards {
    /// Widgets, and for how long before T hours are kept.
    pub fn new(widgets: Vec<Widget>, history_ms: i64) -> Self {
        let mut periods: BTreeMap<Series, BTreeSet<PeriodType>> = BTreeMap::new();
        for widget in &widgets {
            for expression in widget.metrics.values() {
                let of_series = periods.entry(expression.series.clone()).or_default();
                of_series.extend([PeriodType::Hourly, widget.period]);
            }
        }
        let mut index = Index { widgets, history_ms, ..Index::default() };
        for (at, (series, periods)) in periods.into_iter().enumerate() {
            index.enter(at, &series);
            index.by_series.insert(series.clone(), at);
            let name = series.to_string();
            let key = key_of(&name);
            index.by_name.insert(name.clone(), at);
            index.counted.push(Counted { series, periods, name, key });
        }
        Self(Arc::new(index))
    }
}

impl Index {
    fn enter(&mut self, at: usize, series: &Series) {
        match series {
            Series::Events { event_name: None } => self.events = Some(at),
            Series::Events { event_name: Some(name) } => {
                self.events_by_name.insert(name.clone(), at);
            }
            Series::Users => self.users = Some(at),
            Series::Sessions => self.sessions = Some(at),
            Series::Samples { name, .. } => self.samples_by_name.entry(name.clone()).or_default().push(at),
            Series::Usages { feature } => {
                self.usages.insert(feature.clone(), at);
            }
            Series::FeatureUsers { feature } => {
                self.feature_users.insert(feature.clone(), at);
            }
            Series::Episodes { funnel } => {
                self.episodes.insert(funnel.clone(), at);
            }
        }
    }

    /// The place of what an expression counts.
    pub fn place_of(&self, series: &Series) -> Option<usize> {
        self.by_series.get(series).copied()
    }

    /// What is counted under a name.
    pub fn by_name(&self, name: &str) -> Option<&Counted> {
        self.place_by_name(name).map(|at| &self.counted[at])
    }

    /// The place of what is counted under a name.
    pub fn place_by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Whether episodes of a funnel are counted.
    pub fn counts_episodes_of(&self, funnel: &str) -> bool {
        self.episodes.contains_key(funnel)
    }

    /// The first period that is kept at the watermark `t`: hours for the history and for the hour before, others for the
    /// one before. What lies earlier changes nothing any more.
    pub fn kept_from(&self, period: PeriodType, t: Timestamp) -> Timestamp {
        let before = period::before(period, t);
        if period != PeriodType::Hourly {
            return before;
        }
        let history = Timestamp::from_millis(t.as_millis() - self.history_ms);
        before.min(period::start(period, history))
    }
}
