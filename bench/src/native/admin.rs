//! Topics mode over our own client: a task has a connection, to the brokers of the command line in turn, and makes and deletes topics
//! on it, one at a time. CreateTopics 4 and DeleteTopics 3 are written by hand: a few fields each, not in the flexible form.

use anyhow::{Context, Result, bail, ensure};
use chronik_net::codec::{
    ApiKey, EncodeError, ErrorCode, FrameReader, RequestHeader, ResponseFrame, WireError, Writer,
};

use super::SLEEP_NS_MAX;
use super::channel::{Channel, Finished};
use super::cluster::{answer_timeout_ns, bootstrap_addresses};
use super::poller::Poller;
use crate::cli::Options;
use crate::run::Clock;

const CREATE_TOPICS_VERSION: i16 = 4;
const DELETE_TOPICS_VERSION: i16 = 3;
/// What an answer says of one topic takes at least: its name's length and an error code.
const ANSWER_BYTES_MIN: usize = 4;

/// One task's connection.
pub struct Admin {
    channel: Channel<()>,
    poller: Poller,
    clock: Clock,
    timeout_ms: i32,
    partitions: i32,
    replicas: i16,
}

impl Admin {
    /// The connection of task `index`, which is made.
    pub fn connect(options: &Options, clock: Clock, index: usize) -> Result<Self> {
        let addresses = bootstrap_addresses(options);
        ensure!(!addresses.is_empty(), "--bootstrap-servers names no broker");
        let address = &addresses[index % addresses.len()];
        let mut admin = Self {
            channel: Channel::new(0, address, answer_timeout_ns(options))?,
            poller: Poller::new().context("cannot create an epoll")?,
            clock,
            timeout_ms: options.request_timeout_ms as i32,
            partitions: options.partitions.unwrap_or(1) as i32,
            replicas: options.replication_factor as i16,
        };
        admin.reach().with_context(|| format!("cannot connect to {address}"))?;
        Ok(admin)
    }

    /// Makes a topic.
    pub fn create(&mut self, topic: &str) -> Result<()> {
        let shape = (self.partitions, self.replicas);
        let timeout_ms = self.timeout_ms;
        let encode = |header: &RequestHeader| encode_creation(header, topic, shape, timeout_ms);
        let answer = self.ask((ApiKey::CreateTopics, CREATE_TOPICS_VERSION), encode)?;
        check(answer, topic, true)
    }

    /// Deletes a topic.
    pub fn delete(&mut self, topic: &str) -> Result<()> {
        let timeout_ms = self.timeout_ms;
        let encode = |header: &RequestHeader| encode_deletion(header, topic, timeout_ms);
        let answer = self.ask((ApiKey::DeleteTopics, DELETE_TOPICS_VERSION), encode)?;
        check(answer, topic, false)
    }

    /// Sends a request and waits for its answer. A connection that fails is closed, and made again by the next request.
    fn ask(
        &mut self,
        api: (ApiKey, i16),
        encode: impl FnOnce(&RequestHeader) -> Result<ResponseFrame, EncodeError>,
    ) -> Result<FrameReader> {
        self.reach()?;
        let now_ns = self.clock.now_ns();
        let sent = self.channel.send(api, encode, |_| (), true, now_ns);
        let answer = sent.map_err(Into::into).and_then(|()| self.answer());
        if answer.is_err() {
            self.channel.close(self.clock.now_ns());
        }
        answer
    }

    fn answer(&mut self) -> Result<FrameReader> {
        loop {
            if let Some(Finished { answer, .. }) = self.channel.next_finished()? {
                return answer.context("the broker answered nothing");
            }
            self.wait()?;
        }
    }

