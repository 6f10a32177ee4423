use std::time::Duration;

use super::*;
use crate::analytics::{FeatureName, FeatureRule, FeatureRules};

fn load_text(text: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
    };
    load(&sources).map(|(_, checked)| checked).map_err(|error| error.to_string())
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let text = "[stream]\nname = \"A\"\nconsumer = \"file\"\n[batch]\nmax_delay = \"10ms\"";
    let env = [
        ("STREAMGAUGE_STREAM__CONSUMER", "env"),
        ("STREAMGAUGE_BATCH__MAX_MESSAGES", "77"),
        ("NATS_URL", "nats://usual:1"),
        ("STREAMGAUGE_NATS__URL", "nats://own:1"),
        ("STREAMGAUGE_CONFIG", "ignored, --config is given"),
        ("STREAMGAUGE_ANYTHING", "no section: not configuration"),
        ("DATABASE_URL", "sqlite:///data/x.db"),
    ];
    let config = load_text(text, &env, &[("batch.max_messages", "78")]).unwrap();
    assert_eq!((config.stream.name.as_str(), config.stream.consumer.as_str()), ("A", "env"));
    assert_eq!(config.batch.max_messages, 78);
    assert_eq!(config.batch.max_delay, Duration::from_millis(10));
    assert_eq!(config.nats.url, "nats://own:1");
    assert_eq!(config.database_path, Path::new("/data/x.db"));
    assert_eq!(config.stream.dlq, "ANALYTICS_DLQ");
}

#[test]
fn a_password_of_digits_stays_as_it_is_written() {
    let env = [("NATS_USER", "u"), ("NATS_PASSWORD", "00123e4")];
    assert_eq!(load_text("", &env, &[]).unwrap().nats.user, Some(("u".into(), "00123e4".into())));
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        ("[stream]\nnmae = \"A\"", "nmae"),
        ("[strean]\nname = \"A\"", "strean"),
        ("[batch]\nmax_delay = \"50 parsecs\"", "50 parsecs"),
        ("[batch]\nmax_delay = \"1h\"", "batch.max_delay"),
        ("[batch]\nmax_bytes = \"8 pints\"", "8 pints"),
        ("[batch]\nmax_messages = 0", "batch.max_messages"),
        ("[http]\nlisten = \"0.0.0.0:7422\"", "http.token"),
        ("[http]\nlisten = \"7422\"", "http.listen"),
        ("[database]\nurl = \"sqlite::memory:\"", "database.url"),
        ("[database]\nurl = \"postgres://x/y\"", "database.url"),
        ("[nats]\nuser = \"u\"", "nats.user"),
        ("[stream]\nname = \"A.B\"", "stream.name"),
        ("[stream]\nprefix = \"dlq.x\"", "stream.prefix"),
        ("[stream]\nprefix = \"a..b\"", "stream.prefix"),
        ("[stream", "TOML"),
        ("[[features]]\nfeature = ''", "rule 1"),
        ("[[features]]\nfeature = 'a'\n[[features]]\nfeature = '$.context.x'", "rule 2"),
        ("[[features]]\nfeature = '$.properties.a..b'", "separated by dots"),
        ("[[features]]\nfeature = 'a'\nevent_name = []", "event_name must name something"),
        ("[[features]]\nevent_name = 'a'", "feature"),
        ("[[features]]\nfeature = 'a'\nevent = 'b'", "event"),
    ] {
        let error = load_text(text, &[], &[]).unwrap_err();
        assert!(error.contains(expected), "{text:?} gives {error:?}");
    }
    let error = load_text("", &[("STREAMGAUGE_STREAM__NMAE", "A")], &[]).unwrap_err();
    assert!(error.contains("nmae"), "{error}");
}

#[test]
fn feature_rules_take_a_name_or_a_path_and_one_or_many() {
    let text = "features_defaults = false\n[[features]]\nfeature = 'search'\nevent_name = ['a', 'b']\n\
                [[features]]\nfeature = '$.properties.item.kind'\nevent_type = 'track'";
    let expected = FeatureRules {
        has_defaults: false,
        rules: vec![
            FeatureRule {
                feature: FeatureName::Literal("search".into()),
                event_types: Vec::new(),
                event_names: vec!["a".into(), "b".into()],
            },
            FeatureRule {
                feature: FeatureName::Property(vec!["item".into(), "kind".into()]),
                event_types: vec!["track".into()],
                event_names: Vec::new(),
            },
        ],
    };
    assert_eq!(load_text(text, &[], &[]).unwrap().rules.features, expected);
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let sources = Sources { file: Some("/nonexistent/streamgauge.toml".into()), ..Sources::default() };
    assert!(load(&sources).unwrap_err().to_string().contains("/nonexistent/streamgauge.toml"));
}

#[test]
fn funnels_are_read_and_what_is_wrong_is_named() {
    let text = r#"
        [[funnels]]
        name = "order"
        window = "2h"
        steps = [
            { name = "seen", event_name = "viewed" },
            { name = "paid", event_type = "track", event_name = ["paid", "bought"],
              where = [{ path = "properties.price", op = "gte", value = 10 }] },
        ]
    "#;
    let config = load_text(text, &[], &[]).unwrap();
    let funnel = config.rules.funnels.by_name("order").unwrap();
    assert_eq!((funnel.window_ms, funnel.reentry, funnel.steps.len()), (7_200_000, true, 2));
    let steps = serde_json::to_string(&funnel.steps).unwrap();
    let expected = r#"[{"name":"seen","event_name":["viewed"]},{"name":"paid","event_type":["track"],"event_name":["paid","bought"],"where":[{"path":"properties.price","op":"gte","value":10}]}]"#;
    assert_eq!(steps, expected);

    for (from, to, error) in [
        ("name = \"order\"", "name = \" \"", "funnel \" \": name must have 1 to 128 characters"),
        ("\"2h\"", "\"0s\"", "funnel \"order\": window must be"),
        ("window", "scope = \"device\"\nwindow", "scope = \"device\" is neither"),
        ("\"paid\", event_type", "\"seen\", event_type", "two steps are named \"seen\""),
        ("properties.price", "price", "funnel \"order\", step 2 (\"paid\"): where 1: path = \"price\" must be"),
        ("gte", "=>", "step 2 (\"paid\"): where 1: op = \"=>\" is none of"),
        ("value = 10", "value = true", "op = \"gte\" needs a number or a text"),
        ("\"viewed\"", "[]", "step 1 (\"seen\"): event_name must name something"),
        ("{ name = \"seen\", event_name = \"viewed\" },", "", "steps must be 2 to 16"),
    ] {
        assert!(text.contains(from), "{from}");
        let told = load_text(&text.replacen(from, to, 1), &[], &[]).unwrap_err();
        assert!(told.starts_with("configuration: funnels: funnel ") && told.contains(error), "{told}");
    }
    let told = load_text(&text.repeat(2), &[], &[]).unwrap_err();
    assert!(told.contains("funnel \"order\": two funnels have this name"), "{told}");
}
