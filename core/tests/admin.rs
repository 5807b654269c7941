//! The admin endpoint of a real node: the binary is started, spoken to through raw sockets, and scraped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use chronik_net::codec::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_net::codec::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, GroupId, MetadataRequest, OffsetCommitRequest,
    OffsetCommitResponse, TopicName,
};
use chronik_net::codec::{
    ApiKey, FetchPartition, FetchRequest, FetchResponse, FetchTopic, FrameReader, ProducePartition,
    ProduceRequest, ProduceTopic, RequestHeader, StrBytes, TopicRef, Writer,
};
use chronik_wal::records::BatchBuilder;
use kafka_protocol::protocol::{Decodable, Encodable};

/// What a debug build on a busy machine may need to start, and to do anything else.
const PATIENCE: Duration = Duration::from_secs(60);

const CLIENT_ID: &str = "admin-test";

/// A node of this test. Killed when dropped.
struct Node {
    child: Child,
    log: PathBuf,
    directory: tempfile::TempDir,
}

impl Node {
    /// Starts a node on free ports with these further arguments.
    fn start(arguments: &[&str]) -> Self {
        // The target directory lies on a real disk, which the WAL's O_DIRECT needs.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let log = directory.path().join("log");
        let child =
            command(&directory.path().join("data"), arguments).stderr(File::create(&log).unwrap()).spawn();
        let node = Self { child: child.unwrap(), log, directory };
        node.wait_for("ready");
        node
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The first line of the log that holds `what`.
    fn wait_for(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "no '{what}' in the log of {:?}:\n{log}",
                self.directory.path()
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// The address in a line of the log.
    fn address(&self, line: &str, before: &str) -> SocketAddr {
        let line = self.wait_for(line);
        let rest = &line[line.find(before).unwrap() + before.len()..];
        rest.split(['"', '\\', ' ']).next().unwrap().parse().unwrap()
    }

    fn admin(&self) -> SocketAddr {
        self.address("admin endpoint listens", "address=")
    }

    fn kafka(&self) -> SocketAddr {
        self.address("ready", "PLAINTEXT://")
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(self.admin(), path)
    }

    /// SIGTERM, and how the process ends.
    fn stop(&mut self) -> ExitStatus {
        let process = i32::try_from(self.child.id()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(process).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        wait(&mut self.child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-server"));
    command.args(["start", "--shards", "2", "--kafka", "127.0.0.1:0", "--data-dir"]).arg(data);
    if !arguments.contains(&"--admin") {
        command.args(["--admin", "127.0.0.1:0"]);
    }
    command.args(arguments).env_remove("CHRONIK_LOG").stdout(Stdio::null());
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "the process does not end");
        sleep(Duration::from_millis(10));
    }
}

/// Sends bytes to the endpoint and reads until it closes.
fn exchange(admin: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    let response = exchange(admin, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = response.split_once("\r\n\r\n").expect("a whole response");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A Kafka client on one connection.
struct Client(TcpStream);

impl Client {
    fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(node.kafka()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends a frame and gives the response's body, its header read.
    fn call(&mut self, header: &RequestHeader, frame: &[u8]) -> FrameReader {
        self.0.write_all(frame).unwrap();
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut body = BytesMut::zeroed(u32::from_be_bytes(length) as usize);
        self.0.read_exact(&mut body).unwrap();
        let mut frame = FrameReader::new(body, header.api.flexible(header.api_version));
        assert_eq!(header.decode_response_header(&mut frame).unwrap(), header.correlation_id);
        frame
    }

    /// As [`Client::call`], for the messages of the general codec.
    fn ask<Q: Encodable, A: Decodable>(&mut self, api: ApiKey, version: i16, question: &Q) -> A {
        let header = header(api, version);
        let mut writer = Writer::new(false, 64);
        header.encode(&mut writer);
        let mut frame = BytesMut::from(&writer.finish().unwrap().to_contiguous()[4..]);
        question.encode(&mut frame, version).unwrap();
        let mut whole = BytesMut::new();
        whole.put_u32(frame.len() as u32);
        whole.extend_from_slice(&frame);
        let mut answer = self.call(&header, &whole).into_rest();
        A::decode(&mut answer, version).unwrap()
    }

    fn produce(&mut self, topic: &str, count: i64) -> i16 {
        let mut builder = BatchBuilder::new();
        for number in 0..count {
            builder.push(1_700_000_000_000 + number, None, Some(b"twenty bytes of value"));
        }
        let header = header(ApiKey::Produce, 9);
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 30_000,
            topics: vec![ProduceTopic {
                topic: TopicRef::Name(text(topic)),
                partitions: vec![ProducePartition { index: 0, records: Some(builder.build().unwrap()) }],
            }],
        };
        let frame = request.encode(&header).unwrap().to_contiguous();
        let mut answer = self.call(&header, &frame);
        let response = chronik_net::codec::ProduceResponse::decode(&mut answer, header.api_version).unwrap();
        response.topics[0].partitions[0].error.code()
    }

    fn fetch(&mut self, topic: &str) -> (i16, usize) {
        let header = header(ApiKey::Fetch, 11);
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            session_epoch: 0,
            topics: vec![FetchTopic {
                topic: TopicRef::Name(text(topic)),
                partitions: vec![FetchPartition::from_offset(0, 0, 1 << 20)],
            }],
            ..FetchRequest::default()
        };
        let frame = request.encode(&header).unwrap().to_contiguous();
        let mut answer = self.call(&header, &frame);
        let response = FetchResponse::decode(&mut answer, header.api_version).unwrap();
        let partition = &response.topics[0].partitions[0];
        (partition.error.code(), partition.records.iter().map(bytes::Bytes::len).sum())
    }

    /// Commits an offset once the coordinator is there.
    fn commit(&mut self, group: &str, topic: &str, offset: i64) {
        let mut find = FindCoordinatorRequest::default();
        find.key = text(group);
        until(|| self.ask::<_, FindCoordinatorResponse>(ApiKey::FindCoordinator, 3, &find).error_code == 0);
        let mut partition = OffsetCommitRequestPartition::default();
        partition.committed_offset = offset;
        let mut committed = OffsetCommitRequestTopic::default();
        committed.name = TopicName(text(topic));
        committed.partitions = vec![partition];
        let mut request = OffsetCommitRequest::default();
        request.group_id = GroupId(text(group));
        request.generation_id_or_member_epoch = -1;
        request.topics = vec![committed];
        until(|| {
            let response: OffsetCommitResponse = self.ask(ApiKey::OffsetCommit, 8, &request);
            response.topics[0].partitions[0].error_code == 0
        });
    }

    /// Asks for the topic's metadata, which creates it, until it has a leader.
    fn create(&mut self, topic: &str) {
        let mut wanted = chronik_net::codec::messages::metadata_request::MetadataRequestTopic::default();
        wanted.name = Some(TopicName(text(topic)));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![wanted]);
        request.allow_auto_topic_creation = true;
        until(|| {
            let response: chronik_net::codec::messages::MetadataResponse =
                self.ask(ApiKey::Metadata, 9, &request);
            let partitions = &response.topics[0].partitions;
            !partitions.is_empty() && partitions.iter().all(|p| p.error_code == 0 && p.leader_id.0 == 1)
        });
    }
}

fn header(api: ApiKey, api_version: i16) -> RequestHeader {
    RequestHeader { api, api_version, correlation_id: 7, client_id: Some(text(CLIENT_ID)) }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it does not come to pass");
        sleep(Duration::from_millis(10));
    }
}

/// The samples of a scrape by name and labels. Fails on a line that is not the text format's.
fn samples(metrics: &str) -> BTreeMap<String, f64> {
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in metrics.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.split_once(' ').is_some_and(|(_, text)| text.ends_with('.')), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is declared twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let declared = types.get(name).or_else(|| types.get(family?).filter(|kind| *kind == "histogram"));
            let declared = declared.unwrap_or_else(|| panic!("{name} has no TYPE"));
            assert_eq!(declared == "counter", name.ends_with("_total"), "{line}");
            assert!(series.len() == name.len() || series.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
    }
    samples
}

/// A scrape, and its samples, once all partitions are led: those of the offsets topic were only just made.
fn scrape_at_rest(node: &Node) -> (String, BTreeMap<String, f64>) {
    let begun = Instant::now();
    loop {
        let (status, metrics) = node.get("/metrics");
        assert_eq!(status, 200);
        let samples = samples(&metrics);
        let sample = |series: &str| samples.get(series).copied();
        let unrest = ["chronik_offline_partitions", "chronik_coordinators_loading"];
        let at_rest = unrest.iter().all(|series| sample(series) == Some(0.0))
            && sample("chronik_partitions") == sample("chronik_leaders");
        // What never comes to rest fails by the caller's checks, which say where.
        if at_rest || begun.elapsed() > PATIENCE {
            return (metrics, samples);
        }
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_promised_series_is_fed_by_real_traffic() {
    let mut node = Node::start(&[]);
    let mut client = Client::connect(&node);
    client.create("orders");
    assert_eq!(client.produce("orders", 100), 0);
    let (error, bytes) = client.fetch("orders");
    assert!(error == 0 && bytes > 2_000);
    client.commit("readers", "orders", 30);
    assert_ne!(client.produce("no such topic", 1), 0);
    assert_ne!(client.fetch("no such topic").0, 0);

    let (metrics, samples) = scrape_at_rest(&node);
    let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("no {series} in:\n{metrics}"));
    let exact = [
        ("chronik_records_in_total", 100.0),
        ("chronik_record_bytes_out_total", bytes as f64),
        ("chronik_produce_failed_total", 1.0),
        ("chronik_fetch_failed_total", 1.0),
        ("chronik_connections", 1.0),
        ("chronik_connections_accepted_total", 1.0),
        ("chronik_connections_refused_total", 0.0),
        ("chronik_connections_moved_total{shard=\"0\"}", 0.0),
        ("chronik_connections_moved_total{shard=\"1\"}", 0.0),
        ("chronik_active_controller", 1.0),
        ("chronik_brokers", 1.0),
        ("chronik_topics", 2.0),
        ("chronik_offline_partitions", 0.0),
        ("chronik_under_replicated_partitions", 0.0),
        ("chronik_under_min_isr_partitions", 0.0),
        ("chronik_damaged_partitions", 0.0),
        ("chronik_coordinators_loading", 0.0),
        ("chronik_requests_total{api=\"Produce\"}", 2.0),
        ("chronik_request_seconds_count{api=\"Produce\"}", 2.0),
        ("chronik_request_seconds_bucket{le=\"+Inf\",api=\"Fetch\"}", 2.0),
        ("chronik_partition_log_start_offset{topic=\"orders\",partition=\"0\"}", 0.0),
        ("chronik_partition_log_end_offset{topic=\"orders\",partition=\"0\"}", 100.0),
        ("chronik_partition_high_watermark{topic=\"orders\",partition=\"0\"}", 100.0),
        ("chronik_group_committed_offset{group=\"readers\",topic=\"orders\",partition=\"0\"}", 30.0),
        ("chronik_group_lag{group=\"readers\",topic=\"orders\",partition=\"0\"}", 70.0),
        ("chronik_group_members{group=\"readers\"}", 0.0),
        ("chronik_groups{state=\"Empty\"}", 1.0),
        ("chronik_groups{state=\"Stable\"}", 0.0),
        ("chronik_metrics_left_out{kind=\"partition\"}", 0.0),
        ("chronik_metrics_left_out{kind=\"group\"}", 0.0),
        ("chronik_metrics_left_out{kind=\"committed_offset\"}", 0.0),
        ("chronik_shard_up{shard=\"0\"}", 1.0),
        ("chronik_shard_up{shard=\"1\"}", 1.0),
        ("chronik_build_info{version=\"0.1.0\",node=\"1\"}", 1.0),
    ];
    for (series, expected) in exact {
        assert_eq!(value(series), expected, "{series}");
    }
    let positive = [
        "chronik_uptime_seconds",
        "chronik_record_bytes_in_total",
        "chronik_request_seconds_sum{api=\"Produce\"}",
        "chronik_request_bytes_total{api=\"Produce\"}",
        "chronik_wal_write_seconds_count{shard=\"0\"}",
        "chronik_wal_write_seconds_sum{shard=\"0\"}",
        "chronik_wal_written_bytes_total{shard=\"0\"}",
        "chronik_wal_used_bytes{shard=\"0\"}",
        "chronik_tail_bytes{shard=\"0\"}",
        "chronik_shard_busy_seconds_total{shard=\"0\"}",
        "chronik_shard_busy_seconds_total{shard=\"1\"}",
        "chronik_fetch_sessions",
        "chronik_leadership_changes_total",
        "chronik_partitions",
        "chronik_partition_size_bytes{topic=\"orders\",partition=\"0\"}",
        "chronik_disk_total_bytes",
        "chronik_disk_free_bytes",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
    ];
    for series in positive {
        assert!(value(series) > 0.0, "{series}");
    }
    for name in ["safety_wakes_total", "timer_late_seconds_max"] {
        assert!(value(&format!("chronik_shard_{name}{{shard=\"0\"}}")) >= 0.0);
    }
    let idle = ["wal_pending_bytes", "produce_waiting", "produce_stalled", "fetch_waiting", "file_jobs"];
    for name in idle {
        assert!(value(&format!("chronik_{name}{{shard=\"0\"}}")) >= 0.0);
    }
    assert!(value("chronik_partition_segments{topic=\"orders\",partition=\"0\"}") >= 0.0);
    assert_eq!(value("chronik_partitions"), value("chronik_leaders"));

    status_agrees(&node);
    assert!(node.stop().success());
}

/// What `/health` and `/v1/…` say after the traffic of the test above.
fn status_agrees(node: &Node) {
    let json = |path: &str| {
        let (status, body) = node.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(json(path)["status"], "ok", "{path}");
    }
    let status = json("/v1/status");
    assert_eq!(
        (&status["node"], &status["controller"], &status["topics"]),
        (&1.into(), &1.into(), &2.into())
    );
    assert_eq!(status["cluster_id"].as_str().unwrap().len(), 22);
    assert_eq!(status["listeners"][0]["address"], node.kafka().to_string());
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    assert_eq!(status["shards"][1]["answers"], true);
    let partitions = json("/v1/partitions?limit=1000");
    let orders = partitions["partitions"].as_array().unwrap().iter().find(|row| row["topic"] == "orders");
    let orders = orders.expect("the topic is listed");
    assert_eq!((&orders["high_watermark"], &orders["leader"]), (&100.into(), &1.into()));
    assert_eq!(orders["in_sync"], serde_json::json!([1]));
    let groups = json("/v1/groups");
    assert_eq!(groups["groups"][0]["group"], "readers");
    assert_eq!(groups["groups"][0]["lag"], 70);
    assert_eq!(json("/v1/groups?after=readers")["groups"], serde_json::json!([]));
}

#[test]
fn bad_http_is_refused_and_slow_clients_block_nobody() {
    let mut node = Node::start(&[]);
    let admin = node.admin();
    let status = |request: &[u8]| exchange(admin, request).split(' ').nth(1).map(str::to_owned);
    assert_eq!(status(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").as_deref(), Some("405"));
    assert_eq!(status(b"GET /nothing HTTP/1.1\r\n\r\n").as_deref(), Some("404"));
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00\x01").as_deref(), Some("400"));
    assert_eq!(status(b"BREW / COFFEE\r\n\r\n").as_deref(), Some("400"));
    let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
    long.resize(20_000, b'x');
    assert_eq!(status(&long).as_deref(), Some("431"));
    assert_eq!(status(b"GET /v1/partitions?limit=-1 HTTP/1.1\r\n\r\n").as_deref(), Some("400"));

    let half = |_| {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.write_all(b"GET /metr").unwrap();
        stream
    };
    let slow: Vec<TcpStream> = (0..24).map(half).collect();
    let begun = Instant::now();
    assert_eq!(node.get("/health/live").0, 200);
    assert!(begun.elapsed() < Duration::from_secs(4), "nobody waits for a slow client");
    let more: Vec<TcpStream> = (0..8).map(half).collect();
    assert_eq!(node.get("/health/live").0, 503, "there is a bound");
    drop((slow, more));
    until(|| node.get("/health/live").0 == 200);
    let _held = TcpStream::connect(admin).unwrap();
    let begun = Instant::now();
    assert!(node.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "a client that says nothing does not keep the node");
}

#[test]
fn a_busy_admin_port_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = command(&directory.path().join("data"), &["--admin", &address]).output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&format!("listener admin: {address} is in use")), "{told}");
}

#[test]
fn the_endpoint_listens_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        // This machine has no IPv6, so there is nothing that could be listened on.
        return;
    }
    let node = Node::start(&["--admin", "[::1]:0"]);
    assert!(node.admin().is_ipv6());
    assert_eq!(node.get("/health").0, 200);
}

