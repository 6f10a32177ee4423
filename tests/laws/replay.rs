//! L4: a rebuild equals the live database, whatever happened to either of them on the way.

use std::time::Duration;

use proptest::prelude::*;
use streamgauge::judge::{Batch, Judge, Limits};
use streamgauge::store::{self, BuiltFrom, Lock, PendingRequest, Request, Selection, StoreError, Writer};

use super::people::{deliveries, small};
use super::{Store, config, people_config, runtime};

/// Each configuration changes rules of the one before, among them those of funnels.
const CONFIGS: [&str; 3] = [
    people_config::CONFIG,
    "limits.session_timeout = '20m'\n[[funnels]]\nname = 'journey'\nwindow = '2h'\n\
     steps = [{ name = 'a', event_name = 'n2' }, { name = 'b', event_name = ['n1', 'n3'] }]",
    "features_defaults = false",
];
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
enum Action {
    /// The worker writes this many more messages, in batches of this size.
    Write(usize, usize),
    /// From now on other limits apply: some messages are too old.
    Limit(usize),
    /// All dead letters are judged again, by the current limits.
    Retry,
    /// The worker dies and starts again with this configuration.
    Restart(usize),
    /// The rebuild reads this many more messages, but not beyond the worker's position.
    Replay(usize),
    /// The rebuild dies and continues later.
    KillReplay,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..12_usize, 1..6_usize).prop_map(|(count, size)| Action::Write(count, size)),
        2 => (0..3_usize).prop_map(Action::Limit),
        2 => Just(Action::Retry),
        1 => (0..CONFIGS.len()).prop_map(Action::Restart),
        5 => (1..12_usize).prop_map(Action::Replay),
        2 => Just(Action::KillReplay),
    ]
}

fn limits(of: &Limits, which: usize) -> Limits {
    // Messages are 106 to 110 hours old.
    let max_age = [None, Some(107 * HOUR), Some(108 * HOUR)][which];
    Limits { max_age, ..of.clone() }
}

struct World {
    runtime: tokio::runtime::Runtime,
    live: Store,
    toml: &'static str,
    shadow: Option<Writer>,
}

impl World {
    fn shadow_path(&self) -> std::path::PathBuf {
        store::shadow_path(&self.live.path())
    }

    /// Opens the shadow database. The rebuild continues there if its file is still usable.
    fn shadow(&mut self, built_from: BuiltFrom) -> &mut Writer {
        let rules = config(self.live.folder.path(), self.toml).rules;
        let lock = self.runtime.block_on(Lock::acquire(&self.shadow_path(), "test")).unwrap();
        let (live, kept) = (self.live.path(), self.shadow.take());
        let open = || store::open_shadow(&lock, &live, &rules, built_from).unwrap();
        self.shadow.insert(kept.unwrap_or_else(open))
    }

    /// Feeds the rebuild up to `count` messages from the stream, but not beyond the worker's position. In production
    /// the pipeline does this.
    fn replay(&mut self, stream: &[streamgauge::judge::Delivery], count: usize) {
        let (live, judge) = (self.live.position(), Judge { limits: Limits::NONE, ..self.live.judge.clone() });
        let shadow = self.shadow(BuiltFrom::Stream);
        let stands = shadow.position_in(&live).unwrap();
        let mut batch = Batch::after(stands.clone());
        let next = stream.iter().filter(|delivery| delivery.stream_sequence > stands.last_seq);
        for delivery in next.take_while(|delivery| delivery.stream_sequence <= live.last_seq).take(count) {
            batch.push(judge.judge(delivery.clone()));
        }
        let end = shadow.commit(&batch).unwrap().position().clone();
        // Copies the stored rows of the last messages, which the stream no longer holds.
        if count == usize::MAX {
            let mut end = end;
            while end.last_seq < live.last_seq {
                end = shadow.copy_stored_rows(&end, live.last_seq).unwrap();
            }
        }
    }

    fn ask(&mut self, request: &Request) -> store::RequestOutcome {
        let asked = PendingRequest::leave(&self.live.path(), request).unwrap();
        let criteria = self.live.criteria();
        loop {
            match self.live.writer.do_next_request(&criteria) {
                Ok(true) | Err(StoreError::Frozen { .. }) => {}
                Ok(false) => break,
                Err(error) => panic!("{error}"),
            }
        }
        asked.outcome().unwrap().unwrap()
    }
}

