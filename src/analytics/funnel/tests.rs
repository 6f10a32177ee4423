use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::analytics::State;
use crate::model::EventBuilder;

type At<'a> = (i64, u8, &'a str);
type Key = (i64, u8, String);

/// Segments as they are stored: the bytes, and separately the opening of the episode that continues.
#[derive(Debug, Default)]
struct Kept {
    segments: BTreeMap<Key, (Vec<u8>, Option<Opening>)>,
}

impl Kept {
    fn read((bytes, open): &(Vec<u8>, Option<Opening>)) -> Segment {
        let segment = Segment::from_bytes(bytes).unwrap();
        open.iter().fold(segment, |segment, opening| segment.with_continued(opening.clone()))
    }

    fn key((ms, step, id): At<'_>) -> (i64, u8, String) {
        (ms, step, id.to_owned())
    }
}

impl Segments for Kept {
    type Error = Infallible;

    fn holding(&mut self, position: At<'_>) -> Result<Option<Segment>, Infallible> {
        Ok(self.segments.range(..=Self::key(position)).next_back().map(|(_, kept)| Self::read(kept)))
    }

    fn preceding(&mut self, position: At<'_>) -> Result<Option<Segment>, Infallible> {
        Ok(self.segments.range(..Self::key(position)).next_back().map(|(_, kept)| Self::read(kept)))
    }

    fn following(&mut self, position: At<'_>) -> Result<Option<Segment>, Infallible> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (Excluded(Self::key(position)), Unbounded);
        Ok(self.segments.range(range).next().map(|(_, kept)| Self::read(kept)))
    }

    fn furthest(&mut self, opening: &Opening) -> Result<Option<Chain>, Infallible> {
        let of_episode = self.segments.values().filter(|(_, open)| open.as_ref() == Some(opening)).map(Self::read);
        let best = of_episode.filter_map(|segment| segment.continued()?.best.clone());
        Ok(best.reduce(|one, other| if other.step() > one.step() { other } else { one }))
    }

    fn put(&mut self, segment: &Segment) -> Result<(), Infallible> {
        let open = segment.continued().map(|piece| piece.opening.clone());
        self.segments.insert(Self::key(segment.hits()[0].position()), (segment.to_bytes(), open));
        Ok(())
    }

    fn delete(&mut self, first: &Hit) -> Result<(), Infallible> {
        self.segments.remove(&Self::key(first.position())).unwrap();
        Ok(())
    }

    fn rename(&mut self, first: &Hit, before: &Opening, after: &Opening) -> Result<(), Infallible> {
        let from = self.segments.range_mut(Self::key(first.position())..);
        for (_, (_, open)) in from.filter(|(_, (_, open))| open.as_ref() == Some(before)) {
            *open = Some(after.clone());
        }
        Ok(())
    }
}

/// An episode for comparison: the event that opened it, the hits of its chain, and whether it is complete.
type Shown = (String, Vec<(i64, String)>, bool);

fn shown(episode: &Episode) -> Shown {
    let chain = episode.best.hits().iter().map(|hit| (hit.timestamp_ms, hit.event_id.clone())).collect();
    (episode.opening.event_id.clone(), chain, episode.is_completed)
}

fn plain(hits: &[Hit], rule: Rule) -> Vec<Shown> {
    Segment::of_all(hits.to_vec(), rule, |_, _| {}).episodes(rule).iter().map(shown).collect()
}

