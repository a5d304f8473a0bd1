//! The text of a Corefile: words, directives, server blocks; snippets, imports and variables are resolved here.
//!
//! Follows CoreDNS's manual (coredns.io/manual/configuration) and Caddy 1's rules for words: white space separates them, `#`
//! begins a comment, double quotes keep white space and line breaks, and a directive ends with its line. What a directive
//! means is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::config::files::Files;

/// Files and snippets that import each other.
const MAX_IMPORTS: usize = 16;

/// Words of all files together: snippets that import each other double at each step.
const MAX_WORDS: usize = 100_000;

/// Octets of one file; more is another file given by mistake.
const MAX_BYTES: u64 = 4 << 20;

/// Where a word stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: Rc<Path>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Counted from 1, in characters.
    pub(super) column: usize,
}

/// A word, without its quotes, and with variables replaced.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) place: Place,
    quoted: bool,
    /// A quoted word may end on a later line.
    last_line: usize,
}

impl Word {
    fn is(&self, sign: &str) -> bool {
        !self.quoted && self.text == sign
    }
}

/// A line: a name, its arguments, and what stands in braces behind them.
#[derive(Debug, Clone)]
pub(super) struct Directive {
    pub(super) name: Word,
    pub(super) arguments: Vec<Word>,
    pub(super) block: Vec<Directive>,
}

impl Directive {
    /// The directive as it is written, without its block.
    pub(super) fn shown(&self) -> String {
        let words = std::iter::once(&self.name).chain(&self.arguments);
        let words: Vec<&str> = words.map(|word| word.text.as_str()).collect();
        words.join(" ")
    }

    /// The same line as the arguments of another name.
    pub(super) fn under(&self, name: &str) -> Self {
        let text = name.to_owned();
        let name = Word {
            text,
            ..self.name.clone()
        };
        let arguments = std::iter::once(&self.name).chain(&self.arguments);
        Self {
            name,
            arguments: arguments.cloned().collect(),
            block: Vec::new(),
        }
    }

    /// Arguments as text.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.arguments
            .iter()
            .map(|word| word.text.as_str())
            .collect()
    }
}

/// Zones with their ports, and the directives for them.
#[derive(Debug)]
pub(super) struct ServerBlock {
    pub(super) keys: Vec<Word>,
    pub(super) body: Vec<Directive>,
}

/// What is wrong with the text, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) problem: SyntaxProblem,
}

/// What is wrong with the text of a Corefile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxProblem {
    /// A quote without its second.
    #[error("the quote that starts here is never closed; expected \"")]
    Unclosed,
    /// A block without its end.
    #[error("the block that starts here is never closed; expected }}")]
    NoEnd,
    /// `}` too many.
    #[error("}} without a block that it closes; expected a zone or a directive")]
    StrayEnd,
    /// `{` without anything in front of it.
    #[error(
        "{{ without anything in front of it; expected a zone such as . or cluster.local, or a directive"
    )]
    StrayStart,
    /// `{$NAME}` is not set.
    #[error("{{${0}}}: there is no such environment variable; set it, or write its value")]
    NoVariable(String),
    /// `.:53{`.
    #[error("{0}: write a space in front of the brace")]
    NoSpace(String),
    /// `import` without a file or a snippet.
    #[error("expected a file or a snippet after import")]
    ImportOfNothing,
    /// `import` of something that is not there.
    #[error("{0}: there is no such snippet, and no such file: {1}")]
    NoImport(String, String),
    /// Imports without end.
    #[error("import {0}: imports each other more than {MAX_IMPORTS} deep")]
    TooDeep(String),
    /// More text than a configuration has.
    #[error("is more than 4MiB, or {MAX_WORDS} words with what it imports")]
    TooLarge,
    /// A snippet twice.
    #[error("({0}) is here twice, first on line {1}; keep one")]
    SnippetTwice(String, usize),
}

/// What a Corefile holds.
#[derive(Debug, Default)]
pub(super) struct Corefile {
    pub(super) servers: Vec<ServerBlock>,
    /// Files that it imports.
    pub(super) files: BTreeSet<PathBuf>,
    /// Imports that match no file, which is no mistake.
    pub(super) empty_imports: Vec<Directive>,
    pub(super) errors: Vec<SyntaxError>,
}

