//! Groups whose rules have changed are rebuilt while the worker writes.

use proptest::prelude::*;
use streamgauge::store::{Lock, Migrations, ShadowGroups};

use super::people::{self, deliveries, small};
use super::{Store, config, open, people_config, runtime};

/// The configurations of the starts. Each changes some rules of the one before.
const CONFIGS: [&str; 3] = [people_config::CONFIG, "limits.session_timeout = '20m'", "features_defaults = false"];

/// What happens during a rebuild of groups.
#[derive(Debug, Clone)]
enum Action {
    /// The worker writes this many more messages.
    Write(usize),
    /// The rebuild reads up to this many messages.
    Step(u32),
    /// The process dies and starts again with the same configuration.
    Kill,
    /// The process dies and starts again with this configuration.
    Configure(usize),
    /// The shadow file is installed, however far the rebuild has come.
    Install,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1..8_usize).prop_map(Action::Write),
        6 => (1..8_u32).prop_map(Action::Step),
        2 => Just(Action::Kill),
        2 => (0..CONFIGS.len()).prop_map(Action::Configure),
        1 => Just(Action::Install),
    ]
}

/// A worker, and the rebuild that runs beside it.
struct World {
    runtime: tokio::runtime::Runtime,
    store: Store,
    toml: &'static str,
    shadow: Option<ShadowGroups>,
}

impl World {
    fn restart(mut self, toml: &'static str) -> Self {
        self.shadow = None;
        self.store = self.store.reopen_frozen(&self.runtime, toml);
        self.toml = toml;
        self
    }

    /// Returns the rebuild that the worker asks for now. Returns `None` if it asks for none.
    fn shadow(&mut self) -> Option<&mut ShadowGroups> {
        let rebuilds = self.store.writer.rebuilds();
        let Some(rebuild) = rebuilds.borrow().clone() else {
            self.shadow = None;
            return None;
        };
        let fresh = || ShadowGroups::open(&self.store.path(), rebuild.clone()).unwrap();
        let kept = self.shadow.take().filter(|shadow| shadow.is_of(&rebuild));
        Some(self.shadow.insert(kept.unwrap_or_else(fresh)))
    }

