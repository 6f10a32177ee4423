use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::analytics::{StateError, Stored};
use crate::model::{EventBuilder, SessionBuilder};

/// Returns the row with a `closed_before` that is earlier than every message: silence closes nothing.
fn shown(session: &Session) -> AnalyticsSession {
    session.row("s", at(0))
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn event(ms: i64, id: &str) -> EventBuilder {
    EventBuilder::track("x").session_id("s").timestamp(at(ms)).id(id)
}

fn merged(parts: impl IntoIterator<Item = Session>) -> Session {
    let merge = |mut one: Session, other: Session| {
        one.merge(other);
        one
    };
    parts.into_iter().reduce(merge).unwrap()
}

/// Returns the session that one message makes.
fn small(message: Stored<'_>) -> Session {
    match message {
        Stored::Event(event) => {
            let mut session = Session::at(event.timestamp);
            session.add_event(event, &Context::of(event));
            session
        }
        Stored::Session(message) => {
            let mut session = Session::at(message.timestamp);
            session.add_message(message);
            session
        }
        Stored::Metric(_) => unreachable!("a metric belongs to no session"),
    }
}

/// Merges messages into a session. Asserts that the reverse order gives the same session.
fn session(messages: &[Stored<'_>]) -> Session {
    let small = || messages.iter().map(|message| small(*message));
    let session = merged(small());
    assert_eq!(merged(small().rev()), session);
    session
}

#[test]
fn an_end_closes_whenever_it_comes() {
    let start = SessionBuilder::start("s").timestamp(at(10)).build();
    let late_end = SessionBuilder::end("s").timestamp(at(5)).build();
    let event = event(70, "e").build();
    let row = shown(&session(&[(&start).into(), (&late_end).into(), (&event).into()]));
    assert_eq!((row.started_at, row.ended_at), (at(5), Some(at(70))));
    assert_eq!((row.duration_ms, row.event_count), (65, 1));
}

#[test]
fn silence_closes_and_a_late_event_opens_again() {
    let first = event(1_000, "e").build();
    let open = session(&[(&first).into()]);
    assert_eq!(open.row("s", at(1_000)).ended_at, None);
    assert_eq!(open.row("s", at(1_001)).ended_at, Some(at(1_000)));
    let late = event(1_500, "f").build();
    assert_eq!(session(&[(&first).into(), (&late).into()]).row("s", at(1_001)).ended_at, None);
}

#[test]
fn attributes_come_from_a_start_first_and_each_on_its_own() {
    let event = event(1, "e").context(json!({"os": "linux", "browser": {"name": "firefox"}})).referrer("r").build();
    let heartbeat = SessionBuilder::heartbeat("s").timestamp(at(2)).browser("lynx").city("Oslo").build();
    let second = SessionBuilder::start("s").timestamp(at(4)).id("b").os("beos").country("NO").build();
    let first = SessionBuilder::start("s").timestamp(at(4)).id("a").os("plan9").build();
    let row = shown(&session(&[(&event).into(), (&heartbeat).into(), (&second).into(), (&first).into()]));
    assert_eq!(row.os.as_deref(), Some("plan9"), "of two starts at the same time, the one with the lesser id decides");
    assert_eq!(row.country.as_deref(), Some("NO"), "the other start decides, because the first has no country");
    assert_eq!(row.browser.as_deref(), Some("firefox"), "no start has a browser: the first message with one decides");
    assert_eq!((row.city.as_deref(), row.referrer.as_deref()), (Some("Oslo"), Some("r")));
    assert_eq!(row.device_type, None);
}

#[test]
fn a_session_that_two_users_share_is_the_firsts() {
    let nobody = event(1, "a").build();
    let grace = event(3, "z").user_id("grace").build();
    // A start comes first for attributes, but not for the user. At equal times an event comes before a session
    // message.
    let ada = SessionBuilder::start("s").timestamp(at(3)).id("a").user_id("ada").build();
    assert_eq!(shown(&session(&[(&nobody).into(), (&ada).into(), (&grace).into()])).user_id.as_deref(), Some("grace"));
}

#[test]
fn pages_are_of_the_first_and_the_last_message_that_has_one() {
    let landing = SessionBuilder::heartbeat("s").timestamp(at(2)).landing_page("/told").build();
    let event = event(2, "e").page_url("/seen").build();
    let silent = SessionBuilder::end("s").timestamp(at(9)).build();
    let row = shown(&session(&[(&landing).into(), (&event).into(), (&silent).into()]));
    assert_eq!((row.landing_page.as_deref(), row.exit_page.as_deref()), (Some("/seen"), Some("/seen")));
    let exit = SessionBuilder::end("s").timestamp(at(2)).exit_page("/left").build();
    let row = shown(&session(&[(&event).into(), (&exit).into()]));
    assert_eq!(row.exit_page.as_deref(), Some("/left"), "at equal times a session message comes after an event");
}

#[test]
fn stored_states_are_read_back_or_refused() {
    let event = event(1, "e").user_id("u").context(json!({"os": "linux"})).page_url("/").build();
    let session = session(&[(&event).into()]);
    let bytes = session.to_bytes();
    assert_eq!(Session::from_bytes(&bytes), Ok(session));
    for broken in [&[][..], &[9, 1, 2], &bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat()] {
        assert!(matches!(Session::from_bytes(broken), Err(StateError { .. })));
    }
}

proptest! {

    #![proptest_config(crate::property_config())]

    /// L5: splits messages into partitions and merges each partition by itself. Merging the partitions, in any order,
    /// gives the same session as merging all messages.
    #[test]
    fn partitions_merge_to_the_whole(
        messages in prop::collection::vec((0..4_u8, 0..6_i64, 0..8_u8, any::<u8>()), 1..30),
        partitions in prop::collection::vec(0..4_usize, 30),
        turn in 0..4_usize,
    ) {
        let part = |(number, (says, ms, teller, tells)): (usize, &(u8, i64, u8, u8))| {
            let id = format!("{teller}-{number}");
            let told = |bit: u8| (tells & (1 << bit) != 0).then(|| id.clone());
            let message = match says {
                0 => {
                    let mut event = event(*ms, &id).build();
                    (event.user_id, event.page_url, event.referrer) = (told(0), told(1), told(2));
                    return small((&event).into());
                }
                1 => SessionBuilder::start("s"),
                2 => SessionBuilder::heartbeat("s"),
                _ => SessionBuilder::end("s"),
            };
            let mut message = message.timestamp(at(*ms)).id(&id).build();
            (message.user_id, message.landing_page, message.exit_page) = (told(0), told(1), told(3));
            (message.os, message.browser) = (told(4), told(5));
            small((&message).into())
        };
        let parts: Vec<Session> = messages.iter().enumerate().map(part).collect();
        let whole = merged(parts.iter().cloned());
        let mut reduced: Vec<Session> = (0..4)
            .filter_map(|partition| {
                let own = parts.iter().zip(&partitions).filter(|(_, of)| **of == partition).map(|(part, _)| part.clone());
                let own: Vec<_> = own.collect();
                (!own.is_empty()).then(|| merged(own))
            })
            .collect();
        let turn = turn % reduced.len();
        reduced.rotate_left(turn);
        let other = merged(reduced);
        prop_assert_eq!(other.to_bytes(), whole.to_bytes());
        prop_assert_eq!(other, whole);
    }
}
