//! The command line of `chronik-server`.
//!
//! Every key of the node file is also a flag here and a `CHRONIK_*` variable; `server::resolve` lays them over one another.
//! Values stay text until then, so that all three sources are checked by the same code, with the same words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A Kafka-compatible broker.
#[derive(Clone, Debug, Parser)]
#[command(name = "chronik-server", version, about = "A Kafka-compatible broker")]
pub struct Cli {
    /// What to do; without any, start one node with the defaults.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Start this node.
    Start(Box<StartArgs>),
    /// Look at a running cluster and change it.
    ///
    /// Ends with 0 when it is done, or healthy; 1 when not; 2 when the command line is wrong; 3 when no node can be reached.
    Cluster(ClusterArgs),
    /// Look into the log of a node that is stopped.
    #[command(subcommand)]
    Log(LogCommand),
    /// Print the version.
    Version,
}

/// The flags of all `cluster` commands.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Kafka addresses of nodes to ask, separated by commas; one that runs is enough.
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub bootstrap: String,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for what takes time; what has been begun goes on when they are over.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What to do with a cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the nodes, what they hold, and what is amiss with it.
    Status,
    /// Tell whether all is well, and what is not; ends with 0 or 1.
    Health,
    /// Move all replicas and leaders off a node, and wait until they are gone.
    Drain {
        /// The node's id.
        node: i32,
        /// Let partitions that find no other node go on with fewer replicas.
        #[arg(long)]
        shrink: bool,
    },
    /// Let in a node that was started fresh: wait until it is a full member.
    Add {
        /// The node's id.
        node: i32,
        /// Then give it its share of replicas and leaders.
        #[arg(long)]
        rebalance: bool,
    },
    /// Take out for good a node that holds nothing any more.
    Remove {
        /// The node's id.
        node: i32,
    },
    /// Even out replicas and leaders over the nodes.
    Rebalance {
        /// Only show what would be moved.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a node the preferred leader of a partition, and its leader.
    MoveLeader {
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: i32,
        /// The node's id.
        node: i32,
    },
    /// After the loss of a majority: let one stopped node go on alone with what it has.
    Recover(RecoverArgs),
}

/// The flags of `cluster recover`.
#[derive(Clone, Debug, Args)]
pub struct RecoverArgs {
    /// Yes, records that only the other nodes had are given up.
    #[arg(long = "unsafe", required = true)]
    pub accept_unsafe: bool,
    /// The data directory of the node that is to go on; the node must be stopped.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Do not ask for a typed confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// What to do with a log.
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// Print what a WAL segment or a partition segment holds.
    Dump {
        /// The file.
        file: PathBuf,
    },
    /// Tell what is damaged in the data of a stopped node; with --accept-loss, keep what is sound and drop the rest.
    ///
    /// Ends with 0 when nothing is damaged or all was repaired, with 1 otherwise.
    Repair(RepairArgs),
}

/// The flags of `log repair`.
#[derive(Clone, Debug, Args)]
pub struct RepairArgs {
    /// The node's data directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Id of the node; without it, whichever node the directory belongs to.
    #[arg(long, value_name = "N")]
    pub node_id: Option<i32>,
    /// Drop for good what is damaged and all after it, so that the partitions are served again.
    #[arg(long)]
    pub accept_loss: bool,
}

/// The flags of `start`. Each wins over its variable, and that over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct StartArgs {
    /// Node file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Id of this node, unique in its cluster.
    #[arg(long, value_name = "N")]
    pub node_id: Option<String>,
    /// Where all data goes.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address to listen on for Kafka clients.
    #[arg(long, value_name = "ADDR")]
    pub kafka: Option<String>,
    /// Address by which clients reach that listener.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Address to listen on for other nodes.
    #[arg(long, value_name = "ADDR")]
    pub raft: Option<String>,
    /// Address by which other nodes reach this one.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_raft: Option<String>,
    /// Address of the admin endpoint (metrics, health).
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Shards, one for each core to use.
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Rack of this node.
    #[arg(long, value_name = "NAME")]
    pub rack: Option<String>,
    /// Replicas of a topic whose creator does not say.
    #[arg(long, value_name = "N")]
    pub replication_factor: Option<String>,
    /// Replicas that must have a record on disk before acks=all is answered.
    #[arg(long, value_name = "N")]
    pub min_insync_replicas: Option<String>,
    /// Log levels, such as info or chronik_net=debug.
    #[arg(long, value_name = "LEVELS")]
    pub log: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// One more Kafka listener. May be repeated.
    #[arg(long, value_name = "NAME=BIND[,ADVERTISE]")]
    pub listener: Vec<String>,
    /// One node of the cluster. May be repeated; this node included.
    #[arg(long, value_name = "ID=KAFKA,RAFT")]
    pub peer: Vec<String>,
    /// A broker config by Kafka's own name. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub kafka_config: Vec<String>,
}

/// A setting that has one value: its key in the node file, its flag, its variable.
#[derive(Clone, Copy, Debug)]
pub struct SettingName {
    /// In the node file, tables joined by dots.
    pub key: &'static str,
    /// On the command line.
    pub flag: &'static str,
    /// In the environment.
    pub variable: &'static str,
}

