//! The configuration of a node: file, environment and flags laid over the defaults, then checked as a whole.
//!
//! Pure: the caller reads the file and the environment. Precedence: flag, `CHRONIK_*` variable, file, default. Every refusal
//! is one line: where the value came from (file and line, variable or flag), what is wrong, how to mend it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chronik_wal::types::NodeId;
use thiserror::Error;

use super::cli::StartArgs;
use super::layers::ConfigMap;
use crate::metadata::command::Endpoint;

mod agreement;
mod file;
mod settings;

use settings::Settings;

/// The name of the listener that `[bind] kafka` makes.
pub const DEFAULT_LISTENER: &str = "PLAINTEXT";
/// More shards than any machine has cores to run them on; a typing error must not start a million threads.
pub const SHARDS_MAX: u16 = 1024;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(String),
    /// An environment variable.
    Variable(&'static str),
    /// The node file, and the line in it.
    File(String, usize),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "{flag}"),
            Origin::Variable(name) => write!(f, "{name}"),
            Origin::File(path, line) => write!(f, "{path}:{line}"),
            Origin::Default => write!(f, "default"),
        }
    }
}

/// Why the node cannot start with this configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{origin}: {problem}")]
pub struct ServerConfigError {
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong and how to mend it.
    pub problem: String,
}

/// A Kafka listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where to listen. Port 0 lets the system choose.
    pub bind: Endpoint,
    /// Where clients are sent. Port 0 stands for the one that the system chose.
    pub advertise: Endpoint,
}

/// A node of the cluster, as the file knows it: where to look first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its Kafka address.
    pub kafka: Endpoint,
    /// Its address for other nodes.
    pub raft: Endpoint,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a node is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// This node.
    pub node_id: NodeId,
    /// Where all data goes.
    pub data_dir: PathBuf,
    /// How many shards; none for one a core.
    pub shards: Option<u16>,
    /// Its rack.
    pub rack: Option<String>,
    /// Its Kafka listeners by name.
    pub listeners: BTreeMap<String, Listener>,
    /// Where other nodes reach it; none for a node on its own.
    pub raft: Option<Listener>,
    /// The admin endpoint.
    pub admin: Endpoint,
    /// The nodes of the cluster, this one included; empty for a node on its own.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Log levels, as tracing's filters are written.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The static layer of the broker's configs, by Kafka's names.
    pub kafka: ConfigMap,
}

/// Lays the sources over one another and checks the outcome.
///
/// `file` is the node file's path and text; `variables` is the environment.
///
/// # Errors
/// The first thing that is wrong.
pub fn resolve(
    file: Option<(&str, &str)>,
    variables: &BTreeMap<String, String>,
    flags: &StartArgs,
) -> Result<ServerConfig, ServerConfigError> {
    let mut settings = Settings::default();
    if let Some((path, text)) = file {
        file::read(path, text, &mut settings)?;
    }
    settings.read_variables(variables)?;
    settings.read_flags(flags)?;
    settings.check_keys()?;
    settings.build()
}

/// `host:port`, with an IPv6 address in brackets.
#[must_use]
pub fn parse_endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let well_formed = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    well_formed.then(|| port.parse().ok().map(|port| Endpoint { host: host.to_owned(), port }))?
}

#[cfg(test)]
mod tests;