/// Computes the same by the words of the specification alone. Looks up in a log what each slot held at a time.
fn naive(hits: &[Hit], rule: Rule) -> Vec<Shown> {
    type Steps = Vec<(i64, String)>;
    let mut hits: Vec<&Hit> = hits.iter().collect();
    hits.sort_by_key(|hit| (hit.timestamp_ms, hit.step, hit.event_id.clone()));
    let mut rows: Vec<Shown> = Vec::new();
    let mut log: Vec<Vec<(i64, Steps)>> = Vec::new();
    for hit in hits {
        let (now, step) = (hit.timestamp_ms, usize::from(hit.step));
        let me = (now, hit.event_id.clone());
        if log.first().is_some_and(|slot| now - slot.last().unwrap().1[0].0 > rule.window_ms) {
            log.clear();
        }
        if log.is_empty() {
            if step == 1 {
                log = vec![Vec::new(); usize::from(rule.steps)];
                log[0].push((now, vec![me.clone()]));
                rows.push((hit.event_id.clone(), vec![me], false));
            }
            continue;
        }
        let chain = if step == 1 {
            Some(vec![me])
        } else {
            let fits =
                |chain: &&Steps| now - chain[0].0 <= rule.window_ms && chain.iter().all(|(_, id)| *id != hit.event_id);
            let held = |upto: i64| log[step - 2].iter().rfind(|(at, _)| *at <= upto).map(|(_, chain)| chain);
            let found = held(now).filter(fits).or_else(|| held(now - 1).filter(fits));
            found.map(|chain| chain.iter().cloned().chain([me]).collect())
        };
        let Some(chain) = chain else { continue };
        if log[step - 1].last().is_some_and(|(_, own)| own[0].0 >= chain[0].0) {
            continue;
        }
        let row = rows.last_mut().unwrap();
        if row.1.len() < chain.len() {
            row.1.clone_from(&chain);
        }
        log[step - 1].push((now, chain));
        if step == usize::from(rule.steps) {
            row.2 = true;
            log.clear();
        }
    }
    rows
}

/// Returns the furthest step that any choice of hits reaches. Tries all choices.
fn furthest(hits: &[Hit], rule: Rule) -> usize {
    fn extend(hits: &[Hit], rule: Rule, start: i64, step: u8, from: usize) -> usize {
        let next = (from..hits.len()).filter(|at| hits[*at].step == step + 1);
        let live = next.take_while(|at| hits[*at].timestamp_ms - start <= rule.window_ms);
        live.map(|at| extend(hits, rule, start, step + 1, at + 1)).max().unwrap_or(0).max(usize::from(step))
    }
    let starts = (0..hits.len()).filter(|at| hits[*at].step == 1);
    starts.map(|at| extend(hits, rule, hits[at].timestamp_ms, 1, at + 1)).max().unwrap_or(0)
}

fn hit(ms: i64, step: u8, id: &str) -> Hit {
    Hit { timestamp_ms: ms, step, event_id: id.into(), user_id: None, anonymous_id: None, session_id: None }
}

/// Makes events at few different times. Each event matches some of the steps.
fn events(steps: u8, count: usize) -> impl Strategy<Value = Vec<Hit>> {
    prop::collection::vec((0..60_i64, 1..(1_u16 << steps)), 1..count).prop_map(move |events| {
        let hits = events.iter().enumerate().flat_map(|(number, (ms, mask))| {
            // The order of ids is not the order of arrival.
            let id = format!("{:03}", (number * 7919 + 13) % 1000);
            (1..=steps).filter(move |step| mask >> (step - 1) & 1 == 1).map(move |step| hit(*ms, step, &id))
        });
        hits.collect()
    })
}

/// Makes events that each match one step.
fn sparse(count: usize) -> impl Strategy<Value = Vec<Hit>> {
    prop::collection::vec((0..400_i64, 1..4_u8), 1..count).prop_map(|events| {
        let hits = events
            .iter()
            .enumerate()
            .map(|(number, (ms, step))| hit(*ms, *step, &format!("{:04}", number * 7919 % 9973)));
        hits.collect()
    })
}

