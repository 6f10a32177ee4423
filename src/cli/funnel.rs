//! `streamgauge funnel`

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;
use crate::analytics::funnel::{Condition, Episode, Fate, Funnel, Hit, Report, Scope, Segment, Unfit};
use crate::config::Config;
use crate::model::Timestamp;
use crate::store::{ActorHits, FunnelReport, Reader};

const BAR_CHARS: f64 = 30.0;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// List all funnels, with entered and completed episodes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a funnel, step by step
    Show {
        /// Name of the funnel
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the events of an actor that match a step, and show why each did or did not count
    Explain {
        /// Name of the funnel
        name: String,
        /// A user id or an anonymous id; for a funnel of sessions, a session id
        #[arg(long, value_name = "ID")]
        actor: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn execute(action: Action, config: Config) -> Result<(), Failure> {
    match action {
        Action::List { json } => {
            let reports = reports(&config, None).await?;
            if json {
                out!("{}", serde_json::to_string(&reports)?);
            } else {
                list(&reports);
            }
        }
        Action::Show { name, json } => {
            let reports = reports(&config, Some(name.clone())).await?;
            let Some(report) = reports.first() else {
                return Err(Failure::Failed(format!(
                    "there is no funnel {name:?}; `streamgauge funnel list` lists all funnels"
                )));
            };
            if json {
                out!("{}", serde_json::to_string(report)?);
            } else {
                show(report);
            }
        }
        Action::Explain { name, actor, json } => {
            let (funnel, found) = hits_of(&config, &name, actor).await?;
            let explained = Explained::of(&funnel, found);
            if json {
                out!("{}", explained.as_json(&funnel));
            } else {
                explained.print(&funnel);
            }
        }
    }
    Ok(())
}

async fn reports(config: &Config, name: Option<String>) -> Result<Vec<FunnelReport>, Failure> {
    let reader = Reader::open(&config.database_path).await?;
    Ok(reader.funnel_reports(name).await?)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn duration(ms: Option<i64>) -> String {
    let Some(ms) = ms.and_then(|ms| u64::try_from(ms).ok()) else { return "-".to_owned() };
    // From one minute on, the milliseconds do not matter.
    let ms = if ms >= 60_000 { ms / 1_000 * 1_000 } else { ms };
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

fn note(report: &FunnelReport) -> &'static str {
    if report.is_rebuilding { "  (being rebuilt: these are the old numbers)" } else { "" }
}

fn list(reports: &[FunnelReport]) {
    if reports.is_empty() {
        err!("there are no funnels; add [[funnels]] to the worker's configuration, then restart it or send SIGHUP");
    }
    for report in reports {
        let Report { entered, completed, .. } = report.report;
        let rate = percent((entered > 0).then(|| completed as f64 / entered as f64));
        out!("{}: {entered} entered, {completed} completed, {rate}{}", report.name, note(report));
    }
}

fn show(report: &FunnelReport) {
    out!("{}{}", report.name, note(report));
    if let Some(description) = &report.description {
        out!("{description}");
    }
    for (stream, sequence) in &report.as_of {
        out!("as of {stream} {sequence}");
    }
    let width = report.report.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0).max(4);
    let header = ["entered", "reached", "converted"].map(|title| format!("{title:>10}")).concat();
    out!("\n   {:width$}{header}{:>9}{:>9}{:>14}{:>14}", "step", "rate", "of all", "median", "p90");
    for (at, step) in report.report.steps.iter().enumerate() {
        let counts = [step.entered, step.reached, step.converted].map(|count| format!("{count:>10}")).concat();
        let (rate, of_all) = (percent(step.rate), percent(step.rate_of_all));
        let (median, p90) = (duration(step.median_ms), duration(step.p90_ms));
        let bar = "█".repeat((step.rate_of_all.unwrap_or(0.0) * BAR_CHARS).round() as usize);
        out!("{:>2} {:width$}{counts}{rate:>9}{of_all:>9}{median:>14}{p90:>14}  {bar}", at + 1, step.name);
    }
}

async fn hits_of(config: &Config, name: &str, id: String) -> Result<(Arc<Funnel>, ActorHits), Failure> {
    let Some(funnel) = config.rules.funnels.by_name(name) else {
        let why = "is not in the configuration; explain needs the configuration of the worker (--config)";
        return Err(Failure::Failed(format!("funnel {name:?} {why}")));
    };
    let reader = Reader::open(&config.database_path).await?;
    let found = reader.funnel_hits(config.rules.clone().into(), Arc::clone(funnel), id.clone()).await?;
    let found = found.ok_or_else(|| {
        let why = "is not in the database as the configuration defines it: no worker has run with this configuration \
                   yet, or the funnel is being rebuilt (`streamgauge status` shows rebuilds)";
        Failure::Failed(format!("funnel {name:?} {why}"))
    })?;
    if found.hits.is_empty() && found.misses.is_empty() {
        let whose = match funnel.scope {
            Scope::User => "no event of a user or anonymous id",
            Scope::Session => "no event of a session",
        };
        return Err(Failure::Failed(format!("{whose} {id:?} matches a step of funnel {name:?}")));
    }
    Ok((Arc::clone(funnel), found))
}

/// The events of an actor, in order, each with its explanation.
struct Explained {
    actor: String,
    lines: Vec<(Arc<Hit>, Explanation)>,
    segment: Segment,
}

/// Explains what the funnel did with an event.
enum Explanation {
    /// The event matches the step.
    Hit(Fate),
    /// The event does not match the step, because this condition is false.
    Miss(Condition),
}

impl Explained {
    fn of(funnel: &Funnel, found: ActorHits) -> Self {
        let mut lines = Vec::with_capacity(found.hits.len());
        let tell = |hit: &Arc<Hit>, fate: &Fate| lines.push((Arc::clone(hit), Explanation::Hit(fate.clone())));
        let segment = Segment::of_all(found.hits, funnel.rule(), tell);
        lines.extend(found.misses.into_iter().map(|miss| (Arc::new(miss.hit), Explanation::Miss(miss.condition))));
        lines.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self { actor: found.actor, lines, segment }
    }

    fn as_json(&self, funnel: &Funnel) -> Value {
        let episodes = self.segment.episodes(funnel.rule());
        let shown = shown(funnel, &episodes);
        let in_episode = |hit: &Arc<Hit>| episodes.iter().any(|episode| episode.best.hits().contains(hit));
        let line = |(hit, word): &(Arc<Hit>, Explanation)| {
            json!({
                "timestamp": timestamp(hit),
                "event_id": hit.event_id,
                "step": hit.step,
                "step_name": step_name(funnel, hit),
                "counts": matches!(word, Explanation::Hit(Fate::Opened | Fate::Filled(_) | Fate::Completed(_))),
                "in_episode": in_episode(hit),
                "what": word.reason(funnel),
            })
        };
        let episode = |(at, episode): (usize, &Episode)| {
            let events: Vec<_> = episode.best.hits().iter().map(|hit| hit.event_id.clone()).collect();
            json!({
                "is_row": shown.is_none_or(|shown| shown == at),
                "id": funnel.episode_id(&episode.opening),
                "current_step": episode.best.step(),
                "completed": episode.is_completed,
                "events": events,
            })
        };
        let told: Vec<_> = episodes.iter().enumerate().map(episode).collect();
        let lines: Vec<_> = self.lines.iter().map(line).collect();
        json!({"funnel": funnel.name, "actor": self.actor, "episodes": told, "hits": lines})
    }

    fn print(&self, funnel: &Funnel) {
        out!("{} of funnel {}, window {}", printable(&self.actor), funnel.name, duration(Some(funnel.window_ms)));
        let episodes = self.segment.episodes(funnel.rule());
        let shown = shown(funnel, &episodes);
        let mut number = 0;
        for (hit, word) in &self.lines {
            if matches!(word, Explanation::Hit(Fate::Opened)) {
                let episode = &episodes[number];
                number += 1;
                let best = &episode.best;
                let step = &funnel.steps[usize::from(best.step()) - 1].name;
                let end = if episode.is_completed { "completed" } else { "not completed" };
                let not_shown = "; the row shows another episode, the first that got furthest (reentry = false)";
                let note = if shown.is_none_or(|shown| shown + 1 == number) { "" } else { not_shown };
                let of = funnel.steps.len();
                out!("\nepisode {number}: {end}, reached step {} of {of} ({step}){note}", best.step());
                for hit in best.hits() {
                    out!("    {}  {}  event {}", timestamp(hit), step_name(funnel, hit), hit.event_id);
                }
                out!("  what happened:");
            }
            let is_shown = number > 0 && episodes[number - 1].best.hits().contains(hit);
            let is_other = matches!(word, Explanation::Hit(Fate::Filled(_))) && !is_shown;
            let note = if is_other { "; not in the chain above" } else { "" };
            let what = word.reason(funnel);
            out!("    {}  {}  event {}: {what}{note}", timestamp(hit), step_name(funnel, hit), hit.event_id);
        }
    }
}

/// Returns the episode that the actor's row shows, if the funnel has one row for each actor; else `None`.
fn shown(funnel: &Funnel, episodes: &[Episode]) -> Option<usize> {
    let furthest = episodes.iter().map(|episode| episode.best.step()).max()?;
    let first = episodes.iter().position(|episode| episode.best.step() == furthest);
    first.filter(|_| !funnel.reentry)
}

/// Replaces control characters, so that the text cannot control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn timestamp(hit: &Hit) -> String {
    Timestamp::from_millis(hit.timestamp_ms).to_string()
}

fn step_name<'a>(funnel: &'a Funnel, hit: &Hit) -> &'a str {
    funnel.steps.get(usize::from(hit.step).saturating_sub(1)).map_or("?", |step| &step.name)
}

