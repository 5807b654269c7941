//! A small blocking client of our own over `chronik_net::codec`: for chaos, where a second counts, and for bytes that no
//! client library would send. One connection, one request at a time, no retries.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use chronik_net::codec::{
    ApiKey, ErrorCode, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
    FrameReader, MetadataRequest, MetadataRequestTopic, MetadataResponse, ProducePartition,
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic, RequestHeader, ResponseFrame,
    StrBytes, TopicRef, Uuid,
};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use kafka_protocol::protocol::{Decodable, Encodable};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer takes longer, even on a machine busy with other tests.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a broker may take for a batch.
const PRODUCE_TIMEOUT_MS: i32 = 10_000;
/// Answers above this are refused; no test asks for more.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// The last versions that name topics rather than give their ids.
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const METADATA_VERSION: i16 = 12;

/// A connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    next_correlation_id: i32,
}

impl Connection {
    /// Connects to `address` (host:port), which must succeed.
    #[must_use]
    pub fn open(address: &str) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects to `address` (host:port).
    pub fn try_open(address: &str) -> Result<Self> {
        Self::try_open_within(address, ANSWER_TIMEOUT)
    }

    /// Connects to `address` (host:port); neither this nor an answer may take longer than `timeout`.
    pub fn try_open_within(address: &str, timeout: Duration) -> Result<Self> {
        let address: SocketAddr = address.parse().context("an address and a port")?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, next_correlation_id: 1 })
    }

    /// The socket, for those who misbehave on it.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The header of a request yet to be sent.
    pub fn header(&mut self, api: ApiKey, api_version: i16) -> RequestHeader {
        self.next_correlation_id += 1;
        let client_id = Some(StrBytes::from_static_str("chronik-tests"));
        RequestHeader { api, api_version, correlation_id: self.next_correlation_id, client_id }
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a frame: its length, then `body`.
    pub fn send_frame(&mut self, body: &[u8]) -> Result<()> {
        let length = i32::try_from(body.len()).context("a frame has at most 2 GiB")?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        self.send_raw(&frame)
    }

    /// The next frame, without its length.
    pub fn receive(&mut self) -> Result<BytesMut> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).context("a length is not negative")?;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut frame = BytesMut::zeroed(length);
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// True when the other side has closed the connection, or does so within `timeout` without having answered anything.
    pub fn closes_within(&mut self, timeout: Duration) -> bool {
        self.stream.set_read_timeout(Some(timeout)).expect("a timeout can be set");
        let closed = match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a timeout can be set");
        closed
    }

    /// Sends a hand-written request and gives the body of its answer.
    fn call(&mut self, header: &RequestHeader, frame: &ResponseFrame) -> Result<FrameReader> {
        self.send_raw(&frame.to_contiguous())?;
        self.answer(header)
    }

    fn answer(&mut self, header: &RequestHeader) -> Result<FrameReader> {
        let mut reader = FrameReader::new(self.receive()?, false);
        let correlation_id = header.decode_response_header(&mut reader)?;
        ensure!(correlation_id == header.correlation_id, "answers come in the order of requests");
        Ok(reader)
    }

    /// Sends a request of the general codec and gives its answer.
    pub fn ask<A: Encodable, B: Decodable>(&mut self, api: ApiKey, version: i16, request: &A) -> Result<B> {
        let header = self.header(api, version);
        self.send_frame(&encode(&header, request)?)?;
        let mut body = self.answer(&header)?.into_rest().freeze();
        B::decode(&mut body, version)
    }

    /// All topics and brokers.
    pub fn metadata_all(&mut self) -> Result<MetadataResponse> {
        self.metadata_request(&MetadataRequest {
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        })
    }

    /// One topic, made if it is not there and `create` says so.
    pub fn metadata(&mut self, topic: &str, create: bool) -> Result<MetadataResponse> {
        let name = Some(StrBytes::from(topic.to_string()));
        let topics = Some(vec![MetadataRequestTopic { topic_id: Uuid::nil(), name }]);
        self.metadata_request(&MetadataRequest {
            topics,
            allow_auto_topic_creation: create,
            ..MetadataRequest::default()
        })
    }

    fn metadata_request(&mut self, request: &MetadataRequest) -> Result<MetadataResponse> {
        let header = self.header(ApiKey::Metadata, METADATA_VERSION);
        let mut reader = self.call(&header, &request.encode(&header)?)?;
        Ok(MetadataResponse::decode(&mut reader, METADATA_VERSION)?)
    }

    /// Makes sure that `topic` exists, with one partition by default, and has a leader.
    pub fn ensure_topic(&mut self, topic: &str) {
        for _ in 0..1_500 {
            let answer = self.metadata(topic, true).expect("metadata is answered");
            let ready = |listing: &chronik_net::codec::PartitionListing| listing.error == ErrorCode::None;
            if answer.topics[0].error == ErrorCode::None && answer.topics[0].partitions.iter().all(ready) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("topic {topic} was not made");
    }

    /// Produces one batch with acks=all.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: BytesMut,
    ) -> Result<ProducePartitionResponse> {
        self.produce_within(topic, partition, batch, PRODUCE_TIMEOUT_MS)
    }

    /// The same, where the broker may take at most `timeout_ms`.
    pub fn produce_within(
        &mut self,
        topic: &str,
        partition: i32,
        batch: BytesMut,
        timeout_ms: i32,
    ) -> Result<ProducePartitionResponse> {
        let header = self.header(ApiKey::Produce, PRODUCE_VERSION);
        let request = ProduceRequest { timeout_ms, ..produce_request(topic, partition, batch, -1) };
        let frame = request.encode(&header)?;
        let mut reader = self.call(&header, &frame)?;
        let response = ProduceResponse::decode(&mut reader, PRODUCE_VERSION)?;
        let Some(answer) =
            response.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next())
        else {
            bail!("an answer without a partition");
        };
        Ok(answer)
    }

    /// Sends one batch and does not wait. [`Connection::produce_answer`] takes the answers in order.
    pub fn produce_send(&mut self, topic: &str, partition: i32, batch: BytesMut) -> Result<RequestHeader> {
        let header = self.header(ApiKey::Produce, PRODUCE_VERSION);
        let frame = produce_request(topic, partition, batch, -1).encode(&header)?;
        self.send_raw(&frame.to_contiguous())?;
        Ok(header)
    }

    /// The answer to the oldest batch sent with [`Connection::produce_send`].
    pub fn produce_answer(&mut self, header: &RequestHeader) -> Result<ProducePartitionResponse> {
        let mut reader = self.answer(header)?;
        let mut response = ProduceResponse::decode(&mut reader, PRODUCE_VERSION)?;
        ensure!(
            response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
            "one partition was asked"
        );
        Ok(response.topics.remove(0).partitions.remove(0))
    }

    /// The id of a new idempotent producer.
    pub fn init_producer_id(&mut self) -> i64 {
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
        let answer: InitProducerIdResponse =
            self.ask(ApiKey::InitProducerId, 4, &request).expect("an answer");
        assert_eq!(answer.error_code, 0);
        answer.producer_id.0
    }

    /// Fetches from `offset` on, waiting at most `max_wait_ms` for the first byte.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_wait_ms: i32,
    ) -> Result<FetchPartitionResponse> {
        let header = self.header(ApiKey::Fetch, FETCH_VERSION);
        let request = FetchRequest {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms,
            min_bytes: 1,
            max_bytes: 8 << 20,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: TopicRef::Name(StrBytes::from(topic.to_string())),
                partitions: vec![FetchPartition::from_offset(partition, offset, 8 << 20)],
            }],
            forgotten_topics: Vec::new(),
            rack_id: StrBytes::default(),
        };
        let mut reader = self.call(&header, &request.encode(&header)?)?;
        let mut response = FetchResponse::decode(&mut reader, FETCH_VERSION)?;
        ensure!(response.error == ErrorCode::None, "fetch refused: {:?}", response.error);
        ensure!(
            response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
            "one partition was asked"
        );
        Ok(response.topics.remove(0).partitions.remove(0))
    }
}

/// A Produce request of one batch.
#[must_use]
pub fn produce_request(topic: &str, partition: i32, batch: BytesMut, acks: i16) -> ProduceRequest {
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: PRODUCE_TIMEOUT_MS,
        topics: vec![ProduceTopic {
            topic: TopicRef::Name(StrBytes::from(topic.to_string())),
            partitions: vec![ProducePartition { index: partition, records: Some(batch) }],
        }],
    }
}

/// Header and body of a request of the general codec, without the length.
pub fn encode<A: Encodable>(header: &RequestHeader, request: &A) -> Result<Bytes> {
    let mut writer = chronik_net::codec::Writer::new(false, 64);
    header.encode(&mut writer);
    let head = writer.finish()?.to_contiguous();
    let mut frame = BytesMut::from(&head[4..]);
    request.encode(&mut frame, header.api_version)?;
    Ok(frame.freeze())
}
