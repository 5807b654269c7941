//! The settings of all sources by key, and how a node's configuration is built from them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chronik_wal::types::NodeId;

use super::agreement::is_wildcard;
use super::{
    DEFAULT_LISTENER, Listener, LogFormat, Origin, Peer, SHARDS_MAX, ServerConfig, ServerConfigError,
    parse_endpoint,
};
use crate::config::broker::{check_static, check_together};
use crate::config::cli::{
    KAFKA_CONFIG_VARIABLE, LISTENERS_VARIABLE, PEERS_VARIABLE, SETTINGS, SettingName, StartArgs,
};
use crate::config::layers::{BrokerLayers, ConfigMap};
use crate::config::suggest::nearest;
use crate::metadata::command::Endpoint;

/// Replicas that topics get by default in a cluster of at least as many nodes.
const REPLICATION_FACTOR_USUAL: usize = 3;

/// All that was set, by key: tables joined by dots, `peers.ID.kafka`, `listeners.NAME.bind`, `kafka.CONFIG`.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) values: BTreeMap<String, (String, Origin)>,
}

impl Settings {
    pub(super) fn put(&mut self, key: impl Into<String>, value: impl Into<String>, origin: Origin) {
        self.values.insert(key.into(), (value.into(), origin));
    }

    pub(super) fn read_variables(
        &mut self,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), ServerConfigError> {
        for SettingName { key, variable, .. } in SETTINGS {
            if let Some(value) = variables.get(*variable) {
                self.put(*key, value, Origin::Variable(variable));
            }
        }
        let lists: [(&'static str, AddItem); 3] = [
            (LISTENERS_VARIABLE, Self::add_listener),
            (PEERS_VARIABLE, Self::add_peer),
            (KAFKA_CONFIG_VARIABLE, Self::add_kafka_config),
        ];
        for (variable, add) in lists {
            let items = variables.get(variable).map_or("", String::as_str).split(';').map(str::trim);
            for item in items.filter(|item| !item.is_empty()) {
                add(self, item, Origin::Variable(variable))?;
            }
        }
        Ok(())
    }

    pub(super) fn read_flags(&mut self, flags: &StartArgs) -> Result<(), ServerConfigError> {
        let given = flags.given();
        for SettingName { key, flag, .. } in SETTINGS {
            if let Some(value) = given.get(key) {
                self.put(*key, *value, Origin::Flag((*flag).to_owned()));
            }
        }
        let lists: [(&Vec<String>, &str, AddItem); 3] = [
            (&flags.listener, "--listener", Self::add_listener),
            (&flags.peer, "--peer", Self::add_peer),
            (&flags.kafka_config, "--kafka-config", Self::add_kafka_config),
        ];
        for (items, flag, add) in lists {
            for item in items {
                add(self, item, Origin::Flag(format!("{flag} {item}")))?;
            }
        }
        Ok(())
    }

    fn add_listener(&mut self, item: &str, origin: Origin) -> Result<(), ServerConfigError> {
        let Some((name, addresses)) = item.split_once('=') else {
            return refuse(origin, format!("'{item}' is not of the form NAME=BIND[,ADVERTISE]"));
        };
        let (bind, advertise) = addresses.split_once(',').unwrap_or((addresses, ""));
        if !advertise.is_empty() {
            self.put(format!("listeners.{name}.advertise"), advertise, origin.clone());
        }
        self.put(format!("listeners.{name}.bind"), bind, origin);
        Ok(())
    }

    fn add_peer(&mut self, item: &str, origin: Origin) -> Result<(), ServerConfigError> {
        let parts = item.split_once('=').and_then(|(id, rest)| Some((id, rest.split_once(',')?)));
        let Some((id, (kafka, raft))) = parts else {
            return refuse(origin, format!("'{item}' is not of the form ID=KAFKA,RAFT"));
        };
        self.put(format!("peers.{id}.kafka"), kafka, origin.clone());
        self.put(format!("peers.{id}.raft"), raft, origin);
        Ok(())
    }

    fn add_kafka_config(&mut self, item: &str, origin: Origin) -> Result<(), ServerConfigError> {
        let Some((name, value)) = item.split_once('=') else {
            return refuse(origin, format!("'{item}' is not of the form NAME=VALUE"));
        };
        self.put(format!("kafka.{}", name.trim()), value, origin);
        Ok(())
    }

    /// Refuses keys that mean nothing, with the nearest that does.
    pub(super) fn check_keys(&self) -> Result<(), ServerConfigError> {
        for (key, (_, origin)) in &self.values {
            let known = match key.split('.').collect::<Vec<_>>()[..] {
                ["kafka", ..] => true,
                ["listeners", _, "bind" | "advertise"] | ["peers", _, "kafka" | "raft"] => true,
                _ => SETTINGS.iter().any(|setting| setting.key == key),
            };
            if !known {
                let tables = ["kafka", "listeners.NAME.bind", "listeners.NAME.advertise", "peers"];
                let candidates = SETTINGS.iter().map(|setting| setting.key).chain(tables);
                let hint =
                    nearest(key, candidates).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
                return refuse(origin.clone(), format!("unknown key {key}{hint}"));
            }
        }
        Ok(())
    }

    pub(super) fn build(&self) -> Result<ServerConfig, ServerConfigError> {
        let node_id = NodeId(self.number("node_id", 0, i32::MAX)?.unwrap_or(1));
        let peers = self.peers(node_id)?;
        let listeners = self.listeners(peers.get(&node_id))?;
        let raft = self.raft(node_id, &peers)?;
        let admin = self.endpoint("bind.admin")?.unwrap_or(Endpoint { host: "127.0.0.1".into(), port: 9644 });
        let mut config = ServerConfig {
            node_id,
            data_dir: PathBuf::from(self.text("data_dir").unwrap_or("./chronik-data")),
            shards: self.number("shards", 1, SHARDS_MAX)?,
            rack: self.text("rack").filter(|rack| !rack.is_empty()).map(str::to_owned),
            listeners,
            raft,
            admin,
            peers,
            log: self.text("log").unwrap_or("info").to_owned(),
            log_format: self.log_format()?,
            kafka: ConfigMap::new(),
        };
        self.check_agreement(&config)?;
        config.kafka = self.kafka(&config)?;
        Ok(config)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    fn number<N>(&self, key: &str, least: N, most: N) -> Result<Option<N>, ServerConfigError>
    where
        N: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse::<N>() {
            Ok(number) if number >= least && number <= most => Ok(Some(number)),
            _ => refuse(
                self.origin(key),
                format!("{key} = {text}: must be a whole number from {least} to {most}"),
            ),
        }
    }

    pub(super) fn endpoint(&self, key: &str) -> Result<Option<Endpoint>, ServerConfigError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match parse_endpoint(text) {
            Some(endpoint) => Ok(Some(endpoint)),
            None => refuse(
                self.origin(key),
                format!("{key} = {text}: must be HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092"),
            ),
        }
    }