/// What a Corefile refers to.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    /// Environment variables.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) files: &'a Files,
    /// What stands beside it in ConfigMaps, by key: it is mounted into directories whose names do not matter.
    pub(super) beside: &'a BTreeMap<String, String>,
}

/// How the place of a key within a file of objects is written.
pub(super) fn inside(file: &Path, key: &str) -> PathBuf {
    PathBuf::from(format!("{}({key})", file.display()))
}

/// Reads a Corefile and what it imports.
pub(super) fn parse(file: &Path, text: &str, sources: Sources<'_>) -> Corefile {
    let mut parser = Parser {
        sources,
        root: file.to_owned(),
        snippets: BTreeMap::new(),
        words: 0,
        corefile: Corefile::default(),
    };
    let directives = parser.file(&file.into(), text);
    let servers = parser.servers(directives, 0);
    parser.corefile.servers.extend(servers);
    parser.corefile
}

struct Parser<'a> {
    sources: Sources<'a>,
    /// The Corefile.
    root: PathBuf,
    snippets: BTreeMap<String, (usize, Vec<Directive>)>,
    words: usize,
    corefile: Corefile,
}

impl Parser<'_> {
    fn error(&mut self, place: &Place, problem: SyntaxProblem) {
        let place = place.clone();
        self.corefile.errors.push(SyntaxError { place, problem });
    }

    /// The lines of one file, blocks within blocks, imports unresolved.
    fn file(&mut self, file: &Rc<Path>, text: &str) -> Vec<Directive> {
        let words = self.split(file, text);
        self.words += words.len();
        if self.words > MAX_WORDS || text.len() as u64 > MAX_BYTES {
            let place = Place {
                file: Rc::clone(file),
                line: 1,
                column: 1,
            };
            self.error(&place, SyntaxProblem::TooLarge);
            return Vec::new();
        }
        let mut rest = words.into_iter().peekable();
        self.block(&mut rest, None)
    }

    fn split(&mut self, file: &Rc<Path>, text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        let mut cursor = Cursor::new(text);
        while let Some((line, column)) = cursor.next_word() {
            let place = Place {
                file: Rc::clone(file),
                line,
                column,
            };
            let quoted = cursor.rest.peek() == Some(&'"');
            let typed = if quoted {
                cursor.quoted()
            } else {
                Some(cursor.plain())
            };
            let Some(typed) = typed else {
                self.error(&place, SyntaxProblem::Unclosed);
                break;
            };
            let text = self.replaced(&typed, ("{$", "}"), &place);
            let text = self.replaced(&text, ("{%", "%}"), &place);
            let last_line = cursor.line;
            let word = |text: &str| Word {
                text: text.to_owned(),
                place: place.clone(),
                quoted,
                last_line,
            };
            match text.strip_suffix('{') {
                // It is told once, and what follows is read as it is meant.
                Some(before) if !quoted && !before.is_empty() && !before.ends_with('{') => {
                    words.extend([word(before), word("{")]);
                    self.error(&place, SyntaxProblem::NoSpace(text.clone()));
                }
                _ => words.push(word(&text)),
            }
        }
        words
    }

    /// A word with its variables replaced.
    fn replaced(&mut self, word: &str, (open, close): (&str, &str), place: &Place) -> String {
        let (mut out, mut rest) = (String::new(), word);
        while let Some((before, behind)) = rest.split_once(open)
            && let Some((name, after)) = behind.split_once(close)
        {
            out.push_str(before);
            match (self.sources.variable)(name) {
                Some(value) => out.push_str(&value),
                None => self.error(place, SyntaxProblem::NoVariable(name.to_owned())),
            }
            rest = after;
        }
        out + rest
    }

    /// Directives up to the `}` of the block that begins at `start`, or to the end of the file.
    fn block(&mut self, words: &mut Words, start: Option<&Place>) -> Vec<Directive> {
        let mut directives = Vec::new();
        while let Some(name) = words.next() {
            if name.is("}") {
                if start.is_some() {
                    return directives;
                }
                self.error(&name.place, SyntaxProblem::StrayEnd);
                continue;
            }
            if name.is("{") {
                self.error(&name.place, SyntaxProblem::StrayStart);
                self.block(words, Some(&name.place));
                continue;
            }
            directives.push(self.directive(name, words));
        }
        if let Some(start) = start {
            self.error(start, SyntaxProblem::NoEnd);
        }
        directives
    }

    fn directive(&mut self, name: Word, words: &mut Words) -> Directive {
        let mut arguments: Vec<Word> = Vec::new();
        let mut block = Vec::new();
        loop {
            let last = arguments.last().unwrap_or(&name);
            // Zones in front of a server block may go on after a comma.
            let line = last.last_line + usize::from(last.text.ends_with(',') && !last.quoted);
            let Some(next) = words.next_if(|next| next.place.line <= line && !next.is("}")) else {
                break;
            };
            if next.is("{") {
                block = self.block(words, Some(&next.place));
                break;
            }
            arguments.push(next);
        }
        Directive {
            name,
            arguments,
            block,
        }
    }

    /// Directives at the top are server blocks, snippets and imports of those.
    fn servers(&mut self, directives: Vec<Directive>, depth: usize) -> Vec<ServerBlock> {
        // A file with one server may leave its braces out.
        if let Some((first, rest)) = directives.split_first()
            && first.block.is_empty()
            && !rest.is_empty()
            && first.name.text != "import"
            && rest.iter().all(|directive| !is_zone(&directive.name.text))
        {
            let body = self.resolved(rest.to_vec(), depth);
            return vec![ServerBlock {
                keys: keys(first),
                body,
            }];
        }
        let mut servers = Vec::new();
        for directive in directives {
            let name = &directive.name.text;
            if let Some(snippet) = name
                .strip_prefix('(')
                .and_then(|rest| rest.strip_suffix(')'))
            {
                let line = directive.name.place.line;
                let snippet = snippet.to_owned();
                if let Some((first, _)) = self.snippets.get(&snippet) {
                    let problem = SyntaxProblem::SnippetTwice(snippet, *first);
                    self.error(&directive.name.place, problem);
                } else {
                    self.snippets.insert(snippet, (line, directive.block));
                }
            } else if name == "import" {
                let imported = self.imported(&directive, depth);
                servers.extend(self.servers(imported, depth + 1));
            } else {
                let keys = keys(&directive);
                let body = self.resolved(directive.block, depth);
                servers.push(ServerBlock { keys, body });
            }
        }
        servers
    }

    /// The directives with imports replaced by what they import.
    fn resolved(&mut self, directives: Vec<Directive>, depth: usize) -> Vec<Directive> {
        let mut out = Vec::new();
        for mut directive in directives {
            if directive.name.text == "import" {
                let imported = self.imported(&directive, depth);
                out.extend(self.resolved(imported, depth + 1));
            } else {
                directive.block = self.resolved(directive.block, depth);
                out.push(directive);
            }
        }
        out
    }

    /// What an `import` stands for; nothing if it is wrong.
    fn imported(&mut self, import: &Directive, depth: usize) -> Vec<Directive> {
        let place = &import.name.place;
        let Some(what) = import.arguments.first() else {
            self.error(place, SyntaxProblem::ImportOfNothing);
            return Vec::new();
        };
        if depth >= MAX_IMPORTS {
            self.error(place, SyntaxProblem::TooDeep(what.text.clone()));
            return Vec::new();
        }
        if let Some((_, directives)) = self.snippets.get(&what.text) {
            let directives = directives.clone();
            self.words += count(&directives);
            if self.words > MAX_WORDS {
                self.error(place, SyntaxProblem::TooLarge);
                return Vec::new();
            }
            return directives;
        }
        let directory = place.file.parent().unwrap_or(Path::new(""));
        let path = directory.join(&what.text);
        let mut directives = Vec::new();
        let mut found = files(self.sources.files, &path);
        found.retain(|file| is_pattern(&path) || file.exists() || !self.is_beside(file));
        for file in found {
            self.corefile.files.insert(file.clone());
            match self.sources.files.read_text(&file) {
                Ok(text) => directives.extend(self.file(&Rc::from(file), &text)),
                Err(error) => {
                    let (what, error) = (what.text.clone(), error.to_string());
                    self.error(&what_place(import), SyntaxProblem::NoImport(what, error));
                    return Vec::new();
                }
            }
        }
        if directives.is_empty() {
            directives = self.held_beside(&path);
        }
        if directives.is_empty() && is_pattern(&path) {
            self.corefile.empty_imports.push(import.clone());
        }
        directives
    }

    fn is_beside(&self, file: &Path) -> bool {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| self.sources.beside.contains_key(name))
    }

    /// What keys beside the Corefile hold whose names are those of a path.
    fn held_beside(&mut self, path: &Path) -> Vec<Directive> {
        let beside = self.sources.beside;
        let keys = beside
            .iter()
            .filter(|(key, _)| is_named(Path::new(key), path));
        let mut directives = Vec::new();
        for (key, text) in keys {
            let file = inside(&self.root, key);
            directives.extend(self.file(&Rc::from(file), text));
        }
        directives
    }
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;

