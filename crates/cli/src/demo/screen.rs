//! Shows the timeline while it grows: redrawn in place on a terminal, a line every few seconds anywhere else.

use std::io::{self, Stdout};

use ratatui::backend::CrosstermBackend;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::plot::{Ink, Row, plot, to_text};
use super::timeline::Timeline;
use crate::output::{self, out};

const PLAIN_INTERVAL_MS: u64 = 3_000;
const PLAIN_WIDTH: usize = 100;
const MAX_WIDTH: usize = 120;
const SPINNER: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠋"];

#[derive(Debug)]
pub struct Screen {
    kind: Kind,
    static_executors: u32,
}

#[derive(Debug)]
enum Kind {
    Live(Terminal<CrosstermBackend<Stdout>>),
    Plain { shown_ms: Option<u64>, phases: usize },
}

impl Screen {
    /// Lines of text when `plain`, or when there is no terminal that answers.
    pub fn new(plain: bool, static_executors: u32) -> Self {
        let nothing_lost = Kind::Plain { shown_ms: None, phases: 0 };
        let kind = match plain || !output::is_terminal() {
            true => nothing_lost,
            false => live(static_executors).map_or(nothing_lost, Kind::Live),
        };
        Self { kind, static_executors }
    }

    /// On a terminal an error is one of drawing; the demo goes on without.
    pub fn update(&mut self, timeline: &Timeline) -> io::Result<()> {
        match &mut self.kind {
            Kind::Live(terminal) => {
                let static_executors = self.static_executors;
                terminal.draw(|frame| {
                    let area = frame.area();
                    let rows = plot(timeline, static_executors, usize::from(area.width).min(MAX_WIDTH));
                    let mut lines = vec![status(timeline), Line::default()];
                    lines.extend(rows.iter().map(styled));
                    frame.render_widget(Paragraph::new(lines), area);
                })?;
            }
            Kind::Plain { shown_ms, phases } => {
                let last = timeline.last();
                let due = shown_ms.is_none_or(|shown| last.at_ms >= shown + PLAIN_INTERVAL_MS);
                if due || timeline.phases().len() != *phases {
                    *shown_ms = Some(last.at_ms);
                    *phases = timeline.phases().len();
                    out!("{}", progress(timeline));
                }
            }
        }
        Ok(())
    }

    /// Leaves the whole picture behind.
    pub fn finish(mut self, timeline: &Timeline) -> io::Result<()> {
        self.update(timeline)?;
        match &mut self.kind {
            Kind::Live(terminal) => {
                let bottom = terminal.get_frame().area().bottom();
                terminal.set_cursor_position((0, bottom.saturating_sub(1)))?;
                terminal.show_cursor()?;
                out!("");
            }
            Kind::Plain { .. } => out!("\n{}", to_text(&plot(timeline, self.static_executors, PLAIN_WIDTH))),
        }
        Ok(())
    }
}

fn live(static_executors: u32) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let rows = plot(&Timeline::default(), static_executors, MAX_WIDTH).len() + 3;
    let viewport = Viewport::Inline(u16::try_from(rows).unwrap_or(24));
    Terminal::with_options(CrosstermBackend::new(io::stdout()), TerminalOptions { viewport })
}

/// ` 12.3 s  first burst   executors 6, ready 4   shuffle served 3.2 MB, 0 B for executors that are gone`
fn progress(timeline: &Timeline) -> String {
    let last = timeline.last();
    format!(
        "{:>6.1} s  {:<13} executors {:>2}, ready {:>2}   shuffle {}, for gone executors {}",
        last.at_ms as f64 / 1000.0,
        timeline.phases().last().map_or("", |phase| phase.name),
        last.held,
        last.ready,
        output::bytes(last.served_bytes),
        output::bytes(last.departed_bytes),
    )
}

fn status(timeline: &Timeline) -> Line<'static> {
    let turn = (timeline.last().at_ms / 250) as usize % SPINNER.len();
    Line::from(vec![Span::styled(SPINNER[turn], color(Ink::Ready)), Span::raw(progress(timeline))])
}

/// Runs of one ink become one span.
fn styled(row: &Row) -> Line<'static> {
    let runs = row.chunk_by(|a, b| a.1 == b.1);
    let spans =
        runs.map(|run| Span::styled(run.iter().map(|(c, _)| *c).collect::<String>(), color(run[0].1)));
    Line::from(spans.collect::<Vec<_>>())
}

/// The eight colours of every terminal, so that its theme decides.
fn color(ink: Ink) -> Style {
    match ink {
        Ink::Plain => Style::new(),
        Ink::Faint => Style::new().add_modifier(Modifier::DIM),
        Ink::Starting => Style::new().fg(Color::Yellow),
        Ink::Ready => Style::new().fg(Color::Green),
        Ink::Served => Style::new().fg(Color::Blue),
        Ink::Departed => Style::new().fg(Color::Magenta),
    }
}
