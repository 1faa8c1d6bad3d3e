//! Where the runs are kept: a new dated folder with the machine, loadgen's report and the server's log of every run, a
//! table a scenario, and a summary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::figures::{Figures, Spread};
use super::scenario::Scenario;

pub struct Record {
    pub folder: PathBuf,
    kept: bool,
}

impl Record {
    /// Without a place the folder is a temporary one, and goes with the record.
    pub fn open(into: Option<&Path>) -> io::Result<Record> {
        let Some(into) = into else {
            let folder = std::env::temp_dir().join(format!("fanout-{}", std::process::id()));
            fs::create_dir_all(&folder)?;
            return Ok(Record {
                folder,
                kept: false,
            });
        };
        let date = said_by(Command::new("date").args(["-u", "+%F"]))?;
        let folder = (1..)
            .map(|number| {
                let more = if number > 1 {
                    format!("-{number}")
                } else {
                    String::new()
                };
                into.join(format!("{}-fanout{more}", date.trim()))
            })
            .find(|folder| !folder.exists())
            .expect("numbers do not end");
        fs::create_dir_all(&folder)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let command: Vec<String> = std::env::args()
            .skip(1)
            .filter(|argument| argument != "--bench")
            .collect();
        let machine = said_by(&mut Command::new(root.join("scripts/machine")))?;
        let mut file = File::create(folder.join("machine.txt"))?;
        writeln!(
            file,
            "command    cargo bench --bench fanout -- {}\n{}",
            command.join(" "),
            machine.trim_end()
        )?;
        let mut summary = File::create(folder.join("summary.md"))?;
        writeln!(
            summary,
            "# The fan-out beside its yardsticks\n\nOne shard on core 0, everything else on core 1. Medians of interleaved \
             runs, least and most in brackets; ratios run by run. Raw data: the tables, loadgen's report and the server's \
             log of every run.\n"
        )?;
        for line in fs::read_to_string(folder.join("machine.txt"))?.lines() {
            writeln!(summary, "    {line}")?;
        }
        Ok(Record { folder, kept: true })
    }

    /// A file of one run.
    pub fn file(&self, scenario: &str, variant: &str, run: u32, end: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(scenario);
        fs::create_dir_all(&folder)?;
        let name: String = variant
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        Ok(folder.join(format!("{}-{run}.{end}", name.replace("--", "-"))))
    }

    pub fn table(
        &self,
        scenario: &Scenario,
        runs: &BTreeMap<&'static str, Vec<Figures>>,
    ) -> io::Result<()> {
        let mut table = File::create(self.folder.join(format!("{}.tsv", scenario.name)))?;
        let names = names(runs);
        writeln!(table, "variant\trun\t{}", names.join("\t"))?;
        for variant in &scenario.variants {
            for (number, figures) in (1..).zip(&runs[variant.name]) {
                let row: Vec<String> = names
                    .iter()
                    .map(|name| {
                        figures
                            .get(name)
                            .map_or_else(String::new, |figure| format!("{figure:.4}"))
                    })
                    .collect();
                writeln!(table, "{}\t{number}\t{}", variant.name, row.join("\t"))?;
            }
        }
        Ok(())
    }

    /// The medians, then the ratios. Says it on the terminal too.
    pub fn summary(
        &self,
        scenario: &Scenario,
        runs: &BTreeMap<&'static str, Vec<Figures>>,
        wrong: &[String],
    ) -> io::Result<bool> {
        let mut text = format!("\n## {} (`{}`)\n\n", scenario.title, scenario.name);
        if scenario.windows > 1 {
            let _ = writeln!(
                text,
                "Each run in {} windows, paired in order.\n",
                scenario.windows
            );
        }
        let names = names(runs);
        let _ = writeln!(
            text,
            "| | {} |\n|---|{}",
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for variant in &scenario.variants {
            let cells: Vec<String> = names
                .iter()
                .map(|name| {
                    let figures = runs[variant.name]
                        .iter()
                        .filter_map(|run| run.get(name).copied());
                    Spread::of(figures).map_or_else(String::new, |spread| spread.to_string())
                })
                .collect();
            let _ = writeln!(text, "| {} | {} |", variant.name, cells.join(" | "));
        }
        let mut reached = wrong.is_empty();
        if !scenario.comparisons.is_empty() {
            text += "\n| ratio | median (least to most) | to reach | |\n|---|---|---|---|\n";
        }
        for comparison in &scenario.comparisons {
            let Some(spread) = comparison.ratio(runs) else {
                reached = false;
                let _ = writeln!(text, "| {} | | | **not measured** |", comparison.says);
                continue;
            };
            let (bound, verdict) = if comparison.most.is_finite() {
                let holds = spread.median <= comparison.most;
                reached &= holds;
                (
                    format!("at most {:.2}", comparison.most),
                    if holds { "reached" } else { "**not reached**" },
                )
            } else {
                (String::new(), "")
            };
            let _ = writeln!(
                text,
                "| {} | {spread} | {bound} | {verdict} |",
                comparison.says
            );
        }
        for line in wrong {
            let _ = writeln!(text, "\n**Wrong**: {line}");
        }
        println!("{text}");
        if self.kept {
            let mut file = OpenOptions::new()
                .append(true)
                .open(self.folder.join("summary.md"))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(reached)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.kept {
            // What is left in the temporary folder hurts nobody.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn names(runs: &BTreeMap<&'static str, Vec<Figures>>) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = runs
        .values()
        .flatten()
        .flat_map(|run| run.keys().copied())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn said_by(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    String::from_utf8(output.stdout).map_err(io::Error::other)
}
