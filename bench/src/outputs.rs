//! Where results go: standard output, and the files that flags name. For one run, or for the runs
//! of a scenario.
//!
//! Invariant: what is wrong with a file shows before anything is measured, as far as that can be
//! known; what was measured is written although a later run fails.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::Options;
use crate::report::compare::{Comparison, Earlier, Planned};
use crate::report::{Named, Report, compare, csv, json, page, table};
use crate::scenario;

/// The results so far.
pub struct Outputs<'a> {
    options: &'a Options,
    is_scenario: bool,
    earlier: Option<Earlier>,
    runs: Vec<Named>,
    comparisons: Vec<Option<Comparison>>,
}

impl<'a> Outputs<'a> {
    /// Looks at the files before the run, or before a scenario's runs.
    pub fn prepare(options: &'a Options, scenario: Option<&[scenario::Planned]>) -> Result<Self> {
        for path in [&options.csv_output, &options.json_output, &options.report].into_iter().flatten() {
            check_writable(path)?;
        }
        if let Some(path) = &options.csv_output {
            csv::check_header(path)?;
        }
        let planned = scenario.map_or(Planned::Single(options), Planned::Scenario);
        let earlier = options.compare.as_deref().map(|path| Earlier::read(path, planned)).transpose()?;
        let is_scenario = scenario.is_some();
        Ok(Self { options, is_scenario, earlier, runs: Vec::new(), comparisons: Vec::new() })
    }

    /// A run is over. Its name is empty outside of a scenario.
    pub fn add(&mut self, name: String, report: Report) -> Result<()> {
        let mut text = if self.is_scenario { format!("== {name}\n") } else { String::new() };
        text.push_str(&table::render(&report));
        let comparison = match &self.earlier {
            Some(earlier) => earlier.compare(&name, &report)?,
            None => None,
        };
        match (&comparison, &self.options.compare) {
            (Some(comparison), _) => text.push_str(&compare::render(comparison)),
            (None, Some(path)) => text.push_str(&format!("no run \"{name}\" in {}\n", path.display())),
            (None, None) => {}
        }
        if self.is_scenario {
            text.push('\n');
        }
        std::io::stdout().write_all(text.as_bytes())?;
        if let Some(path) = &self.options.csv_output {
            csv::append(&report, path)?;
        }
        self.runs.push(Named { name, report });
        self.comparisons.push(comparison);
        Ok(())
    }

    /// Nothing more will come. True when nothing failed and nothing was found wrong.
    pub fn finish(self) -> Result<bool> {
        if self.is_scenario {
            std::io::stdout().write_all(table::overview(&self.runs).as_bytes())?;
        }
        if let Some(path) = &self.options.json_output {
            match &self.runs[..] {
                [run] if !self.is_scenario => json::write(&run.report, path)?,
                runs => json::write(&serde_json::json!({ "runs": runs }), path)?,
            }
        }
        if let Some(path) = &self.options.report {
            let runs: Vec<_> = self.runs.iter().zip(&self.comparisons).collect();
            match &runs[..] {
                [(run, comparison)] if !self.is_scenario => {
                    page::write_run(&run.report, comparison.as_ref(), path)?;
                }
                runs => page::write_scenario(self.options, runs, path)?,
            }
        }
        Ok(self.runs.iter().all(|run| run.report.is_clean()))
    }
}

/// Opens a file for writing as it is, or makes it and takes it away again.
fn check_writable(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || !parent.unwrap_or(Path::new(".")).is_dir() {
        bail!("cannot write {}: name a file in a directory that exists", path.display());
    }
    let opened = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    };
    opened.with_context(|| format!("cannot write {}", path.display()))
}
