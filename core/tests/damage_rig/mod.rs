//! A server process and a client that speaks raw frames.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use chronik_wal::batch::batches;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::records::{BatchBuilder, Records};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

/// Longer than any start or answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-server"));
    command.args(["start", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1"]);
    command.args(["--log", "info,chronik_core=debug", "--data-dir"]).arg(dir);
    if !more.contains(&"--node-id") {
        command.args(["--node-id", "1"]);
    }
    command.args(more).stdout(Stdio::null()).stderr(Stdio::piped()).env("NO_COLOR", "1");
    command
}

/// Starts a server that must not start; what it said. Exactly one line, and a failure's exit code.
pub fn start_fails(dir: &Path, more: &[&str]) -> String {
    let output = command(dir, more).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("chronik-server: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

/// Runs `log repair`: exit code, standard output, standard error.
pub fn repair(dir: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-server"));
    let output = command.args(["log", "repair", "--data-dir"]).arg(dir).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Starts and stops until the WAL has been recycled: all that was written before lies below a checkpoint then.
pub fn free_segments(dir: &Path) {
    for round in 0..12u32 {
        let server = Server::start(dir);
        // Where it took some rounds already the machine is slow, and needs longer within a round.
        let patience = Duration::from_millis(600) * (2.max(round) - 1);
        let freed = server.wait_for("WAL segment freed", patience);
        server.stop();
        if freed {
            return;
        }
    }
    panic!("the WAL was never recycled");
}

impl Server {
    pub fn start(dir: &Path) -> Self {
        let mut child = command(dir, &[]).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut server = Self { child, port: 0, log };
        let begun = Instant::now();
        while !server.log().contains("ready") {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?} {}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = server.log();
        let (_, after) = log.split_once("PLAINTEXT://127.0.0.1:").expect("the ready line names the port");
        server.port = after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        server
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn wait_for(&self, text: &str, patience: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.log().contains(text) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub fn client(&self) -> Client {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { socket, correlation: 0 }
    }

    /// Stops it as a service manager does.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status} {}", self.log());
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
pub struct Client {
    socket: TcpStream,
    correlation: i32,
}

/// The outcome of a fetch of one partition.
#[derive(Debug)]
pub struct Fetched {
    pub error: i16,
    /// Epoch and end offset of the log's last common part.
    pub diverging: Option<(i32, i64)>,
    /// Values at the offset asked for and after.
    pub values: Vec<String>,
    next: i64,
    high_watermark: i64,
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

impl Client {
    fn call<Q: Encodable, A: Decodable>(&mut self, api: ApiKey, version: i16, request: &Q) -> A {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation);
        let mut frame = BytesMut::new();
        header.encode(&mut frame, 2).unwrap();
        request.encode(&mut frame, version).unwrap();
        self.socket.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        self.socket.write_all(&frame).unwrap();
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.socket.read_exact(&mut answer).unwrap();
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, 1).unwrap();
        assert_eq!(header.correlation_id, self.correlation);
        let body = A::decode(&mut answer, version).unwrap();
        assert!(!answer.has_remaining());
        body
    }

    pub fn create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let topic = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer: CreateTopicsResponse = self.call(ApiKey::CreateTopics, 7, &request);
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
    }

    /// Asks again for as long as the partition has no leader yet, as right after a start or its creation.
    fn until_led<T>(&mut self, mut ask: impl FnMut(&mut Self) -> (i16, T)) -> T {
        let begun = Instant::now();
        loop {
            let (code, outcome) = ask(self);
            if ![3, 5, 6].contains(&code) || begun.elapsed() > PATIENCE {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Error code and base offset of a batch of one record.
    pub fn produce(&mut self, topic: &str, partition: i32, value: &str) -> (i16, i64) {
        let mut builder = BatchBuilder::new();
        builder.push(1, None, Some(value.as_bytes()));
        let records = builder.build().unwrap().freeze();
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        self.until_led(|client| {
            let answer: ProduceResponse = client.call(ApiKey::Produce, 9, &request);
            let outcome = &answer.responses[0].partition_responses[0];
            (outcome.error_code, (outcome.error_code, outcome.base_offset))
        })
    }

    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, last_epoch: i32) -> Fetched {
        let one = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_last_fetched_epoch(last_epoch)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![one]);
        let request = FetchRequest::default()
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let outcome = self.until_led(|client| {
            let answer: FetchResponse = client.call(ApiKey::Fetch, 12, &request);
            let outcome = answer.responses[0].partitions[0].clone();
            (outcome.error_code, outcome)
        });
        let (mut values, mut next) = (Vec::new(), offset);
        let data = outcome.records.clone().unwrap_or_default();
        for (info, batch) in batches(&data).map(|batch| batch.expect("whole batches, checksums right")) {
            let records = Records::open(batch, &DecompressCaps::default()).unwrap();
            for record in &records {
                let record = record.unwrap();
                if record.offset.0 >= offset {
                    values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                }
            }
            next = info.next_offset().0;
        }
        let diverging = Some((outcome.diverging_epoch.epoch, outcome.diverging_epoch.end_offset));
        Fetched {
            error: outcome.error_code,
            diverging: diverging.filter(|(epoch, _)| *epoch >= 0),
            values,
            next,
            high_watermark: outcome.high_watermark,
        }
    }

    /// Every value of a partition, or the error met.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> Result<Vec<String>, i16> {
        let mut values = Vec::new();
        let mut next = 0;
        loop {
            let fetched = self.fetch(topic, partition, next, -1);
            if fetched.error != 0 {
                return Err(fetched.error);
            }
            values.extend(fetched.values);
            next = fetched.next;
            if next >= fetched.high_watermark {
                return Ok(values);
            }
        }
    }

    /// Error code and latest offset.
    pub fn end_offset(&mut self, topic: &str, partition: i32) -> (i16, i64) {
        let one = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(-1);
        let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![one]);
        let request = ListOffsetsRequest::default().with_topics(vec![topic]);
        self.until_led(|client| {
            let answer: ListOffsetsResponse = client.call(ApiKey::ListOffsets, 7, &request);
            let outcome = &answer.topics[0].partitions[0];
            (outcome.error_code, (outcome.error_code, outcome.offset))
        })
    }

    fn metadata(&mut self, topic: &str) -> MetadataResponse {
        let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let request = request.with_allow_auto_topic_creation(false);
        self.call(ApiKey::Metadata, 9, &request)
    }

    /// The partitions that Metadata lists.
    pub fn partitions(&mut self, topic: &str) -> BTreeSet<i32> {
        self.metadata(topic).topics[0].partitions.iter().map(|partition| partition.partition_index).collect()
    }

    /// The leader epoch that Metadata gives.
    pub fn epoch(&mut self, topic: &str, partition: i32) -> i32 {
        let answer = self.metadata(topic);
        let found = answer.topics[0].partitions.iter().find(|found| found.partition_index == partition);
        found.unwrap().leader_epoch
    }
}
