//! Writing to a person or a pipe. A reader that has gone away is no error.

use std::io::IsTerminal as _;

/// `println!` that does not panic when nobody reads any more.
macro_rules! out {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}
pub(crate) use out;

pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A word as a POSIX shell takes it.
pub fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Columns as wide as their widest cell; numbers to the right.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.head.len(), "invariant: a row has the head's cells");
        self.rows.push(cells.into());
    }

    /// Empty tables say `none` instead.
    pub fn render(&self, none: &str) -> String {
        if self.rows.is_empty() {
            return none.to_owned();
        }
        let width = |text: &str| text.chars().count();
        let numeric =
            |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(['-', ':']);
        let columns: Vec<(usize, bool)> = (0..self.head.len())
            .map(|i| {
                let cells = || self.rows.iter().map(|row| row[i].as_str());
                let widest = cells().map(width).max().unwrap_or(0).max(width(self.head[i]));
                (widest, cells().all(|cell| numeric(cell) || cell == "-") && cells().any(numeric))
            })
            .collect();
        let head: Vec<String> = self.head.iter().map(|&title| title.to_owned()).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&columns).map(|(cell, &(widest, right))| {
                let fill = " ".repeat(widest - width(cell));
                if right { fill + cell } else { cell.clone() + &fill }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        std::iter::once(&head).chain(&self.rows).map(line).collect::<Vec<_>>().join("\n")
    }
}

/// 1000-based, three digits: `14.4 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Two units at most: `42s`, `3m12s`, `5h07m`, `2d03h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["NAME", "CPUS", "STATE"]);
        table.row(["flights".to_owned(), "2".to_owned(), "active".to_owned()]);
        table.row(["a".to_owned(), "12.5".to_owned(), "-".to_owned()]);
        insta::assert_snapshot!(table.render("nothing"), @r"
        NAME     CPUS  STATE
        flights     2  active
        a        12.5  -
        ");
        assert_eq!(Table::new(&["NAME"]).render("nothing"), "nothing");
    }

    #[test]
    fn figures() {
        let shown: Vec<_> = [0, 999, 1000, 14_395_758, 99_950_000, 999_500_000, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "14.4 MB", "100 MB", "1.00 GB", "18447 PB"]);
        assert_eq!([5, 192, 18_420, 183_600].map(duration), ["5s", "3m12s", "5h07m", "2d03h"]);
    }

    #[test]
    fn words_for_the_shell() {
        assert_eq!(shell_quote("spark.ui=a,b"), "spark.ui=a,b");
        assert_eq!(shell_quote("it's $5"), r"'it'\''s $5'");
        assert_eq!(shell_quote(""), "''");
    }
}
