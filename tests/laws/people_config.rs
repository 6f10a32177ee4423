//! The configuration of the world of three people, in two forms: for a worker, and for the plain recomputations.

use super::naive_dashboard::{Number, Of};
use super::naive_features::Rule;
use super::naive_funnels::{Event, Funnel};

const MINUTE_MS: i64 = 60_000;

pub const CONFIG: &str = r#"
    [[features]]
    feature = "search"
    event_type = ["track", "page"]
    event_name = ["n1", "n2"]
    [[features]]
    feature = "search"
    event_name = "n2"
    [[features]]
    feature = "$.properties.item.kind"
    [[features]]
    feature = "nothing"
    event_name = "never sent"

    [[funnels]]
    name = "journey"
    window = "60m"
    steps = [
        { name = "begin", event_name = ["n1", "n2"] },
        { name = "go on", event_name = "n2" },
        { name = "end", event_type = "track", event_name = ["n0", "n3"] },
    ]
    [[funnels]]
    name = "visit"
    scope = "session"
    window = "1d"
    steps = [{ name = "begin", event_name = ["n0", "n1"] }, { name = "end", event_type = "feature" }]
    [[funnels]]
    name = "once"
    window = "30m"
    reentry = false
    steps = [
        { name = "begin", event_name = ["n0", "n2", "n3"] },
        { name = "end", where = [{ path = "properties.duration_ms", op = "gt", value = 1 }] },
    ]
    [[funnels]]
    name = "once a visit"
    scope = "session"
    reentry = false
    steps = [{ name = "begin", event_name = ["n0", "n1"] }, { name = "end", event_name = ["n1", "n2"] }]

    [[widgets]]
    id = "hour"
    period = "1h"
    [widgets.metrics]
    events = 'events.count'
    n1 = 'events.count{event_name=n1}'
    per_minute = 'events.per_minute'
    users = 'users.active'
    sessions = 'sessions.count'
    duration = 'sessions.avg_duration'
    p50 = 'metric.m.p50'
    rate = 'metric.m{k=v1}.rate'
    export = 'feature.export.usage'
    exporters = 'feature.export.users'
    journeys = 'funnel.journey.entered'
    journey_rate = 'funnel.journey.rate'

    [[widgets]]
    id = "day"
    period = "1d"
    [widgets.metrics]
    events = 'events.count'
    per_minute = 'events.per_minute'
    users = 'users.active'
    sessions = 'sessions.count'
    sum = 'metric.m.sum'
    count = 'metric.m{k=v0}.count'
    min = 'metric.m.min'
    max = 'metric.m.max'
    p99 = 'metric.m.p99'
    last = 'metric.m.last'
    success = 'feature.export.success_rate'
    visits = 'funnel.visit.converted'
    once = 'funnel.once.rate'

    [[widgets]]
    id = "week"
    period = "7d"
    [widgets.metrics]
    events = 'events.count'
    duration = 'sessions.avg_duration'
    avg = 'metric.m{k=v0}.avg'
    once_a_visit = 'funnel.once a visit.entered'

    [[widgets]]
    id = "month"
    period = "1mo"
    [widgets.metrics]
    users = 'users.active'
    n2 = 'events.count{event_name=n2}'
    exporters = 'feature.export.users'
    visit_rate = 'funnel.visit.rate'

    [dashboard]
    history = "2h"
"#;

pub fn funnels() -> Vec<Funnel> {
    let funnel = |name, is_of_sessions, minutes: i64, reentry, steps: &[fn(&Event) -> bool]| Funnel {
        name,
        is_of_sessions,
        window_ms: minutes * MINUTE_MS,
        reentry,
        steps: steps.to_vec(),
    };
    vec![
        funnel(
            "journey",
            false,
            60,
            true,
            &[
                |event| ["n1", "n2"].contains(&event.name.as_str()),
                |event| event.name == "n2",
                |event| event.event_type == "track" && ["n0", "n3"].contains(&event.name.as_str()),
            ],
        ),
        funnel(
            "visit",
            true,
            24 * 60,
            true,
            &[|event| ["n0", "n1"].contains(&event.name.as_str()), |event| event.event_type == "feature"],
        ),
        funnel(
            "once",
            false,
            30,
            false,
            &[
                |event| ["n0", "n2", "n3"].contains(&event.name.as_str()),
                |event| event.properties["duration_ms"].as_f64().is_some_and(|ms| ms > 1.0),
            ],
        ),
        funnel(
            "once a visit",
            true,
            7 * 24 * 60,
            false,
            &[|event| ["n0", "n1"].contains(&event.name.as_str()), |event| ["n1", "n2"].contains(&event.name.as_str())],
        ),
    ]
}

pub fn numbers() -> Vec<Number> {
    let number = |widget, key, period, of| Number { widget, key, period, of };
    vec![
        number("hour", "events", "1h", Of::Events(None)),
        number("hour", "n1", "1h", Of::Events(Some("n1"))),
        number("hour", "per_minute", "1h", Of::EventsPerMinute),
        number("hour", "users", "1h", Of::Users),
        number("hour", "sessions", "1h", Of::Sessions),
        number("hour", "duration", "1h", Of::SessionDuration),
        number("hour", "p50", "1h", Of::Samples(None, "p50")),
        number("hour", "rate", "1h", Of::Samples(Some("v1"), "rate")),
        number("hour", "export", "1h", Of::Feature("export", "usage")),
        number("hour", "exporters", "1h", Of::Feature("export", "users")),
        number("hour", "journeys", "1h", Of::Funnel("journey", "entered")),
        number("hour", "journey_rate", "1h", Of::Funnel("journey", "rate")),
        number("day", "events", "1d", Of::Events(None)),
        number("day", "per_minute", "1d", Of::EventsPerMinute),
        number("day", "users", "1d", Of::Users),
        number("day", "sessions", "1d", Of::Sessions),
        number("day", "sum", "1d", Of::Samples(None, "sum")),
        number("day", "count", "1d", Of::Samples(Some("v0"), "count")),
        number("day", "min", "1d", Of::Samples(None, "min")),
        number("day", "max", "1d", Of::Samples(None, "max")),
        number("day", "p99", "1d", Of::Samples(None, "p99")),
        number("day", "last", "1d", Of::Samples(None, "last")),
        number("day", "success", "1d", Of::Feature("export", "success_rate")),
        number("day", "visits", "1d", Of::Funnel("visit", "converted")),
        number("day", "once", "1d", Of::Funnel("once", "rate")),
        number("week", "events", "7d", Of::Events(None)),
        number("week", "duration", "7d", Of::SessionDuration),
        number("week", "avg", "7d", Of::Samples(Some("v0"), "avg")),
        number("week", "once_a_visit", "7d", Of::Funnel("once a visit", "entered")),
        number("month", "users", "1mo", Of::Users),
        number("month", "n2", "1mo", Of::Events(Some("n2"))),
        number("month", "exporters", "1mo", Of::Feature("export", "users")),
        number("month", "visit_rate", "1mo", Of::Funnel("visit", "rate")),
    ]
}

pub fn rules() -> Vec<Rule> {
    let rule = |feature: &str, event_type: &[&str], event_name: &[&str]| Rule {
        feature: feature.into(),
        event_type: event_type.iter().map(|text| (*text).into()).collect(),
        event_name: event_name.iter().map(|text| (*text).into()).collect(),
    };
    vec![
        rule("search", &["track", "page"], &["n1", "n2"]),
        rule("search", &[], &["n2"]),
        rule("$.properties.item.kind", &[], &[]),
        rule("nothing", &[], &["never sent"]),
    ]
}