fn incremental(hits: &[Hit], rule: Rule, sizes: &[usize], max_hits: usize) -> (Vec<Shown>, u64) {
    let mut kept = Kept::default();
    let mut rows: BTreeMap<Opening, Shown> = BTreeMap::new();
    let (mut rest, mut sizes, mut hits_run) = (hits, sizes.iter().cycle(), 0);
    while !rest.is_empty() {
        let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        rest = later;
        let mut history = History::new(&mut kept, rule).with_max_hits(max_hits);
        let changed = history.insert(now.to_vec()).unwrap();
        for opening in changed {
            match history.episode(&opening).unwrap() {
                Some(episode) => rows.insert(opening, shown(&episode)),
                None => rows.remove(&opening),
            };
        }
        hits_run += history.hits_run();
    }
    for (bytes, _) in kept.segments.values() {
        assert!(Segment::from_bytes(bytes).unwrap().hits().len() <= max_hits);
    }
    (rows.into_values().collect(), hits_run)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_specification_says(hits in events(4, 24), steps in 2..5_u8, window_ms in 0..40_i64) {
        let rule = Rule { window_ms, steps };
        let hits: Vec<Hit> = hits.into_iter().filter(|hit| hit.step <= steps).collect();
        prop_assert_eq!(plain(&hits, rule), naive(&hits, rule));
    }

    /// If no event matches two steps and no two events have the same time, no choice of hits gives a longer chain.
    #[test]
    fn no_choice_of_hits_gets_further(steps in prop::collection::vec(1..5_u8, 1..14), window_ms in 1..14_i64) {
        let rule = Rule { window_ms, steps: 4 };
        let hits: Vec<Hit> = steps.iter().enumerate().map(|(at, step)| hit(at as i64, *step, &at.to_string())).collect();
        let reached = plain(&hits, rule).iter().map(|(_, chain, _)| chain.len()).max().unwrap_or(0);
        prop_assert_eq!(reached, furthest(&hits, rule));
    }

    #[test]
    fn any_order_and_any_batches_end_in_the_plain_form(
        hits in events(3, 20),
        window_ms in 0..40_i64,
        shuffle in prop::collection::vec(any::<u32>(), 60),
        sizes in prop::collection::vec(1..9_usize, 1..5),
        max_hits in 1..6_usize,
    ) {
        let rule = Rule { window_ms, steps: 3 };
        let mut shuffled: Vec<(u32, Hit)> = hits.iter().enumerate().map(|(at, hit)| (shuffle[at % 60], hit.clone())).collect();
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<Hit> = shuffled.into_iter().map(|(_, hit)| hit).collect();
        prop_assert_eq!(incremental(&shuffled, rule, &sizes, max_hits).0, plain(&hits, rule));
    }

    /// Long histories, also with segments of the usual length. Episodes end, go on for ever, or merge.
    #[test]
    fn long_histories_too(
        hits in sparse(300),
        window_ms in prop_oneof![0..5_i64, 20..60_i64, Just(1_000)],
        shuffle in prop::collection::vec(any::<u32>(), 300),
        lateness in prop_oneof![Just(0_u32), Just(30), Just(1_000)],
        sizes in prop::collection::vec(1..40_usize, 1..5),
        max_hits in prop_oneof![Just(7_usize), Just(MAX_SEGMENT_HITS)],
    ) {
        let rule = Rule { window_ms, steps: 3 };
        let mut shuffled: Vec<(i64, Hit)> = hits
            .iter()
            .enumerate()
            .map(|(at, hit)| (hit.timestamp_ms + i64::from(shuffle[at] % (lateness + 1)), hit.clone()))
            .collect();
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<Hit> = shuffled.into_iter().map(|(_, hit)| hit).collect();
        prop_assert_eq!(incremental(&shuffled, rule, &sizes, max_hits).0, plain(&hits, rule));
    }
}

#[test]
fn the_window_is_inclusive_to_the_millisecond() {
    let rule = Rule { window_ms: 1_000, steps: 2 };
    let rows = |last: i64| plain(&[hit(0, 1, "a"), hit(last, 2, "b")], rule);
    assert!(rows(1_000)[0].2);
    assert!(!rows(1_001)[0].2);
}