    fn install(&mut self) {
        if self.shadow().is_some() {
            self.store.writer.install_groups(self.shadow.take().unwrap()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens on the way, the result is the same as if the last rules had applied from the beginning.
    #[test]
    fn rules_may_change_while_messages_flow(
        messages in prop::collection::vec(small(), 1..60),
        actions in prop::collection::vec(action(), 1..40),
        last in 0..CONFIGS.len(),
    ) {
        let runtime = runtime();
        let order: Vec<usize> = (0..messages.len()).collect();
        let deliveries = deliveries(&messages, &order);
        let mut rest = deliveries.as_slice();
        let store = Store::with_config(&runtime, CONFIGS[0]);
        let mut world = World { runtime, store, toml: CONFIGS[0], shadow: None };
        for action in actions {
            match action {
                Action::Write(count) => {
                    let (now, later) = rest.split_at(count.min(rest.len()));
                    world.store.write(now, &[count]);
                    rest = later;
                }
                Action::Step(max_messages) => {
                    if let Some(shadow) = world.shadow() {
                        shadow.step(max_messages).unwrap();
                    }
                }
                Action::Kill => {
                    let toml = world.toml;
                    world = world.restart(toml);
                }
                Action::Configure(to) => world = world.restart(CONFIGS[to]),
                Action::Install => world.install(),
            }
        }
        world = world.restart(CONFIGS[last]);
        world.store.write(rest, &[7]);
        world.store.writer.rebuild_groups().unwrap();
        let mut fresh = Store::with_config(&world.runtime, CONFIGS[last]);
        fresh.write(&deliveries, &[messages.len()]);
        prop_assert_eq!(world.store.digest(), fresh.digest());
        prop_assert_eq!(world.store.internals(), fresh.internals());
        prop_assert!(!world.store.folder.path().join("streamgauge.db.shadow-groups").exists());
    }
}

#[test]
fn a_group_stays_frozen_during_its_rebuild_and_a_restart_loses_no_step() {
    let runtime = runtime();
    let messages: Vec<_> = (0..40).map(|n| people::event_of(n, n % 3)).collect();
    let order: Vec<usize> = (0..40).collect();
    let deliveries = deliveries(&messages, &order);
    let mut store = Store::with_config(&runtime, "");
    store.write(&deliveries[..30], &[10]);
    let before = store.digest();

    let toml = "limits.session_timeout = '5m'";
    let mut store = store.reopen_frozen(&runtime, toml);
    let rebuild = store.writer.rebuilds().borrow().clone().unwrap();
    assert_eq!(rebuild.names(), ["sessions", "activity"]);
    let mut shadow = ShadowGroups::open(&store.path(), rebuild.clone()).unwrap();
    assert!(shadow.step(20).unwrap());
    // This step reads the last 10 messages. Only the next step finds that none are left.
    assert!(shadow.step(20).unwrap());
    assert!(!shadow.step(20).unwrap());
    store.write(&deliveries[30..], &[3]);
    let now = store.digest();
    for table in ["analytics_sessions", "user_activity"] {
        assert_eq!(now[table], before[table], "{table} is frozen");
    }
    assert_ne!(now["feature_usage"], before["feature_usage"], "features are not");

    drop(shadow);
    let mut store = store.reopen_frozen(&runtime, toml);
    assert_eq!(store.writer.rebuilds().borrow().as_ref(), Some(&rebuild));
    let status = |store: &Store| {
        runtime.block_on(async {
            let reader = streamgauge::store::Reader::open(&store.path()).await.unwrap();
            let status = reader.status().await.unwrap();
            reader.close();
            status
                .rebuilding
                .into_iter()
                .map(|group| (group.group, group.rows_done, group.rows_total))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(status(&store), [("activity".to_owned(), 30, 30), ("sessions".to_owned(), 30, 30)]);
    store.writer.rebuild_groups().unwrap();
    assert_eq!(status(&store), []);
    let mut fresh = Store::with_config(&runtime, toml);
    fresh.write(&deliveries, &[40]);
    assert_eq!(store.digest(), fresh.digest());
}

#[test]
fn a_damaged_or_foreign_shadow_file_is_started_again() {
    let runtime = runtime();
    let messages: Vec<_> = (0..30).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..30).collect::<Vec<_>>());
    let mut store = Store::with_config(&runtime, "");
    store.write(&deliveries, &[10]);
    let toml = "limits.session_timeout = '5m'";
    let mut fresh = Store::with_config(&runtime, toml);
    fresh.write(&deliveries, &[30]);
    let mut store = store.reopen_frozen(&runtime, toml);
    let built = store.folder.path().join("streamgauge.db.shadow-groups");
    let rebuild = store.writer.rebuilds().borrow().clone().unwrap();
    let open = || ShadowGroups::open(&store.path(), rebuild.clone()).unwrap();

    assert!(open().step(10).unwrap());
    assert_eq!(open().progress().rows, 10, "the rebuild continues");
    let damage = "UPDATE _session_states SET state = x'00'";
    rusqlite::Connection::open(&built).unwrap().execute_batch(damage).unwrap();
    assert!(open().step(20).unwrap_err().is_damage());
    streamgauge::store::discard_shadow_groups(&store.path()).unwrap();
    assert_eq!(open().progress().rows, 0);

    // First a file that is not a database, then a shadow file of another rebuild.
    std::fs::write(&built, "not a database, though of some length: ".repeat(100)).unwrap();
    assert_eq!(open().progress().rows, 0);
    assert!(open().step(10).unwrap());
    rusqlite::Connection::open(&built).unwrap().execute_batch("UPDATE _shadow_groups SET rebuild = 'another'").unwrap();
    assert_eq!(open().progress().rows, 0);
    // A shadow file that is ahead of its database, as after a restore of an older database.
    assert!(open().step(10).unwrap());
    rusqlite::Connection::open(&built).unwrap().execute_batch("UPDATE _shadow_groups SET stream_seq = 31").unwrap();
    assert_eq!(open().progress().rows, 0);
    store.writer.rebuild_groups().unwrap();
    assert_eq!(store.digest(), fresh.digest());
}

#[test]
fn activity_alone_is_rebuilt_with_the_facts_of_sessions() {
    let runtime = runtime();
    let messages: Vec<_> = (0..40).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..40).collect::<Vec<_>>());
    let mut store = Store::with_config(&runtime, "");
    store.write(&deliveries[..20], &[10]);
    store.database().write().execute_batch("UPDATE _activity_states SET state = x'00'").unwrap();
    store.write(&deliveries[20..], &[10]);
    assert_eq!(store.writer.rebuilds().borrow().as_ref().unwrap().names(), ["activity"]);
    store.writer.rebuild_groups().unwrap();
    let mut fresh = Store::with_config(&runtime, "");
    fresh.write(&deliveries, &[40]);
    assert_eq!(store.digest(), fresh.digest());
    assert_eq!(store.internals(), fresh.internals());
}

/// Reverted migrations drop derived rows. The next start rebuilds these rows, including those of a rebuild that had
/// just begun.
#[test]
fn rows_that_reverted_migrations_dropped_are_rebuilt() {
    let runtime = runtime();
    let messages: Vec<_> = (0..40).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..40).collect::<Vec<_>>());
    let toml = "limits.session_timeout = '5m'";
    let mut fresh = Store::with_config(&runtime, toml);
    fresh.write(&deliveries, &[40]);
    for reverted in 1..9 {
        let mut store = Store::with_config(&runtime, "");
        store.write(&deliveries[..30], &[10]);
        let Store { folder, writer, judge } = store.reopen_frozen(&runtime, toml);
        drop(writer);
        runtime.block_on(async {
            let lock = Lock::acquire(&folder.path().join("streamgauge.db"), "migrate down").await.unwrap();
            for _ in 0..reverted {
                Migrations::of(&lock).down().await.unwrap();
            }
        });
        let writer = open(&runtime, folder.path(), &config(folder.path(), toml));
        let mut store = Store { folder, writer, judge };
        store.writer.rebuild_groups().unwrap();
        store.write(&deliveries[30..], &[10]);
        assert_eq!(store.digest(), fresh.digest(), "after {reverted} reverted migrations");
        assert_eq!(store.internals(), fresh.internals(), "after {reverted} reverted migrations");
    }
}

