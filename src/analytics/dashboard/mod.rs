//! Dashboards: numbers over the period that contains T and over the period before it (`SEMANTICS` section 7).
//!
//! ```text
//! message, session or episode -> facts   counted in series, hour by hour
//! hours -> periods                       the periods that widgets ask for, as far back as they are kept
//! two tallies -> Shown                   of this period and the one before: value, previous value, change
//! ```
//! `expression` parses, `measure` lists the measures and their names (`count`, `p99`), `tally` has the arithmetic of
//! counts; samples are counted as rollups. Expressions that count the same thing share a [`Series`]. The hours of a
//! series are the history that charts show.

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

/// The names of periods in the configuration.
const PERIODS: [(&str, PeriodType); 4] =
    [("1h", PeriodType::Hourly), ("1d", PeriodType::Daily), ("7d", PeriodType::Weekly), ("1mo", PeriodType::Monthly)];

/// Returns the period with this name. `None` if no period has the name.
pub fn period_of(name: &str) -> Option<PeriodType> {
    PERIODS.iter().find(|(own, _)| *own == name).map(|(_, period)| *period)
}

/// Returns the name of a period in the configuration.
pub fn period_name(period: PeriodType) -> &'static str {
    PERIODS.iter().find(|(_, own)| *own == period).map_or("", |(name, _)| name)
}

/// A widget: numbers that are shown together.
#[derive(Debug, Clone, PartialEq)]
pub struct Widget {
    /// The id. Matches `[A-Za-z0-9_-]+`.
    pub id: String,
    /// The title, if the configuration has one.
    pub title: Option<String>,
    /// The period that its numbers cover.
    pub period: PeriodType,
    /// The minimum time between two publications.
    pub max_rate: Duration,
    /// Its numbers, by metric key.
    pub metrics: BTreeMap<String, Expression>,
}

/// A series that is counted, and its periods: hours, and the periods that widgets ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// The series.
    pub series: Series,
    /// The periods in which it is counted. Hours are always included.
    pub periods: BTreeSet<PeriodType>,
    /// The name of the series, as it stands in the name of its group.
    pub name: String,
    /// The first 8 bytes of an id that is derived from `name`. Internal tables identify the series by this key.
    pub key: i64,
}

/// Returns the key of the series with this name: the first 8 bytes of an id that is derived from the name.
pub fn key_of(name: &str) -> i64 {
    natural_id::uuid(&format!("series|{name}")).as_u64_pair().0.cast_signed()
}

/// All widgets, and the series that they count.
#[derive(Debug, Clone, Default)]
pub struct Dashboards(Arc<Index>);

impl PartialEq for Dashboards {
    fn eq(&self, other: &Self) -> bool {
        self.widgets == other.widgets && self.history_ms == other.history_ms
    }
}

/// The series that widgets count, indexed by the attributes of messages.
#[derive(Debug, Default)]
pub struct Index {
    /// The widgets, in the order of the configuration.
    pub widgets: Vec<Widget>,
    /// The series that they count.
    pub counted: Vec<Counted>,
    /// How long hours are kept before T, in milliseconds.
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
    /// Indexes the widgets. `history_ms` is how long hours are kept before T, in milliseconds.
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

    /// Returns the place of a series in `counted`. `None` if no widget counts the series.
    pub fn place_of(&self, series: &Series) -> Option<usize> {
        self.by_series.get(series).copied()
    }

    /// Returns the counted series with this name.
    pub fn by_name(&self, name: &str) -> Option<&Counted> {
        self.place_by_name(name).map(|at| &self.counted[at])
    }

    /// Returns the place in `counted` of the series with this name.
    pub fn place_by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns whether a widget counts the episodes of this funnel.
    pub fn counts_episodes_of(&self, funnel: &str) -> bool {
        self.episodes.contains_key(funnel)
    }

    /// Returns the start of the first period that is kept at the watermark `t`. Hours are kept for the length of the
    /// history, and at least from the hour before T's hour. Longer periods are kept from the period before T's. A
    /// message in an earlier period changes nothing any more.
    pub fn kept_from(&self, period: PeriodType, t: Timestamp) -> Timestamp {
        let before = period::before(period, t);
        if period != PeriodType::Hourly {
            return before;
        }
        let history = Timestamp::from_millis(t.as_millis() - self.history_ms);
        before.min(period::start(period, history))
    }
}