#[test]
fn one_event_fills_one_step_and_the_completing_one_opens_nothing() {
    let rule = Rule { window_ms: 100, steps: 2 };
    // A followed by A is two visits.
    let both = |ms: i64, id: &str| [hit(ms, 1, id), hit(ms, 2, id)];
    let hits: Vec<Hit> = [both(0, "a"), both(10, "b"), both(20, "c")].into_iter().flatten().collect();
    let chain = |one: (i64, &str), other: (i64, &str)| vec![(one.0, one.1.to_owned()), (other.0, other.1.to_owned())];
    let rows = plain(&hits, rule);
    assert_eq!(rows[0], ("a".into(), chain((0, "a"), (10, "b")), true));
    assert_eq!(rows[1], ("c".into(), vec![(20, "c".into())], false));
    // Hits sort by step before id: these hits convert although b < z.
    assert!(plain(&[hit(5, 2, "b"), hit(5, 1, "z")], rule)[0].2);
}

/// Adds late hits to an episode that never ends.
#[test]
fn a_late_hit_runs_few_hits_again_whatever_the_history() {
    let rule = Rule { window_ms: 1_000, steps: 3 };
    let mut kept = Kept::default();
    let count = 100_000_i64;
    let mut history = History::new(&mut kept, rule);
    history.insert((0..count).map(|at| hit(at * 10, 1, &format!("{at:06}"))).collect()).unwrap();
    assert_eq!(history.hits_run(), 100_000, "each hit runs once if all arrive in order");
    let opening = Opening { timestamp_ms: 0, event_id: "000000".into() };
    assert_eq!(history.episode(&opening).unwrap().unwrap().best.step(), 1);
    for (ms, step) in [(5, 1), (500_003, 1), (500_007, 2), (999_985, 2), (-1, 1)] {
        let mut history = History::new(&mut kept, rule);
        history.insert(vec![hit(ms, step, &format!("late {ms}"))]).unwrap();
        // At most the hits of one window, and of two segments.
        assert!(history.hits_run() <= 101 + 2 * MAX_SEGMENT_HITS as u64, "{ms} {step}: {}", history.hits_run());
    }
    let opening = Opening { timestamp_ms: -1, event_id: "late -1".into() };
    let episode = History::new(&mut kept, rule).episode(&opening).unwrap().unwrap();
    assert_eq!((episode.best.step(), episode.best.started_at_ms()), (2, 500_003));
}

