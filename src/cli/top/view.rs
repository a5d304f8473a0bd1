//! The screen: a headline, the tables, and a line of keys.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::{Line, Span};
use ratatui_core::widgets::Widget;

use super::model::{Gravity, Tables};
use super::table::{Pieces, Tone};

const KEYS: &str = "q quit  p pause  Tab next table  ↑↓ PgUp PgDn scroll  ? help";
const HELP: &[&str] = &[
    "q, Esc, Ctrl-C    quit",
    "p, Space          stop what is shown, and go on",
    "Tab, Shift-Tab    next table, the one before",
    "↓ ↑, j k          a line down, up",
    "PgDn PgUp         a page down, up",
    "End Home, G g     to the end, to the start",
    "?                 this help",
    "",
    "Rates are of the last ten seconds. A server's row is of all",
    "instances where it is in that state; its figures are of the",
    "one that is named first. What is worst is on top.",
    "",
    "STATE of an instance: unreachable, not ready, failing (a",
    "group has no server left to ask), sick (something is wrong",
    "that clients need not notice), good.",
];

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyCommand {
    Quit,
    Pause,
    Help,
    NextTable,
    PreviousTable,
    LineDown,
    LineUp,
    PageDown,
    PageUp,
    Start,
    End,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Colours,
    /// Bold and dim alone.
    Plain,
}

/// What is shown, and which part of it.
#[derive(Debug)]
pub(super) struct Screen {
    tables: Tables,
    palette: Palette,
    paused: bool,
    help: bool,
    /// First line of the tables that is shown.
    offset: usize,
    /// The table that Tab went to last.
    table: usize,
    /// Of the last drawing: lines for tables, and where each table begins.
    height: usize,
    starts: Vec<usize>,
    lines: usize,
}

impl Screen {
    pub(super) fn new(palette: Palette) -> Self {
        Self {
            tables: Tables::default(),
            palette,
            paused: false,
            help: false,
            offset: 0,
            table: 0,
            height: 1,
            starts: Vec::new(),
            lines: 0,
        }
    }

    /// Shows these from now on, unless it is paused.
    pub(super) fn show(&mut self, tables: Tables) {
        if !self.paused {
            self.tables = tables;
        }
    }

    /// Executes a key's command, except [`KeyCommand::Quit`].
    pub(super) fn obey(&mut self, command: KeyCommand) {
        let page = self.height.saturating_sub(1).max(1);
        match command {
            KeyCommand::Quit => {}
            KeyCommand::Pause => self.paused = !self.paused,
            KeyCommand::Help => self.help = !self.help,
            KeyCommand::NextTable => self.go_to(self.table + 1),
            KeyCommand::PreviousTable => self.go_to(self.table + self.starts.len().max(1) - 1),
            KeyCommand::LineDown => self.scroll_to(self.offset + 1),
            KeyCommand::LineUp => self.scroll_to(self.offset.saturating_sub(1)),
            KeyCommand::PageDown => self.scroll_to(self.offset + page),
            KeyCommand::PageUp => self.scroll_to(self.offset.saturating_sub(page)),
            KeyCommand::Start => self.scroll_to(0),
            KeyCommand::End => self.scroll_to(usize::MAX),
        }
    }

    fn last_offset(&self) -> usize {
        self.lines.saturating_sub(self.height)
    }

    fn scroll_to(&mut self, offset: usize) {
        self.offset = offset.min(self.last_offset());
        let above = self.starts.iter().filter(|start| **start <= self.offset);
        self.table = above.count().saturating_sub(1);
    }

    /// Shows a table's title in the first line, or as far up as there are lines below.
    fn go_to(&mut self, table: usize) {
        if let Some(start) = self.starts.get(table % self.starts.len().max(1)) {
            self.table = table % self.starts.len();
            self.offset = (*start).min(self.last_offset());
        }
    }

    /// All lines of the tables, with where each begins.
    fn body(&self, width: usize) -> (Vec<Pieces>, Vec<usize>) {
        let (mut lines, mut starts) = (Vec::new(), Vec::new());
        for section in self.tables.sections() {
            if !lines.is_empty() {
                lines.push(Vec::new());
            }
            starts.push(lines.len());
            lines.extend(section.lines(Some(width)));
        }
        (lines, starts)
    }

