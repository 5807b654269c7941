//! What is asked of the metadata leader becomes a plan.

use chronik_wal::types::NodeId;
use kafka_protocol::ResponseError;

use super::plans::PlanAsker;
use super::{AdminReply, AdminRequest, ControllerHost, random_uuid};
use crate::metadata::command::RequestId;
use crate::metadata::controller::{Plan, PlanContext};
use crate::metadata::state::Broker;
use crate::shard::Shard;

/// A node that was heard of within this time is alive: another one of its id, with another directory, has to wait.
const ALIVE_MS: u64 = 6_000;

impl Shard {
    /// Plans a request. This node leads the metadata group.
    pub(in crate::shard) fn plan_request(
        &mut self,
        asker: PlanAsker,
        id: RequestId,
        request: &AdminRequest,
        timeout_ms: u32,
    ) {
        let is_asked_again =
            |host: &ControllerHost| host.plans.values().any(|plan| plan.is_for_node() && plan.asker == asker);
        if self.controller.as_ref().is_some_and(is_asked_again) {
            return;
        }
        if let PlanAsker::Node { node, ask } = asker
            && let Some(host) = &mut self.controller
            && let Some(body) = host.refusals.find(node, ask, self.now.mono_ms)
        {
            return self.send_answer(node, ask, body);
        }
        if let AdminRequest::DescribeQuorum(request) = request {
            let response = AdminReply::DescribeQuorum(self.describe_quorum(request));
            return self.carry_plan(
                asker,
                Plan { commands: Vec::new(), response, awaited: Vec::new() },
                timeout_ms,
            );
        }
        let now_ms = self.now.mono_ms;
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plan(request, id, now_ms) else { return };
        self.carry_plan(asker, plan, timeout_ms);
    }
}

impl ControllerHost {
    fn plan(&mut self, request: &AdminRequest, id: RequestId, now_ms: u64) -> Option<Plan<AdminReply>> {
        if let AdminRequest::Register(node, broker) = request
            && let Some(refusal) = self.refuses_registration(*node, broker, now_ms)
        {
            return Some(Plan { commands: Vec::new(), response: refusal, awaited: Vec::new() });
        }
        let controller = self.controller.as_mut()?;
        let snapshot = self.builder.current();
        let random = &mut || random_uuid(&mut self.random);
        let mut context = PlanContext { snapshot, random, request: Some(id) };
        Some(match request {
            AdminRequest::CreateTopics(request) => {
                controller.plan_create_topics(request, &mut context).map(AdminReply::CreateTopics)
            }
            AdminRequest::DeleteTopics(request, version) => {
                controller.plan_delete_topics(request, *version, &context).map(AdminReply::DeleteTopics)
            }
            AdminRequest::CreatePartitions(request) => {
                controller.plan_create_partitions(request, &context).map(AdminReply::CreatePartitions)
            }
            AdminRequest::AlterConfigs(request) => {
                controller.plan_alter_configs(request, &context).map(AdminReply::AlterConfigs)
            }
            AdminRequest::IncrementalAlterConfigs(request) => controller
                .plan_incremental_alter_configs(request, &context)
                .map(AdminReply::IncrementalAlterConfigs),
            AdminRequest::Reassign(request) => {
                controller.plan_reassignments(request, &context).map(AdminReply::Reassign)
            }
            AdminRequest::UnregisterBroker(request) => {
                controller.plan_unregistration(request, &context).map(AdminReply::UnregisterBroker)
            }
            AdminRequest::AddVoter(request) => {
                controller.plan_voter(request, &context).map(AdminReply::AddVoter)
            }
            AdminRequest::RemoveVoter(request) => {
                controller.plan_voter_removal(request, &context).map(AdminReply::RemoveVoter)
            }
            AdminRequest::DescribeQuorum(_) => return None,
            AdminRequest::AutoCreate(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                controller.plan_auto_creation(&names, &mut context).map(AdminReply::AutoCreate)
            }
            AdminRequest::ProducerIds(node) => controller.plan_producer_ids(*node).map(|_| AdminReply::Done),
            AdminRequest::Register(node, broker) => {
                controller.plan_registration(*node, broker).map(|()| AdminReply::Done)
            }
            AdminRequest::CompletePlacement { topic, partition, reached } => {
                controller.plan_completed_placement(topic, *partition, reached).map(|()| AdminReply::Done)
            }
            AdminRequest::RenewReplica { topic, partition, replica } => {
                controller.plan_renewal(topic, *partition, *replica).map(|()| AdminReply::Done)
            }
        })
    }

    /// Why a node may not register: it was removed, or one of its id is alive, with another directory (SAFETY.md, rule 8).
    fn refuses_registration(&self, node: NodeId, broker: &Broker, now_ms: u64) -> Option<AdminReply> {
        if self.state.is_departed(&broker.directory) {
            let why =
                format!("node {node} was removed from the cluster: start it on an empty data directory");
            return Some(AdminReply::Refused(ResponseError::BrokerIdNotRegistered, why));
        }
        let known = self.state.brokers().get(&node)?;
        let other = known.directory != broker.directory;
        let is_alive = node == self.builder.current().node
            || self.dissemination.heard_at_ms(node).is_some_and(|at_ms| at_ms + ALIVE_MS > now_ms);
        (other && is_alive).then(|| {
            let why = format!(
                "node {node} runs already, with another data directory: give one of the two another node_id, or stop \
                 the one that is to go"
            );
            AdminReply::Refused(ResponseError::DuplicateBrokerRegistration, why)
        })
    }
}
