use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::support::{NatsServer, Worker, event, publish_all};

/// A client that sends any bytes.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn connect(server: &NatsServer) -> Self {
        let mut raw = Self(BufReader::new(TcpStream::connect(("127.0.0.1", server.port())).unwrap()));
        raw.send(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n");
        raw.settle();
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Waits until the server has processed everything.
    fn settle(&mut self) {
        self.send(b"PING\r\n");
        let mut line = String::new();
        while !line.starts_with("PONG") {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the server hung up");
            assert!(!line.starts_with("-ERR"), "{line}");
        }
    }

    fn publish(&mut self, subject: &[u8], headers: Option<&[u8]>, body: &[u8]) {
        let sizes = headers
            .map_or(format!("{}", body.len()), |headers| format!("{} {}", headers.len(), headers.len() + body.len()));
        self.send(if headers.is_some() { b"HPUB " } else { b"PUB " });
        self.send(subject);
        self.send(format!(" {sizes}\r\n").as_bytes());
        self.send(headers.unwrap_or_default());
        self.send(body);
        self.send(b"\r\n");
        self.settle();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_the_client_cannot_parse_block_nothing() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let mut raw = Raw::connect(&server);
    let headers: [&[u8]; 6] = [
        b"nonsense\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\nbad name: x\r\n\r\n",
        b"NATS/1.0\r\nNats-Msg-Id: caf\xe9\r\n\r\n",
        // This header makes async-nats 0.51 panic in its background task.
        b"NATS/1.0\r\nA: b\rc\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
    ];
    let mut count = 0;
    for (at, headers) in headers.iter().enumerate() {
        raw.publish(b"analytics.events", Some(headers), event(&format!("poison-{at}")).as_bytes());
        let good = ("analytics.events".to_owned(), event(&format!("good-{at}")).into_bytes());
        publish_all(&jetstream, vec![good]).await;
        count += 2;
    }
    raw.publish(b"analytics.events.\xff\xfe", None, event("odd-subject").as_bytes());
    let last_seq = publish_all(&jetstream, vec![("analytics.events".to_owned(), event("last").into_bytes())]).await;
    worker.applied(last_seq).await;

    let database = worker.database();
    assert_eq!(database.count("analytics_events"), count + 2, "{}", worker.log());
    assert_eq!(database.count("_gaps"), 0);
    database.assert_account_balances();
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_larger_than_any_pull_blocks_nothing() {
    let mut server = NatsServer::start_with_max_payload(16 << 20).await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_BATCH__MAX_BYTES", "1MiB");
    worker.start_reading().await;
    worker.kill();
    let message = |payload: Vec<u8>| ("analytics.events".to_owned(), payload);
    let messages = vec![
        message(event("before").into_bytes()),
        message(vec![b'x'; 12 << 20]),
        message(event("after").into_bytes()),
    ];
    let last_seq = publish_all(&server.jetstream().await, messages).await;
    server.restart_with_max_payload(1 << 20).await;
    worker.start();
    worker.applied(last_seq).await;
    let database = worker.database();
    assert_eq!(database.count("analytics_events"), 2);
    assert_eq!(database.count("_rejections WHERE reason = 'payload_too_large' AND length(payload) = 12582912"), 1);
}