    fn log_format(&self) -> Result<LogFormat, ServerConfigError> {
        match self.text("log_format") {
            None | Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            Some(other) => {
                refuse(self.origin("log_format"), format!("log_format = {other}: must be text or json"))
            }
        }
    }

    /// The middle parts of `table.NAME.…`, each once.
    fn names_in(&self, table: &str) -> Vec<String> {
        let prefix = format!("{table}.");
        let names = self.values.keys().filter_map(|key| key.strip_prefix(&prefix)?.split('.').next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.dedup();
        names
    }

    fn peers(&self, node: NodeId) -> Result<BTreeMap<NodeId, Peer>, ServerConfigError> {
        let mut peers = BTreeMap::new();
        let mut some_origin = Origin::Default;
        for id in self.names_in("peers") {
            let (kafka_key, raft_key) = (format!("peers.{id}.kafka"), format!("peers.{id}.raft"));
            let origin = [&kafka_key, &raft_key].map(|key| self.origin(key));
            some_origin = origin.into_iter().find(|origin| *origin != Origin::Default).unwrap_or(some_origin);
            let Some(number) = id.parse().ok().filter(|number: &i32| *number >= 0) else {
                return refuse(some_origin, format!("peer id {id}: must be a whole number, 0 or more"));
            };
            let (Some(kafka), Some(raft)) = (self.endpoint(&kafka_key)?, self.endpoint(&raft_key)?) else {
                return refuse(some_origin, format!("peer {id} needs both kafka and raft addresses"));
            };
            peers.insert(NodeId(number), Peer { kafka, raft });
        }
        if !peers.is_empty() && !peers.contains_key(&node) {
            return refuse(some_origin, format!("peers do not list this node: add one with id = {node}"));
        }
        Ok(peers)
    }

    fn listeners(&self, own: Option<&Peer>) -> Result<BTreeMap<String, Listener>, ServerConfigError> {
        let bind = self.endpoint("bind.kafka")?.unwrap_or(Endpoint { host: "127.0.0.1".into(), port: 9092 });
        let advertise = self.endpoint("advertise.kafka")?.or_else(|| own.map(|peer| peer.kafka.clone()));
        let first = advertised("bind.kafka", "advertise.kafka", bind, advertise);
        let first =
            first.map_err(|problem| self.error(self.set_of("advertise.kafka", "bind.kafka"), problem))?;
        let mut listeners = BTreeMap::from([(DEFAULT_LISTENER.to_owned(), first)]);
        for name in self.names_in("listeners") {
            let (bind_key, advertise_key) =
                (format!("listeners.{name}.bind"), format!("listeners.{name}.advertise"));
            let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if name.is_empty() || !name.bytes().all(well_formed) {
                let problem = format!("listener name '{name}': use letters, digits, '_' and '-'");
                return Err(self.error(&bind_key, problem));
            }
            let Some(bind) = self.endpoint(&bind_key)? else {
                return Err(self
                    .error(&advertise_key, format!("listener {name} has no bind address: add {bind_key}")));
            };
            let listener = advertised(&bind_key, &advertise_key, bind, self.endpoint(&advertise_key)?);
            let listener =
                listener.map_err(|problem| self.error(self.set_of(&advertise_key, &bind_key), problem))?;
            let taken = |other: &Listener| listener.bind.port != 0 && other.bind == listener.bind;
            if listeners.values().any(taken) {
                return Err(
                    self.error(&bind_key, format!("listener {name} binds an address that another one has"))
                );
            }
            if listeners.insert(name.clone(), listener).is_some() {
                let problem =
                    format!("listener {name} is the one that [bind] kafka makes: give this one another name");
                return Err(self.error(&bind_key, problem));
            }
        }
        Ok(listeners)
    }

    fn raft(
        &self,
        node: NodeId,
        peers: &BTreeMap<NodeId, Peer>,
    ) -> Result<Option<Listener>, ServerConfigError> {
        let Some(bind) = self.endpoint("bind.raft")? else {
            if peers.len() > 1 {
                let count = peers.len();
                let problem = format!(
                    "node {node} is one of {count} peers and needs an address for them: set bind.raft"
                );
                return Err(self.error(&format!("peers.{node}.raft"), problem));
            }
            return Ok(None);
        };
        let advertise =
            self.endpoint("advertise.raft")?.or_else(|| peers.get(&node).map(|peer| peer.raft.clone()));
        let listener = advertised("bind.raft", "advertise.raft", bind, advertise);
        listener.map(Some).map_err(|problem| self.error(self.set_of("advertise.raft", "bind.raft"), problem))
    }

    /// The static layer: what `[kafka]` sets, and what follows from the node's own keys.
    fn kafka(&self, config: &ServerConfig) -> Result<ConfigMap, ServerConfigError> {
        let mut kafka = ConfigMap::new();
        for (key, (value, origin)) in &self.values {
            let Some(name) = key.strip_prefix("kafka.") else { continue };
            match check_static(name, value) {
                Ok(value) => kafka.insert(name.to_owned(), value),
                Err(error) => return refuse(origin.clone(), error.to_string()),
            };
        }
        let nodes = config.peers.len().max(1);
        let nodes_i16 = i16::try_from(nodes).unwrap_or(i16::MAX);
        let usual = i16::try_from(nodes.min(REPLICATION_FACTOR_USUAL)).unwrap_or(1);
        let factor = self.number("replication_factor", 1, nodes_i16)?.unwrap_or(usual);
        let factor_now =
            kafka.entry("default.replication.factor".into()).or_insert(factor.to_string()).clone();
        let factor_now: i32 = factor_now.parse().unwrap_or(1);
        if let Some(in_sync) = self.number("min_insync_replicas", 1, factor_now)? {
            kafka.entry("min.insync.replicas".into()).or_insert(in_sync.to_string());
        }
        for (name, value) in node_configs(config) {
            kafka.insert(name.to_owned(), value);
        }
        let layers = BrokerLayers { fixed: kafka.clone().into(), ..BrokerLayers::default() };
        check_together(&layers).map_err(|error| self.error("kafka", error.to_string()))?;
        Ok(kafka)
    }

    /// The first key if it is set, else the second.
    fn set_of<'a>(&self, first: &'a str, second: &'a str) -> &'a str {
        if self.values.contains_key(first) { first } else { second }
    }

    pub(super) fn error(&self, key: &str, problem: String) -> ServerConfigError {
        ServerConfigError { origin: self.origin(key), problem }
    }
}

type AddItem = fn(&mut Settings, &str, Origin) -> Result<(), ServerConfigError>;

fn refuse<T>(origin: Origin, problem: String) -> Result<T, ServerConfigError> {
    Err(ServerConfigError { origin, problem })
}

/// The listener of these two addresses; the second defaults to the first unless nobody could connect to that.
fn advertised(
    bind_key: &str,
    advertise_key: &str,
    bind: Endpoint,
    advertise: Option<Endpoint>,
) -> Result<Listener, String> {
    let everywhere = |endpoint: &Endpoint| is_wildcard(&endpoint.host);
    match advertise {
        Some(advertise) if everywhere(&advertise) => {
            Err(format!("{advertise_key} = {}: nobody can connect to that; name a host", advertise.host))
        }
        Some(advertise) => Ok(Listener { bind, advertise }),
        None if everywhere(&bind) => Err(format!(
            "{bind_key} listens on every address, so clients must be told which to use: set {advertise_key} = HOST:PORT"
        )),
        None => Ok(Listener { advertise: bind.clone(), bind }),
    }
}

/// The rows of DescribeConfigs that come from the node's own keys.
fn node_configs(config: &ServerConfig) -> Vec<(&'static str, String)> {
    let listed = |address: fn(&Listener) -> &Endpoint| {
        let each = config.listeners.iter().map(|(name, listener)| {
            let Endpoint { host, port } = address(listener);
            if host.contains(':') {
                format!("{name}://[{host}]:{port}")
            } else {
                format!("{name}://{host}:{port}")
            }
        });
        each.collect::<Vec<_>>().join(",")
    };
    let protocols = config.listeners.keys().map(|name| format!("{name}:PLAINTEXT")).collect::<Vec<_>>();
    let data_dir = config.data_dir.display().to_string();
    let mut rows = vec![
        ("node.id", config.node_id.to_string()),
        ("broker.id", config.node_id.to_string()),
        ("process.roles", "broker,controller".to_owned()),
        ("log.dir", data_dir.clone()),
        ("log.dirs", data_dir),
        ("listeners", listed(|listener| &listener.bind)),
        ("advertised.listeners", listed(|listener| &listener.advertise)),
        ("listener.security.protocol.map", protocols.join(",")),
    ];
    rows.extend(config.rack.clone().map(|rack| ("broker.rack", rack)));
    rows
}