    /// Draws it.
    pub(super) fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let width = usize::from(area.width);
        let rows = |from: u16, most: u16| Rect {
            y: area.y + from,
            height: most,
            ..area
        };
        if area.height == 0 {
            return;
        }
        let (text, gravity) = self.tables.verdict();
        let paused = if self.paused { "PAUSED  " } else { "" };
        let head = vec![
            ("nodens top  ".to_owned(), Tone::Title),
            (paused.to_owned(), Tone::Heading),
            (text, Tone::State(gravity)),
        ];
        self.line(&head).render(rows(0, 1), buffer);
        if area.height < 3 {
            return;
        }
        Line::from(Span::styled(KEYS, Modifier::DIM)).render(rows(area.height - 1, 1), buffer);
        let space = area.height - 2;
        if self.help {
            for (row, text) in (1..=space).zip(HELP) {
                Line::raw(*text).render(rows(row, 1), buffer);
            }
            return;
        }
        let (lines, starts) = self.body(width);
        (self.lines, self.starts, self.height) = (lines.len(), starts, usize::from(space));
        self.offset = self.offset.min(self.last_offset());
        let chosen = self.starts.get(self.table).copied();
        for (row, (place, pieces)) in (1..=space).zip(lines.iter().enumerate().skip(self.offset)) {
            let mut line = self.line(pieces);
            // The mark of the table that Tab went to shows without colour.
            if chosen == Some(place) {
                line = line.patch_style(Modifier::REVERSED);
            }
            line.render(rows(row, 1), buffer);
        }
    }

    fn line(&self, pieces: &Pieces) -> Line<'static> {
        let span = |(text, tone): &(String, Tone)| Span::styled(text.clone(), self.style(*tone));
        pieces.iter().map(span).collect()
    }

    fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        let coloured = |colour| match self.palette {
            Palette::Colours => style.fg(colour),
            Palette::Plain => style,
        };
        match tone {
            Tone::Plain => style,
            Tone::Title => style.add_modifier(Modifier::BOLD),
            Tone::Heading => style.add_modifier(Modifier::UNDERLINED),
            Tone::State(Gravity::Well) => coloured(Color::Green),
            Tone::State(Gravity::Open) => style.add_modifier(Modifier::DIM),
            Tone::State(Gravity::Sick) => coloured(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::State(Gravity::Dead) => coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;
    use serde_json::json;

    use super::*;
    use crate::cli::top::model::{Fleet, InstanceReading};
    use crate::cli::top::seen::{Escaped, InstanceSeen};

    fn tables() -> Tables {
        let mut fleet = Fleet::new(["10.9.0.1:9153".to_owned(), "10.9.0.2:9153".to_owned()]);
        let server = |address: &str, state: &str| {
            json!({"server": address, "rtt_milliseconds": [1.0, 2.0, null], "health":
                [{"transport": "udp", "state": state, "reason": "probe_lost", "since_seconds": 125, "srtt_milliseconds": 2.157, "loss_percent": 3}]})
        };
        let status = json!({"version": "0.1.0", "node": "node-a", "ready": true, "uptime_seconds": 4000,
            "failures": [{"name": "app.example.com.", "type": "A", "route": ".", "rcode": "SERVFAIL", "count": 2, "ago_seconds": 1.5,
                "text": "10.0.0.2: no answer; 10.1.0.251: SERVFAIL"}],
            "upstreams": [{"name": "vpc", "servers": [server("10.1.0.251", "good"), server("10.0.0.2", "down")]}]});
        let now = Instant::now();
        let results = [
            InstanceSeen::read(status.to_string().as_bytes()).ok_or(Escaped::default()),
            Err(Escaped::new("Connection refused (os error 111)")),
        ];
        for (instance, result) in results.into_iter().enumerate() {
            let pause = Duration::from_secs(2);
            fleet.take(InstanceReading {
                instance,
                at: now,
                result,
                pause,
            });
        }
        fleet.tables(now)
    }

    fn screen(palette: Palette) -> Screen {
        let mut screen = Screen::new(palette);
        screen.show(tables());
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it cannot fail");
        let drawn = terminal.draw(|frame| screen.draw(frame.area(), frame.buffer_mut()));
        drawn.expect("it cannot fail").buffer.clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width).max(1);
        let rows = buffer.content.chunks(width);
        let line = |row: &[ratatui_core::buffer::Cell]| -> String {
            row.iter().map(ratatui_core::buffer::Cell::symbol).collect()
        };
        rows.map(|row| line(row).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_wide_terminal_shows_everything() {
        let lines = lines(&drawn(&mut screen(Palette::Colours), 140, 30));
        assert_eq!(
            lines[0],
            "nodens top  1 of 2 instances reached, 1 of 2 servers sick"
        );
        assert!(
            lines[3].starts_with("10.9.0.2:9153  unreachable"),
            "{lines:#?}"
        );
        assert!(
            lines[3].ends_with("Connection refused (os error 111); trying again in 2 s"),
            "{lines:#?}"
        );
        let server = lines
            .iter()
            .find(|line| line.starts_with("10.0.0.2  "))
            .expect("its row");
        for wanted in [
            "vpc",
            "udp",
            "down",
            "probe lost",
            "2 min 5 s",
            "2.16 ms",
            "3 %",
            "▅█·",
            "1 of 1: node-a",
        ] {
            assert!(server.contains(wanted), "{wanted} is not in {server}");
        }
        let failure = lines
            .iter()
            .find(|line| line.starts_with("app.example.com."))
            .expect("its row");
        assert!(
            failure.ends_with("10.0.0.2: no answer; 10.1.0.251: SERVFAIL"),
            "{failure}"
        );
        assert!(lines[29].starts_with("q quit"), "{lines:#?}");
    }

    #[test]
    fn sixty_columns_show_states_and_reasons() {
        let lines = lines(&drawn(&mut screen(Palette::Colours), 60, 30));
        assert!(
            lines[3].starts_with("10.9.0.2:9153  unreachable"),
            "{lines:#?}"
        );
        assert!(lines[3].contains("Connection"), "{lines:#?}");
        let server = lines
            .iter()
            .find(|line| line.starts_with("10.0.0.2  "))
            .expect("its row");
        for wanted in ["down", "2.16 ms", "3 %"] {
            assert!(server.contains(wanted), "{wanted} is not in {server}");
        }
    }

    #[test]
    fn without_colour_nothing_is_coloured_and_states_are_words() {
        let plain = drawn(&mut screen(Palette::Plain), 100, 30);
        assert!(
            plain
                .content
                .iter()
                .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
        let coloured = drawn(&mut screen(Palette::Colours), 100, 30);
        assert!(coloured.content.iter().any(|cell| cell.fg == Color::Red));
        assert_eq!(lines(&plain), lines(&coloured));
    }

    #[test]
    fn any_size_can_be_drawn() {
        for (width, height) in [(0, 0), (1, 1), (5, 2), (10, 3), (60, 4), (300, 100)] {
            let mut screen = screen(Palette::Colours);
            drawn(&mut screen, width, height);
            screen.obey(KeyCommand::Help);
            drawn(&mut screen, width, height);
        }
    }

    #[test]
    fn keys_scroll_and_go_from_table_to_table() {
        let mut screen = screen(Palette::Colours);
        let mut first = |commands: &[KeyCommand]| {
            for command in commands {
                screen.obey(*command);
            }
            lines(&drawn(&mut screen, 100, 8))[1].clone()
        };
        assert_eq!(first(&[]), "Instances");
        assert!(first(&[KeyCommand::LineDown]).starts_with("INSTANCE"));
        assert_eq!(
            first(&[KeyCommand::LineUp, KeyCommand::LineUp]),
            "Instances"
        );
        assert_eq!(first(&[KeyCommand::NextTable]), "Groups");
        assert_eq!(first(&[KeyCommand::NextTable]), "Servers");
        assert_eq!(first(&[KeyCommand::PreviousTable]), "Groups");
        assert_eq!(first(&[KeyCommand::Start]), "Instances");
        let end = first(&[KeyCommand::End]);
        assert_eq!(
            first(&[KeyCommand::PageDown]),
            end,
            "the last line stays the last"
        );
        assert_eq!(
            first(&[
                KeyCommand::PageUp,
                KeyCommand::PageUp,
                KeyCommand::PageUp,
                KeyCommand::PageUp
            ]),
            "Instances"
        );
        // The last table cannot be at the top; Tab goes on from it all the same.
        assert_eq!(first(&[KeyCommand::PreviousTable]), end);
        assert_eq!(first(&[KeyCommand::NextTable]), "Instances");
    }

    #[test]
    fn a_pause_keeps_what_is_shown() {
        let mut screen = screen(Palette::Plain);
        screen.obey(KeyCommand::Pause);
        screen.show(Tables::default());
        let paused = lines(&drawn(&mut screen, 100, 20));
        assert!(
            paused[0].starts_with("nodens top  PAUSED  1 of 2"),
            "{paused:#?}"
        );
        screen.obey(KeyCommand::Pause);
        screen.show(Tables::default());
        assert!(lines(&drawn(&mut screen, 100, 20))[0].contains("0 of 0"));
    }

    #[test]
    fn help_lists_the_keys() {
        let mut screen = screen(Palette::Plain);
        screen.obey(KeyCommand::Help);
        let help = lines(&drawn(&mut screen, 60, 24));
        assert!(help.iter().any(|line| line.starts_with("Tab")), "{help:#?}");
        screen.obey(KeyCommand::Help);
        assert_eq!(lines(&drawn(&mut screen, 60, 24))[1], "Instances");
    }
}