/// Returns the digest of each table of a file, and its internal rows.
fn all_of(path: &std::path::Path) -> (std::collections::BTreeMap<String, String>, Vec<String>) {
    let database = crate::support::Database(path.to_owned());
    (super::digest_of(path), super::internals_of(&database))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rebuild_equals_the_live_database(
        messages in prop::collection::vec(small(), 1..50),
        copies in prop::collection::vec((0..50_usize, 0..60_usize), 0..10),
        gone in prop::collection::vec(0..60_u64, 0..12),
        purged_upto in 0..30_u64,
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let runtime = runtime();
        // Copies of messages. A copy comes before or after the other messages with its id.
        let mut order: Vec<usize> = (0..messages.len()).collect();
        for (number, at) in copies {
            order.insert(at.min(order.len()), number % messages.len());
        }
        let stream = deliveries(&messages, &order);
        let mut rest = stream.as_slice();
        // The messages that the stream still holds when the rebuild reads it. The worker had read all messages
        // before.
        let still_there = |delivery: &&streamgauge::judge::Delivery| {
            delivery.stream_sequence > purged_upto && !gone.contains(&delivery.stream_sequence)
        };
        let left: Vec<_> = stream.iter().filter(still_there).cloned().collect();
        let live = Store::with_config(&runtime, CONFIGS[0]);
        let mut world = World { runtime, live, toml: CONFIGS[0], shadow: None };
        let of = world.live.judge.limits.clone();
        world.live.judge.limits = limits(&of, 0);
        for action in actions {
            match action {
                Action::Write(count, size) => {
                    let (now, later) = rest.split_at(count.min(rest.len()));
                    world.live.write(now, &[size]);
                    rest = later;
                }
                Action::Limit(which) => world.live.judge.limits = limits(&of, which),
                Action::Retry => drop(world.ask(&Request::Retry(Selection::default()))),
                Action::Restart(to) => {
                    world.shadow = None;
                    world.toml = CONFIGS[to];
                    let limits = world.live.judge.limits.clone();
                    world.live = world.live.reopen(&world.runtime, CONFIGS[to]);
                    world.live.judge.limits = limits;
                }
                Action::Replay(count) => world.replay(&left, count),
                Action::KillReplay => world.shadow = None,
            }
        }
        world.live.write(rest, &[5]);
        world.replay(&left, usize::MAX);
        let expected = all_of(&world.live.path());
        prop_assert_eq!(&all_of(&world.shadow_path()), &expected, "from the stream");

        // Installs the rebuild, then rebuilds once more from the stored rows alone.
        let path = world.live.path();
        let shadow = world.shadow(BuiltFrom::Stream);
        while shadow.make_postponed().unwrap() {}
        store::ensure_nothing_lost(&world.shadow_path(), &path).unwrap();
        world.shadow = None;
        let outcome = world.ask(&Request::Install { file: world.shadow_path() });
        prop_assert_eq!(outcome.error, None);
        prop_assert_eq!(&all_of(&world.live.path()), &expected, "after the install");
        world.live.database().assert_account_balances();
        world.shadow(BuiltFrom::Rows).catch_up_from_rows().unwrap();
        prop_assert_eq!(&all_of(&world.shadow_path()), &expected, "from the rows");
        world.shadow = None;
        store::remove_database(&world.shadow_path()).unwrap();
        world.live.database().write().execute_batch("DELETE FROM analytics_sessions; UPDATE _activity_states SET state = x'00'").unwrap();
        let asked = PendingRequest::leave(&world.live.path(), &Request::Rebuild { groups: Vec::new() }).unwrap();
        world.live.writer.do_next_request(&world.live.criteria()).unwrap();
        world.live.writer.rebuild_groups().unwrap();
        prop_assert!(asked.outcome().unwrap().is_some());
        prop_assert_eq!(&all_of(&world.live.path()), &expected, "after a rebuild of all groups");
    }
}

/// A rebuild begins. Then an older copy of the database is restored, and it decides otherwise about the same
/// messages.
#[test]
fn a_rebuild_starts_again_after_an_older_database_was_restored() {
    let messages: Vec<_> = (0..40).map(|n| super::people::event_of(n, n % 3)).collect();
    let stream = deliveries(&messages, &(0..40).collect::<Vec<_>>());
    for (first, then) in [(2, 0), (0, 2)] {
        let runtime = runtime();
        let live = Store::with_config(&runtime, CONFIGS[0]);
        let mut world = World { runtime, live, toml: CONFIGS[0], shadow: None };
        let of = world.live.judge.limits.clone();
        world.live.judge.limits = limits(&of, 1);
        world.live.write(&stream[..10], &[10]);
        let backup = world.live.folder.path().join("backup.db");
        world.live.database().read().execute("VACUUM INTO ?1", [backup.to_str()]).unwrap();
        world.live.judge.limits = limits(&of, first);
        world.live.write(&stream[10..], &[10]);
        world.ask(&Request::Retry(Selection::default()));
        world.replay(&stream, usize::MAX);
        world.shadow = None;

        let Store { folder, writer, judge } = world.live;
        drop(writer);
        std::fs::copy(&backup, folder.path().join("streamgauge.db")).unwrap();
        let writer = super::open(&world.runtime, folder.path(), &config(folder.path(), CONFIGS[0]));
        world.live = Store { folder, writer, judge };
        world.live.judge.limits = limits(&of, then);
        world.live.write(&stream[10..], &[10]);
        world.replay(&stream, usize::MAX);
        assert_eq!(all_of(&world.shadow_path()), all_of(&world.live.path()));
    }
}
