//! How the metadata group comes to be on this node: formed with others, or joined (`metadata/bootstrap.rs` decides).
//!
//! Shard 0 only. Restarts on the way are harmless: either group 0 is durable and this is over, or nothing has happened.

use bytes::Bytes;
use chronik_raft::driver::NewGroup;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex};
use uuid::Uuid;

use super::Shard;
use super::controller::PlanAsker;
use super::message::{PeerMessage, PeerOut};
use super::open::OpenError;
use crate::metadata::bootstrap::{ASK_EVERY_MS, Bootstrap, Decision, Hello, Standing};
use crate::metadata::command::MetadataReplica;
use crate::metadata::forward::{Answer, Ask, decode_ask, encode_ask};
use crate::metadata::image;
use crate::metadata::state::{MetadataReplicas, MetadataState};

/// How soon the others are asked again when something new is known.
const SOON_MS: u64 = 20;

/// The same complaint is not made more often.
const COMPLAIN_EVERY_MS: u64 = 5_000;

impl Shard {
    /// Makes this node part of a cluster, if it is not: of its own where the list names no other node, at once; else with the
    /// nodes of the list, once these have been heard. Called once, after the shard was opened; of no effect on others
    /// than shard 0.
    ///
    /// # Errors
    /// When the first configuration makes no sense.
    pub fn begin_cluster(&mut self, peers: &[NodeId]) -> Result<(), OpenError> {
        let node = self.node;
        let directory = Uuid::from_bytes(self.directory);
        let has_group = self.driver.contains(GroupId::METADATA);
        let Some(host) = &mut self.controller else { return Ok(()) };
        if has_group {
            self.name_metadata_members();
        } else if peers.iter().all(|peer| *peer == node) {
            let founder = MetadataReplica { node, peer: PeerId(1), directory };
            let replicas = MetadataReplicas { replicas: vec![founder], ..MetadataReplicas::default() };
            self.make_metadata_group(founder.peer, replicas)?;
        } else {
            host.bootstrap = Some(Bootstrap::new(node, directory, peers.to_vec()));
        }
        self.tend_within(0);
        Ok(())
    }

    /// Asks the others how they stand and acts on what is known.
    pub(crate) fn bootstrap(&mut self) {
        let Some(host) = &self.controller else { return };
        let Some(bootstrap) = &host.bootstrap else { return };
        let body = encode_ask(&Ask::Hello { raft: host.own.raft.clone() });
        let asked: Vec<NodeId> = bootstrap.others().intersection(&self.nodes_up).copied().collect();
        for node in asked {
            self.out.peer.push(PeerOut { node, message: PeerMessage::Ask { id: 0, body: body.clone() } });
        }
        self.decide_bootstrap();
        self.tend_within(ASK_EVERY_MS);
    }

