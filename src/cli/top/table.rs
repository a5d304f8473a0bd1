//! Tables as lines that fit the terminal's width: long texts are cut, and the least important columns are left out.

use ratatui_core::text::Span;

use super::model::Gravity;

/// Between two columns.
const GAP: usize = 2;

/// The style of a piece of text. The text must be clear without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Heading,
    Title,
    State(Gravity),
}

/// A line of pieces.
pub(super) type Pieces = Vec<(String, Tone)>;

/// Where the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct TableColumn {
    pub(super) heading: &'static str,
    pub(super) align: Align,
    /// Columns with the highest rank are left out first if there is no room; those with rank 0 never.
    pub(super) rank: u8,
    /// It may be cut to so many; none if it may not be cut.
    pub(super) least: Option<usize>,
}

impl TableColumn {
    pub(super) const fn words(heading: &'static str, rank: u8, least: usize) -> Self {
        Self {
            heading,
            align: Align::Left,
            rank,
            least: Some(least),
        }
    }

    pub(super) const fn short(heading: &'static str, rank: u8) -> Self {
        Self {
            heading,
            align: Align::Left,
            rank,
            least: None,
        }
    }

    pub(super) const fn number(heading: &'static str, rank: u8) -> Self {
        Self {
            heading,
            align: Align::Right,
            rank,
            least: None,
        }
    }
}

/// A cell.
#[derive(Debug, Clone)]
pub(super) struct TableCell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl<T: ToString> From<T> for TableCell {
    fn from(text: T) -> Self {
        Self {
            text: text.to_string(),
            tone: Tone::Plain,
        }
    }
}

/// A table under a title.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) columns: &'static [TableColumn],
    pub(super) rows: Vec<Vec<TableCell>>,
    /// In place of rows, if there are none.
    pub(super) empty: &'static str,
}

/// Columns that a text takes.
fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text cut to so many columns, with a mark where it was cut.
fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 0;
    let mut buffer = [0; 4];
    for character in text.chars() {
        taken += width(character.encode_utf8(&mut buffer));
        if taken + 1 > most {
            break;
        }
        kept.push(character);
    }
    if most > 0 {
        kept.push('…');
    }
    kept
}

impl Table {
    /// Its lines in so many columns, the title first; with no limit, nothing is cut.
    pub(super) fn lines(&self, room: Option<usize>) -> Vec<Pieces> {
        let title = (cut(self.title, room.unwrap_or(usize::MAX)), Tone::Title);
        let mut lines = vec![vec![title]];
        if self.rows.is_empty() {
            let text = cut(self.empty, room.unwrap_or(usize::MAX));
            lines.push(vec![(text, Tone::Plain)]);
            return lines;
        }
        let widths = self.widths(room);
        let heading = |column: &TableColumn| TableCell {
            text: column.heading.to_owned(),
            tone: Tone::Heading,
        };
        let headings: Vec<TableCell> = self.columns.iter().map(heading).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            lines.push(self.line(row, &widths, room));
        }
        lines
    }

    /// Of each column; none if it is left out.
    fn widths(&self, room: Option<usize>) -> Vec<Option<usize>> {
        let natural = |(place, column): (usize, &TableColumn)| {
            let cells = self.rows.iter().filter_map(|row| row.get(place));
            let widest = cells.map(|cell| width(&cell.text)).max().unwrap_or(0);
            // An empty column is left out.
            (widest > 0).then_some(widest.max(width(column.heading)))
        };
        let columns = self.columns.iter();
        let mut widths: Vec<Option<usize>> = columns.enumerate().map(natural).collect();
        let Some(room) = room else {
            return widths;
        };
        let least = |place: usize, natural: usize| {
            let least = self.columns[place].least.unwrap_or(natural);
            least.max(width(self.columns[place].heading)).min(natural)
        };
        let sum = |widths: &[Option<usize>], of: &dyn Fn(usize, usize) -> usize| {
            let shown = widths.iter().enumerate();
            let each = shown.filter_map(|(place, width)| Some(of(place, (*width)?) + GAP));
            each.sum::<usize>().saturating_sub(GAP)
        };
        while sum(&widths, &least) > room {
            let shown = (0..widths.len()).filter(|place| widths[*place].is_some());
            let rank = |place: &usize| self.columns[*place].rank;
            match shown.max_by_key(rank) {
                Some(place) if rank(&place) > 0 => widths[place] = None,
                _ => break,
            }
        }
        while sum(&widths, &|_, natural| natural) > room {
            let shown = widths.iter().enumerate();
            let spare = shown.filter_map(|(place, width)| {
                let width = (*width)?;
                (width > least(place, width) && self.columns[place].least.is_some())
                    .then_some((width, place))
            });
            match spare.max() {
                Some((width, place)) => widths[place] = Some(width - 1),
                None => break,
            }
        }
        widths
    }

    fn line(&self, row: &[TableCell], widths: &[Option<usize>], room: Option<usize>) -> Pieces {
        let mut pieces: Pieces = Vec::new();
        let mut left = room.unwrap_or(usize::MAX);
        for ((cell, column), wide) in row.iter().zip(self.columns).zip(widths) {
            let Some(wide) = *wide else { continue };
            if !pieces.is_empty() {
                let gap = GAP.min(left);
                pieces.push((" ".repeat(gap), Tone::Plain));
                left -= gap;
            }
            let text = cut(&cell.text, wide.min(left));
            let blank = " ".repeat(wide.min(left).saturating_sub(width(&text)));
            left -= wide.min(left);
            match column.align {
                Align::Left => {
                    pieces.push((text, cell.tone));
                    pieces.push((blank, Tone::Plain));
                }
                Align::Right => {
                    pieces.push((blank, Tone::Plain));
                    pieces.push((text, cell.tone));
                }
            }
        }
        while pieces
            .last()
            .is_some_and(|(text, _)| text.trim_end().is_empty())
        {
            pieces.pop();
        }
        pieces
    }
}

