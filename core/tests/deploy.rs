//! What lies in `deploy/` is read by our own configuration reader, says what the README says, and agrees with itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chronik_core::config::cli::{Cli, Command, StartArgs};
use chronik_core::config::server::{ServerConfig, resolve};
use chronik_core::metadata::command::Endpoint;
use chronik_wal::types::NodeId;
use clap::Parser as _;

fn deployed(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

#[test]
fn the_three_node_files_are_three_nodes_of_one_cluster() {
    let configs: Vec<ServerConfig> = (1..=3)
        .map(|node| {
            let name = format!("node{node}.toml");
            let text = deployed(&name);
            resolve(Some((&name, &text)), &BTreeMap::new(), &StartArgs::default()).unwrap()
        })
        .collect();
    for (node, config) in (1u16..).zip(&configs) {
        assert_eq!(config.node_id, NodeId(i32::from(node)));
        assert_eq!(config.data_dir, PathBuf::from(format!("./chronik-data/node{node}")));
        let kafka = &config.listeners["PLAINTEXT"];
        assert_eq!(kafka.bind, endpoint("127.0.0.1", 9091 + node));
        assert_eq!(kafka.advertise, kafka.bind);
        let raft = config.raft.as_ref().unwrap();
        assert_eq!(raft.bind, endpoint("127.0.0.1", 5000 + node));
        assert_eq!(config.admin, endpoint("127.0.0.1", 9643 + node));
        assert_eq!(config.peers, configs[0].peers, "all lists are the same");
        let own = &config.peers[&config.node_id];
        assert_eq!((&own.kafka, &own.raft), (&kafka.advertise, &raft.advertise), "and true");
        assert_eq!(config.kafka["default.replication.factor"], "3");
        assert_eq!(config.kafka["min.insync.replicas"], "2");
    }
}

/// The services of the compose file, each with its lines; no YAML reader is in the tree.
fn services() -> BTreeMap<String, Vec<String>> {
    let text = deployed("compose.yaml");
    let body = text.split("\nservices:\n").nth(1).and_then(|rest| rest.split("\nvolumes:\n").next()).unwrap();
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) {
        assert!(!line.contains('\t'), "YAML has no tabs: {line}");
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            Some(name) => current = name.strip_suffix(':').unwrap().to_owned(),
            None => services.entry(current.clone()).or_default().push(line[4..].to_owned()),
        }
    }
    services
}

/// The entries under `key` of a service.
fn entries<'a>(service: &'a [String], key: &str) -> Vec<&'a str> {
    let head = format!("{key}:");
    let after = service.iter().skip_while(|line| **line != head).skip(1);
    after.take_while(|line| line.starts_with("  ")).map(|line| line.trim()).collect()
}

#[test]
fn the_services_of_the_compose_file_are_three_nodes_of_one_cluster() {
    let services = services();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["chronik1", "chronik2", "chronik3"]);
    let mut peers = Vec::new();
    for (node, (name, service)) in (1u16..).zip(&services) {
        let variables: BTreeMap<String, String> = entries(service, "environment")
            .iter()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        let config = resolve(None, &variables, &StartArgs::default()).unwrap();
        assert_eq!(config.node_id, NodeId(i32::from(node)));
        let own = &config.peers[&config.node_id];
        assert_eq!(own.raft, config.raft.as_ref().unwrap().advertise);
        assert_eq!(own.kafka, config.listeners["PLAINTEXT"].advertise);
        assert_eq!(own.kafka.host, *name, "the network of the file knows it by its service");
        let outside = &config.listeners["EXTERNAL"];
        assert_eq!(outside.advertise, endpoint("localhost", 9091 + node));
        let ports = entries(service, "ports");
        let port = outside.bind.port;
        assert!(ports.contains(&format!("- \"127.0.0.1:{port}:{port}\"").as_str()), "{ports:?}");
        assert!(ports.contains(&format!("- \"127.0.0.1:{}:9644\"", 9643 + node).as_str()), "{ports:?}");
        assert_eq!(entries(service, "security_opt"), ["- seccomp=unconfined"], "io_uring must be allowed");
        assert_eq!(entries(service, "ulimits"), ["memlock: -1", "nofile: 1048576"]);
        let volumes = entries(service, "volumes");
        assert_eq!(volumes, [format!("- {name}:/var/lib/chronik")]);
        assert!(config.data_dir.starts_with("/var/lib/chronik"), "the data is on the volume");
        peers.push(config.peers);
    }
    assert!(peers.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn the_image_runs_our_command_line() {
    let text = deployed("Dockerfile");
    assert!(text.contains("FROM rust:") && text.contains("AS build"));
    assert!(
        text.contains("COPY --from=build /src/target/release/chronik-server /usr/local/bin/chronik-server")
    );
    assert!(text.contains("ENTRYPOINT [\"chronik-server\"]\nCMD [\"start\"]"));
    let cli = Cli::try_parse_from(["chronik-server", "start"]).unwrap();
    assert!(matches!(cli.command, Some(Command::Start(_))));
    let settings = text.split("\nENV ").nth(1).unwrap().split("\n#").next().unwrap();
    let variables: BTreeMap<String, String> = settings
        .split('\\')
        .map(|setting| setting.trim().split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let config = resolve(None, &variables, &StartArgs::default()).unwrap();
    assert_eq!(config.listeners["PLAINTEXT"].bind, endpoint("0.0.0.0", 9092));
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/chronik/data"));
}

#[test]
fn the_unit_starts_the_server_with_the_limits_that_it_needs() {
    let text = deployed("chronik.service");
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    assert_eq!(value("LimitMEMLOCK"), "infinity");
    assert_eq!(value("LimitNOFILE"), "1048576");
    let cli = Cli::try_parse_from(value("ExecStart").split_whitespace()).unwrap();
    let Some(Command::Start(start)) = cli.command else { panic!("{:?}", cli.command) };
    assert_eq!(start.config, Some(PathBuf::from("/etc/chronik/node.toml")));
    assert_eq!(value("ReadWritePaths"), value("WorkingDirectory"));
}