#[test]
fn the_log_tells_of_requests_at_debug_only_and_without_colours() {
    let quiet = Node::start(&[]);
    let mut client = Client::connect(&quiet);
    client.create("t");
    assert_eq!(client.produce("t", 1), 0);
    assert_eq!(quiet.get("/metrics").0, 200);
    let log = quiet.log();
    assert!(!log.contains(CLIENT_ID) && !log.contains("connection accepted"), "{log}");
    assert!(!log.contains('\x1b'), "standard error is a file here");
    drop(quiet);

    let debug = ["--log", "info,chronik_core::handlers=debug", "--log-format", "json"];
    let talkative = Node::start(&debug);
    let mut client = Client::connect(&talkative);
    client.create("t");
    assert_eq!(client.produce("t", 1), 0);
    talkative.wait_for("\"Produce\"");
    let log = talkative.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |message: &str| lines.iter().filter(|line| line["fields"]["message"] == message).count();
    assert_eq!(count("connection accepted"), 1);
    let produce = lines.iter().find(|line| line["fields"]["api"] == "Produce").unwrap();
    let fields = &produce["fields"];
    assert_eq!((&fields["key"], &fields["version"]), (&0.into(), &9.into()));
    assert_eq!((&fields["client_id"], &produce["level"]), (&CLIENT_ID.into(), &"DEBUG".into()));
    for line in &lines {
        let message = line["fields"]["message"].as_str().unwrap();
        let first = message.chars().next().unwrap();
        assert!(!first.is_uppercase() || message.starts_with("WAL"), "log lines are lowercase: {message}");
    }
}
