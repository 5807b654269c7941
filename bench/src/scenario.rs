//! Scenario mode: the runs of a TOML file, one after another.
//!
//! ```toml
//! [defaults]                  # flags by their long names, for all runs
//! concurrency = 128
//! linger-ms = 0
//! [[run]]
//! name = "small"
//! message-size = 256
//! [[run]]
//! name = "reading"
//! mode = "backlog"
//! validate = true
//! ```
//! Flags of the command line win over a run's, a run's over the defaults. Outputs are of the whole scenario and belong on the
//! command line. All runs are read and checked before the first begins.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use toml::{Table, Value};

use crate::cli::{Mode, Options};

/// Flags that are of the whole scenario, by their ids.
const OF_THE_WHOLE: [&str; 7] =
    ["scenario", "json_output", "csv_output", "report", "compare", "prometheus_port", "mode"];

/// One run of the file.
#[derive(Debug)]
pub struct Planned {
    /// Its name, which is unique.
    pub name: String,
    /// Its settings.
    pub options: Options,
}

/// The runs of a file, with what the command line says instead.
pub fn read(path: &Path, command_line: &ArgMatches) -> Result<Vec<Planned>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    plan(&text, command_line).with_context(|| format!("in {}", path.display()))
}

fn plan(text: &str, command_line: &ArgMatches) -> Result<Vec<Planned>> {
    let mut file: Table = text.parse()?;
    let defaults = match file.remove("defaults") {
        None => Table::new(),
        Some(Value::Table(table)) => table,
        Some(_) => bail!("`defaults` is a table of flags: [defaults]"),
    };
    let runs = match file.remove("run") {
        Some(Value::Array(runs)) if !runs.is_empty() => runs,
        _ => bail!("no run: write a [[run]] table for each"),
    };
    if let Some(key) = file.keys().next() {
        bail!("unknown key `{key}`: there are [defaults] and [[run]]");
    }
    let overrides = given(command_line);
    let mut planned: Vec<Planned> = Vec::new();
    for (at, run) in (1..).zip(runs) {
        let Value::Table(mut run) = run else { bail!("run {at} is no table: write [[run]]") };
        let name = match run.remove("name") {
            Some(Value::String(name)) if !name.is_empty() => name,
            _ => bail!("run {at} has no name: write name = \"…\""),
        };
        ensure!(planned.iter().all(|other| other.name != name), "two runs have the name \"{name}\"");
        let options = options_of(&defaults, &run, &overrides).with_context(|| format!("run \"{name}\""))?;
        planned.push(Planned { name, options });
    }
    Ok(planned)
}

fn options_of(defaults: &Table, run: &Table, overrides: &[OsString]) -> Result<Options> {
    let mut line = vec![OsString::from("chronik-bench")];
    for table in [defaults, run] {
        for (key, value) in table {
            line.extend(flag(key, value)?);
        }
    }
    line.extend(overrides.iter().cloned());
    let matches = Options::command().no_binary_name(false).try_get_matches_from(line);
    let options = matches.and_then(|matches| Options::from_arg_matches(&matches));
    // Clap's text has the usage behind its first paragraph, which helps nobody in a file.
    let options = options.map_err(|error| {
        let text = error.to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        anyhow::anyhow!("{}", first.trim_start_matches("error: ").replace('\n', " "))
    })?;
    options.check()?;
    Ok(options)
}

/// A key of the file as a flag.
fn flag(key: &str, value: &Value) -> Result<Option<OsString>> {
    let command = Options::command();
    let known = command.get_arguments().find(|argument| argument.get_long() == Some(key));
    let Some(argument) = known else { bail!("unknown flag `{key}`: keys are the long names of the flags") };
    let of_the_whole = OF_THE_WHOLE.contains(&argument.get_id().as_str());
    ensure!(!of_the_whole || key == "mode", "`{key}` belongs on the command line");
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(yes) if takes_no_value(argument.get_action()) => {
            return Ok(yes.then(|| format!("--{key}").into()));
        }
        Value::Boolean(yes) => yes.to_string(),
        _ => bail!("`{key}` is text, a number, true or false"),
    };
    ensure!(key != "mode" || text != Mode::Scenario.name(), "a scenario within a scenario");
    ensure!(!takes_no_value(argument.get_action()), "`{key}` is true or false");
    Ok(Some(format!("--{key}={text}").into()))
}