    fn decide_bootstrap(&mut self) {
        let now_ms = self.now.mono_ms;
        let Some(host) = &mut self.controller else { return };
        let Some(bootstrap) = &host.bootstrap else { return };
        let made = match bootstrap.decide(now_ms) {
            Decision::Wait(why) => return self.complain(&why, false),
            Decision::Obstructed(why) => return self.complain(&why, true),
            Decision::Register { through } => {
                host.forwards.set_hint(Some(through));
                self.complain("this node is joining its cluster", false);
                return self.register();
            }
            Decision::Form { peer, founders } => {
                tracing::info!(peer = peer.0, members = founders.len(), "the metadata group is formed");
                let replicas = MetadataReplicas { replicas: founders, ..MetadataReplicas::default() };
                self.make_metadata_group(peer, replicas)
            }
            Decision::Join { peer, replicas } => {
                tracing::info!(peer = peer.0, "the metadata group is joined");
                self.make_metadata_group(peer, replicas)
            }
        };
        match made {
            Ok(()) => self.end_bootstrap(),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn end_bootstrap(&mut self) {
        if let Some(host) = &mut self.controller {
            host.bootstrap = None;
            host.obstacle = None;
            host.dissemination.begin();
        }
        self.tend_within(0);
    }

    /// Makes group 0 with these members and the metadata that say so and nothing else.
    fn make_metadata_group(&mut self, peer: PeerId, replicas: MetadataReplicas) -> Result<(), OpenError> {
        let group = GroupId::METADATA;
        let voters: Vec<PeerId> = replicas.base().iter().map(|member| member.peer).collect();
        let campaigns = voters.iter().min() == Some(&peer);
        let snapshot_data: Bytes = image::encode(&MetadataState::of_members(replicas)).into();
        let new = NewGroup {
            group,
            peer,
            voters,
            configuration_index: RaftIndex(0),
            snapshot_data: snapshot_data.clone(),
        };
        self.driver
            .create_group(new, &mut self.wal)
            .map_err(|error| OpenError::Group { group, why: error.to_string() })?;
        self.metadata_installed(RaftIndex(0), &snapshot_data);
        if campaigns {
            // Rather than wait until some timer has run out. The others may not have the group yet: then a timer does.
            self.driver.campaign(group);
        }
        Ok(())
    }

    /// Another node asks something of this node's shard 0.
    pub(crate) fn asked(&mut self, from: NodeId, ask: u64, body: &Bytes) {
        let question = match decode_ask(body) {
            Ok(question) => question,
            Err(error) => return tracing::warn!(node = from.0, %error, "a question cannot be read"),
        };
        match question {
            Ask::Hello { raft } => {
                if let (Some(raft), Some(host)) = (raft, &mut self.controller) {
                    host.builder.guest_known(from, raft);
                }
                let Some(hello) = self.hello() else { return };
                self.answer_node(from, ask, &Answer::Hello(hello));
            }
            Ask::Transfer { transfers } => self.pass_on_transfers(&transfers),
            Ask::Request { id, timeout_ms, request } => {
                let leads = self.controller.as_ref().is_some_and(super::controller::ControllerHost::leads);
                if !leads || self.has_too_many_plans() {
                    let leader = self.metadata_leader();
                    return self.answer_node(from, ask, &Answer::NotController { leader });
                }
                self.plan_request(PlanAsker::Node { node: from, ask }, id, &request, timeout_ms);
            }
        }
    }

    /// How this node stands.
    fn hello(&self) -> Option<Hello> {
        let host = self.controller.as_ref()?;
        if let Some(bootstrap) = &host.bootstrap {
            return Some(bootstrap.hello(self.now.mono_ms));
        }
        let leads = matches!(self.driver.leadership(GroupId::METADATA), Some(Leadership::Leader { .. }));
        let brokers = host.state.brokers().iter();
        let standing = Standing::Member {
            cluster_id: host.state.cluster_id().map(|id| id.to_string()),
            replicas: (**host.state.metadata_replicas()).clone(),
            leader: if leads { Some(self.node) } else { self.metadata_leader() },
            addresses: brokers.filter_map(|(node, broker)| Some((*node, broker.raft.clone()?))).collect(),
        };
        Some(Hello { node: self.node, directory: Uuid::from_bytes(self.directory), standing })
    }

    /// A node says how it stands.
    pub(crate) fn hello_heard(&mut self, from: NodeId, hello: Hello) {
        let now_ms = self.now.mono_ms;
        let Some(bootstrap) = self.controller.as_mut().and_then(|host| host.bootstrap.as_mut()) else {
            return;
        };
        let before = bootstrap.hello(now_ms);
        bootstrap.heard(from, hello, now_ms);
        let has_news = bootstrap.hello(now_ms) != before;
        self.decide_bootstrap();
        if has_news {
            // The others are to hear what this node knows now, and it what they do: rather at once than with the next round.
            self.tend_within(SOON_MS);
        }
    }

    /// Says what keeps this node from its cluster: in `/health` at once, in the log now and then.
    pub(crate) fn complain(&mut self, why: &str, is_error: bool) {
        let now_ms = self.now.mono_ms;
        let Some(host) = &mut self.controller else { return };
        let is_new = host.obstacle.as_deref() != Some(why);
        if is_new {
            host.obstacle = Some(why.to_owned());
        }
        let rested = host.complained_at_ms.is_none_or(|at_ms| at_ms + COMPLAIN_EVERY_MS <= now_ms);
        if rested {
            host.complained_at_ms = Some(now_ms);
            match is_error {
                true => tracing::error!("{why}"),
                false => tracing::info!("{why}"),
            }
        }
    }
}