/// The text of a line.
pub(super) fn plain(pieces: &Pieces) -> String {
    pieces.iter().map(|(text, _)| text.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[TableColumn] = &[
        TableColumn::words("NAME", 0, 8),
        TableColumn::short("STATE", 0),
        TableColumn::number("LOSS", 1),
        TableColumn::words("WHY", 2, 10),
        TableColumn::short("NEVER", 3),
    ];

    fn table() -> Table {
        let row = |name: &str, state: &str, loss: &str, why: &str| -> Vec<TableCell> {
            vec![
                name.into(),
                state.into(),
                loss.into(),
                why.into(),
                "".into(),
            ]
        };
        Table {
            title: "Servers",
            columns: COLUMNS,
            rows: vec![
                row(
                    "a-very-long-name.example",
                    "down",
                    "100 %",
                    "it does not answer at all",
                ),
                row("größe", "good", "0 %", ""),
            ],
            empty: "none",
        }
    }

    fn text(room: Option<usize>) -> Vec<String> {
        table().lines(room).iter().map(plain).collect()
    }

    #[test]
    fn without_a_limit_nothing_is_cut() {
        assert_eq!(
            text(None),
            [
                "Servers",
                "NAME                      STATE   LOSS  WHY",
                "a-very-long-name.example  down   100 %  it does not answer at all",
                "größe                     good     0 %",
            ]
        );
    }

    #[test]
    fn no_line_is_longer_than_there_is_room() {
        for room in 0..80 {
            for line in text(Some(room)) {
                assert!(width(&line) <= room, "{room}: {line:?}");
            }
        }
    }

    #[test]
    fn words_are_cut_before_columns_are_left_out() {
        let [_, headings, first, _] = &text(Some(40))[..] else {
            panic!("four lines");
        };
        assert!(headings.contains("WHY"), "{headings}");
        assert!(first.contains('…') && first.contains("100 %"), "{first}");
        let [_, headings, first, _] = &text(Some(25))[..] else {
            panic!("four lines");
        };
        assert_eq!(headings, "NAME         STATE   LOSS");
        assert_eq!(first, "a-very-lon…  down   100 %");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("例え.example", 5), "例え…");
        assert_eq!(cut("例え.example", 4), "例…");
    }
}
