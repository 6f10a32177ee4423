//! Checks the rules of derived tables in the configuration.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::{ensure, milliseconds};
use super::error::ConfigError;
use super::raw;
use crate::analytics::funnel::{Condition, Funnel, Funnels, Op, Scope, Step};
use crate::analytics::{FeatureName, FeatureRule, FeatureRules, Rules, is_feature_name};

const SESSION_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
const DEFAULT_WINDOW: Duration = Duration::from_secs(7 * 86_400);
const WINDOWS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3_660 * 86_400);
const FUNNEL_STEPS: RangeInclusive<usize> = 2..=16;

pub(super) fn check(config: &raw::Config) -> Result<Rules, ConfigError> {
    let timeout = config.limits.session_timeout.0;
    ensure("limits.session_timeout", SESSION_TIMEOUTS.contains(&timeout), "must be 1s to 366d")?;
    let features = config.features.iter().enumerate().map(|(at, feature)| check_feature(at + 1, feature));
    Ok(Rules {
        session_timeout_ms: milliseconds(timeout),
        features: FeatureRules { has_defaults: config.features_defaults, rules: features.collect::<Result<_, _>>()? },
        funnels: check_funnels(&config.funnels)?,
        dashboards: super::widgets::check(config)?,
    })
}

fn list(given: &Option<raw::OneOrMany>) -> Vec<String> {
    match given {
        None => Vec::new(),
        Some(raw::OneOrMany::One(text)) => vec![text.clone()],
        Some(raw::OneOrMany::Many(texts)) => texts.clone(),
    }
}

/// Returns whether a key is set, but its list is empty or holds an empty text.
fn names_nothing(given: &Option<raw::OneOrMany>) -> bool {
    given.is_some() && (list(given).is_empty() || list(given).iter().any(String::is_empty))
}

fn check_feature(number: usize, rule: &raw::Feature) -> Result<FeatureRule, ConfigError> {
    let wrong = |why: &str| {
        let error = format!("rule {number}, feature = {:?}: {why}", rule.feature);
        Err(ConfigError::Value { key: "features", error })
    };
    let feature = if rule.feature.starts_with('$') {
        let path = rule.feature.strip_prefix("$.properties.").unwrap_or_default();
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return wrong("a path must be $.properties. and then the keys that lead to a text, separated by dots");
        }
        FeatureName::Property(path)
    } else if is_feature_name(&rule.feature) {
        FeatureName::Literal(rule.feature.clone())
    } else {
        return wrong("a name must have 1 to 128 characters, no control characters, and must not be blank");
    };
    for (key, given) in [("event_type", &rule.event_type), ("event_name", &rule.event_name)] {
        if names_nothing(given) {
            return wrong(&format!("{key} must name something; leave it out to match any"));
        }
    }
    Ok(FeatureRule { feature, event_types: list(&rule.event_type), event_names: list(&rule.event_name) })
}

fn check_funnels(funnels: &[raw::Funnel]) -> Result<Funnels, ConfigError> {
    let mut names = BTreeSet::new();
    for funnel in funnels {
        let error = "two funnels have this name".to_owned();
        ensure_funnel(names.insert(&funnel.name), &funnel.name, || error)?;
    }
    funnels.iter().map(check_funnel).collect::<Result<_, _>>().map(Funnels::new)
}

fn ensure_funnel(holds: bool, name: &str, error: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Value { key: "funnels", error: format!("funnel {name:?}: {}", error()) })
    }
}

fn check_funnel(funnel: &raw::Funnel) -> Result<Funnel, ConfigError> {
    let name = &funnel.name;
    let ensure = |holds: bool, error: &str| ensure_funnel(holds, name, || error.to_owned());
    ensure(is_feature_name(name), "name must have 1 to 128 characters, no control characters, and must not be blank")?;
    let scope = match funnel.scope.as_deref() {
        None | Some("user") => Scope::User,
        Some("session") => Scope::Session,
        Some(other) => {
            let error = format!("funnel {name:?}: scope = {other:?} is neither \"user\" nor \"session\"");
            return Err(ConfigError::Value { key: "funnels", error });
        }
    };
    let window = funnel.window.map_or(DEFAULT_WINDOW, |window| window.0);
    ensure(WINDOWS.contains(&window), "window must be 1ms to 3660d")?;
    ensure(FUNNEL_STEPS.contains(&funnel.steps.len()), "steps must be 2 to 16")?;
    let mut names = BTreeSet::new();
    for step in &funnel.steps {
        ensure(names.insert(&step.name), &format!("two steps are named {:?}", step.name))?;
    }
    let steps = funnel.steps.iter().enumerate().map(|(at, step)| {
        let wrong = |error: String| format!("step {} ({:?}): {error}", at + 1, step.name);
        check_step(step)
            .map_err(|error| ConfigError::Value { key: "funnels", error: format!("funnel {name:?}, {}", wrong(error)) })
    });
    Ok(Funnel {
        name: name.clone(),
        description: funnel.description.clone(),
        scope,
        window_ms: milliseconds(window),
        reentry: funnel.reentry.unwrap_or(true),
        steps: steps.collect::<Result<_, _>>()?,
    })
}

fn check_step(step: &raw::FunnelStep) -> Result<Step, String> {
    if !is_feature_name(&step.name) {
        return Err("name must have 1 to 128 characters, no control characters, and must not be blank".into());
    }
    for (key, given) in [("event_type", &step.event_type), ("event_name", &step.event_name)] {
        if names_nothing(given) {
            return Err(format!("{key} must name something; leave it out to match any"));
        }
    }
    let condition = |(at, condition): (usize, &raw::Condition)| {
        let path = Condition::path(&condition.path);
        let op = Op::new(&condition.op, condition.value.clone());
        path.and_then(|path| Ok(Condition { path, op: op? })).map_err(|error| format!("where {}: {error}", at + 1))
    };
    let conditions = step.conditions.iter().enumerate().map(condition).collect::<Result<_, _>>()?;
    Ok(Step {
        name: step.name.clone(),
        event_types: list(&step.event_type),
        event_names: list(&step.event_name),
        conditions,
    })
}
