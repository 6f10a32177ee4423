//! Reads the numbers of funnels, and the hits of one actor.

use rusqlite::{OptionalExtension, Transaction};

use super::digest;
use crate::analytics::funnel::{Funnel, Hit, Miss, Report, Scope, anonymous_actor, session_actor, user_actor};
use crate::analytics::{GroupName, Rules};
use crate::model::{AnalyticsEvent, Timestamp};
use crate::store::error::StoreError;
use crate::store::sqlite::derived::{StoredSegments, user_of};
use crate::store::sqlite::raw::RawTable;

/// A funnel's definition and its numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FunnelReport {
    /// The funnel's name.
    pub name: String,
    /// What the funnel is for.
    pub description: Option<String>,
    /// Whether the funnel is being rebuilt. The numbers may then be those of a former definition.
    pub is_rebuilding: bool,
    /// The sequence of each stream up to which the numbers are exact.
    pub as_of: std::collections::BTreeMap<String, u64>,
    /// The numbers.
    #[serde(flatten)]
    pub report: Report,
}

/// All hits of one actor in a funnel.
#[derive(Debug, Clone, PartialEq)]
pub struct ActorHits {
    /// The actor's name in the database, such as `user|ada`; the given id if nothing was found.
    pub actor: String,
    /// The hits, in no particular order.
    pub hits: Vec<Hit>,
    /// Events with the actor's own id that fail a condition of a step, in no particular order.
    pub misses: Vec<Miss>,
}

/// Reads the reports of all funnels, or of the named funnel, in the order of names.
pub(super) fn funnel_reports(tx: &Transaction<'_>, name: Option<&str>) -> rusqlite::Result<Vec<FunnelReport>> {
    let as_of = digest::as_of(tx)?;
    let mut select = tx.prepare(
        "SELECT f.id, f.name, f.description, f.steps, EXISTS (SELECT 1 FROM _groups g \
             WHERE g.name = 'funnel ' || f.name AND g.rebuild IS NOT NULL) FROM funnels f \
             WHERE ?1 IS NULL OR f.name = ?1 ORDER BY f.name",
    )?;
    let mut rows = select.query([name])?;
    let mut reports = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, steps): (String, String) = (row.get(0)?, row.get(3)?);
        reports.push(FunnelReport {
            name: row.get(1)?,
            description: row.get(2)?,
            is_rebuilding: row.get(4)?,
            as_of: as_of.clone(),
            report: Report::of(step_names(&steps), episodes(tx, &id)?),
        });
    }
    Ok(reports)
}

fn step_names(steps: &str) -> Vec<String> {
    let steps: Vec<serde_json::Value> = serde_json::from_str(steps).unwrap_or_default();
    steps.iter().map(|step| step["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn episodes(tx: &Transaction<'_>, funnel_id: &str) -> rusqlite::Result<Vec<Vec<i64>>> {
    let mut select = tx.prepare("SELECT step_timestamps FROM funnel_conversions WHERE funnel_id = ?1")?;
    let episode = |timestamps: Option<String>| {
        let timestamps: Vec<String> = serde_json::from_str(&timestamps.unwrap_or_default()).unwrap_or_default();
        timestamps.iter().filter_map(|text| Timestamp::from_stored(text)).map(Timestamp::as_millis).collect()
    };
    select.query_map([funnel_id], |row| row.get(0).map(episode))?.collect()
}

/// Reads the hits of a user, of an anonymous id or of a session in a funnel. Returns `None` if the database is
/// rebuilding the funnel, or has another definition of it than the given one. Returns no hits if nothing matched.
pub(super) fn funnel_hits(
    tx: &Transaction<'_>,
    rules: &Rules,
    funnel: &Funnel,
    id: &str,
) -> Result<Option<ActorHits>, StoreError> {
    let group = GroupName::Funnel(funnel.name.clone());
    let sql = "SELECT fingerprint FROM _groups WHERE name = ?1 AND rebuild IS NULL";
    let stored: Option<String> = tx.query_row(sql, [group.name()], |row| row.get(0)).optional()?;
    if stored.as_ref() != Some(&group.fingerprint(rules)) {
        return Ok(None);
    }
    let of_user = |id: &str| (user_actor(id), "user_id = ?1", id.to_owned());
    // No index finds anonymous ids, but few ask.
    let of_anonymous = (anonymous_actor(id), "anonymous_id = ?1 AND user_id IS NULL", id.to_owned());
    let actors = match funnel.scope {
        Scope::Session => vec![(session_actor(id), "session_id = ?1", id.to_owned())],
        Scope::User => {
            let linked = user_of(tx, id)?.map(|user_id| of_user(&user_id));
            [of_user(id)].into_iter().chain(linked).chain([of_anonymous]).collect()
        }
    };
    let mut segments = StoredSegments::prepare(tx)?;
    for (actor, own_events, own_id) in actors {
        segments.turn_to(funnel, &actor);
        let hits: Vec<Hit> =
            segments.all()?.iter().flat_map(|segment| segment.hits()).map(|hit| (**hit).clone()).collect();
        let misses = misses(tx, funnel, own_events, &own_id)?;
        if !hits.is_empty() || !misses.is_empty() {
            return Ok(Some(ActorHits { actor, hits, misses }));
        }
    }
    Ok(Some(ActorHits { actor: id.to_owned(), hits: Vec::new(), misses: Vec::new() }))
}

/// Returns the misses among the events of one id.
fn misses(tx: &Transaction<'_>, funnel: &Funnel, events: &str, id: &str) -> Result<Vec<Miss>, StoreError> {
    let mut select = tx.prepare(&format!("SELECT {} FROM analytics_events WHERE {events}", AnalyticsEvent::COLUMNS))?;
    let mut rows = select.query([id])?;
    let mut misses = Vec::new();
    while let Some(row) = rows.next()? {
        // Skips rows that another program wrote: they are not events.
        if let Ok(event) = AnalyticsEvent::from_row(row) {
            misses.extend(funnel.misses(&event));
        }
    }
    Ok(misses)
}
