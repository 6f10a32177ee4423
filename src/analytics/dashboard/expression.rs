//! The expressions that define a widget's numbers. The set is closed (`SEMANTICS` section 7).
//!
//! ```text
//! events.count  events.per_minute      with {event_name=...} for one name
//! users.active
//! sessions.count  sessions.avg_duration
//! metric.<name>{tags}.count|sum|rate|avg|min|max|p50|p90|p99|last
//! feature.<name>.usage|users|success_rate
//! funnel.<name>.entered|converted|rate
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::measure::{
    EVENT_MEASURES, FEATURE_MEASURES, FUNNEL_MEASURES, Measure, SAMPLE_MEASURES, SESSION_MEASURES, USER_MEASURES,
};

/// A number: a series, and the measure of the series that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    /// The series to count.
    pub series: Series,
    /// The measure to show.
    pub measure: Measure,
    /// The text of the expression, as the configuration has it.
    pub text: String,
}

/// What is counted, hour by hour. Expressions that count the same thing share a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Series {
    /// Events of one name, or all events.
    Events {
        /// The name. `None` counts all events.
        event_name: Option<String>,
    },
    /// Distinct users of events.
    Users,
    /// Sessions, by the time of their start.
    Sessions,
    /// Samples of a metric. A sample must have at least the given tags.
    Samples {
        /// The name of the metric.
        name: String,
        /// The tags that a sample must have.
        tags: BTreeMap<String, String>,
    },
    /// Usages of a feature.
    Usages {
        /// The feature.
        feature: String,
    },
    /// Distinct users of a feature.
    FeatureUsers {
        /// The feature.
        feature: String,
    },
    /// Episodes of a funnel, by the time of their start.
    Episodes {
        /// The funnel.
        funnel: String,
    },
}

const ROOTS: &str = "events, users, sessions, metric, feature or funnel";
const MAX_METRIC_NAME_CHARS: usize = 255;

/// Writes the series as it stands in the name of its group. Different series have different texts.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts and maps of texts can always be written as JSON.
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        match self {
            Self::Events { event_name: None } => f.write_str("events"),
            Self::Events { event_name: Some(name) } => write!(f, "events {}", quoted(name)),
            Self::Users => f.write_str("users"),
            Self::Sessions => f.write_str("sessions"),
            Self::Samples { name, tags } => {
                write!(f, "metric {name} {}", serde_json::to_string(tags).unwrap_or_default())
            }
            Self::Usages { feature } => write!(f, "feature {}", quoted(feature)),
            Self::FeatureUsers { feature } => write!(f, "users of feature {}", quoted(feature)),
            Self::Episodes { funnel } => write!(f, "funnel {}", quoted(funnel)),
        }
    }
}

/// An error in an expression, and its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ExpressionError {
    text: String,
    /// The place of the error: the number of the character, from 1.
    pub character: usize,
    why: String,
}

impl fmt::Display for ExpressionError {
    /// Writes the reason, then the expression with a mark below the character.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, character, why } = self;
        // A control character would move the mark, or the terminal's cursor.
        let shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        write!(f, "character {character}: {why}\n    {shown}\n    {:>character$}", '^')
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Parser { text, at: 0 }.expression()
    }
}

/// Reads an expression from left to right.
struct Parser<'t> {
    text: &'t str,
    /// The next byte to read.
    at: usize,
}

impl<'t> Parser<'t> {
    fn expression(mut self) -> Result<Expression, ExpressionError> {
        let root = self.word();
        let (series, measure) = match root {
            "events" => self.events()?,
            "users" => (Series::Users, self.measure(&USER_MEASURES)?.1),
            "sessions" => (Series::Sessions, self.measure(&SESSION_MEASURES)?.1),
            "metric" => self.samples()?,
            "feature" => self.feature()?,
            "funnel" => {
                let name = self.name_before_measure("a funnel's name")?;
                (Series::Episodes { funnel: name }, self.measure(&FUNNEL_MEASURES)?.1)
            }
            _ => return Err(self.error_at(0, format!("the expression must begin with {ROOTS}"))),
        };
        if self.at < self.text.len() {
            return Err(self.error("the expression must end here"));
        }
        Ok(Expression { series, measure, text: self.text.to_owned() })
    }