/// Groups can be rebuilt alone, beside widgets that count something else. If sessions are rebuilt, widgets are
/// rebuilt with them because of T.
#[test]
fn groups_are_rebuilt_beside_widgets() {
    let runtime = runtime();
    let messages: Vec<_> = (0..40).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..40).collect::<Vec<_>>());
    let widget = "[[widgets]]\nid = 'w'\nmetrics = { events = 'events.count', p50 = 'metric.m.p50' }\n";
    let feature = "[[features]]\nfeature = 'x'\nevent_name = 'n1'\n";
    let funnel =
        "[[funnels]]\nname = 'f'\nsteps = [{ name = 'a', event_name = 'n1' }, { name = 'b', event_name = 'n2' }]\n";
    let timeout = "limits.session_timeout = '5m'\n";
    for (change, expected) in [
        (feature, vec!["features"]),
        (funnel, vec!["funnel f"]),
        (timeout, vec!["sessions", "activity", "series events", "series metric m {}"]),
    ] {
        let mut store = Store::with_config(&runtime, widget);
        store.write(&deliveries, &[10]);
        let toml = format!("{change}{widget}");
        let mut store = store.reopen_frozen(&runtime, &toml);
        assert_eq!(store.writer.rebuilds().borrow().clone().unwrap().names(), expected);
        store.writer.rebuild_groups().unwrap();
        let mut fresh = Store::with_config(&runtime, &toml);
        fresh.write(&deliveries, &[40]);
        assert_eq!(store.digest(), fresh.digest(), "{change}");
        assert_eq!(store.internals(), fresh.internals(), "{change}");
    }
}

