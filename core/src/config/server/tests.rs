//! Tests of the node's configuration: the design's file, what wins over what, and the line that each mistake gets.

use super::*;
use crate::config::broker::BrokerConfig;
use crate::config::layers::BrokerLayers;

const NODE_FILE: &str = r#"
node_id = 1
data_dir = "/var/lib/chronik"
replication_factor = 3
min_insync_replicas = 2
rack = "a"
[bind]
kafka = "0.0.0.0:9092"
raft  = "0.0.0.0:5001"
admin = "127.0.0.1:9644"
[advertise]
kafka = "host1:9092"
raft  = "host1:5001"
[listeners.INTERNAL]
bind = "10.0.0.1:9094"
[kafka]
"log.retention.ms" = 86400000
num.partitions = 4
[[peers]]
id = 1
kafka = "host1:9092"
raft  = "host1:5001"
[[peers]]
id = 2
kafka = "host2:9092"
raft  = "host2:5001"
[[peers]]
id = 3
kafka = "host3:9092"
raft  = "host3:5001"
"#;

fn from_file(text: &str) -> Result<ServerConfig, ServerConfigError> {
    resolve(Some(("node.toml", text)), &BTreeMap::new(), &StartArgs::default())
}

fn host(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

#[test]
fn nothing_at_all_is_one_node_on_loopback() {
    let config = resolve(None, &BTreeMap::new(), &StartArgs::default()).unwrap();
    assert_eq!(config.node_id, NodeId(1));
    assert_eq!(config.data_dir, PathBuf::from("./chronik-data"));
    assert_eq!(config.listeners[DEFAULT_LISTENER].advertise, host("127.0.0.1", 9092));
    assert_eq!(config.admin, host("127.0.0.1", 9644));
    assert!(config.peers.is_empty() && config.raft.is_none() && config.shards.is_none());
    let layers = BrokerLayers { fixed: config.kafka.into(), ..BrokerLayers::default() };
    let broker = BrokerConfig::resolve(&layers);
    assert_eq!((broker.default_replication_factor, broker.offsets_topic_replication_factor), (1, 3));
    assert!(broker.auto_create_topics_enable);
}

#[test]
fn the_designs_node_file_is_read() {
    let config = from_file(NODE_FILE).unwrap();
    assert_eq!(config.peers.len(), 3);
    assert_eq!(config.peers[&NodeId(3)].raft, host("host3", 5001));
    assert_eq!(config.rack.as_deref(), Some("a"));
    let kafka = &config.listeners[DEFAULT_LISTENER];
    assert_eq!((&kafka.bind, &kafka.advertise), (&host("0.0.0.0", 9092), &host("host1", 9092)));
    assert_eq!(config.listeners["INTERNAL"].advertise, host("10.0.0.1", 9094));
    assert_eq!(config.raft.as_ref().unwrap().advertise, host("host1", 5001));
    for (name, value) in [
        ("log.retention.ms", "86400000"),
        ("num.partitions", "4"),
        ("default.replication.factor", "3"),
        ("min.insync.replicas", "2"),
        ("broker.rack", "a"),
        ("advertised.listeners", "INTERNAL://10.0.0.1:9094,PLAINTEXT://host1:9092"),
    ] {
        assert_eq!(config.kafka.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = Some(("node.toml", "node_id = 1\nshards = 1\nrack = \"a\"\nkafka.\"num.partitions\" = 1\n"));
    let variables = [
        ("CHRONIK_SHARDS", "2"),
        ("CHRONIK_RACK", "b"),
        ("CHRONIK_KAFKA_CONFIG", "num.partitions=2; log.retention.ms=5"),
        ("CHRONIK_SKIP_CLIENTS", "all"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let flags = StartArgs {
        shards: Some("3".into()),
        kafka_config: vec!["num.partitions=3".into()],
        listener: vec!["X=127.0.0.1:1,h:2".into()],
        ..StartArgs::default()
    };
    let config = resolve(file, &variables, &flags).unwrap();
    assert_eq!((config.node_id, config.shards, config.rack.as_deref()), (NodeId(1), Some(3), Some("b")));
    assert_eq!((&*config.kafka["num.partitions"], &*config.kafka["log.retention.ms"]), ("3", "5"));
    assert_eq!(config.listeners["X"].advertise, host("h", 2));
}

#[test]
fn each_mistake_gets_one_line_that_says_where_what_and_how() {
    let lines = [
        ("nod_id = 1", "node.toml:1: unknown key nod_id; did you mean node_id?"),
        ("\n[bind]\nkafak = \"a:1\"", "node.toml:3: unknown key bind.kafak; did you mean bind.kafka?"),
        ("node_id = -1", "node.toml:1: node_id = -1: must be a whole number from 0 to 2147483647"),
        ("shards = 0", "node.toml:1: shards = 0: must be a whole number from 1 to 1024"),
        (
            "bind.kafka = \"9092\"",
            "node.toml:1: bind.kafka = 9092: must be HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092",
        ),
        (
            "bind.kafka = \"0.0.0.0:9092\"",
            "node.toml:1: bind.kafka listens on every address, so clients must be told which to use: set advertise.kafka = HOST:PORT",
        ),
        (
            "advertise.kafka = \"0.0.0.0:1\"",
            "node.toml:1: advertise.kafka = 0.0.0.0: nobody can connect to that; name a host",
        ),
        ("replication_factor = 3", "node.toml:1: replication_factor = 3: must be a whole number from 1 to 1"),
        (
            "min_insync_replicas = 2",
            "node.toml:1: min_insync_replicas = 2: must be a whole number from 1 to 1",
        ),
        (
            "[kafka]\n\"log.retenton.ms\" = 1",
            "node.toml:2: Unknown broker config name: log.retenton.ms (did you mean log.retention.ms?)",
        ),
        (
            "[kafka]\nlog.retention.ms = \"soon\"",
            "node.toml:2: Invalid value soon for configuration log.retention.ms: Not a number of type LONG",
        ),
        ("[kafka]\n\"node.id\" = 4", "node.toml:2: node.id is set by node_id in the node's configuration"),
        (
            "[kafka]\n\"ssl.keystore.location\" = \"x\"",
            "node.toml:2: ssl.keystore.location=x is not supported by chronik: leave it out",
        ),
        ("[[peers]]\nkafka = \"h:1\"", "node.toml:1: this peer has no id: add id = N"),
        ("[[peers]]\nid = 1\nkafka = \"h:1\"", "node.toml:3: peer 1 needs both kafka and raft addresses"),
        (
            "peers = [{id = 2, kafka = \"h:1\", raft = \"h:2\"}]",
            "node.toml:1: peers do not list this node: add one with id = 1",
        ),
        ("log_format = \"xml\"", "node.toml:1: log_format = xml: must be text or json"),
        (
            "listeners.PLAINTEXT.bind = \"h:1\"",
            "node.toml:1: listener PLAINTEXT is the one that [bind] kafka makes: give this one another name",
        ),
        (
            "listeners.X.bind = \"127.0.0.1:9092\"",
            "node.toml:1: listener X binds an address that another one has",
        ),
        (
            "listeners.X.advertise = \"h:1\"",
            "node.toml:1: listener X has no bind address: add listeners.X.bind",
        ),
        ("data_dir = 1979-05-27", "node.toml:1: data_dir must not be a date"),
    ];
    for (text, line) in lines {
        assert_eq!(from_file(text).unwrap_err().to_string(), line, "{text}");
    }
    let syntax = from_file("a = 1\nb = = 2").unwrap_err().to_string();
    assert!(syntax.starts_with("node.toml:2: ") && !syntax.contains('\n'), "{syntax}");
    let three = "bind.kafka = \"h:1\"\npeers = [{id = 1, kafka = \"a:1\", raft = \"a:2\"}, {id = 2, kafka = \"b:1\", raft = \"b:2\"}]";
    assert!(from_file(three).unwrap_err().to_string().contains("set bind.raft"));
    let twice =
        "peers = [{id = 1, kafka = \"a:1\", raft = \"a:2\"}, {id = 1, kafka = \"b:1\", raft = \"b:2\"}]";
    assert!(from_file(twice).unwrap_err().to_string().contains("two peers have the id 1"));
}

#[test]
fn addresses_that_contradict_one_another_are_refused_in_one_line() {
    let lines = [
        (
            "[advertise]\nraft = \"host1:5009\"",
            "advertise.raft = host1:5009 contradicts peers.1.raft = host1:5001: the other nodes have the latter; make them the same",
        ),
        (
            "[advertise]\nkafka = \"host9:9092\"",
            "advertise.kafka = host9:9092 contradicts peers.1.kafka = host1:9092: the other nodes have the latter; make them the same",
        ),
        (
            "[[peers]]\nid = 4\nkafka = \"host4:9092\"\nraft = \"host2:5001\"",
            "raft of peer 4 is host2:5001, which is raft of peer 2 as well",
        ),
        (
            "[[peers]]\nid = 4\nkafka = \"host4:5001\"\nraft = \"host4:5001\"",
            "raft of peer 4 is host4:5001, which is kafka of peer 4 as well",
        ),
        (
            "[[peers]]\nid = 4\nkafka = \"host4:9092\"\nraft = \"0.0.0.0:5001\"",
            "raft of peer 4 is 0.0.0.0:5001, where nobody can find it; name a host and a port",
        ),
        (
            "[[peers]]\nid = 4\nkafka = \"host4:0\"\nraft = \"host4:5001\"",
            "kafka of peer 4 is host4:0, where nobody can find it; name a host and a port",
        ),
    ];
    let (head, advertised) = NODE_FILE.split_once("[advertise]").unwrap();
    let without = format!(
        "{head}{}",
        advertised.split_once("[listeners").unwrap().1.replace(".INTERNAL]", "[listeners.INTERNAL]")
    );
    assert!(from_file(&without).is_ok(), "what is not said follows from the list");
    for (more, problem) in lines {
        let error = from_file(&format!("{without}\n{more}")).unwrap_err().to_string();
        let (place, said) = error.split_once(": ").unwrap();
        assert_eq!(said, problem);
        assert!(place.starts_with("node.toml:"), "{place}");
    }
    for (port, other) in [("127.0.0.1:9644", "bind.admin"), ("127.0.0.1:9092", "a Kafka listener")] {
        let error = from_file(&format!("bind.raft = \"{port}\"")).unwrap_err().to_string();
        assert!(error.contains(other) && error.contains("give it one of its own"), "{error}");
    }
    assert!(from_file("bind.raft = \"127.0.0.2:9644\"").is_ok());
    let grown = from_file("bind.raft = \"127.0.0.1:0\"").unwrap();
    assert!(grown.raft.is_some() && grown.peers.is_empty(), "a node on its own that can grow");
}

#[test]
fn flags_and_variables_are_named_in_errors() {
    let flags = StartArgs { shards: Some("many".into()), ..StartArgs::default() };
    let error = resolve(None, &BTreeMap::new(), &flags).unwrap_err().to_string();
    assert_eq!(error, "--shards: shards = many: must be a whole number from 1 to 1024");
    let variables = BTreeMap::from([("CHRONIK_PEERS".to_owned(), "1=a:1".to_owned())]);
    let error = resolve(None, &variables, &StartArgs::default()).unwrap_err().to_string();
    assert_eq!(error, "CHRONIK_PEERS: '1=a:1' is not of the form ID=KAFKA,RAFT");
}

#[test]
fn addresses_are_read() {
    assert_eq!(parse_endpoint("[::1]:9092"), Some(host("::1", 9092)));
    assert_eq!(parse_endpoint("a-b.c:0"), Some(host("a-b.c", 0)));
    for bad in ["", "h", ":1", "h:", "h:65536", "::1:9092", "[::1:9092", "a b:1", "http://h:1"] {
        assert_eq!(parse_endpoint(bad), None, "{bad}");
    }
}