#[test]
fn conditions_compare_by_json_type_and_what_is_missing_is_false() {
    let properties = json!({"n": 10, "half": 0.5, "big": 9_007_199_254_740_993_i64, "text": "abc", "flag": true, "none": null,
        "list": [1, "two", {"deep": 3}], "item": {"price": 12.0}});
    let event = EventBuilder::track("x").properties(properties).user_id("ada").page_url("https://e.org/p").build();
    let holds = |path: &str, op: &str, value: Option<Value>| {
        let condition = Condition { path: Condition::path(path).unwrap(), op: Op::new(op, value).unwrap() };
        condition.holds(&mut ParsedEvent::of(&event))
    };
    for (path, op, value, expected) in [
        ("properties.n", "eq", json!(10.0), true),
        ("properties.n", "eq", json!("10"), false),
        ("properties.n", "ne", json!("10"), true),
        ("properties.big", "eq", json!(9_007_199_254_740_992_i64), false),
        ("properties.big", "gt", json!(9_007_199_254_740_992_i64), true),
        ("properties.half", "lt", json!(1), true),
        ("properties.n", "gte", json!(10), true),
        ("properties.n", "lte", json!(9.5), false),
        ("properties.text", "gt", json!("abb"), true),
        ("properties.text", "gt", json!(1), false),
        ("properties.text", "lte", json!(1), false),
        ("properties.flag", "eq", json!(true), true),
        ("properties.text", "in", json!(["x", "abc"]), true),
        ("properties.text", "nin", json!(["x", "abc"]), false),
        ("properties.text", "contains", json!("bc"), true),
        ("properties.list", "contains", json!("two"), true),
        ("properties.list", "contains", json!({"deep": 3.0}), true),
        ("properties.n", "contains", json!(1), false),
        ("properties.text", "prefix", json!("ab"), true),
        ("properties.text", "prefix", json!("b"), false),
        ("properties.item.price", "eq", json!(12), true),
        ("properties.list.2.deep", "eq", json!(3), true),
        ("properties.list.9", "ne", json!(3), true),
        ("page_url", "prefix", json!("https://e.org"), true),
        ("user_id", "eq", json!("ada"), true),
        // Missing values, and null.
        ("properties.none", "eq", json!(0), false),
        ("properties.none", "ne", json!(0), true),
        ("properties.missing", "lt", json!(0), false),
        ("properties.missing", "in", json!([0]), false),
        ("properties.missing", "nin", json!([0]), true),
        ("properties.missing", "contains", json!("x"), false),
        ("properties.missing", "prefix", json!(""), false),
        ("context.os", "eq", json!("linux"), false),
    ] {
        assert_eq!(holds(path, op, Some(value.clone())), expected, "{path} {op} {value}");
    }
    for (path, exists) in [("properties.n", true), ("properties.none", false), ("properties.n.x", false)] {
        assert_eq!(holds(path, "exists", None), exists, "{path}");
        assert_eq!(holds(path, "not_exists", None), !exists, "{path}");
    }
    for path in ["", "properties", "properties.", "properties..x", "timestamp", "user_id.x", "x.y"] {
        assert!(Condition::path(path).is_err(), "{path}");
    }
    for (op, value) in [
        ("is", Some(json!(1))),
        ("eq", None),
        ("lt", Some(json!(true))),
        ("in", Some(json!(1))),
        ("in", Some(json!([]))),
        ("prefix", Some(json!(1))),
        ("exists", Some(json!(1))),
        ("ne", Some(Value::Null)),
        ("in", Some(json!([1, null]))),
    ] {
        assert!(Op::new(op, value.clone()).is_err(), "{op} {value:?}");
    }
}

#[test]
fn an_event_is_a_hit_of_every_step_that_it_matches() {
    let step = |types: &[&str], names: &[&str]| Step {
        name: "s".into(),
        event_types: types.iter().map(|text| (*text).to_owned()).collect(),
        event_names: names.iter().map(|text| (*text).to_owned()).collect(),
        conditions: Vec::new(),
    };
    let funnel = |name: &str, scope: Scope, steps: Vec<Step>| Funnel {
        name: name.into(),
        description: None,
        scope,
        window_ms: 1,
        reentry: true,
        steps,
    };
    let funnels = Funnels::new(vec![
        funnel("a", Scope::User, vec![step(&[], &["view", "view", "open"]), step(&["track"], &[]), step(&[], &[])]),
        funnel("b", Scope::Session, vec![step(&["page"], &["view"]), step(&["track"], &["view"])]),
    ]);
    let hits = |event: &AnalyticsEvent| {
        let mut hits = Vec::new();
        funnels.hits_of(&mut ParsedEvent::of(event), |funnel, actor, hit| hits.push((funnel, actor, hit.step)));
        hits.sort();
        hits
    };
    let event = EventBuilder::track("view").user_id("ada").anonymous_id("x").build();
    let ada = ActorRef::of(&event).unwrap().to_actor();
    let person = HitActor::Person(ada.clone());
    let unnamed = HitActor::Unnamed(ada);
    assert_eq!(hits(&event), [(0, person.clone(), 1), (0, person.clone(), 2), (0, person.clone(), 3), (1, unnamed, 2)]);
    let event = EventBuilder::new("page", "seen").user_id("ada").session_id("s").build();
    assert_eq!(hits(&event), [(0, person, 3)]);
    let event = EventBuilder::new("page", "view").session_id("s").build();
    assert_eq!(hits(&event), [(1, HitActor::Session("s".into()), 1)], "the event has a session but no actor");
}
