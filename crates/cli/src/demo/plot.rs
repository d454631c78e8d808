//! The timeline as rows of characters: the same picture for a terminal, a log and a test.

use super::timeline::{Column, Timeline};
use crate::output;

/// How a character is meant; a terminal gives it a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Faint,
    /// Held, but its JVM is still starting.
    Starting,
    Ready,
    Served,
    /// Served on behalf of an executor that is gone.
    Departed,
}

pub type Row = Vec<(char, Ink)>;

const GUTTER: usize = 4;
const SHUFFLE_ROWS: u64 = 2;
/// Widths of a column in ms; the first that lets all fit is taken, so that the picture jumps rarely.
const WIDTHS_MS: &[u64] = &[250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// Rows of at most `width` characters; their number depends on `static_executors` alone.
pub fn plot(timeline: &Timeline, static_executors: u32, width: usize) -> Vec<Row> {
    let across = width.saturating_sub(GUTTER + 2).max(10);
    let fits = |ms: &&u64| timeline.last().at_ms / **ms < across as u64;
    let width_ms = WIDTHS_MS.iter().find(fits).copied().unwrap_or(timeline.last().at_ms / across as u64 + 1);
    let columns = timeline.columns(width_ms);

    let mut rows = vec![legend()];
    let top = static_executors.max(timeline.peak());
    // More executors than this share rows, so that the plot stays a plot.
    let per_row = top.div_ceil(12).max(1);
    for level in (1..=top.div_ceil(per_row)).rev().map(|row| row * per_row) {
        let mut row = text(&format!("{level:>GUTTER$} ┤"), Ink::Faint);
        row.extend(columns.iter().map(|column| {
            if column.ready + per_row > level {
                ('█', Ink::Ready)
            } else if column.held + per_row > level {
                ('░', Ink::Starting)
            } else {
                (' ', Ink::Plain)
            }
        }));
        rows.push(row);
    }
    rows.push(axis(across));
    rows.push(times(across, width_ms));
    rows.push(phases(timeline, across, width_ms));
    rows.extend(shuffle(&columns, width_ms));
    rows.iter_mut().for_each(|row| row.truncate(width));
    rows
}

/// The rows as plain text.
pub fn to_text(rows: &[Row]) -> String {
    let line = |row: &Row| row.iter().map(|(c, _)| *c).collect::<String>().trim_end().to_owned();
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn text(text: &str, ink: Ink) -> Row {
    text.chars().map(|c| (c, ink)).collect()
}

fn legend() -> Row {
    let parts = [
        ("executors held   ", Ink::Plain),
        ("█", Ink::Ready),
        (" ready   ", Ink::Faint),
        ("░", Ink::Starting),
        (" their JVM is starting", Ink::Faint),
    ];
    parts.iter().flat_map(|(part, ink)| text(part, *ink)).collect()
}

/// A tick each ten columns.
fn axis(across: usize) -> Row {
    let line: String = (0..across).map(|i| if i % 10 == 0 { '┴' } else { '─' }).collect();
    text(&format!("{:>GUTTER$} └{line}", 0), Ink::Faint)
}

fn times(across: usize, width_ms: u64) -> Row {
    let mut line = vec![' '; across + 8];
    for tick in (0..across.saturating_sub(4)).step_by(20) {
        let at = tick as u64 * width_ms;
        let label =
            if width_ms >= 30_000 { format!("{} min", at / 60_000) } else { format!("{} s", at / 1000) };
        for (i, c) in label.chars().enumerate() {
            line[tick + i] = c;
        }
    }
    let line: String = line.into_iter().collect();
    text(&format!("{:GUTTER$}  {}", "", line.trim_end()), Ink::Faint)
}

/// Each phase's name under its beginning, where there is room for it.
fn phases(timeline: &Timeline, across: usize, width_ms: u64) -> Row {
    let mut line = vec![' '; across];
    let begins: Vec<usize> = timeline.phases().iter().map(|p| (p.from_ms / width_ms) as usize).collect();
    for (i, phase) in timeline.phases().iter().enumerate() {
        let room = begins.get(i + 1).copied().unwrap_or(across).min(across);
        let name = std::iter::once('╵').chain(phase.name.chars());
        for (cell, c) in line.iter_mut().take(room).skip(begins[i]).zip(name) {
            *cell = c;
        }
    }
    let line: String = line.into_iter().collect();
    text(&format!("{:GUTTER$}  {line}", ""), Ink::Plain)
}

/// A title, then bars of eighths.
fn shuffle(columns: &[Column], width_ms: u64) -> Vec<Row> {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = columns.iter().map(|column| column.bytes).max().unwrap_or(0);
    let rate = output::bytes(most * 1000 / width_ms);
    let title = [
        (format!("shuffle served, up to {rate}/s   "), Ink::Plain),
        ("█".to_owned(), Ink::Departed),
        (" for executors that are gone   ".to_owned(), Ink::Faint),
        ("█".to_owned(), Ink::Served),
        (" for others".to_owned(), Ink::Faint),
    ];
    let mut rows = vec![title.iter().flat_map(|(part, ink)| text(part, *ink)).collect()];
    for level in (0..SHUFFLE_ROWS).rev() {
        let mut row = text(&format!("{:GUTTER$}  ", ""), Ink::Faint);
        row.extend(columns.iter().map(|column| {
            // What is served at all is seen.
            let full = SHUFFLE_ROWS * 8;
            let height = match most {
                0 => 0,
                _ if column.bytes == 0 => 0,
                _ => (column.bytes * full / most).max(1),
            };
            let ink = if column.departed_bytes * 2 > column.bytes { Ink::Departed } else { Ink::Served };
            (EIGHTHS[height.saturating_sub(level * 8).min(8) as usize], ink)
        }));
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Sample, tests::breathing};
    use super::*;

    #[test]
    fn a_cluster_that_breathes() {
        insta::assert_snapshot!(to_text(&plot(&breathing(), 6, 80)));
    }

    #[test]
    fn before_anything_happened() {
        insta::assert_snapshot!(to_text(&plot(&Timeline::default(), 6, 60)));
    }

    #[test]
    fn never_wider_than_asked_and_always_of_one_height() {
        let mut timeline = Timeline::default();
        let rows = plot(&timeline, 6, 70).len();
        for at_ms in (0..400_000).step_by(9_700) {
            timeline.enter(at_ms, if at_ms % 3 == 0 { "pause" } else { "first burst" });
            timeline.push(Sample { at_ms, held: 6, ready: 2, served_bytes: at_ms * 7, departed_bytes: 0 });
            let plot = plot(&timeline, 6, 70);
            assert_eq!(plot.len(), rows);
            assert!(plot.iter().all(|row| row.len() <= 70), "{}", to_text(&plot));
        }
    }

    #[test]
    fn departed_bytes_have_an_ink_of_their_own() {
        let plot = plot(&breathing(), 6, 80);
        let last = plot.last().expect("rows");
        assert!(last.iter().any(|(_, ink)| *ink == Ink::Served));
        assert_eq!(last.last().map(|(_, ink)| *ink), Some(Ink::Departed));
    }
}
