//! `cluster recover --unsafe`: says what is given up, asks, and does it. The work is in `node/repair/recover.rs`.

use std::io::{self, BufRead, Write};

use chronik_wal::disk::OsDisk;
use chronik_wal::identity::identity_path;
use chronik_wal::lock::DirectoryLock;
use serde_json::json;

use super::{Failure, Outcome};
use crate::config::cli::RecoverArgs;
use crate::node::repair::RepairError;
use crate::node::repair::recover::{Survey, survey};

/// Partitions named; their number is always whole.
const NAMED_MAX: usize = 20;

/// Runs it.
///
/// # Errors
/// Why nothing was done.
pub(super) fn command(args: &RecoverArgs) -> Result<Outcome, Failure> {
    let refused = |error: RepairError| Failure::Refused(error.to_string());
    if !identity_path(&args.data_dir).exists() {
        return Err(refused(RepairError::NoData(args.data_dir.clone())));
    }
    let _lock = DirectoryLock::acquire(&args.data_dir).map_err(|error| refused(error.into()))?;
    let disk = OsDisk;
    let recovery = survey(&disk, &args.data_dir).map_err(refused)?;
    // Loudly, whoever has said --yes, and whatever becomes of standard output.
    let _ = write!(io::stderr(), "{}", warning(recovery.survey()));
    if !args.yes && !confirmed(recovery.survey(), &mut io::stdin().lock())? {
        return Err(Failure::Refused("nothing was changed".to_owned()));
    }
    let done = recovery.carry_out().map_err(refused)?;
    Ok(Outcome::done(told(&done), json(&done)))
}

fn warning(survey: &Survey) -> String {
    let node = survey.node;
    let others: Vec<String> = survey.others.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "WARNING: node {node} is about to go on ALONE as cluster {}.\n\
         - The nodes [{}] are given up. Every record that only they had is LOST, acknowledged or not.\n\
         - Their data directories must never be used again: started with them, they would be a second cluster of the \
         same name. Empty them; then they join again as fresh nodes (cluster add).\n\
         - {} partition(s) go on here with one replica each; raise that again with cluster add and a reassignment.\n",
        survey.cluster_id,
        others.join(", "),
        survey.kept
    );
    if !survey.elsewhere.is_empty() {
        let named = survey.elsewhere[..survey.elsewhere.len().min(NAMED_MAX)].join(", ");
        text.push_str(&format!(
            "- {} partition(s) have NO replica here and stay offline until they are deleted: {named}\n",
            survey.elsewhere.len()
        ));
    }
    for (partition, reason) in &survey.damaged {
        text.push_str(&format!("- {partition} is damaged here as well and keeps what is sound: {reason}\n"));
    }
    text
}

/// What has to be typed.
fn phrase(survey: &Survey) -> String {
    format!("node {} goes on alone", survey.node)
}

fn confirmed(survey: &Survey, input: &mut dyn BufRead) -> Result<bool, Failure> {
    let wanted = phrase(survey);
    let mut err = io::stderr();
    write!(err, "Type '{wanted}' to do it: ")?;
    err.flush()?;
    let mut typed = String::new();
    input.read_line(&mut typed)?;
    Ok(typed.trim() == wanted)
}

fn told(survey: &Survey) -> String {
    format!(
        "node {} goes on alone with {} partition(s): start it; empty the data directories of the others before they join \
         again\n",
        survey.node, survey.kept
    )
}

fn json(survey: &Survey) -> serde_json::Value {
    json!({
        "node": survey.node.0,
        "cluster_id": survey.cluster_id,
        "given_up": survey.others.iter().map(|node| node.0).collect::<Vec<_>>(),
        "partitions_kept": survey.kept,
        "partitions_without_a_replica": survey.elsewhere,
        "damaged": survey.damaged.iter().map(|(partition, _)| partition).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronik_wal::types::NodeId;

    fn lost_two() -> Survey {
        Survey {
            node: NodeId(1),
            cluster_id: "cid".to_owned(),
            others: vec![NodeId(2), NodeId(3)],
            kept: 5,
            elsewhere: vec!["t-4".to_owned()],
            damaged: vec![("t-0".to_owned(), "a flipped bit".to_owned())],
        }
    }

    #[test]
    fn it_is_loud_about_what_is_given_up() {
        let text = warning(&lost_two());
        for part in ["ALONE", "[2, 3] are given up", "LOST", "NO replica here", "t-4", "a flipped bit"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn only_the_whole_phrase_confirms() {
        let survey = lost_two();
        assert!(confirmed(&survey, &mut &b"node 1 goes on alone\n"[..]).unwrap());
        for typed in ["yes\n", "node 2 goes on alone\n", "", "node 1 goes on\n"] {
            assert!(!confirmed(&survey, &mut typed.as_bytes()).unwrap(), "{typed}");
        }
    }
}