/// A text and how far it is read.
struct Cursor<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    column: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        // Some editors begin a file with a byte order mark, which CoreDNS skips.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            rest: text.chars().peekable(),
            line: 1,
            column: 1,
        }
    }

    fn next(&mut self) -> Option<char> {
        let character = self.rest.next()?;
        (self.line, self.column) = match character {
            '\n' => (self.line + 1, 1),
            _ => (self.line, self.column + 1),
        };
        Some(character)
    }

    /// Goes to the next word and says where it is.
    fn next_word(&mut self) -> Option<(usize, usize)> {
        loop {
            match self.rest.peek()? {
                '#' => {
                    while self.rest.peek().is_some_and(|next| *next != '\n') {
                        self.next();
                    }
                }
                character if character.is_whitespace() => {
                    self.next();
                }
                _ => return Some((self.line, self.column)),
            }
        }
    }

    fn plain(&mut self) -> String {
        let mut word = String::new();
        while self.rest.peek().is_some_and(|next| !next.is_whitespace()) {
            word.extend(self.next());
        }
        word
    }

    /// What stands between quotes; none without the second.
    fn quoted(&mut self) -> Option<String> {
        let mut word = String::new();
        self.next();
        loop {
            match self.next()? {
                '"' => return Some(word),
                '\\' if self.rest.peek() == Some(&'"') => word.extend(self.next()),
                character => word.push(character),
            }
        }
    }
}