    /// Reads the rest of an expression on events. The filter may stand before the measure (as for a metric) or
    /// after the measure.
    fn events(&mut self) -> Result<(Series, Measure), ExpressionError> {
        let mut braces_at = self.at;
        let mut filter = self.filter()?;
        let (_, measure) = self.measure(&EVENT_MEASURES)?;
        if filter.is_none() {
            braces_at = self.at;
            filter = self.filter()?;
        }
        let mut filter = filter.unwrap_or_default();
        let event_name = filter.remove("event_name");
        if event_name.as_ref().is_some_and(String::is_empty) {
            return Err(self.error_at(braces_at, "event_name must not be empty; omit the filter to count all events"));
        }
        match filter.first_key_value() {
            Some((key, _)) => {
                Err(self.error_at(braces_at, format!("events can be filtered by event_name only, not by {key:?}")))
            }
            None => Ok((Series::Events { event_name }, measure)),
        }
    }

    fn samples(&mut self) -> Result<(Series, Measure), ExpressionError> {
        self.dot("a metric's name")?;
        let from = self.at;
        // The name ends at the first brace, or else at the last dot: a name may contain dots, but no braces.
        let rest = &self.text[from..];
        let end = from + rest.find('{').or_else(|| rest.rfind('.')).unwrap_or(rest.len());
        let name = &self.text[from..end];
        let is_allowed = |at: usize, c: char| {
            c.is_ascii_alphabetic() || at > 0 && (c.is_ascii_digit() || matches!(c, '_' | '.' | '-' | '/'))
        };
        if let Some((at, c)) = name.char_indices().find(|(at, c)| !is_allowed(*at, *c)) {
            return Err(self.error_at(from + at, format!("{c:?} is not allowed here in a metric's name")));
        }
        if name.is_empty() || name.len() > MAX_METRIC_NAME_CHARS {
            return Err(self.error_at(from, "expected a metric's name of 1 to 255 characters"));
        }
        self.at = end;
        let tags = self.filter()?.unwrap_or_default();
        Ok((Series::Samples { name: name.to_owned(), tags }, self.measure(&SAMPLE_MEASURES)?.1))
    }

    fn feature(&mut self) -> Result<(Series, Measure), ExpressionError> {
        let feature = self.name_before_measure("a feature's name")?;
        let (name, measure) = self.measure(&FEATURE_MEASURES)?;
        Ok(if name == "users" {
            (Series::FeatureUsers { feature }, measure)
        } else {
            (Series::Usages { feature }, measure)
        })
    }

    /// Reads a name of any characters, up to the last dot.
    fn name_before_measure(&mut self, what: &str) -> Result<String, ExpressionError> {
        self.dot(what)?;
        let rest = &self.text[self.at..];
        let name = rest.rfind('.').map_or(rest, |end| &rest[..end]);
        if !crate::analytics::is_feature_name(name) {
            return Err(self.error(format!("expected {what} of 1 to 128 characters")));
        }
        self.at += name.len();
        Ok(name.to_owned())
    }

    fn dot(&mut self, what: &str) -> Result<(), ExpressionError> {
        if !self.eat('.') {
            return Err(self.error(format!("expected a dot and {what}")));
        }
        Ok(())
    }