    /// Waits until the connection is made.
    fn reach(&mut self) -> Result<()> {
        while !self.channel.is_up() {
            let now_ns = self.clock.now_ns();
            if self.channel.can_connect(now_ns) {
                self.channel.connect(&self.poller, now_ns)?;
            }
            let reached = self.wait().and_then(|()| Ok(self.channel.advance()?));
            if let Err(error) = reached {
                self.channel.close(self.clock.now_ns());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits until something happens on the socket, for a moment at most.
    fn wait(&mut self) -> Result<()> {
        if !self.poller.wait(SLEEP_NS_MAX).context("epoll failed")?.is_empty() {
            self.channel.wake();
        }
        ensure!(
            !self.channel.is_overdue(self.clock.now_ns()),
            "{}: no answer in time",
            self.channel.address()
        );
        Ok(())
    }
}

/// A request for one topic, up to its name.
fn begun(header: &RequestHeader, topic: &str) -> Writer {
    let mut writer = Writer::new(false, 64 + topic.len());
    header.encode(&mut writer);
    writer.length(1);
    writer.string(topic);
    writer
}

fn encode_creation(
    header: &RequestHeader,
    topic: &str,
    (partitions, replicas): (i32, i16),
    timeout_ms: i32,
) -> Result<ResponseFrame, EncodeError> {
    let mut writer = begun(header, topic);
    writer.i32(partitions);
    writer.i16(replicas);
    // No assignment of replicas, no configuration.
    writer.length(0);
    writer.length(0);
    writer.i32(timeout_ms);
    let is_only_checked = false;
    writer.bool(is_only_checked);
    writer.finish()
}

fn encode_deletion(
    header: &RequestHeader,
    topic: &str,
    timeout_ms: i32,
) -> Result<ResponseFrame, EncodeError> {
    let mut writer = begun(header, topic);
    writer.i32(timeout_ms);
    writer.finish()
}

/// The answer must be for the topic, without an error.
fn check(mut answer: FrameReader, topic: &str, has_message: bool) -> Result<()> {
    let (error, message) = decode_answer(&mut answer, topic, has_message).context("an unreadable answer")?;
    match (error, message) {
        (Some(ErrorCode::None), _) => Ok(()),
        (Some(error), Some(message)) => bail!("{error}: {message}"),
        (Some(error), None) => bail!("{error}"),
        (None, _) => bail!("the broker's answer does not name the topic"),
    }
}

/// What an answer says of a topic. That to CreateTopics has words for its errors.
fn decode_answer(
    answer: &mut FrameReader,
    topic: &str,
    has_message: bool,
) -> Result<(Option<ErrorCode>, Option<String>), WireError> {
    answer.read(|reader| {
        let _throttle_time_ms = reader.i32()?;
        let mut found = (None, None);
        for _ in 0..reader.array_length(ANSWER_BYTES_MIN)? {
            let name = reader.string()?;
            let error = ErrorCode::from_wire(reader.i16()?);
            let message = if has_message { reader.nullable_string()? } else { None };
            if name == topic {
                found = (Some(error), message.map(str::to_owned));
            }
        }
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use chronik_net::codec::StrBytes;
    use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
    use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
    use kafka_protocol::messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
    };
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    fn body(api: ApiKey, api_version: i16, encode: impl FnOnce(&RequestHeader) -> ResponseFrame) -> Bytes {
        let client_id = Some(StrBytes::from_static_str("c"));
        let frame = encode(&RequestHeader { api, api_version, correlation_id: 7, client_id });
        // Length, key, version, correlation id, and a client id of one byte.
        frame.to_contiguous().slice(4 + 2 + 2 + 4 + 2 + 1..)
    }

    fn answered(response: &impl Encodable, version: i16) -> FrameReader {
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).unwrap();
        FrameReader::new(bytes, false)
    }

    #[test]
    fn the_second_codec_reads_a_creation_and_writes_the_answer() {
        let version = CREATE_TOPICS_VERSION;
        let mut bytes = body(ApiKey::CreateTopics, version, |header| {
            encode_creation(header, "made", (6, 3), 5_000).unwrap()
        });
        let request = CreateTopicsRequest::decode(&mut bytes, version).unwrap();
        let topic = &request.topics[0];
        assert_eq!((&**topic.name, topic.num_partitions, topic.replication_factor), ("made", 6, 3));
        assert!(topic.configs.is_empty() && !request.validate_only && bytes.is_empty());
        assert_eq!(request.timeout_ms, 5_000);

        let name = || TopicName(StrBytes::from_static_str("made"));
        let good = CreatableTopicResult::default().with_name(name());
        let bad = good
            .clone()
            .with_error_code(ErrorCode::InvalidPartitions.code())
            .with_error_message(Some(StrBytes::from_static_str("too many")));
        let response = |topic| CreateTopicsResponse::default().with_topics(vec![topic]);
        check(answered(&response(good.clone()), version), "made", true).unwrap();
        assert!(check(answered(&response(good), version), "other", true).is_err());
        let error = check(answered(&response(bad), version), "made", true).unwrap_err().to_string();
        assert!(error.ends_with(": too many"), "{error}");
    }

    #[test]
    fn the_second_codec_reads_a_deletion_and_writes_the_answer() {
        let version = DELETE_TOPICS_VERSION;
        let mut bytes =
            body(ApiKey::DeleteTopics, version, |header| encode_deletion(header, "gone", 5_000).unwrap());
        let request = DeleteTopicsRequest::decode(&mut bytes, version).unwrap();
        assert_eq!((&**request.topic_names[0], request.timeout_ms, bytes.len()), ("gone", 5_000, 0));

        let topic =
            DeletableTopicResult::default().with_name(Some(TopicName(StrBytes::from_static_str("gone"))));
        let bad = topic.clone().with_error_code(ErrorCode::UnknownTopicOrPartition.code());
        let response = |topic| DeleteTopicsResponse::default().with_responses(vec![topic]);
        check(answered(&response(topic), version), "gone", false).unwrap();
        check(answered(&response(bad), version), "gone", false).unwrap_err();
    }
}