fn takes_no_value(action: &ArgAction) -> bool {
    !action.takes_values()
}

/// What the command line itself says, but for what is of the whole scenario.
fn given(command_line: &ArgMatches) -> Vec<OsString> {
    let mut flags = Vec::new();
    for argument in Options::command().get_arguments() {
        let id = argument.get_id().as_str();
        let Some(long) = argument.get_long() else { continue };
        let is_known = command_line.try_contains_id(id).unwrap_or(false);
        if !is_known
            || OF_THE_WHOLE.contains(&id)
            || command_line.value_source(id) != Some(ValueSource::CommandLine)
        {
            continue;
        }
        match argument.get_action() {
            ArgAction::Count => {
                flags.extend((0..command_line.get_count(id)).map(|_| format!("--{long}").into()));
            }
            action if takes_no_value(action) => flags.push(format!("--{long}").into()),
            _ => {
                for value in command_line.get_raw(id).into_iter().flatten() {
                    let mut flag = OsString::from(format!("--{long}="));
                    flag.push(value);
                    flags.push(flag);
                }
            }
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_with(text: &str, line: &str) -> Result<Vec<Planned>> {
        let matches = Options::command().try_get_matches_from(line.split(' ')).unwrap();
        plan(text, &matches)
    }

    const LINE: &str = "chronik-bench -m scenario runs.toml";

    #[test]
    fn the_command_line_wins_over_a_run_and_a_run_over_the_defaults() {
        let text = r#"
            [defaults]
            concurrency = 7
            duration = "3s"
            create-topic = false
            [[run]]
            name = "one"
            message-size = 99
            validate = true
            [[run]]
            name = "two"
            mode = "consume"
            concurrency = 8
            validate = false
        "#;
        let runs = plan_with(text, &format!("{LINE} -d 1s -vv")).unwrap();
        let [one, two] = &runs[..] else { panic!("two runs: {runs:?}") };
        assert_eq!((one.name.as_str(), two.name.as_str()), ("one", "two"));
        assert_eq!((one.options.concurrency, two.options.concurrency), (7, 8));
        assert_eq!((one.options.message_size, two.options.message_size), (99, 1024));
        assert_eq!((one.options.mode, two.options.mode), (Mode::Produce, Mode::Consume));
        assert!(one.options.validate && !two.options.validate);
        for run in &runs {
            assert_eq!((run.options.duration.as_secs(), run.options.verbose), (1, 2));
            assert!(!run.options.create_topic);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| format!("{:#}", plan_with(text, LINE).unwrap_err());
        assert!(said("").contains("[[run]]"));
        assert!(said("[[run]]\nacks = 1").contains("run 1 has no name"));
        assert!(said("[[run]]\nname = \"a\"\n[[run]]\nname = \"a\"").contains("two runs"));
        assert!(said("[[run]]\nname = \"a\"\nmesage-size = 1").contains("unknown flag `mesage-size`"));
        assert!(said("[[run]]\nname = \"a\"\nacks = 2").contains("run \"a\""));
        assert!(said("[[run]]\nname = \"a\"\njson-output = \"x\"").contains("command line"));
        assert!(said("[[run]]\nname = \"a\"\nreport = \"x\"").contains("command line"));
        assert!(said("[[run]]\nname = \"a\"\nvalidate = 1").contains("true or false"));
        assert!(said("[[run]]\nname = \"a\"\nvalidate = true\nmessage-size = 3").contains("too small"));
        assert!(said("[[run]]\nname = \"a\"\nmode = \"scenario\"").contains("scenario"));
        assert!(said("x = 1\n[[run]]\nname = \"a\"").contains("unknown key `x`"));
    }
}
