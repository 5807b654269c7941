//! Topics that are made many at a time: a request is cut into pieces, and the next piece is asked for when the one before has been made
//! and has leaders, or was not to have any soon.
//!
//! A thousand topics planned, answered and applied in one go keep shard 0 of every node for longer than the others wait for a
//! sign of life when processors are scarce; then the leader of the metadata loses its office over it, and whoever comes next begins anew.
//! Cut, each step is short, and no more groups are young at a time than the nodes have been able to bring to a leader.
//!
//! Every piece is a request of its own to whoever leads the metadata, with its own id (SAFETY.md, rule 21): none is carried out twice.
//! To the client it is one request: names that it repeats are refused together, and what is beyond a bound goes uncut, to be refused whole.

use std::collections::BTreeMap;
use std::rc::Rc;

use chronik_net::codec::messages::create_topics_request::CreatableTopic;
use chronik_net::codec::messages::create_topics_response::CreatableTopicResult;
use chronik_net::codec::messages::{CreateTopicsRequest, CreateTopicsResponse};
use chronik_net::rt::clock;
use kafka_protocol::ResponseError;

use super::admin::ask;
use super::service::Broker;
use crate::config::broker::BrokerConfig;
use crate::metadata::controller::topics::partitions_of;
use crate::metadata::controller::{REQUEST_CONFIG_BYTES_MAX, REQUEST_PARTITIONS_MAX};
use crate::shard::controller::{AdminReply, AdminRequest};

/// Partitions in one piece, but for a single topic that has more: some milliseconds of planning in a debug build.
const PIECE_PARTITIONS: usize = 64;

/// CreateTopics.
pub(super) async fn create_topics(broker: &Rc<Broker>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let deadline_ms = clock::monotonic_ms() + u64::from(timeout_ms);
    let pieces = pieces(request, &broker.router.snapshot().config);
    let mut response = CreateTopicsResponse::default();
    for piece in pieces {
        let left_ms = left_until(deadline_ms);
        if left_ms == 0 && !response.topics.is_empty() {
            response.topics.extend(failed(&piece, ResponseError::RequestTimedOut));
            continue;
        }
        match ask(broker, AdminRequest::CreateTopics(piece.clone()), left_ms).await {
            AdminReply::CreateTopics(made) => response.topics.extend(made.topics),
            AdminReply::Refused(code, _) => response.topics.extend(failed(&piece, code)),
            _ => response.topics.extend(failed(&piece, ResponseError::NotController)),
        }
    }
    response
}

/// Makes the topics that a client has named and that are not there; those that cannot be made, and why.
pub(super) async fn auto_create(
    broker: &Rc<Broker>,
    names: &[String],
    timeout_ms: u32,
) -> Vec<(String, ResponseError)> {
    let deadline_ms = clock::monotonic_ms() + u64::from(timeout_ms);
    let partitions = usize::try_from(broker.router.snapshot().config.num_partitions).unwrap_or(1).max(1);
    let mut failed = Vec::new();
    // The client asks again for those that are not made in time.
    for piece in names.chunks((PIECE_PARTITIONS / partitions).max(1)) {
        let left_ms = left_until(deadline_ms);
        if left_ms == 0 {
            break;
        }
        if let AdminReply::AutoCreate(rows) =
            ask(broker, AdminRequest::AutoCreate(piece.to_vec()), left_ms).await
        {
            failed.extend(rows);
        }
    }
    failed
}

/// Milliseconds from now.
fn left_until(deadline_ms: u64) -> u32 {
    u32::try_from(deadline_ms.saturating_sub(clock::monotonic_ms())).unwrap_or(u32::MAX)
}

/// Each row of a request with this error.
pub(super) fn failed(request: &CreateTopicsRequest, code: ResponseError) -> Vec<CreatableTopicResult> {
    let row = |topic: &CreatableTopic| {
        CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(code.code())
    };
    request.topics.iter().map(row).collect()
}

