//! What the programs print: markdown tables with a dated header, and the same as JSON.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

/// A markdown table: the first column (or more) is text, the others are right-aligned.
pub struct Table {
    columns: Vec<String>,
    num_text_columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Self { columns, num_text_columns: 1, rows: Vec::new() }
    }

    pub fn with_text_columns(self, num_text_columns: usize) -> Self {
        Self { num_text_columns, ..self }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
            .collect();
        let is_text = |column: usize| column < self.num_text_columns;
        for (index, cells) in lines().enumerate() {
            write!(f, "|")?;
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                if is_text(column) {
                    write!(f, " {cell:<width$} |")?;
                } else {
                    write!(f, " {cell:>width$} |")?;
                }
            }
            writeln!(f)?;
            if index == 0 {
                write!(f, "|")?;
                for (column, width) in widths.iter().enumerate() {
                    let (left, right) = if is_text(column) { (":", "-") } else { ("-", ":") };
                    write!(f, "{left}{}{right}|", "-".repeat(*width))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Day and command of a run: the first lines of every report.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// UTC, as 2026-01-31.
    pub date: String,
    pub command: String,
}

impl Run {
    /// This process, now.
    pub fn here() -> Self {
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let command: Vec<String> = std::env::args().enumerate().map(argument).collect();
        Self { date: date(seconds / 86_400), command: command.join(" ") }
    }

    pub fn header(&self) -> String {
        format!("{}, `{}`\n\n", self.date, self.command)
    }
}

/// An argument without folders, which say nothing about the run.
fn argument((index, text): (usize, String)) -> String {
    let is_path = index == 0 || text.starts_with('/');
    let name = Path::new(&text).file_name().filter(|_| is_path);
    name.map_or(text.clone(), |name| name.to_string_lossy().into_owned())
}

/// The Gregorian date of a day after 1970-01-01. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(days: u64) -> String {
    let shifted = days + 719_468; // days since 0000-03-01: leap days come last in a year
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Writes to standard output; a closed pipe ends the program quietly.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Says on standard error what is going on.
pub fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes `report` to `path`, when there is one.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    write_file(path, &(serde_json::to_string_pretty(report)? + "\n"))
}

/// Writes all of a file or none of it: on a full disk an earlier report stays, and no half of a new one.
pub fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = if path.exists() && !path.is_file() {
        // A pipe or a device has no name to give to something else.
        std::fs::write(path, text)
    } else {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        written
    };
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// "12.3": three digits or more, so that small and large times read equally well.
pub fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// "73%".
pub fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn tables_are_aligned_markdown() {
        let mut table = Table::new(&["op", "µs"]);
        table.row(["linear".into(), "12.5".into()]);
        table.row(["a".into(), "3".into()]);
        expect![[r#"
            | op     |   µs |
            |:-------|-----:|
            | linear | 12.5 |
            | a      |    3 |
        "#]]
        .assert_eq(&table.to_string());
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("quire-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("a.html");
        for text in ["one", "two"] {
            write_file(&path, text).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
        std::fs::remove_dir_all(&folder).expect("removed");
        assert!(write_file(&path, "x").is_err());
        if Path::new("/dev/full").exists() {
            let error = format!("{:#}", write_file(Path::new("/dev/full"), "x").expect_err("full"));
            assert!(error.starts_with("cannot write /dev/full: No space left"), "{error}");
        }
    }

    #[test]
    fn dates_are_gregorian() {
        let expected = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_723, "2024-01-01"),
            (20_088, "2024-12-31"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ];
        for (days, text) in expected {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn commands_lose_their_folders() {
        let arguments =
            ["target/release/client", "--base-url", "http://[::1]:1/v1", "/models/a.gguf"];
        let shown: Vec<String> =
            arguments.map(str::to_owned).into_iter().enumerate().map(argument).collect();
        assert_eq!(shown, ["client", "--base-url", "http://[::1]:1/v1", "a.gguf"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let values = [0.123, 9.99, 9.996, 12.34, 99.96, 1234.5];
        assert_eq!(values.map(three_digits), ["0.12", "9.99", "10.0", "12.3", "100", "1234"]);
    }
}