/// The next start finds what was damaged while no worker ran.
#[test]
fn a_start_finds_damaged_dashboards() {
    let runtime = runtime();
    let messages: Vec<_> = (0..40).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..40).collect::<Vec<_>>());
    let mut fresh = Store::with_config(&runtime, people_config::CONFIG);
    fresh.write(&deliveries, &[40]);
    for damage in [
        "UPDATE _series_states SET state = 'garbage'",
        "UPDATE _dashboard_outbox SET value = 'abc', change = 'abc', as_of = 'abc', updated_at = x'00'",
        "UPDATE _dashboard_outbox SET change = 9223372036854775807",
        "UPDATE _dashboard_outbox SET widget_id = x'00ff' WHERE metric_key = 'users' AND widget_id = 'hour'",
        "UPDATE dashboard_metrics SET widget_id = x'00ff' WHERE metric_key = 'users' AND widget_id = 'hour'",
        "UPDATE dashboard_metrics SET value = -5",
        "UPDATE _watermark SET t = 'never'",
    ] {
        let mut store = Store::with_config(&runtime, people_config::CONFIG);
        store.write(&deliveries[..30], &[10]);
        let writer = store.database();
        writer.write().execute_batch(damage).unwrap();
        let mut store = store.reopen(&runtime, people_config::CONFIG);
        store.write(&deliveries[30..], &[10]);
        store.writer.rebuild_groups().unwrap();
        assert_eq!(store.digest(), fresh.digest(), "{damage}");
    }
}

/// An install does not write to a generated column that somebody added: SQLite computes its values.
#[test]
fn a_generated_column_does_not_block_an_install() {
    let runtime = runtime();
    let messages: Vec<_> = (0..20).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..20).collect::<Vec<_>>());
    let mut store = Store::with_config(&runtime, "");
    store.write(&deliveries, &[10]);
    let column = "ALTER TABLE user_activity ADD COLUMN minutes INTEGER \
                  GENERATED ALWAYS AS (total_duration_ms / 60000) VIRTUAL";
    store.database().write().execute_batch(column).unwrap();
    let toml = "limits.session_timeout = '5m'";
    let store = store.reopen(&runtime, toml);
    let mut fresh = Store::with_config(&runtime, toml);
    fresh.write(&deliveries, &[20]);
    assert_eq!(store.digest(), fresh.digest());
}

/// Changes that other programs made to funnels and dashboards are found as damage. These groups are then rebuilt.
#[test]
fn damaged_funnels_and_dashboards_are_rebuilt() {
    let runtime = runtime();
    let messages: Vec<_> = (0..60).map(|n| people::event_of(n, n % 3)).collect();
    let deliveries = deliveries(&messages, &(0..60).collect::<Vec<_>>());
    let mut fresh = Store::with_config(&runtime, people_config::CONFIG);
    fresh.write(&deliveries, &[60]);
    for damage in [
        "UPDATE _funnel_segments SET segment = x'00'",
        "UPDATE _funnel_segments SET segment = (SELECT segment FROM _funnel_segments ORDER BY length(segment) DESC LIMIT 1)",
        "UPDATE _funnel_segments SET opened_ms = 'zz', opened_by = 'q'",
        "UPDATE _funnel_episodes SET opened_ms = 'zz'",
        "UPDATE _links SET state = x''",
        "UPDATE _series_states SET state = x'00'",
        "DELETE FROM dashboard_metrics; DELETE FROM _dashboard_outbox",
        "UPDATE _dashboard_outbox SET value = 'x', previous_value = x'00', change = 'many'",
        "UPDATE dashboard_metrics SET id = 'foreign ' || id",
        "DELETE FROM funnels",
        "DELETE FROM funnels; INSERT INTO funnels (id, name, steps) VALUES ('foreign', 'visit', '[]'), (x'00', x'01', '')",
    ] {
        let mut store = Store::with_config(&runtime, people_config::CONFIG);
        store.write(&deliveries[..40], &[10]);
        store.database().write().execute_batch(damage).unwrap();
        // First while the worker runs, then at the next start.
        for restarts in [false, true] {
            if restarts {
                store = store.reopen(&runtime, people_config::CONFIG);
            }
            let (from, to) = if restarts { (50, 60) } else { (40, 50) };
            store.write(&deliveries[from..to], &[10]);
            store.writer.rebuild_groups().unwrap();
        }
        assert_eq!(store.digest(), fresh.digest(), "{damage}");
    }
}