/// Cuts a request. A single piece where nothing would be gained, or where the whole has to be judged at once.
fn pieces(mut request: CreateTopicsRequest, config: &BrokerConfig) -> Vec<CreateTopicsRequest> {
    let partitions = |topic: &CreatableTopic| partitions_of(topic, config);
    let all = request.topics.iter().map(partitions).fold(0, usize::saturating_add);
    let values = request.topics.iter().flat_map(|topic| &topic.configs).flat_map(|config| &config.value);
    let config_bytes: usize = values.map(|value| value.len()).sum();
    let is_whole = request.validate_only
        || request.timeout_ms <= 0
        || all <= PIECE_PARTITIONS
        || all > REQUEST_PARTITIONS_MAX
        || config_bytes > REQUEST_CONFIG_BYTES_MAX;
    if is_whole {
        return vec![request];
    }
    let mut counts = BTreeMap::new();
    request.topics.iter().for_each(|topic| *counts.entry(topic.name.clone()).or_insert(0) += 1);
    let topics = std::mem::take(&mut request.topics);
    let (singles, repeated): (Vec<_>, Vec<_>) =
        topics.into_iter().partition(|topic| counts[&topic.name] == 1);
    let mut cut: Vec<Vec<CreatableTopic>> = Vec::new();
    let mut room = 0;
    for topic in singles {
        let needed = partitions(&topic).max(1);
        match cut.last_mut().filter(|_| needed <= room) {
            Some(piece) => piece.push(topic),
            None => {
                room = PIECE_PARTITIONS;
                cut.push(vec![topic]);
            }
        }
        room = room.saturating_sub(needed);
    }
    cut.extend((!repeated.is_empty()).then_some(repeated));
    cut.into_iter().map(|topics| request.clone().with_topics(topics)).collect()
}

#[cfg(test)]
mod tests {
    use chronik_net::codec::StrBytes;
    use chronik_net::codec::messages::TopicName;
    use chronik_net::codec::messages::create_topics_request::CreatableTopicConfig;

    use super::*;
    use crate::config::layers::BrokerLayers;

    fn topic(name: &str, partitions: i32) -> CreatableTopic {
        let name = TopicName(StrBytes::from_string(name.to_owned()));
        CreatableTopic::default().with_name(name).with_num_partitions(partitions)
    }

    fn request(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000)
    }

    fn cut(request: CreateTopicsRequest) -> Vec<Vec<String>> {
        let names = |piece: &CreateTopicsRequest| {
            assert_eq!(piece.timeout_ms, 30_000);
            piece.topics.iter().map(|topic| topic.name.to_string()).collect()
        };
        pieces(request, &BrokerConfig::resolve(&BrokerLayers::default())).iter().map(names).collect()
    }

    #[test]
    fn many_topics_are_cut_in_order_and_few_are_not() {
        let many = |count: usize| request((0..count).map(|n| topic(&format!("t{n:04}"), 1)).collect());
        assert_eq!(cut(many(64)).len(), 1);
        let pieces = cut(many(1_000));
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_PARTITIONS));
        assert_eq!(pieces.len(), 16);
        let names: Vec<String> = pieces.concat();
        assert_eq!(names.len(), 1_000);
        assert!(names.is_sorted());
    }

    #[test]
    fn large_topics_fill_a_piece_alone_and_repeated_names_stay_together() {
        let topics = vec![
            topic("a", 100),
            topic("twice", 1),
            topic("b", 40),
            topic("c", 24),
            topic("d", -1),
            topic("twice", 1),
        ];
        assert_eq!(cut(request(topics)), [vec!["a"], vec!["b", "c"], vec!["d"], vec!["twice", "twice"]]);
    }

    #[test]
    fn what_is_to_be_judged_whole_stays_whole() {
        let many = |partitions: i32| request(vec![topic("a", partitions), topic("b", partitions)]);
        assert_eq!(cut(many(50)).len(), 2);
        assert_eq!(cut(many(5_001)).len(), 1, "too many partitions");
        assert_eq!(cut(many(50).with_validate_only(true)).len(), 1);
        let long = StrBytes::from_string("x".repeat(REQUEST_CONFIG_BYTES_MAX / 2 + 1));
        let mut large = many(50);
        large.topics.iter_mut().for_each(|topic| {
            topic.configs = vec![CreatableTopicConfig::default().with_value(Some(long.clone()))];
        });
        assert_eq!(cut(large).len(), 1, "too many bytes of configs");
    }
}
