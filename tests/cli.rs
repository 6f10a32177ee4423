use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{NatsServer, Worker, command, wait_for};

/// An address at which no server listens.
const NOWHERE: &str = "nats://127.0.0.1:1";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_run_status_digest() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;

    let lines = folder.path().join("events.jsonl");
    std::fs::write(&lines, "{\"event_type\":\"t\",\"event_name\":\"a\"}\n\n{\"id\":\"x\",\"event_type\":\"t\",\"event_name\":\"b\"}\nnot json\n").unwrap();
    let output = worker.command().arg("publish").arg(&lines).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("published 3, known already 0, failed 0"), "{}", text(&output.stderr));
    // The same id comes again within the stream's duplicate window. Metrics come from standard input.
    let again = with_input(
        worker.command().args(["publish", "-"]),
        b"{\"id\":\"x\",\"event_type\":\"t\",\"event_name\":\"b\"}",
    );
    assert!(text(&again.stderr).contains("published 0, known already 1"), "{}", text(&again.stderr));
    let metrics =
        with_input(worker.command().args(["publish", "--kind", "metrics"]), b"{\"name\":\"m\",\"value\":1}\n");
    assert!(metrics.status.success());
    worker.applied(4).await;
    let database = worker.database();
    wait_for("the dead letter", || database.count("_rejections WHERE published = 1") == 1).await;

    let status = || -> Value {
        let output = worker.command().args(["status", "--json"]).output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    wait_for("the ack", || status()["streams"][0]["lag"] == 0).await;
    let status = status();
    let stream = &status["streams"][0];
    assert_eq!(
        (&stream["name"], &stream["epoch"], &stream["applied_seq"], &stream["last_seq"]),
        (&"ANALYTICS".into(), &1.into(), &4.into(), &4.into())
    );
    assert_eq!(
        (&status["dead_letters"], &status["gaps"], &status["version"]),
        (&1.into(), &0.into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert!(status["database"]["size_bytes"].as_u64().unwrap() > 0 && status["database"]["wal_bytes"].is_u64());

    let digest = worker.command().args(["digest", "--json"]).output().unwrap();
    let digest: Value = serde_json::from_slice(&digest.stdout).unwrap();
    assert_eq!(digest["as_of"]["ANALYTICS"], 4);
    let tables = digest["tables"].as_object().unwrap();
    assert_eq!(tables.len(), 9);
    assert_eq!(tables["analytics_events"].as_str().unwrap().len(), 64);
    assert_ne!(tables["analytics_events"], tables["funnels"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_without_nats_and_without_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let status = |args: &[&str]| command(folder.path(), NOWHERE).arg("status").args(args).output().unwrap();
    assert_eq!(status(&[]).status.code(), Some(1));
    assert_eq!(command(folder.path(), NOWHERE).arg("digest").output().unwrap().status.code(), Some(1));

    let migrate = |action: &str| command(folder.path(), NOWHERE).args(["migrate", action]).output().unwrap();
    assert!(migrate("up").status.success());
    let output = status(&["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stream = &json["streams"][0];
    assert_eq!((&stream["name"], &stream["applied_seq"]), (&"ANALYTICS".into(), &0.into()));
    assert!(stream["last_seq"].is_null() && stream["lag"].is_null());
    assert!(text(&status(&[]).stdout).contains("lag         ?"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_go_up_and_down_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let migrate = |action: &str| {
        let output = command(folder.path(), NOWHERE).args(["migrate", action]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let schema = || {
        let database = crate::support::Database(folder.path().join("streamgauge.db"));
        database.texts("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%sqlx%' ORDER BY name")
    };
    migrate("up");
    let migrated = schema();
    let count = migrate("status").lines().filter(|line| line.starts_with("applied")).count();
    for _ in 0..count {
        migrate("down");
    }
    assert_eq!(schema(), Vec::<String>::new());
    assert_eq!(command(folder.path(), NOWHERE).arg("status").output().unwrap().status.code(), Some(1));
    migrate("down");
    migrate("up");
    assert_eq!(schema(), migrated);
    let funnels = command(folder.path(), NOWHERE).args(["funnel", "list"]).output().unwrap();
    assert!(funnels.status.success() && funnels.stdout.is_empty());
    assert!(text(&funnels.stderr).contains("there are no funnels"), "{}", text(&funnels.stderr));
}

/// The public tables match the specification to the letter. Our own columns follow the specified ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_the_specifications() {
    let folder = tempfile::tempdir().unwrap();
    assert!(command(folder.path(), NOWHERE).args(["migrate", "up"]).status().unwrap().success());
    let database = crate::support::Database(folder.path().join("streamgauge.db"));
    let columns = |table: &str| database.texts(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"));
    let spec = "id event_type event_name timestamp session_id user_id properties context page_url referrer";
    assert_eq!(columns("analytics_events").join(" "), format!("{spec} epoch stream_seq recv_ms supplied anonymous_id"));
    let spec = "id name metric_type value timestamp tags unit";
    assert_eq!(columns("metrics").join(" "), format!("{spec} epoch stream_seq recv_ms supplied"));
    let tables =
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY name";
    assert_eq!(
        database.texts(tables).join(" "),
        "analytics_events analytics_sessions dashboard_metrics feature_usage funnel_conversions funnels \
         metric_aggregates metrics user_activity"
    );
    let indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'idx\\_%' ESCAPE '\\'";
    assert_eq!(database.texts(indexes).len(), 19);
}

#[test]
fn configuration_mistakes_end_with_2_and_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[stream]\nnmae = \"X\"\n").unwrap();
    for arguments in [["--config", "wrong.toml", "check"], ["check", "--config", "wrong.toml"]] {
        let output = command(folder.path(), NOWHERE).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("nmae"), "{}", text(&output.stderr));
    }
    // The error points at the place in the expression.
    let widget = "[[widgets]]\nid = 'w'\nmetrics = { p = 'metric.a{b=c}.p98' }\n";
    std::fs::write(&file, widget).unwrap();
    let output = command(folder.path(), NOWHERE).args(["--config", "wrong.toml", "check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(lines[0].contains("widget \"w\": metrics.p: character 15: \"p98\" is none of count, sum"), "{lines:?}");
    assert_eq!(lines[1..3], ["    metric.a{b=c}.p98", &format!("    {:>15}", '^')]);
    let usage = command(folder.path(), NOWHERE).arg("frobnicate").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    for flag in ["--config", "--nats", "--database"] {
        let output = command(folder.path(), NOWHERE).args(["demo", flag, "x"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(&format!("demo takes no {flag}")), "{}", text(&output.stderr));
    }
    let by_env = command(folder.path(), NOWHERE).env("STREAMGAUGE_BATCH__MAX_DELAY", "soon").arg("check").output();
    assert_eq!(by_env.unwrap().status.code(), Some(2));
}

#[test]
fn check_prints_what_results_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("streamgauge.toml"),
        "[stream]\nconsumer = \"from-file\"\n[http]\ntoken = \"s3cret-a\"\n",
    )
    .unwrap();
    let output = command(folder.path(), "nats://me:s3cret-b@127.0.0.1:4222")
        .env("NATS_USER", "me")
        .env("NATS_PASSWORD", "s3cret-c")
        .arg("check")
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success());
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.contains("consumer = \"from-file\"") && printed.contains("max_delay = \"50ms\""), "{printed}");
    // The output is a valid configuration.
    let copy = folder.path().join("copy.toml");
    std::fs::write(&copy, printed).unwrap();
    let again = command(folder.path(), NOWHERE)
        .env_remove("NATS_URL")
        .arg("--config")
        .arg(&copy)
        .arg("check")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
}

/// The example configuration gives the defaults, and the program knows every key in it.
#[test]
fn the_example_configuration_is_the_default_one() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let mut command = command(folder.path(), NOWHERE);
        for name in ["NATS_URL", "DATABASE_URL", "STREAMGAUGE_HTTP__LISTEN"] {
            command.env_remove(name);
        }
        let output = command.arg("check").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/streamgauge.toml");
    assert_eq!(check(&["--config", example]), check(&[]));
    // The program also knows the keys that are commented out.
    let is_key = |line: &str| line.contains(" = ") || line.starts_with('[');
    let lines = std::fs::read_to_string(example).unwrap();
    let keys = lines.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line));
    let all: Vec<&str> = keys.filter(|line| !line.starts_with("nkey") && !line.starts_with("credentials")).collect();
    let file = folder.path().join("all.toml");
    std::fs::write(&file, all.join("\n")).unwrap();
    assert!(check(&["--config", file.to_str().unwrap()]).contains("max_age = \"400d\""));
}

#[test]
fn completions_are_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = command(folder.path(), NOWHERE).args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains("funnel"), "{shell}");
    }
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(streamgauge fu); COMP_CWORD=1; \
                  _streamgauge streamgauge fu; echo \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_streamgauge")]).output();
    assert_eq!(text(&output.unwrap().stdout), "funnel\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_tells_which_lines_failed() {
    let folder = tempfile::tempdir().unwrap();
    let output = with_input(command(folder.path(), NOWHERE).arg("publish"), b"{}\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot connect to NATS at nats://127.0.0.1:1"), "{}", text(&output.stderr));

    let server = NatsServer::start().await;
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let mut input = b"{\"event_type\":\"t\",\"event_name\":\"n\"}\n".to_vec();
    input.extend(vec![b'x'; (1 << 20) + 1]);
    let output = with_input(worker.command().arg("publish"), &input);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("published 1, known already 0, failed 1") && message.contains("line 2: "), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_reports_lines_of_a_pipe_that_stays_open_and_ends_at_a_signal() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let start = |patience: &str| {
        let mut command = worker.command();
        command.args(["publish", "--patience", patience]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let line = b"{\"event_type\":\"t\",\"event_name\":\"n\"}\n";
    let ended = async |mut process: std::process::Child| {
        wait_for("publish to end", || process.try_wait().unwrap().is_some()).await;
        process.wait_with_output().unwrap()
    };

    let mut interrupted = start("60s");
    interrupted.stdin.as_mut().unwrap().write_all(line).unwrap();
    let database = worker.database();
    wait_for("the line", || database.count("analytics_events") == 1).await;
    let pid = interrupted.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let stdin = interrupted.stdin.take();
    let output = ended(interrupted).await;
    let message = text(&output.stderr);
    assert!(message.contains("published 1,") && message.contains("interrupted: nothing after line 1"), "{message}");
    assert_eq!(output.status.code(), Some(1));
    drop(stdin);

    let mut failing = start("1s");
    failing.stdin.as_mut().unwrap().write_all(line).unwrap();
    wait_for("the line", || database.count("analytics_events") == 2).await;
    server.kill();
    for _ in 0..3 {
        failing.stdin.as_mut().unwrap().write_all(line).unwrap();
    }
    let stdin = failing.stdin.take();
    let output = ended(failing).await;
    let message = text(&output.stderr);
    assert!(message.contains("published 1, known already 0, failed 3"), "{message}");
    assert!(message.contains("lines 2 to 4: not acknowledged within 1s: not connected to NATS"), "{message}");
    assert!(message.contains("gave up: nothing after line 4 was sent"), "{message}");
    drop(stdin);
}
