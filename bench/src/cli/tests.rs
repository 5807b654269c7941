//! The command line: values, combinations, refusals.

use super::*;

#[test]
fn durations() {
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
    assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    assert!(parse_duration("10y").is_err());
    assert!(parse_duration("").is_err());
    assert!(parse_duration("9999999h").unwrap_err().contains("longer than a year"));
}

#[test]
fn the_reference_workload_can_be_expressed() {
    let line = "chronik-bench -c 128 --linger-ms 0 -p 1 -s 256 --acks all -d 10s -w 3s";
    let options = Options::try_parse_from(line.split(' ')).unwrap();
    options.check().unwrap();
    assert_eq!((options.concurrency, options.clients, options.partitions), (128, 1, Some(1)));
    assert_eq!(options.warmup_duration, Duration::from_secs(3));
    assert!(options.create_topic);
}

#[test]
fn every_acknowledgement_level_can_be_written() {
    for acks in ["0", "1", "-1", "all"] {
        let options = Options::try_parse_from(["chronik-bench", "--acks", acks]).unwrap();
        assert_eq!(options.acks, acks);
    }
    assert!(Options::try_parse_from(["chronik-bench", "--acks", "-2"]).is_err());
}

#[test]
fn combinations_are_checked() {
    let parse = |line: &str| Options::try_parse_from(line.split(' ')).unwrap().check();
    assert!(parse("chronik-bench --validate -s 10").is_err());
    assert!(parse("chronik-bench -m round-trip -s 47").is_err());
    assert!(parse("chronik-bench -c 2 --clients 3").is_err());
    assert!(parse("chronik-bench -s 10").is_ok());
    assert!(Options::try_parse_from(["chronik-bench", "--disable-auto-commit"]).is_err());
    assert!(parse("chronik-bench -m metadata --validate").is_err());
    assert!(parse("chronik-bench -m consume --rate-limit 5").is_err());
    assert!(parse("chronik-bench -m topics --rate-limit 5").is_err());
    assert!(parse("chronik-bench --consumers 2").is_err());
    assert!(parse("chronik-bench -m backlog --consumers 2 --rate-limit 5").is_ok());
    assert!(parse("chronik-bench -m produce --consumer-group g").is_err());
    assert!(parse("chronik-bench --keep-topics").is_err());
    assert!(parse("chronik-bench -d 0").is_err());
}

#[test]
fn values_out_of_range_are_refused_with_the_name_of_the_flag() {
    for (flag, value) in [
        ("--partitions", "0"),
        ("--replication-factor", "0"),
        ("--replication-factor", "40000"),
        ("--message-count", "0"),
        ("--message-size", "1000000001"),
        ("--batch-size", "0"),
        ("--linger-ms", "900001"),
        ("--request-timeout-ms", "0"),
        ("--message-timeout-ms", "0"),
        ("--report-interval-secs", "0"),
        ("--rate-limit", "0"),
        ("--clients", "0"),
        ("--prometheus-port", "0"),
        ("--key-pattern", "none"),
        ("--payload-pattern", "none"),
        ("--compression", "lz5"),
    ] {
        let error = Options::try_parse_from(["chronik-bench", flag, value]).unwrap_err().to_string();
        assert!(error.contains(flag) && error.contains(value), "{flag} {value}: {error}");
    }
}

#[test]
fn what_the_native_client_lacks_is_refused_in_one_line() {
    for (line, named) in
        [("--compression zstd", "--compression zstd"), ("-m consume --consumer-group g", "--consumer-group")]
    {
        let parse = |client: &str| {
            let line = format!("chronik-bench --client {client} {line}");
            Options::try_parse_from(line.split(' ')).unwrap().check()
        };
        parse("librdkafka").unwrap();
        let error = parse("native").unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("--client librdkafka"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory;
    Options::command().debug_assert();
}
