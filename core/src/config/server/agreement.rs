//! Whether a node's own addresses and its peer list agree, with itself and with one another. Pure.
//!
//! A list that is wrong on one node of three is found out late, when the nodes meet; what can be seen in one file is
//! refused here.

use super::settings::Settings;
use super::{Listener, Peer, ServerConfig, ServerConfigError};
use crate::metadata::command::Endpoint;

impl Settings {
    /// Refuses addresses that contradict one another.
    pub(super) fn check_agreement(&self, config: &ServerConfig) -> Result<(), ServerConfigError> {
        self.check_peer_addresses(config)?;
        if let Some(own) = config.peers.get(&config.node_id) {
            let node = config.node_id;
            self.check_own("advertise.kafka", &own.kafka, &format!("peers.{node}.kafka"))?;
            self.check_own("advertise.raft", &own.raft, &format!("peers.{node}.raft"))?;
        }
        self.check_binds(config)
    }

    /// Each address of the list is one that a node can be found at, and no two are the same.
    fn check_peer_addresses(&self, config: &ServerConfig) -> Result<(), ServerConfigError> {
        let mut seen: Vec<(String, &Endpoint)> = Vec::new();
        for (node, Peer { kafka, raft }) in &config.peers {
            for (what, endpoint) in [("kafka", kafka), ("raft", raft)] {
                let key = format!("peers.{node}.{what}");
                let Endpoint { host, port } = endpoint;
                if *port == 0 || is_wildcard(host) {
                    let problem = format!(
                        "{what} of peer {node} is {host}:{port}, where nobody can find it; name a host and a port"
                    );
                    return Err(self.error(&key, problem));
                }
                if let Some((other, _)) = seen.iter().find(|(_, other)| *other == endpoint) {
                    let problem = format!("{what} of peer {node} is {host}:{port}, which is {other} as well");
                    return Err(self.error(&key, problem));
                }
                seen.push((format!("{what} of peer {node}"), endpoint));
            }
        }
        Ok(())
    }

    /// What this node says of itself is what its own entry in the list says.
    fn check_own(&self, key: &str, listed: &Endpoint, listed_key: &str) -> Result<(), ServerConfigError> {
        match self.endpoint(key)? {
            Some(own) if own != *listed => {
                let problem = format!(
                    "{key} = {}:{} contradicts {listed_key} = {}:{}: the other nodes have the latter; make them the same",
                    own.host, own.port, listed.host, listed.port
                );
                Err(self.error(key, problem))
            }
            _ => Ok(()),
        }
    }

    /// No two ports of this node are the same one.
    fn check_binds(&self, config: &ServerConfig) -> Result<(), ServerConfigError> {
        let mut taken: Vec<(&str, &Endpoint)> = vec![("bind.admin", &config.admin)];
        taken.extend(config.listeners.values().map(|Listener { bind, .. }| ("a Kafka listener", bind)));
        let Some(raft) = &config.raft else { return Ok(()) };
        let same = |other: &Endpoint| {
            let hosts = [&other.host, &raft.bind.host];
            let meet = hosts[0] == hosts[1] || hosts.into_iter().any(|host| is_wildcard(host));
            raft.bind.port != 0 && other.port == raft.bind.port && meet
        };
        match taken.into_iter().find(|(_, other)| same(other)) {
            Some((name, _)) => {
                let port = raft.bind.port;
                let problem =
                    format!("bind.raft has port {port}, which {name} has too: give it one of its own");
                Err(self.error("bind.raft", problem))
            }
            None => Ok(()),
        }
    }
}

/// Whether it means every address of a machine.
pub(super) fn is_wildcard(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::")
}