    fn measure(&mut self, allowed: &[(&'static str, Measure)]) -> Result<(&'static str, Measure), ExpressionError> {
        let names = allowed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        if !self.eat('.') {
            return Err(self.error(format!("expected a dot and one of {names}")));
        }
        let from = self.at;
        let word = self.word();
        let found = allowed.iter().find(|(name, _)| *name == word);
        found.copied().ok_or_else(|| self.error_at(from, format!("{word:?} is none of {names}")))
    }

    /// Reads a filter, `{key=value,key="value"}`. Returns `None` if there is no filter.
    fn filter(&mut self) -> Result<Option<BTreeMap<String, String>>, ExpressionError> {
        if !self.eat('{') {
            return Ok(None);
        }
        let mut filter = BTreeMap::new();
        loop {
            self.skip_spaces();
            if filter.is_empty() && self.eat('}') {
                return Ok(Some(filter));
            }
            let from = self.at;
            let key = self.text_until(&['=', ',', '}'])?;
            if key.is_empty() || !self.eat('=') {
                return Err(self.error("expected a key, = and a value; put a value that contains , or } in quotes"));
            }
            self.skip_spaces();
            let value = self.text_until(&[',', '}'])?;
            if filter.insert(key, value).is_some() {
                return Err(self.error_at(from, "this key is given twice"));
            }
            if self.eat('}') {
                return Ok(Some(filter));
            }
            if !self.eat(',') {
                return Err(self.error("expected , or }"));
            }
        }
    }

    /// Reads a text in quotes, with the syntax of a JSON string, or a bare text up to one of the characters in
    /// `ends`. Removes the spaces around a bare text.
    fn text_until(&mut self, ends: &[char]) -> Result<String, ExpressionError> {
        let rest = &self.text[self.at..];
        if !rest.starts_with('"') {
            let bare = rest.find(ends).map_or(rest, |end| &rest[..end]);
            self.at += bare.len();
            return Ok(bare.trim().to_owned());
        }
        let mut quoted = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let Some(Ok(value)) = quoted.next() else {
            return Err(self.error("this quoted text has no closing quote, or is not a valid JSON string"));
        };
        self.at += quoted.byte_offset();
        self.skip_spaces();
        Ok(value)
    }

    fn word(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn eat(&mut self, wanted: char) -> bool {
        let is_there = self.text[self.at..].starts_with(wanted);
        self.at += if is_there { wanted.len_utf8() } else { 0 };
        is_there
    }

    fn skip_spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn error(&self, why: impl Into<String>) -> ExpressionError {
        self.error_at(self.at, why)
    }

    fn error_at(&self, at: usize, why: impl Into<String>) -> ExpressionError {
        ExpressionError { text: self.text.to_owned(), character: self.text[..at].chars().count() + 1, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn expressions_are_read() {
        let events = |name: Option<&str>| Series::Events { event_name: name.map(str::to_owned) };
        let samples = |name: &str, pairs: &[_]| Series::Samples { name: name.into(), tags: tags(pairs) };
        for (text, series, measure) in [
            ("events.count", events(None), Measure::Count),
            ("events.per_minute{event_name=a b}", events(Some("a b")), Measure::PerMinute),
            (r#"events.count{event_name="a\"}"}"#, events(Some("a\"}")), Measure::Count),
            ("events{event_name=x}.count", events(Some("x")), Measure::Count),
            ("events.count{}", events(None), Measure::Count),
            ("users.active", Series::Users, Measure::Count),
            ("sessions.avg_duration", Series::Sessions, Measure::AvgDuration),
            ("metric.a.p99", samples("a", &[]), Measure::Percentile(99)),
            ("metric.api.request/x-y_z.1.last", samples("api.request/x-y_z.1", &[]), Measure::Last),
            ("metric.a{}.sum", samples("a", &[]), Measure::Sum),
            (
                r#"metric.api{endpoint=/search , "k,=\u0041" = "v}"}.rate"#,
                samples("api", &[("endpoint", "/search"), ("k,=A", "v}")]),
                Measure::Rate,
            ),
            ("feature.a.b c.users", Series::FeatureUsers { feature: "a.b c".into() }, Measure::Count),
            ("feature.s.success_rate", Series::Usages { feature: "s".into() }, Measure::SuccessRate),
            ("funnel.mis.sions.rate", Series::Episodes { funnel: "mis.sions".into() }, Measure::ConversionRate),
        ] {
            let read: Expression = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((read.series, read.measure), (series, measure), "{text}");
        }
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, character, says) in [
            ("", 1, "must begin with"),
            ("event.count", 1, "must begin with"),
            ("events", 7, "expected a dot and one of count, per_minute"),
            ("events.counts", 8, "\"counts\" is none of count, per_minute"),
            ("events.count{name=x}", 13, "filtered by event_name"),
            ("events.count{event_name=}", 13, "must not be empty"),
            ("events.count{event_name}", 24, "expected a key"),
            ("events.count{event_name=x", 26, "expected , or }"),
            ("events.count{event_name=\"x}", 25, "no closing quote"),
            ("events.count{event_name=a,event_name=b}", 27, "given twice"),
            ("events{event_name=a}.count{event_name=a}", 27, "must end here"),
            ("events.count ", 13, "must end here"),
            ("users.count", 7, "\"count\" is none of active"),
            ("metric", 7, "expected a dot and a metric's name"),
            ("metric.1a.sum", 8, "'1' is not allowed"),
            ("metric.é.sum", 8, "'é' is not allowed"),
            ("metric.a{é=b}.p98", 15, "\"p98\" is none of count"),
            ("metric..sum", 8, "expected a metric's name"),
            ("metric.sum", 11, "expected a dot and one of"),
            ("feature.usage", 14, "expected a dot and one of usage"),
            ("feature..usage", 9, "expected a feature's name"),
            ("funnel.x.won", 10, "\"won\" is none of entered"),
        ] {
            let error = text.parse::<Expression>().unwrap_err();
            assert_eq!(error.character, character, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        let shown = "metric.é.sum".parse::<Expression>().unwrap_err().to_string();
        assert_eq!(shown.lines().skip(1).collect::<Vec<_>>(), ["    metric.é.sum", "           ^"]);
    }
}