/// Words of directives, those of blocks included.
fn count(directives: &[Directive]) -> usize {
    directives
        .iter()
        .map(|directive| 1 + directive.arguments.len() + count(&directive.block))
        .sum()
}

fn what_place(import: &Directive) -> Place {
    import
        .arguments
        .first()
        .unwrap_or(&import.name)
        .place
        .clone()
}

/// Whether a word at the top of a file is a zone rather than a plugin: zones have dots or ports.
fn is_zone(word: &str) -> bool {
    word.contains(['.', ':', '('])
}

/// The zones in front of a server block.
fn keys(directive: &Directive) -> Vec<Word> {
    let words = std::iter::once(&directive.name).chain(&directive.arguments);
    let mut keys = Vec::new();
    for word in words {
        for text in word.text.split(',').filter(|text| !text.is_empty()) {
            keys.push(Word {
                text: text.to_owned(),
                ..word.clone()
            });
        }
    }
    keys
}

/// Whether a path may name several files.
fn is_pattern(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.contains('*'))
}

/// Whether the last part of a path, which may have one `*`, names a file.
fn is_named(file: &Path, path: &Path) -> bool {
    let name_of = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let (Some(name), Some(pattern)) = (name_of(file), name_of(path)) else {
        return false;
    };
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

/// The files that a path names, which may have one `*` in its last part, in the order of their names.
fn files(all: &Files, path: &Path) -> Vec<PathBuf> {
    if !is_pattern(path) {
        return vec![path.to_owned()];
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut files = all.in_directory(directory);
    files.retain(|file| is_named(file, path));
    files.sort();
    files
}
