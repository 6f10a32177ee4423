use std::path::Path;

use serde_json::{Value, json};

use crate::support::{NatsServer, Worker, publish_all, wait_for};

const MISSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/missions.toml");
/// 2026-11-01T08:00:00Z
const START_MS: i64 = 1_793_520_000_000;

/// Returns an event of a user, this many minutes after the start. Its id shows its content.
fn event(user: &str, minute: i64, name: &str) -> (String, Vec<u8>) {
    let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + minute * 60_000).unwrap();
    let event = json!({"id": format!("{user}-{minute}-{name}"), "event_type": "track", "event_name": name,
        "user_id": user, "timestamp": timestamp.to_rfc3339()});
    ("analytics.events".to_owned(), event.to_string().into_bytes())
}

fn text(worker: &Worker, arguments: &[&str]) -> String {
    let output = worker.command().arg("funnel").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn parsed(worker: &Worker, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&text(worker, &arguments)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_funnel_is_listed_shown_and_explained() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_CONFIG", MISSIONS);
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let messages = vec![
        // The events come late and out of order. Ada converts. Bob's last step comes after the window. Eve never
        // creates a mission.
        event("ada", 30, "mission_completed"),
        event("ada", 0, "mission_created"),
        event("bob", 0, "mission_created"),
        event("bob", 20, "spec_created"),
        event("bob", 8 * 24 * 60, "mission_completed"),
        event("eve", 5, "spec_created"),
        event("ada", 2, "spec_created"),
        event("ada", 1, "unrelated"),
    ];
    let last_seq = publish_all(&jetstream, messages).await;
    worker.applied(last_seq).await;

    assert_eq!(text(&worker, &["list"]), "missions: 2 entered, 1 completed, 50.0 %\n");
    let report = parsed(&worker, &["show", "missions"]);
    assert_eq!((&report["entered"], &report["completed"]), (&json!(2), &json!(1)));
    assert_eq!(report["as_of"]["ANALYTICS"], json!(last_seq));
    let steps: Vec<_> = (0..3).map(|at| &report["steps"][at]).collect();
    assert_eq!(steps[1]["name"], "spec created");
    assert_eq!(steps.iter().map(|step| step["reached"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!((&steps[1]["median_ms"], &steps[1]["p90_ms"]), (&json!(120_000), &json!(1_200_000)));
    let table = text(&worker, &["show", "missions"]);
    assert!(table.contains("mission completed") && table.contains("28m") && table.contains("50.0 %"), "{table}");
    assert!(table.contains(&"█".repeat(30)) && table.contains(&format!("  {}\n", "█".repeat(15))), "{table}");

    let explained = parsed(&worker, &["explain", "missions", "--actor", "bob"]);
    let counts: Vec<_> = explained["hits"].as_array().unwrap().iter().map(|hit| &hit["counts"]).collect();
    assert_eq!(counts, [&json!(true), &json!(true), &json!(false)]);
    assert_eq!(explained["episodes"][0]["events"], json!(["bob-0-mission_created", "bob-20-spec_created"]));
    let told = text(&worker, &["explain", "missions", "--actor", "bob"]);
    assert!(told.contains("the window had passed") && told.contains("not completed, reached step 2 of 3"), "{told}");
    // The row in the table is the one that was explained.
    let sql = "SELECT id FROM funnel_conversions WHERE user_id = 'bob'";
    assert_eq!(explained["episodes"][0]["id"], worker.database().text(sql, []));

    // A condition keeps an event from counting as a step.
    let cheap = json!({"id": "cheap", "event_type": "track", "event_name": "paid", "user_id": "ada",
        "timestamp": "2026-11-01T08:31:00Z", "properties": {"price": 9.99}});
    let last_seq = publish_all(&jetstream, vec![("analytics.events".into(), cheap.to_string().into_bytes())]).await;
    worker.applied(last_seq).await;
    let missions = std::fs::read_to_string(MISSIONS).unwrap();
    let paid = "\n[[funnels]]\nname = \"paid\"\nsteps = [{ name = \"done\", event_name = \"mission_completed\" },\n\
                { name = \"paid\", event_name = \"paid\", where = [{ path = \"properties.price\", op = \"gte\", value = 10 }] }]\n";
    let file = folder.path().join("paid.toml");
    std::fs::write(&file, missions + paid).unwrap();
    assert!(worker.stop().await.success());
    let mut worker = worker.env("STREAMGAUGE_CONFIG", file.to_str().unwrap());
    worker.start_reading().await;
    wait_for("the rebuild", || worker.database().count("_groups WHERE rebuild IS NOT NULL") == 0).await;
    let explained = parsed(&worker, &["explain", "paid", "--actor", "ada"]);
    assert_eq!(explained["hits"][1]["event_id"], "cheap");
    assert_eq!(explained["hits"][1]["what"], "does not count: properties.price gte 10 is not true");

    for (arguments, error) in [
        (vec!["show", "no such"], "there is no funnel \"no such\""),
        (vec!["explain", "missions", "--actor", "nobody"], "no event of a user or anonymous id \"nobody\""),
        (vec!["explain", "no such", "--actor", "ada"], "is not in the configuration"),
    ] {
        let output = worker.command().arg("funnel").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(error));
    }
}

fn define(folder: &Path, funnels: &[(&str, &str)]) {
    let funnel = |(name, last): &(&str, &str)| {
        format!(
            "[[funnels]]\nname = {name:?}\nwindow = \"1d\"\n\
             steps = [{{ name = \"a\", event_name = \"a\" }}, {{ name = \"z\", event_name = {last:?} }}]\n"
        )
    };
    std::fs::write(folder.join("streamgauge.toml"), funnels.iter().map(funnel).collect::<String>()).unwrap();
}

/// Funnels are added, changed and removed by SIGHUP while messages flow. Meanwhile, what other funnels show stays as
/// it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_change_while_messages_flow() {
    const USERS: usize = 400;
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    define(folder.path(), &[("stays", "b")]);
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_BATCH__MAX_MESSAGES", "500");
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let events = |minute: i64| {
        let of_user = move |user: usize| {
            let user = format!("u{user}");
            [event(&user, minute, "a"), event(&user, minute + 1, "b"), event(&user, minute + 2, "c")]
        };
        (0..USERS).flat_map(of_user).collect::<Vec<_>>()
    };
    worker.applied(publish_all(&jetstream, events(0)).await).await;
    let database = worker.database();
    let completed = |name: &str| {
        let from = "funnel_conversions c JOIN funnels f ON f.id = c.funnel_id";
        database.count(&format!("{from} WHERE f.name = '{name}' AND completed = 1"))
    };
    assert_eq!(completed("stays"), USERS as u64);
    let created_at = || database.text("SELECT created_at FROM funnels WHERE name = 'stays'", []);
    let created = created_at();

    define(folder.path(), &[("stays", "b"), ("added", "c")]);
    worker.signal("-HUP");
    let publishing = {
        let jetstream = jetstream.clone();
        let messages: Vec<_> = (1..10).flat_map(|hour| events(hour * 60)).collect();
        tokio::spawn(async move { publish_all(&jetstream, messages).await })
    };
    wait_for("the funnel to be there", || completed("added") > 0).await;
    worker.applied(publishing.await.unwrap()).await;
    wait_for("the rebuild to be installed", || database.count("_groups WHERE rebuild IS NOT NULL") == 0).await;
    for name in ["stays", "added"] {
        assert_eq!(completed(name), 10 * USERS as u64, "{name}");
    }
    assert!(worker.log().contains("groups=funnel added"), "only this funnel is rebuilt: {}", worker.log());

    // A wrong definition changes nothing. A changed funnel is rebuilt. A removed funnel goes, and nothing else goes
    // with it.
    std::fs::write(folder.path().join("streamgauge.toml"), "[[funnels]]\nname = 'broken'\nsteps = []\n").unwrap();
    worker.signal("-HUP");
    wait_for("the error", || worker.log().contains("funnel \"broken\": steps must be 2 to 16")).await;
    std::fs::remove_file(folder.path().join("streamgauge.toml")).unwrap();
    worker.signal("-HUP");
    wait_for("the error", || worker.log().contains("cannot read the configuration file streamgauge.toml")).await;
    assert_eq!(database.count("funnels"), 2);
    define(folder.path(), &[("stays", "b"), ("added", "d")]);
    worker.signal("-HUP");
    wait_for("the change", || completed("added") == 0).await;
    define(folder.path(), &[("stays", "b")]);
    worker.signal("-HUP");
    wait_for("the removal", || database.count("funnels") == 1).await;
    assert_eq!(database.count("funnel_conversions"), 10 * USERS as u64);
    assert_eq!(database.count("_groups WHERE name LIKE 'funnel%'"), 1);
    assert_eq!(database.texts("SELECT DISTINCT funnel || '' FROM _funnel_segments").len(), 1);
    assert_eq!(created_at(), created, "the definition was never replaced");
    let last_seq = publish_all(&jetstream, events(24 * 60)).await;
    worker.applied(last_seq).await;
    assert_eq!(completed("stays"), 11 * USERS as u64);
    assert!(worker.stop().await.success());

    let mut twin = worker.twin(&folder.path().join("twin"));
    define(&folder.path().join("twin"), &[("stays", "b")]);
    twin.start();
    twin.applied(last_seq).await;
    let digest = |worker: &Worker| worker.command().arg("digest").output().unwrap().stdout;
    assert_eq!(digest(&worker), digest(&twin));
}
