//! Measures what funnels cost: how much of the writer's rate, and how many hits run again if hits come late.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use streamgauge::analytics::funnel::{Chain, History, Hit, Opening, Rule, Segment, Segments};
use streamgauge::config::{self, Config, Sources};
use streamgauge::judge::Batch;
use streamgauge::nats::Outgoing;
use streamgauge::store::MAX_BATCHES;

use crate::support::Random;
use crate::workload;

/// Which funnels are configured. All have five steps.
#[derive(Debug, Clone, Copy)]
pub enum Funnels {
    /// This many funnels. No event matches any of their steps.
    Unmatched(usize),
    /// Ten funnels. One event in three is a step of one of them.
    InOne,
    /// Ten funnels. One event in three is a step of five of them.
    InFive,
}

impl Funnels {
    fn toml(self) -> String {
        let count = if let Self::Unmatched(count) = self { count } else { 10 };
        let mut toml = String::new();
        for funnel in 0..count {
            let _ = write!(toml, "[[funnels]]\nname = \"{funnel}\"\nwindow = \"1d\"\n");
            for step in 0..5 {
                let _ = match self {
                    Self::Unmatched(_) => {
                        writeln!(toml, "[[funnels.steps]]\nname = \"{step}\"\nevent_name = \"never {funnel} {step}\"")
                    }
                    Self::InOne => writeln!(
                        toml,
                        "[[funnels.steps]]\nname = \"{step}\"\nevent_name = \"event_{funnel}\"\n\
                         where = [{{ path = \"properties.item\", op = \"prefix\", value = \"item-{}\" }}]",
                        step + 1
                    ),
                    Self::InFive => writeln!(
                        toml,
                        "[[funnels.steps]]\nname = \"{step}\"\nevent_name = \"event_{}\"",
                        (funnel + step) % 10
                    ),
                };
            }
        }
        toml
    }

    /// Returns the default configuration with these funnels added.
    pub fn config(self) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("funnels.toml");
        std::fs::write(&file, self.toml()).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().1
    }
}

/// The result of the writer alone, working as it does under backlog.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// Messages a second that were committed to an empty file.
    pub rate_per_s: f64,
    /// The share of the writer's time that dashboards took, from 0 to 1.
    pub dashboards_share: f64,
}

/// Lets the writer alone commit messages to an empty file.
pub async fn writer_rate(config: &Config, messages: &[Outgoing]) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("funnels.db");
    let mut writer = crate::open(config, &database).await;
    writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
    let judge = crate::judge(config);
    let (mut took, mut of_dashboards, mut sequence) = (Duration::ZERO, Duration::ZERO, 0);
    for chunk in messages.chunks(MAX_BATCHES * config.batch.max_messages) {
        let mut after = writer.position().unwrap().unwrap();
        let mut batches = VecDeque::new();
        for messages in chunk.chunks(config.batch.max_messages) {
            let mut batch = Batch::after(after);
            for message in messages {
                sequence += 1;
                batch.push(judge.judge(workload::delivery(message, sequence)));
            }
            after = batch.end();
            batches.push_back(batch);
        }
        let first = batches.pop_front().unwrap();
        let began = std::time::Instant::now();
        let committed = writer.commit_all(&first, || batches.pop_front()).unwrap();
        took += began.elapsed();
        let parts = committed.timings().parts().iter();
        of_dashboards += parts.filter(|(part, _)| *part == "dashboards").map(|(_, took)| *took).sum::<Duration>();
    }
    Written {
        rate_per_s: messages.len() as f64 / took.as_secs_f64(),
        dashboards_share: of_dashboards.as_secs_f64() / took.as_secs_f64(),
    }
}

/// Funnel segments in memory.
#[derive(Debug, Default)]
struct Kept(BTreeMap<(i64, u8, String), Segment>);

fn key((ms, step, id): (i64, u8, &str)) -> (i64, u8, String) {
    (ms, step, id.to_owned())
}

impl Segments for Kept {
    type Error = Infallible;

    fn holding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Infallible> {
        Ok(self.0.range(..=key(position)).next_back().map(|(_, segment)| segment.clone()))
    }

    fn preceding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Infallible> {
        Ok(self.0.range(..key(position)).next_back().map(|(_, segment)| segment.clone()))
    }

    fn following(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Infallible> {
        Ok(self.0.range((Excluded(key(position)), Unbounded)).next().map(|(_, segment)| segment.clone()))
    }

    fn furthest(&mut self, _: &Opening) -> Result<Option<Chain>, Infallible> {
        Ok(None)
    }

    fn put(&mut self, segment: &Segment) -> Result<(), Infallible> {
        self.0.insert(key(segment.first().position()), segment.clone());
        Ok(())
    }

    fn delete(&mut self, first: &Hit) -> Result<(), Infallible> {
        self.0.remove(&key(first.position()));
        Ok(())
    }

    fn rename(&mut self, first: &Hit, before: &Opening, after: &Opening) -> Result<(), Infallible> {
        for (_, segment) in self.0.range_mut(key(first.position())..) {
            if segment.continued().is_some_and(|piece| piece.opening == *before) {
                *segment = segment.clone().with_continued(after.clone());
            }
        }
        Ok(())
    }
}

/// How late hits arrive: a name, and the greatest delay in milliseconds.
pub const LATENESS: [(&str, i64); 4] = [
    ("in order", 0),
    ("10 minutes of jitter", 600_000),
    ("a day of jitter", 86_400_000),
    ("full shuffle", i64::MAX / 4),
];

/// Returns how many hits run for each hit that arrives. There are 200 actors, one after the other, with 500 hits each
/// in 60 days. The funnel has five steps and a window of a day.
pub fn hits_run_each(lateness_ms: i64) -> f64 {
    const ACTORS: u64 = 200;
    const HITS: u64 = 500;
    const SPAN_MS: u64 = 60 * 86_400_000;
    let rule = Rule { window_ms: 86_400_000, steps: 5 };
    let mut random = Random(7);
    let mut hits_run = 0;
    for _ in 0..ACTORS {
        let mut hits: Vec<(i64, Hit)> = (0..HITS)
            .map(|n| {
                let timestamp_ms = i64::try_from(random.below(SPAN_MS)).unwrap();
                // Earlier steps are more frequent.
                let step = 1 + u8::try_from(random.below(5).min(random.below(5))).unwrap();
                let late_ms = i64::try_from(random.below(lateness_ms.unsigned_abs() + 1)).unwrap();
                let id = format!("{n:04}");
                let hit = Hit { timestamp_ms, step, event_id: id, user_id: None, anonymous_id: None, session_id: None };
                (timestamp_ms + late_ms, hit)
            })
            .collect();
        hits.sort_by_key(|(arrives_ms, hit)| (*arrives_ms, hit.timestamp_ms));
        let mut kept = Kept::default();
        for (_, hit) in hits {
            let mut history = History::new(&mut kept, rule);
            let Ok(_) = history.insert(vec![hit]);
            hits_run += history.hits_run();
        }
    }
    hits_run as f64 / (ACTORS * HITS) as f64
}