macro_rules! settings {
    ($($key:literal $flag:literal $variable:literal $field:ident;)*) => {
        /// Every setting that has one value.
        pub const SETTINGS: &[SettingName] =
            &[$(SettingName { key: $key, flag: $flag, variable: $variable }),*];

        impl StartArgs {
            /// The flags that were given, by key.
            #[must_use]
            pub fn given(&self) -> BTreeMap<&'static str, &str> {
                let mut given = BTreeMap::new();
                $(if let Some(value) = &self.$field { given.insert($key, value.as_str()); })*
                given
            }
        }
    };
}

settings! {
    "node_id" "--node-id" "CHRONIK_NODE_ID" node_id;
    "data_dir" "--data-dir" "CHRONIK_DATA_DIR" data_dir;
    "replication_factor" "--replication-factor" "CHRONIK_REPLICATION_FACTOR" replication_factor;
    "min_insync_replicas" "--min-insync-replicas" "CHRONIK_MIN_INSYNC_REPLICAS" min_insync_replicas;
    "rack" "--rack" "CHRONIK_RACK" rack;
    "shards" "--shards" "CHRONIK_SHARDS" shards;
    "log" "--log" "CHRONIK_LOG" log;
    "log_format" "--log-format" "CHRONIK_LOG_FORMAT" log_format;
    "bind.kafka" "--kafka" "CHRONIK_KAFKA" kafka;
    "bind.raft" "--raft" "CHRONIK_RAFT" raft;
    "bind.admin" "--admin" "CHRONIK_ADMIN" admin;
    "advertise.kafka" "--advertise" "CHRONIK_ADVERTISE" advertise;
    "advertise.raft" "--advertise-raft" "CHRONIK_ADVERTISE_RAFT" advertise_raft;
}

/// Variable that names the node file.
pub const CONFIG_VARIABLE: &str = "CHRONIK_CONFIG";
/// Variable with more listeners, as `--listener`, separated by semicolons.
pub const LISTENERS_VARIABLE: &str = "CHRONIK_LISTENERS";
/// Variable with the nodes of the cluster, as `--peer`, separated by semicolons.
pub const PEERS_VARIABLE: &str = "CHRONIK_PEERS";
/// Variable with broker configs, as `--kafka-config`, separated by semicolons.
pub const KAFKA_CONFIG_VARIABLE: &str = "CHRONIK_KAFKA_CONFIG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_the_design_is_read() {
        let line = "chronik-server start --config n.toml --node-id 3 --data-dir d --kafka 0.0.0.0:9092 --advertise h:9092 \
                    --raft 0.0.0.0:5001 --admin 127.0.0.1:1 --shards 2 --kafka-config a=b --kafka-config c=d";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Some(Command::Start(start)) = cli.command else { panic!("start") };
        assert_eq!(start.given()["node_id"], "3");
        assert_eq!(start.given()["bind.kafka"], "0.0.0.0:9092");
        assert_eq!(start.kafka_config, ["a=b", "c=d"]);
        assert!(Cli::try_parse_from(["chronik-server"]).unwrap().command.is_none());
        assert!(Cli::try_parse_from(["chronik-server", "start", "--shard", "2"]).is_err());
        let dump = Cli::try_parse_from(["chronik-server", "log", "dump", "x.wal"]).unwrap();
        assert!(matches!(dump.command, Some(Command::Log(LogCommand::Dump { .. }))));
        let repair =
            Cli::try_parse_from(["chronik-server", "log", "repair", "--data-dir", "d", "--accept-loss"])
                .unwrap();
        assert!(
            matches!(repair.command, Some(Command::Log(LogCommand::Repair(args))) if args.accept_loss && args.node_id.is_none())
        );
        let version = Cli::try_parse_from(["chronik-server", "version"]).unwrap();
        assert!(matches!(version.command, Some(Command::Version)));
    }

    #[test]
    fn cluster_commands_are_read() {
        let cluster = |line: &str| {
            let words = ["chronik-server", "cluster"].into_iter().chain(line.split_whitespace());
            Cli::try_parse_from(words).map(|cli| match cli.command {
                Some(Command::Cluster(args)) => args,
                other => panic!("{other:?}"),
            })
        };
        let status = cluster("status --bootstrap h:1,h:2 --json").unwrap();
        assert!(status.json && status.bootstrap == "h:1,h:2");
        assert_eq!(cluster("health").unwrap().bootstrap, "127.0.0.1:9092");
        let drain = cluster("drain 3 --shrink --timeout 5").unwrap();
        assert!(
            matches!(drain.command, ClusterCommand::Drain { node: 3, shrink: true }) && drain.timeout == 5
        );
        let leader = cluster("move-leader orders 4 2").unwrap();
        assert!(matches!(leader.command, ClusterCommand::MoveLeader { partition: 4, node: 2, .. }));
        assert!(cluster("recover --data-dir d").is_err(), "never without --unsafe");
        assert!(cluster("recover --unsafe --data-dir d").is_ok());
        assert!(cluster("drain").is_err());
    }

    #[test]
    fn clap_finds_no_contradiction() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
