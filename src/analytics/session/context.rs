//! Reads the attributes of a session from an event's context. If the context lacks the browser, the operating system
//! or the device, its user agent gives them.

use std::sync::LazyLock;

use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::Value;
use woothee::parser::Parser;

use crate::model::{AnalyticsEvent, JsonObject};

/// The library that reads user agents, and the version of its code and data. The fingerprint of sessions contains
/// this text.
pub const USER_AGENT_READER: &str = "woothee 0.13.0";

static USER_AGENTS: LazyLock<Parser> = LazyLock::new(Parser::new);

/// The parts of a context that a session shows, as they were sent. Ignores all other parts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parts {
    device_type: Value,
    device: Value,
    browser: Value,
    os: Value,
    country: Value,
    city: Value,
    geo: Value,
    user_agent: Value,
}

/// The attributes that a session takes from an event's context.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub(super) device_type: Option<String>,
    pub(super) browser: Option<String>,
    pub(super) os: Option<String>,
    pub(super) country: Option<String>,
    pub(super) city: Option<String>,
}

/// The contexts of a batch. Most events of a session have the same context, so each context is read once.
#[derive(Debug, Default)]
pub struct Contexts<'a>(HashMap<&'a str, Context>);

impl<'a> Contexts<'a> {
    /// Returns the context of an event. Reads it if no earlier event had the same.
    pub fn of(&mut self, event: &'a AnalyticsEvent) -> &Context {
        let text = event.context.as_ref().map_or("", JsonObject::as_str);
        self.0.entry(text).or_insert_with(|| Context::of(event))
    }
}

impl Context {
    /// Reads the context of an event.
    pub fn of(event: &AnalyticsEvent) -> Self {
        event.context.as_ref().map(Self::read).unwrap_or_default()
    }

    fn read(context: &JsonObject) -> Self {
        let context: Parts = serde_json::from_str(context.as_str()).unwrap_or_default();
        let either = |one: &Value, object: &Value, key: &str| text(one).or_else(|| text(&object[key]));
        let mut told = Self {
            device_type: either(&context.device_type, &context.device, "type"),
            browser: either(&context.browser, &context.browser, "name"),
            os: either(&context.os, &context.os, "name"),
            country: either(&context.country, &context.geo, "country"),
            city: either(&context.city, &context.geo, "city"),
        };
        if (told.device_type.is_none() || told.browser.is_none() || told.os.is_none())
            && let Some(user_agent) = context.user_agent.as_str()
        {
            told.complete_by(user_agent);
        }
        told
    }

    fn complete_by(&mut self, user_agent: &str) {
        let Some(read) = USER_AGENTS.parse(user_agent) else { return };
        let known = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty() && value != "UNKNOWN");
        let device_type = match read.category {
            "pc" => Some("desktop"),
            "smartphone" | "mobilephone" => Some("phone"),
            "appliance" => Some("appliance"),
            "crawler" => Some("bot"),
            _ => None,
        };
        self.device_type = self.device_type.take().or_else(|| device_type.map(str::to_owned));
        self.browser = self.browser.take().or_else(|| known(read.name));
        self.os = self.os.take().or_else(|| known(read.os));
    }
}

/// Returns the text if it is not empty. As everywhere on the wire, "" means absent.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

    fn told(context: &Value) -> Context {
        Context::read(&JsonObject::try_from(context.to_string()).unwrap())
    }

    #[test]
    fn a_user_agent_says_what_the_context_does_not() {
        for (user_agent, browser, os, device_type) in [
            (FIREFOX, "Firefox", "Linux", "desktop"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 \
                 Safari/537.36 Edg/131.0.0.0",
                "Edge",
                "Windows 10",
                "desktop",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/17.5 Mobile/15E148 Safari/604.1",
                "Safari",
                "iPhone",
                "phone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 \
                 Mobile Safari/537.36",
                "Chrome",
                "Android",
                "phone",
            ),
        ] {
            let told = told(&json!({ "user_agent": user_agent }));
            assert_eq!(told.browser.as_deref(), Some(browser), "{user_agent}");
            assert_eq!(told.os.as_deref(), Some(os), "{user_agent}");
            assert_eq!(told.device_type.as_deref(), Some(device_type), "{user_agent}");
        }
        let bot = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        assert_eq!(told(&json!({ "user_agent": bot })).device_type.as_deref(), Some("bot"));
    }

    #[test]
    fn each_column_falls_back_on_its_own() {
        let lynx = json!({"browser": "Lynx", "device_type": "terminal", "user_agent": FIREFOX});
        let by_lynx = told(&lynx);
        assert_eq!((by_lynx.browser.as_deref(), by_lynx.os.as_deref()), (Some("Lynx"), Some("Linux")));
        assert_eq!(by_lynx.device_type.as_deref(), Some("terminal"));
        let told = told(&json!({"os": {"name": "Plan 9"}, "browser": "", "user_agent": FIREFOX}));
        assert_eq!(told.os.as_deref(), Some("Plan 9"));
        assert_eq!(told.browser.as_deref(), Some("Firefox"));
        assert_eq!(told.device_type.as_deref(), Some("desktop"));
    }

    #[test]
    fn what_is_no_user_agent_says_nothing() {
        for user_agent in [json!("curl of my own"), json!(""), json!(7), json!({"a": FIREFOX}), json!(null)] {
            assert_eq!(told(&json!({ "user_agent": user_agent })), Context::default(), "{user_agent}");
        }
    }

    #[test]
    fn the_reader_is_the_one_whose_version_is_named() {
        let (name, version) = USER_AGENT_READER.split_once(' ').unwrap();
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(include_str!("../../../Cargo.lock").contains(&locked), "USER_AGENT_READER must name the new version");
    }

    proptest! {

        #![proptest_config(crate::property_config())]

        #[test]
        fn no_user_agent_ends_the_process(
            parts in prop::collection::vec(prop_oneof![
                ".{0,12}",
                prop::sample::select(vec!["Mozilla/5.0 (", "Windows ", "Windows Phone OS 7", "Android", "DoCoMo/2.0 ", "KDDI-",
                    "SoftBank/1.0/", "Opera", "Version/", "OPR/", "iPhone;", "MSIE 6.0;", "Trident/", "rv:", "; ", ")",
                    "Mac OS X 10", "FreeBSD ", "CrOS ", "PSP", "PLAYSTATION 3", "Nintendo", "UP.Browser", "Googlebot"])
                    .prop_map(str::to_owned),
            ], 0..12),
        ) {
            Context::default().complete_by(&parts.concat());
        }
    }
}
