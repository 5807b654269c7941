//! Each anomaly planted into a sound history, and found as what it is.

use super::*;

fn place() -> Place {
    ("t".into(), 0)
}

fn send(producer: u32, value: u64, times: (u64, u64), outcome: Outcome) -> Send {
    let (invoked, completed) = (Duration::from_millis(times.0), Duration::from_millis(times.1));
    Send { producer, place: place(), value, invoked, completed, outcome }
}

/// Two producers, four records, the third of unknown outcome; a consumer that reads all of it in two polls.
fn sound() -> History {
    let log = vec![(0, 10), (1, 20), (2, 11), (3, 21)];
    let poll = |records: &[(i64, u64)]| Poll {
        consumer: 1,
        assignment: 0,
        place: place(),
        records: records.to_vec(),
    };
    History {
        sends: vec![
            send(1, 10, (0, 5), Outcome::Acknowledged(Some(0))),
            send(2, 20, (1, 6), Outcome::Acknowledged(Some(1))),
            send(1, 11, (7, 9), Outcome::Unknown),
            send(2, 21, (8, 9), Outcome::Acknowledged(Some(3))),
            send(2, 22, (10, 11), Outcome::Refused),
        ],
        polls: vec![poll(&log[..2]), poll(&log[2..])],
        last_reads: vec![(place(), log)],
    }
}

fn kinds(history: &History) -> Vec<Kind> {
    check(history).anomalies.keys().copied().collect()
}

fn planted(plant: impl FnOnce(&mut History)) -> Vec<Kind> {
    let mut history = sound();
    plant(&mut history);
    kinds(&history)
}

#[test]
fn a_sound_history_is_clean_and_counted() {
    let findings = check(&sound());
    findings.assert_clean(3);
    assert_eq!((findings.acknowledged, findings.unknown, findings.read), (3, (1, 1), 4));
}

#[test]
fn each_planted_anomaly_is_found_as_what_it_is() {
    let lost = planted(|history| {
        history.last_reads[0].1.truncate(3);
        history.polls.truncate(1);
    });
    assert_eq!(lost, [Kind::Lost]);
    let elsewhere = planted(|history| history.sends[0].outcome = Outcome::Acknowledged(Some(3)));
    assert!(elsewhere.contains(&Kind::Inconsistent), "{elsewhere:?}");
    let two_values = planted(|history| history.polls[0].records[1].1 = 11);
    assert_eq!(two_values, [Kind::Inconsistent]);
    let vanished = planted(|history| {
        history.sends.push(send(3, 30, (10, 11), Outcome::Unknown));
        history.polls[1].records.push((4, 30));
    });
    assert_eq!(vanished, [Kind::Vanished]);
    let twice = planted(|history| history.last_reads[0].1.push((4, 11)));
    assert!(twice.contains(&Kind::Duplicate), "{twice:?}");
    let invented = planted(|history| history.last_reads[0].1.push((4, 99)));
    assert_eq!(invented, [Kind::Invented]);
    let refused = planted(|history| history.last_reads[0].1.push((4, 22)));
    assert_eq!(refused, [Kind::Refused]);
    let reordered = planted(|history| history.sends.swap(0, 2));
    assert_eq!(reordered, [Kind::Reordered]);
    let late = planted(|history| history.sends[0].invoked = Duration::from_millis(20));
    assert_eq!(late, [Kind::RealTime]);
    let back = planted(|history| history.polls.swap(0, 1));
    assert_eq!(back, [Kind::Backward]);
    let hole = planted(|history| history.polls[0].records.truncate(1));
    assert_eq!(hole, [Kind::Skipped]);
}

#[test]
fn a_new_assignment_may_begin_anywhere() {
    let again = planted(|history| {
        let mut again = history.polls[0].clone();
        again.assignment = 1;
        history.polls.push(again);
    });
    assert_eq!(again, []);
}

#[test]
fn lines_of_other_programs_become_sends() {
    let lines = ["acked 0 0", "acked 2 1", "sent 3"].map(str::to_owned);
    let sends = super::super::lines::sends(7, &place(), &lines);
    let outcomes: Vec<Outcome> = sends.iter().map(|send| send.outcome).collect();
    assert_eq!(outcomes, [Outcome::Acknowledged(Some(0)), Outcome::Unknown, Outcome::Acknowledged(Some(1))]);
}
