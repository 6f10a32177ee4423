//! Number of events by name and UTC day. Dashboards list these counts.

use chrono::NaiveDate;
use hashbrown::{Equivalent, HashMap};

use super::{Merge, entry_of, period};
use crate::model::AnalyticsEvent;

/// Event counts by day and name.
#[derive(Debug, Default)]
pub struct EventCounts(HashMap<(NaiveDate, String), u32>);

/// A borrowed day and name, with the same hash as the owned key.
#[derive(Hash)]
struct KeyRef<'a>(NaiveDate, &'a str);

impl Equivalent<(NaiveDate, String)> for KeyRef<'_> {
    fn equivalent(&self, (date, name): &(NaiveDate, String)) -> bool {
        self.0 == *date && self.1 == name
    }
}

impl EventCounts {
    /// Counts an event.
    pub fn add_event(&mut self, event: &AnalyticsEvent) {
        let key = KeyRef(period::date(event.timestamp), &event.event_name);
        *entry_of(&mut self.0, &key, |key| (key.0, key.1.to_owned()), || 0) += 1;
    }

    /// Returns the counts in the order of their keys.
    pub fn into_sorted(self) -> Vec<((NaiveDate, String), u32)> {
        let mut counts: Vec<_> = self.0.into_iter().collect();
        counts.sort_unstable();
        counts
    }
}

impl Merge for EventCounts {
    fn merge(&mut self, other: Self) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }
}
