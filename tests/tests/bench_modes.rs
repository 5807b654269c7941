//! What of chronik-bench needs a whole broker: consumer groups, and topics that are made and deleted.

use chronik_tests::bench_run::{bench, broker_with};
use chronik_tests::broker::{Broker, Options};
use chronik_tests::lock;
use chronik_tests::records::read_all;
use chronik_tests::topics::create;

#[test]
fn a_group_shares_the_partitions_and_commits_unless_it_is_told_not_to() {
    let _heavy = lock::heavy();
    // A second member that comes after the group has begun would be given what the first has read and not committed.
    let options = Options::default().kafka("group.initial.rebalance.delay.ms", "3000");
    let broker = Broker::start_with("bench-modes-group", options);
    create(&mut broker.connect(), "grouped", 4, &[]);
    let written = bench(&broker, "-t grouped -p 4 -c 32 -s 100 -n 2000 -d 60s -w 0s --key-pattern random");
    assert_eq!(written.succeeded().number("messages"), 2000);
    let read = |flags: &str| {
        let line =
            format!("-t grouped -m consume -c 2 -d 60s -w 0s --validate --consumer-group readers {flags}");
        bench(&broker, &line)
    };
    for flags in ["--disable-auto-commit", ""] {
        let run = read(flags).succeeded();
        assert_eq!((run.number("messages"), run.found("checked")), (2000, 2000), "{flags}");
    }
    // The second of them has committed: what comes now is all there is to read.
    bench(&broker, "-t grouped -p 4 -c 32 -s 100 -n 300 -d 60s -w 0s --key-pattern random").succeeded();
    assert_eq!(read("").succeeded().number("messages"), 300);
}

#[test]
fn topics_are_made_and_deleted_or_kept() {
    let _heavy = lock::heavy();
    let broker = Broker::start("bench-modes-topics");
    let count = || broker.connect().metadata_all().expect("an answer").topics.len();
    for client in ["librdkafka", "native"] {
        let line = format!("--client {client} -m topics -t many -n 40 -c 8 --clients 2 -p 3 -r 1");
        let run = bench(&broker, &line).succeeded();
        assert_eq!((run.number("messages"), run.report["beside"][0]["messages"].as_u64()), (40, Some(40)));
        assert_eq!(count(), 0, "{client}");
        let refused = bench(&broker, &format!("--client {client} -m topics -n 3 -r 9"));
        assert_eq!(refused.output.status.code(), Some(2), "{:?}", refused.output);
        assert_eq!((refused.number("failures"), refused.number("messages")), (3, 0), "{client}");
    }
    let run = bench(&broker, "-m topics -t many -n 15 -c 4 --keep-topics").succeeded();
    assert_eq!((run.number("messages"), &run.report["beside"]), (15, &serde_json::json!([])));
    assert_eq!(count(), 15);
}

#[test]
fn a_topic_is_made_as_the_flags_say_and_deleted_after() {
    let _heavy = lock::heavy();
    let broker = Broker::start("bench-modes-topic");
    let kept = bench(&broker, "-t kept -p 5 -r 1 -c 8 -s 100 -n 100 -d 60s -w 0s").succeeded();
    assert_eq!(kept.number("partitions"), 5);
    let records = |at| read_all(&mut broker.connect(), "kept", at).expect("readable").len();
    assert_eq!((0..5).map(records).sum::<usize>(), 100);
    bench(&broker, "-t gone -c 8 -s 100 -n 100 -d 60s -w 0s --delete-topic-after").succeeded();
    let missing = bench(&broker, "-t gone --create-topic false -d 1s");
    assert_eq!(missing.output.status.code(), Some(1));
    assert!(missing.error_text().contains("there is no topic gone"), "{}", missing.error_text());
}

/// Our own client in the modes that send and read at once, against our own broker.
#[test]
fn both_clients_send_and_receive_at_once() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-modes-both", 3, &["round", "follow", "behind"]);
    for client in ["librdkafka", "native"] {
        let with = format!("--client {client} -p 3 -c 64 --clients 2 -s 200 --validate");
        let round =
            bench(&broker, &format!("{with} -t round -m round-trip -d 60s -w 0s -n 3000")).succeeded();
        assert_eq!((round.number("messages"), round.found("checked")), (3000, 3000), "{client}");
        let rated = format!("{with} -t follow -m end-to-end -d 2s -w 500ms --rate-limit 400");
        let rated = bench(&broker, &rated).succeeded();
        // The whole schedule: the warm-up is checked, the measurement is timed.
        assert_eq!((rated.found("checked"), rated.report["latency"]["count"].as_u64()), (1000, Some(800)));
        assert_eq!(rated.report["beside"][0]["latency"]["count"], 800, "{client}");
        let behind = format!("{with} -t behind -m backlog -n 9000 -d 60s --consumers 3 --rate-limit 200");
        let behind = bench(&broker, &behind).succeeded();
        assert!(behind.number("messages") >= 9000 && behind.found("lost") == 0, "{}", behind.report);
        assert_eq!(behind.report["beside"][0]["messages"], 9000, "{client}");
    }
}