impl Explanation {
    fn reason(&self, funnel: &Funnel) -> String {
        match self {
            Self::Hit(fate) => reason(fate, funnel),
            Self::Miss(condition) => format!("does not count: {condition} is not true"),
        }
    }
}

/// Describes the fate of a hit in words.
fn reason(fate: &Fate, funnel: &Funnel) -> String {
    let before = |step: u8| funnel.steps.get(usize::from(step).saturating_sub(2)).map_or("?", |step| &step.name);
    match fate {
        Fate::Opened => "opens an episode".to_owned(),
        Fate::Filled(chain) | Fate::Completed(chain) => {
            let hits = chain.hits();
            let took = hits.last().zip(hits.iter().nth_back(1)).map(|(last, previous)| {
                let took = duration(Some(last.timestamp_ms - previous.timestamp_ms));
                format!("{took} after {}", before(last.step))
            });
            match (fate, took) {
                (Fate::Completed(_), took) => format!("completes the episode, {}", took.unwrap_or_default()),
                (_, Some(took)) => format!("counts, {took}"),
                (_, None) => "begins a later chain, which has more time left".to_owned(),
            }
        }
        Fate::NothingOpen => "does not count: no episode had begun, or the window had passed".to_owned(),
        Fate::NothingToExtend(Unfit::NotReached) => "does not count: no chain had reached the step before".to_owned(),
        Fate::NothingToExtend(Unfit::OutOfWindow) => {
            "does not count: each chain at the step before began longer ago than the window".to_owned()
        }
        Fate::NothingToExtend(Unfit::SameEvent) => {
            "does not count: this event is an earlier step already, and one event is only one step".to_owned()
        }
        Fate::NotLater => "does not count: a chain that began no earlier has reached this step already".to_owned(),
    }
}
