//! DeleteTopics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use super::topics::{message, text};
use super::{Controller, Plan, PlanContext, RowError};
use crate::metadata::command::Command;
use crate::metadata::state::Topic;

impl Controller {
    /// DeleteTopics 1 to 6, by name or by id.
    pub fn plan_delete_topics(
        &mut self,
        request: &DeleteTopicsRequest,
        version: i16,
        context: &PlanContext<'_>,
    ) -> Plan<DeleteTopicsResponse> {
        let retry = self.is_retry(context);
        let targets = delete_targets(request, version);
        let enabled = context.snapshot.config.delete_topic_enable;
        let counts = occurrences(&targets);
        let (mut commands, mut rows, mut done) = (Vec::new(), Vec::new(), BTreeSet::new());
        for target in &targets {
            let row =
                DeletableTopicResult::default().with_name(target.name.clone()).with_topic_id(target.topic_id);
            let key = (target.name.as_ref().map(|name| name.to_string()), target.topic_id);
            if counts.get(&key).is_some_and(|count| *count > 1) && !done.insert(key) {
                continue;
            }
            let found = match enabled {
                true => self.find_to_delete(target, &counts),
                false if version < 3 => {
                    Err(RowError::new(ResponseError::InvalidRequest, "Topic deletion is disabled."))
                }
                false => {
                    Err(RowError::new(ResponseError::TopicDeletionDisabled, "Topic deletion is disabled."))
                }
            };
            rows.push(match found {
                Ok(topic) => {
                    // Names and ids of one topic are refused as duplicates, so each topic comes here once.
                    commands.push(Command::DeleteTopic { id: topic.id });
                    row.with_name(Some(TopicName(text(&topic.name)))).with_topic_id(topic.id)
                }
                Err(error) if retry && is_unknown(error.code) => row,
                Err(error) => row.with_error_code(error.code.code()).with_error_message(message(&error)),
            });
        }
        let response = DeleteTopicsResponse::default().with_responses(rows);
        self.finish_request(commands, response, Vec::new(), context.request)
    }

    fn find_to_delete(
        &self,
        target: &DeleteTopicState,
        counts: &Occurrences,
    ) -> Result<Arc<Topic>, RowError> {
        let invalid = |message: &str| Err(RowError::new(ResponseError::InvalidRequest, message));
        let key = (target.name.as_ref().map(|name| name.to_string()), target.topic_id);
        let repeated = counts.get(&key).is_some_and(|count| *count > 1);
        match (&target.name, target.topic_id.is_nil()) {
            (Some(_), false) => invalid("You may not specify both topic name and topic id."),
            (None, true) => invalid("Neither topic name nor id were specified."),
            (Some(_), true) if repeated => invalid("Duplicate topic name."),
            (None, false) if repeated => invalid("Duplicate topic id."),
            (Some(name), true) => match self.speculative.topic(name) {
                Some(topic) if counts.contains_key(&(None, topic.id)) => {
                    invalid("The provided topic name maps to an ID that was already supplied.")
                }
                Some(topic) => Ok(Arc::clone(topic)),
                None => Err(RowError::new(
                    ResponseError::UnknownTopicOrPartition,
                    "This server does not host this topic-partition.",
                )),
            },
            (None, false) => self.speculative.topic_by_id(&target.topic_id).cloned().ok_or_else(|| {
                RowError::new(ResponseError::UnknownTopicId, "This server does not host this topic ID.")
            }),
        }
    }
}

type Occurrences = BTreeMap<(Option<String>, Uuid), usize>;

fn occurrences(targets: &[DeleteTopicState]) -> Occurrences {
    let mut counts = Occurrences::new();
    for target in targets {
        let key = (target.name.as_ref().map(|name| name.to_string()), target.topic_id);
        *counts.entry(key).or_default() += 1;
    }
    counts
}

fn is_unknown(code: ResponseError) -> bool {
    matches!(code, ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId)
}

/// Versions below 6 name topics in a list of their own.
fn delete_targets(request: &DeleteTopicsRequest, version: i16) -> Vec<DeleteTopicState> {
    if version >= 6 {
        return request.topics.clone();
    }
    let by_name = |name: &TopicName| DeleteTopicState::default().with_name(Some(name.clone()));
    request.topic_names.iter().map(by_name).collect()
}
