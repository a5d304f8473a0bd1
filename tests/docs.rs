//! What the documents say, asked of the real binary: commands, configuration keys with their defaults, ranges and
//! reloads, metrics, /status, log lines, YAML blocks, and links.
//!
//! Words behind a fence say what its YAML is: `yaml` alone is a configuration of nodens, and is checked; `yaml mistakes`
//! is one that must be refused; `yaml values` are values of the chart, `yaml pod` and `yaml gitlab` belong to others.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::dns::{self, Ask, Over, record, response, rr};
use common::stand_in::StandIn;
use common::{Nodens, TempDir, free_sockets, nodens, serve_and_stop, wait_for};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document, taken apart.
struct Page {
    /// From the root of the repository.
    name: String,
    text: String,
    /// Code that stands in lines of its own.
    blocks: Vec<Block>,
    /// Everything else, by paragraphs; a table is one.
    paragraphs: Vec<String>,
}

struct Block {
    /// The words behind the fence; none for code that is only indented.
    info: String,
    /// Without the indentation that all lines have.
    lines: Vec<String>,
}

impl Block {
    fn new(info: &str, lines: &[&str]) -> Self {
        let indentation = |line: &&&str| line.len() - line.trim_start().len();
        let filled = lines.iter().filter(|line| !line.trim().is_empty());
        let margin = filled.map(|line| indentation(&line)).min().unwrap_or(0);
        let lines = lines
            .iter()
            .map(|line| line.get(margin..).unwrap_or("").to_owned())
            .collect();
        let info = info.to_owned();
        Self { info, lines }
    }

    fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Lines that a shell would take as one, without prompts.
    fn shell_lines(&self) -> Vec<String> {
        let text = self.text().replace("\\\n", " ");
        let lines = text.lines().map(|line| line.trim_start_matches("$ "));
        lines.map(str::to_owned).collect()
    }
}

impl Page {
    fn read(name: &str) -> Self {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut blocks, mut paragraphs, mut paragraph) = (Vec::new(), Vec::new(), String::new());
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (fence, code) = (
                line.trim_start().strip_prefix("```"),
                line.starts_with("    "),
            );
            if let Some(info) = fence {
                let ends = |line: &&str| line.trim() != "```";
                let inside: Vec<_> = lines.by_ref().take_while(ends).collect();
                blocks.push(Block::new(info, &inside));
            } else if code && paragraph.is_empty() {
                let mut inside = vec![line];
                let goes_on = |line: &&str| line.starts_with("    ") || line.is_empty();
                while let Some(line) = lines.next_if(goes_on) {
                    inside.push(line);
                }
                blocks.push(Block::new("", &inside));
            } else if line.trim().is_empty() {
                paragraphs.push(std::mem::take(&mut paragraph));
            } else {
                paragraph.push_str(line);
                paragraph.push('\n');
            }
        }
        paragraphs.push(paragraph);
        paragraphs.retain(|paragraph| !paragraph.is_empty());
        let name = name.to_owned();
        Self {
            name,
            text,
            blocks,
            paragraphs,
        }
    }

    /// Code within a line.
    fn spans(&self) -> impl Iterator<Item = String> {
        let of = |paragraph: &String| {
            let odd = paragraph.split('`').skip(1).step_by(2);
            odd.map(|span| span.replace('\n', " ")).collect::<Vec<_>>()
        };
        self.paragraphs.iter().flat_map(of)
    }

    /// Rows of all tables whose heading begins with these words, each with the heading's first cell.
    fn rows(&self, heading: &str) -> Vec<(String, Vec<String>)> {
        let mut rows = Vec::new();
        for paragraph in &self.paragraphs {
            let mut lines = paragraph.lines().map(cells);
            let Some(first) = lines.next().and_then(|cells| cells.into_iter().next()) else {
                continue;
            };
            if paragraph.starts_with('|') && first.starts_with(heading) {
                rows.extend(lines.skip(1).map(|cells| (first.clone(), cells)));
            }
        }
        assert!(
            !rows.is_empty(),
            "{} has no table {heading:?}...",
            self.name
        );
        rows
    }

    /// What headings are called in links to them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let headings = self
            .paragraphs
            .iter()
            .flat_map(|paragraph| paragraph.lines());
        for heading in headings.filter(|line| line.starts_with('#')) {
            let letter = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let anchor: String = text.chars().filter(|c| letter(*c)).collect();
            let anchor = anchor.replace(' ', "-");
            let mut number = 0;
            let mut unique = anchor.clone();
            while !anchors.insert(unique) {
                number += 1;
                unique = format!("{anchor}-{number}");
            }
        }
        anchors
    }

    /// Targets of links within the repository.
    fn links(&self) -> Vec<String> {
        let prose = |paragraph: &String| {
            let even: Vec<_> = paragraph.split('`').step_by(2).collect();
            even.join("`")
        };
        let text: Vec<_> = self.paragraphs.iter().map(prose).collect();
        let targets = text
            .iter()
            .flat_map(|text| text.split("](").skip(1))
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target.to_owned());
        targets.filter(|target| !target.contains("://")).collect()
    }
}

/// Cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_matches('|').replace("\\|", "\u{1}");
    let cells = row.split('|');
    cells
        .map(|cell| cell.trim().replace('\u{1}', "|"))
        .collect()
}

/// The code in a cell.
fn codes(cell: &str) -> Vec<String> {
    let odd = cell.split('`').skip(1).step_by(2);
    odd.map(str::to_owned).collect()
}

/// A cell that is code and nothing else.
fn only_code(cell: &str) -> Option<&str> {
    let inside = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!inside.contains('`')).then_some(inside)
}

fn names_below(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(directory)).expect("the directory can be read");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| format!("{directory}/{}", name.to_string_lossy()));
    let mut names: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "md"))
        .collect();
    names.sort();
    names
}

/// Documents for those who use nodens.
fn user_pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "charts/nodens/README.md".to_owned()];
    names.extend(names_below("docs"));
    names.iter().map(|name| Page::read(name)).collect()
}

fn all_pages() -> Vec<Page> {
    let others = [
        "ARCHITECTURE.md",
        "BENCHMARKS.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "benches/README.md",
    ];
    let mut pages = user_pages();
    pages.extend(others.map(Page::read));
    pages.extend(
        names_below("docs/architecture")
            .iter()
            .map(|name| Page::read(name)),
    );
    pages
}

fn configuration() -> Page {
    Page::read("docs/configuration.md")
}

fn succeeded(output: &Output, context: &str) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{context}: {}\n{errors}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// --- links ------------------------------------------------------------------------------------------------------------

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in all_pages() {
        let directory = Path::new(&page.name).parent().expect("it is a file's name");
        for link in page.links() {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                PathBuf::from(&page.name)
            } else {
                directory.join(file)
            };
            let exists = root().join(&target).exists();
            let markdown = target
                .extension()
                .is_some_and(|extension| extension == "md");
            let anchored = anchor.is_empty() || !markdown || {
                exists
                    && Page::read(&target.to_string_lossy())
                        .anchors()
                        .contains(anchor)
            };
            if !exists || !anchored {
                broken.push(format!("{}: {link}", page.name));
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = Page::read("README.md");
    let length = readme.text.lines().count();
    assert!(length <= 250, "README.md has {length} lines");
    let links = readme.links();
    for page in names_below("docs") {
        assert!(links.contains(&page), "README.md has no link to {page}");
    }
}

#[test]
fn the_first_page_of_the_architecture_is_short_and_leads_to_the_others() {
    let first = Page::read("ARCHITECTURE.md");
    let length = first.text.lines().count();
    assert!(length <= 150, "ARCHITECTURE.md has {length} lines");
    let links = first.links();
    for page in names_below("docs/architecture") {
        assert!(
            links.contains(&page),
            "ARCHITECTURE.md has no link to {page}"
        );
    }
}

/// The comparison in the README is copied from BENCHMARKS.md, which is written anew with each measurement.
#[test]
fn the_readme_compares_with_the_figures_of_the_benchmarks() {
    let benchmarks = Page::read("BENCHMARKS.md").text;
    let section = |load: &str| {
        let heading = format!("### `{load}`, at full speed");
        let rest = benchmarks.split(&heading).nth(1);
        let rest = rest.unwrap_or_else(|| panic!("BENCHMARKS.md has no {heading:?}"));
        let rows = rest.split("\n### ").next().unwrap_or_default();
        let rows = rows.lines().map(|row| cells(&row.replace('*', "")));
        rows.filter(|cells| cells.len() > 8)
            .map(|cells| (cells[0].clone(), cells))
            .collect::<BTreeMap<_, _>>()
    };
    let [hot, wide, miss, tcp] = ["hot", "wide", "miss", "tcp"].map(section);
    let readme = Page::read("README.md");
    let mut compared = 0;
    for paragraph in readme.paragraphs.iter().filter(|p| p.contains("| a hit |")) {
        for row in paragraph.lines().skip(2).map(cells) {
            let cost = |of: &BTreeMap<String, Vec<String>>| of[&row[0]][2].clone();
            let peak = format!("{} MB", wide[&row[0]][8]);
            let measured = [cost(&hot), cost(&wide), cost(&miss), cost(&tcp), peak];
            assert_eq!(row[1..], measured, "{}", row[0]);
            compared += 1;
        }
    }
    assert_eq!(compared, 6, "servers compared");
}

// --- commands ---------------------------------------------------------------------------------------------------------

/// Words as a shell splits them. A quote that is not closed ends with the line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => (quote, any) = (Some(c), true),
            (None, ' ' | '\t') => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (Some(_) | None, _) => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// A command of nodens as a document shows it.
#[derive(Debug, Clone)]
struct Shown {
    page: String,
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// The commands of nodens in a line: by name, in the container of a pod, as arguments of its image, or by cargo.
fn commands(page: &str, line: &str) -> Vec<Shown> {
    let operators = ["|", ";", "&&", "&", ">", ">>", "#"];
    let words = words(line);
    let segments = words.split(|word| operators.contains(&word.as_str()));
    let one = |segment: &[String]| {
        let separator = segment.iter().position(|word| word == "--");
        let of_image = segment
            .iter()
            .any(|word| word.starts_with("--image=") && word.contains("/nodens:"));
        let of_cargo = segment.starts_with(&["cargo".to_owned(), "run".to_owned()])
            && !segment.contains(&"--example".to_owned());
        let begins = segment.iter().enumerate().find_map(|(at, word)| {
            let (before, here) = (&segment[..at], word == "nodens");
            let first = before.iter().all(|word| word.contains('='));
            (word == "/nodens" || here && first).then_some(at + 1)
        });
        let from_separator = separator.filter(|_| of_image || of_cargo).map(|at| at + 1);
        let begin = begins.or(from_separator)?;
        let arguments = segment[begin..].to_vec();
        // What it prints begins with its name, too: `nodens resolve: ...`.
        let printed = arguments.first().is_none_or(|word| word.ends_with(':'));
        let variables = segment.iter().take_while(|word| word.contains('='));
        let variables = variables.filter_map(|word| word.split_once('='));
        (!printed).then(|| Shown {
            page: page.to_owned(),
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            arguments,
        })
    };
    segments.filter_map(one).collect()
}

/// Every command of nodens in the documents; `[--config FILE]` as if FILE were given.
fn shown_commands() -> Vec<Shown> {
    let mut shown = Vec::new();
    for page in user_pages() {
        let shells = page.blocks.iter().filter(|block| block.info.is_empty());
        for line in shells.flat_map(Block::shell_lines) {
            // What is further in is a part of what a command prints.
            if !line.starts_with(' ') {
                shown.extend(commands(&page.name, &line));
            }
        }
        for span in page.spans() {
            let synopsis = span.replace("...", "").replace(['[', ']'], "");
            shown.extend(commands(&page.name, &synopsis));
        }
    }
    shown
}

const GOOD: &str = "upstreams: {vpc: {servers: [10.0.0.2]}}\n";

#[test]
fn every_command_in_the_documents_exists_with_its_flags() {
    let shown = shown_commands();
    assert!(shown.len() > 40, "only {} were found", shown.len());
    for Shown {
        page, arguments, ..
    } in &shown
    {
        let filled = arguments.iter().map(|word| match word.as_str() {
            "TYPE" => "A",
            "ADDR" => "127.0.0.1",
            "NUMBER" => "10",
            "URL" => "http://127.0.0.1:9153",
            "TIME" => "1s",
            "KEY=VALUE" => "cache.max_size=1MiB",
            other => other,
        });
        // Arguments are parsed in their order, so that an unknown one is reported before --help is seen.
        let output = nodens().args(filled).arg("--help").output();
        let output = output.expect("it runs");
        succeeded(&output, &format!("{page}: nodens {}", arguments.join(" ")));
    }
    let first: BTreeSet<_> = shown.iter().map(|s| s.arguments[0].as_str()).collect();
    let help = succeeded(&nodens().arg("--help").output().expect("it runs"), "--help");
    let listed = help
        .split("Commands:\n")
        .nth(1)
        .expect("a list of commands");
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // A description that is broken into lines goes on further to the right.
    let listed: BTreeSet<_> = listed
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(
        first, listed,
        "commands in the documents, and of the binary"
    );
}

/// A nodens before a server that knows every name.
fn running() -> (StandIn, Nodens) {
    let server = StandIn::new(|query, _| {
        let address = record(rr::A, 300, &[192, 0, 2, 1]);
        vec![response(query, &[address])]
    });
    let nodens = Nodens::start(&format!(
        "log: {{queries: all}}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    (server, nodens)
}

#[test]
fn commands_that_need_no_rights_and_no_network_do_as_shown() {
    let (server, running) = running();
    let dir = TempDir::new();
    let good = dir.write("nodens.yaml", GOOD);
    let resolv_conf = dir.write("pod.conf", "nameserver 127.0.0.1\nsearch example\n");
    let forward = format!(".:53 {{\n    forward . {}\n}}\n", server.address);
    let corefile = dir.write("Corefile", &forward);
    // What is served must not ask anybody off this machine.
    let upstreams = format!(
        "upstreams: {{vpc: {{servers: [\"{}\"]}}}}\n",
        server.address
    );
    let to_serve = dir.write("served.yaml", &upstreams);
    let mut ran = BTreeSet::new();
    for shown in shown_commands() {
        let Shown {
            page,
            variables,
            mut arguments,
        } = shown;
        let command = arguments[0].clone();
        // What a flag is given: the file of the repository, or one that stands for the reader's.
        for at in 1..arguments.len() {
            let value = arguments[at].clone();
            let flag = arguments[at - 1].as_str();
            let asks_instance = matches!(command.as_str(), "health" | "cache");
            let replaced = match flag {
                _ if value == "Corefile" => corefile.display().to_string(),
                "--config" if command == "serve" => to_serve.display().to_string(),
                "--config" if asks_instance => running.path("nodens.yaml").display().to_string(),
                "--config" if root().join(&value).exists() => value,
                "--config" => good.display().to_string(),
                "--socket" => running.path("nodens.sock").display().to_string(),
                "--server" => running.address().to_string(),
                "--resolv-conf" => resolv_conf.display().to_string(),
                "--output" => dir.path(&format!("{command}.output")).display().to_string(),
                "get" | "flush" if value == "NAME" => "answered.example".to_owned(),
                _ if value == "ZONE" => "example".to_owned(),
                _ if value == "NUMBER" => "10".to_owned(),
                _ if value == "KEY=VALUE" => "cache.max_size=1MiB".to_owned(),
                _ if value == "TYPE" => "A".to_owned(),
                _ => value,
            };
            arguments[at] = replaced;
        }
        let has = |flag: &str| arguments.iter().any(|word| word == flag);
        let runs = match command.as_str() {
            "check" => has("--config") && !arguments.iter().any(|word| word == "bad.yaml"),
            "health" | "cache" => has("--config") || has("--socket"),
            "resolve" => has("--server"),
            "import" => has(&corefile.display().to_string()),
            "serve" => has("--config"),
            "man" | "completions" | "schema" => true,
            _ => false,
        };
        let what = format!("{page}: nodens {}", arguments.join(" "));
        if runs && command == "cache" {
            // `flush` may have come before `get`.
            Ask::new("answered.example.", rr::A).send(running.address(), Over::Udp);
        }
        if runs && command == "serve" {
            let mut serve = nodens();
            serve.args(&arguments).envs(variables);
            let (status, log) = serve_and_stop(serve);
            assert!(status.success(), "{what}: {status}\n{log}");
            ran.insert(command);
            continue;
        }
        if runs {
            let output = nodens()
                .args(&arguments)
                .envs(variables)
                .current_dir(root())
                .output()
                .expect("it runs");
            succeeded(&output, &what);
            ran.insert(command);
        }
    }
    let wanted = [
        "cache",
        "check",
        "completions",
        "health",
        "import",
        "man",
        "resolve",
        "schema",
        "serve",
    ];
    assert_eq!(ran, wanted.map(str::to_owned).into());
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for page in all_pages() {
        let blocks = page.blocks.iter().flat_map(Block::shell_lines);
        for line in blocks.chain(page.spans()) {
            let words = words(&line);
            for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
                let file = root().join("tests").join(&pair[1]);
                let exists = file.with_extension("rs").exists() || file.join("main.rs").exists();
                assert!(exists, "{}: --test {}", page.name, pair[1]);
                named += 1;
            }
        }
    }
    assert!(named > 5, "only {named} were found");
}

// --- YAML ---------------------------------------------------------------------------------------------------------------

#[test]
fn every_yaml_block_is_accepted_or_marked() {
    let values = fs::read_to_string(root().join("charts/nodens/values.yaml")).expect("it is there");
    let top_level = |text: &str| -> BTreeSet<String> {
        let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphabetic());
        let keys = text.lines().filter(is_key);
        keys.filter_map(|line| line.split_once(':'))
            .map(|(key, _)| key.to_owned())
            .collect()
    };
    let values = top_level(&values);
    let mut checked = 0;
    for page in user_pages() {
        for block in &page.blocks {
            let text = block.text();
            let context = format!("{}:\n{text}", page.name);
            match block.info.as_str() {
                "yaml" => {
                    let rest = if text.contains("upstreams:") {
                        ""
                    } else {
                        GOOD
                    };
                    let dir = TempDir::new();
                    let file = dir.write("nodens.yaml", &format!("{text}\n{rest}"));
                    let output = nodens().args(["check", "--config"]).arg(&file).output();
                    succeeded(&output.expect("it runs"), &context);
                    checked += 1;
                }
                "yaml values" => {
                    let unknown: Vec<_> = top_level(&text).difference(&values).cloned().collect();
                    assert!(unknown.is_empty(), "{context}\nno value: {unknown:?}");
                }
                // The first is the next test's; the others are read by others.
                "yaml mistakes" | "yaml pod" | "yaml gitlab" | "toml" | "json" | "json top"
                | "" => {}
                other => panic!("{context}\nwhat is ```{other}?"),
            }
        }
    }
    assert!(checked >= 4, "only {checked} were found");
}

#[test]
fn mistakes_are_reported_as_shown() {
    let mut shown = 0;
    for page in user_pages() {
        let pairs = page.blocks.windows(2);
        for pair in pairs.filter(|pair| pair[0].info == "yaml mistakes") {
            let dir = TempDir::new();
            dir.write("bad.yaml", &format!("{}\n", pair[0].text()));
            let mut lines = pair[1].lines.iter();
            let command = lines.next().map(String::as_str);
            assert_eq!(command, Some("$ nodens check --config bad.yaml"));
            let output = nodens()
                .args(["check", "--config", "bad.yaml"])
                .current_dir(dir.path(""))
                .output()
                .expect("it runs");
            assert_eq!(output.status.code(), Some(2));
            let expected: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                errors.lines().collect::<Vec<_>>(),
                expected,
                "{}",
                page.name
            );
            shown += 1;
        }
    }
    assert_eq!(shown, 1, "configurations with mistakes");
}

#[test]
fn what_check_prints_is_as_shown() {
    let page = configuration();
    let blocks = page
        .blocks
        .iter()
        .filter(|block| block.text().contains("| grep -v default"));
    let [block] = blocks.collect::<Vec<_>>()[..] else {
        panic!("one block shows what check prints");
    };
    let lines = block.shell_lines();
    let [
        Shown {
            variables,
            arguments,
            ..
        },
    ] = &commands(&page.name, &lines[0])[..]
    else {
        panic!("no command in {}", lines[0]);
    };
    let output = nodens()
        .args(arguments)
        .envs(variables.iter().cloned())
        .current_dir(root())
        .output()
        .expect("it runs");
    let printed = succeeded(&output, &lines[0]);
    let printed = printed.lines().filter(|line| !line.contains("default"));
    let printed: Vec<_> = printed.map(|line| words(line).join(" ")).collect();
    let shown = lines[1..].iter().filter(|line| !line.is_empty());
    let shown: Vec<_> = shown.map(|line| words(line).join(" ")).collect();
    assert_eq!(printed, shown);
}

// --- configuration keys -------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Key {
    /// With GROUP, ZONE and NAME where the user's own names are.
    path: String,
    default: String,
    range: String,
    reload: String,
}

/// The rows of docs/configuration.md.
fn keys() -> Vec<Key> {
    let row = |(heading, cells): (String, Vec<String>)| {
        let prefix = codes(&heading).pop().unwrap_or_default();
        let [key] = &codes(&cells[0])[..] else {
            panic!("one key in each row: {cells:?}");
        };
        let [_, default, range, reload, meaning] = &cells[..] else {
            panic!("five cells in each row: {cells:?}");
        };
        assert!(!meaning.is_empty(), "{key} has no meaning");
        Key {
            path: format!("{prefix}{key}"),
            default: default.clone(),
            range: range.clone(),
            reload: reload.clone(),
        }
    };
    configuration().rows("Key").into_iter().map(row).collect()
}

impl Key {
    /// The key with names that [`EVERYTHING`] has.
    fn real(&self) -> String {
        let real = self.path.replace("GROUP", "vpc");
        real.replace("ZONE", "zone").replace("NAME", "name")
    }

    /// Both ends of a range of numbers, durations or sizes.
    fn ends(&self) -> Option<(String, String)> {
        let (low, high) = self.range.split_once(" to ")?;
        let one_word =
            |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(' ');
        let plain = |text: &str| text.replace(',', "");
        (one_word(low) && one_word(high)).then(|| (plain(low), plain(high)))
    }
}

/// What `nodens check` prints for a file and overrides: path, and value with origin.
fn check(text: &str, overrides: &[String]) -> BTreeMap<String, (String, String)> {
    let dir = TempDir::new();
    let file = dir.write("nodens.yaml", text);
    let mut command = nodens();
    command.args(["check", "--config"]).arg(&file);
    for one in overrides {
        command.args(["--set", one]);
    }
    let printed = succeeded(&command.output().expect("it runs"), &overrides.join(" "));
    let line = |line: &str| {
        let (path, rest) = line.split_once("  ").expect("a path");
        let (value, origin) = rest.trim().rsplit_once("  ").expect("a value");
        let parts = (value.trim().to_owned(), origin.trim().to_owned());
        (path.to_owned(), parts)
    };
    printed.lines().map(line).collect()
}

/// Every key that has no default to be read off.
const EVERYTHING: &str = r#"
listen: ["169.254.20.53:53"]
node: {addresses: [169.254.20.53]}
upstreams: {vpc: {servers: [10.0.0.2]}}
routes: {".": vpc, zone: {group: vpc, max_negative_ttl: 5s, stale_on: [empty], filter: [AAAA], rewrite: {from: zone, to: to}, cache: {max_ttl: 1h, min_ttl: 1s, max_negative_ttl: 5s, stale: {max_age: 1h, max_negative_age: 1m, after: 1s, ttl: 30s}}}, other: {tiers: [vpc], cache: off, dns64: {prefix: "64:ff9b::/96", exclude: ["fd00::/8"]}}, mine: {answer: NXDOMAIN}}
records: {name: {A: [10.1.40.7], AAAA: ["fd00::7"], TXT: [text]}, alias: {CNAME: name}}
cache: {stale: {max_negative_age: 5m}}
"#;

#[test]
fn the_documented_keys_are_those_of_the_binary() {
    let (full, minimal) = (check(EVERYTHING, &[]), check(GOOD, &[]));
    let general = |path: &String| {
        let path = path.replace("upstreams.vpc.", "upstreams.GROUP.");
        for (name, stands_for) in [
            ("routes.\".\"", "routes.ZONE"),
            ("routes.zone", "routes.ZONE"),
            ("routes.other", "routes.ZONE"),
            ("routes.mine", "routes.ZONE"),
            ("records.name", "records.NAME"),
            ("records.alias", "records.NAME"),
        ] {
            if let Some(rest) = path.strip_prefix(name) {
                return format!("{stands_for}{rest}");
            }
        }
        path
    };
    let printed: BTreeSet<_> = full.keys().chain(minimal.keys()).map(general).collect();
    let documented: Vec<_> = keys().into_iter().map(|key| key.path).collect();
    let unique: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(unique.len(), documented.len(), "each key has one row");
    assert_eq!(
        unique, printed,
        "documented keys, and those that check prints"
    );
}

/// Keys below this one in a JSON Schema that are no tables alone, with GROUP, ZONE and NAME for those that users choose.
fn keys_of_schema(schema: &serde_json::Value, path: &str, keys: &mut BTreeSet<String>) {
    let alternatives = schema["anyOf"].as_array();
    let alternatives = alternatives.map_or(std::slice::from_ref(schema), Vec::as_slice);
    for table in alternatives {
        let named = table["properties"].as_object().into_iter().flatten();
        let chosen = match path {
            "upstreams" => "GROUP",
            "routes" => "ZONE",
            _ => "NAME",
        };
        let chosen = table["additionalProperties"].is_object().then(|| {
            let schema = &table["additionalProperties"];
            (chosen.to_owned(), schema)
        });
        let named = named.map(|(key, schema)| (key.clone(), schema));
        for (key, schema) in named.chain(chosen) {
            let path = [path, &key].into_iter().filter(|part| !part.is_empty());
            let path = path.collect::<Vec<_>>().join(".");
            keys_of_schema(schema, &path, keys);
            let values = schema["anyOf"].as_array();
            let values = values.map_or(std::slice::from_ref(schema), Vec::as_slice);
            let is_value = |value: &serde_json::Value| {
                !matches!(value["type"].as_str(), Some("object" | "null"))
            };
            if values.iter().any(is_value) {
                keys.insert(path);
            }
        }
    }
}

#[test]
fn the_documented_keys_are_those_of_the_schema() {
    let printed = succeeded(&nodens().arg("schema").output().expect("it runs"), "schema");
    let schema = serde_json::from_str(&printed).expect("JSON");
    let mut in_schema = BTreeSet::new();
    keys_of_schema(&schema, "", &mut in_schema);
    // A table in the file, a value in its own right in the documents; and the other way round.
    in_schema.insert("node".to_owned());
    in_schema.remove("routes.ZONE.dns64");
    let documented: BTreeSet<_> = keys().into_iter().map(|key| key.path).collect();
    assert_eq!(documented, in_schema);
}

#[test]
fn documented_defaults_are_in_force_and_can_be_written() {
    let keys = keys();
    let with_default = |of_node: bool| {
        let keys = keys
            .iter()
            .filter(move |key| key.path.starts_with("node.") == of_node);
        keys.filter_map(|key| Some((key.real(), only_code(&key.default)?.to_owned())))
            .collect::<Vec<_>>()
    };
    let mut checked = 0;
    for (text, of_node) in [(GOOD, false), (EVERYTHING, true)] {
        let defaults = with_default(of_node);
        let overrides: Vec<_> = defaults
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let (untouched, set) = (check(text, &[]), check(text, &overrides));
        for (key, value) in defaults {
            let expected = |origin: &str| (value.clone(), origin.to_owned());
            assert_eq!(untouched.get(&key), Some(&expected("default")), "{key}");
            assert_eq!(set.get(&key), Some(&expected("command line")), "{key}");
            checked += 1;
        }
    }
    assert!(checked > 45, "only {checked} keys have a default");
}

#[test]
fn documented_ranges_are_those_of_the_binary() {
    let ranges: Vec<_> = keys()
        .into_iter()
        .filter_map(|key| Some((key.real(), key.ends()?)))
        .collect();
    assert!(ranges.len() > 30, "only {} keys have a range", ranges.len());
    let set = |value: &dyn Fn(&(String, String)) -> String| -> Vec<String> {
        let one = |(key, ends): &(String, (String, String))| format!("{key}={}", value(ends));
        ranges.iter().map(one).collect()
    };
    check(EVERYTHING, &set(&|(low, _)| low.clone()));
    check(EVERYTHING, &set(&|(_, high)| high.clone()));

    let too_much = |high: &str| match high.chars().last() {
        Some('B') => "9999TiB",
        Some('s' | 'm' | 'h' | 'd') => "9999d",
        _ => "99999999999",
    };
    let over = set(&|(_, high)| too_much(high).to_owned());
    let under = set(&|(_, _)| "0".to_owned());
    let dir = TempDir::new();
    let file = dir.write("nodens.yaml", EVERYTHING);
    for (overrides, low) in [(over, false), (under, true)] {
        let mut command = nodens();
        command.args(["check", "--config"]).arg(&file);
        command.args(overrides.iter().flat_map(|one| ["--set", one]));
        let errors = command.output().expect("it runs").stderr;
        let errors = String::from_utf8_lossy(&errors);
        for (key, ends) in &ranges {
            let wanted = if low {
                format!("is under the minimum of {}", ends.0)
            } else {
                format!("is over the limit of {}", ends.1)
            };
            let from_zero = ends.0.trim_end_matches(char::is_alphabetic) == "0";
            let said = errors
                .lines()
                .any(|line| line.contains(&format!(" {key}: ")) && line.ends_with(&wanted));
            assert!(said || low && from_zero, "{key}: {wanted}\n{errors}");
        }
    }
}

#[test]
fn the_keys_that_take_a_restart_are_those_marked_so() {
    let marked = |key: &Key| match key.reload.as_str() {
        "restart" => true,
        "at once" | "health anew" => false,
        other => panic!("{}: what is reload {other:?}?", key.path),
    };
    let keys = keys();
    let of_node = keys.iter().filter(|key| key.path.starts_with("node."));
    assert!(
        of_node.clone().all(marked),
        "a change of node takes a restart"
    );
    let restart = keys
        .iter()
        .filter(|key| marked(key) && !key.path.starts_with("node."));
    let documented: BTreeSet<_> = restart.map(|key| key.path.clone()).collect();

    // All keys that could take one are changed, and some that do not. `node` wants its address among those listened on,
    // and only the wildcard can be bound on a host that does not have it.
    let nodens = Nodens::start_on(&["0.0.0.0:0"], GOOD);
    let changed = format!(
        "listen: [\"0.0.0.0:0\"]\nnode: {{addresses: [169.254.20.53]}}\nadmin: null\nmetrics: {{listen: \"127.0.0.1:0\", coredns: true}}\n\
         socket: {}\nworkers: 1\nscheduling: realtime\nhandover: true\nshutdown_grace: 1s\nnode_name: other\nallow: [all]\n\
         log: {{format: json, level: warn, queries: errors}}\ncache: {{max_size: 1MiB}}\n\
         tcp: {{max_connections: 7}}\nudp: {{receive_buffer: 1MiB, send_buffer: 64KiB}}\n\
         limits: {{client_in_flight: 7}}\nrecords: {{name.example: {{A: 10.1.40.7}}}}\n\
         upstreams: {{vpc: {{servers: [127.0.0.1], try_timeout: 2s}}}}\n",
        nodens.path("other.sock").display()
    );
    fs::write(nodens.path("nodens.yaml"), changed).expect("it can be written");
    nodens.hang_up();
    let named = wait_for("a reload", || {
        let status = nodens.status();
        let configuration = &status["configuration"];
        let mistakes = configuration["mistakes"].as_array().expect("a list");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let named = configuration["restart_needed"].as_array().expect("a list");
        (!named.is_empty()).then(|| named.clone())
    });
    let named: BTreeSet<_> = named
        .iter()
        .map(|key| key.as_str().expect("text").to_owned())
        .collect();
    assert_eq!(named, documented, "restart_needed, and the column Reload");

    let page = configuration();
    let row = page.rows("").into_iter().map(|(_, cells)| cells);
    let row = row
        .filter(|cells| cells[0] == "What takes a restart")
        .map(|cells| codes(&cells[1]))
        .next()
        .expect("a row says what takes a restart");
    let said: BTreeSet<_> = row
        .into_iter()
        .filter(|code| !code.starts_with("nodens_"))
        .collect();
    assert_eq!(said, documented, "the section Reload, and the column");
}

// --- metrics, status, logs ----------------------------------------------------------------------------------------------

/// Label names and the values that are listed.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// "`group`, `event` = `sent`, `won`".
fn documented_labels(cell: &str) -> Labels {
    let (names, values) = cell.split_once('=').unwrap_or((cell, ""));
    let names = codes(names);
    let last = names.last().cloned();
    let mut labels: Labels = names
        .into_iter()
        .map(|name| (name, BTreeSet::new()))
        .collect();
    if let Some(last) = last {
        labels.insert(last, codes(values).into_iter().collect());
    }
    labels
}

fn live_families(text: &str) -> BTreeMap<String, Labels> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let kinds: Vec<_> = types.filter_map(|line| line.split_once(' ')).collect();
    let mut families = BTreeMap::new();
    for (family, kind) in kinds {
        let mut labels = Labels::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(family) else {
                continue;
            };
            let rest = match kind {
                "histogram" => rest
                    .trim_start_matches("_bucket")
                    .trim_start_matches("_count"),
                _ => rest,
            };
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            for label in inside
                .into_iter()
                .flat_map(|(labels, _)| labels.split("\","))
            {
                let (name, value) = label.split_once("=\"").expect("a label");
                if name != "le" {
                    let value = value.trim_end_matches('"').to_owned();
                    labels.entry(name.to_owned()).or_default().insert(value);
                }
            }
        }
        families.insert(family.to_owned(), labels);
    }
    families
}

#[test]
fn the_documented_metrics_are_those_of_the_binary() {
    let (_server, nodens) = running();
    // Workers register theirs when they start, one after the other.
    wait_for("the workers' metrics", || {
        let (_, text) = nodens.get("/metrics");
        text.contains("nodens_dns64_answers_total").then_some(())
    });
    // That text may have been begun before the others were there.
    let (_, text) = nodens.get("/metrics");
    let live = live_families(&text);
    let page = Page::read("docs/metrics.md");
    let mut documented = BTreeMap::new();
    for (_, cells) in page.rows("Family") {
        let [family] = &codes(&cells[0])[..] else {
            panic!("one family in each row: {cells:?}");
        };
        // Their series appear with `node:`, which takes rights.
        let of_node = cells[2].starts_with("With `node:` only");
        if !of_node && family != "process_*" {
            documented.insert(family.clone(), documented_labels(&cells[1]));
        }
    }
    let own = live.keys().filter(|family| !family.starts_with("process_"));
    let own: BTreeSet<_> = own.cloned().collect();
    let in_page: BTreeSet<_> = documented.keys().cloned().collect();
    assert_eq!(in_page, own, "documented families, and those of /metrics");
    for (family, labels) in documented {
        let of_live: BTreeSet<_> = live[&family].keys().collect();
        assert_eq!(
            labels.keys().collect::<BTreeSet<_>>(),
            of_live,
            "labels of {family}"
        );
        for (label, values) in labels.into_iter().filter(|(_, values)| !values.is_empty()) {
            assert_eq!(
                values, live[&family][&label],
                "values of {label} of {family}"
            );
        }
    }
}

#[test]
fn every_metric_that_a_document_names_is_documented() {
    let families = Page::read("docs/metrics.md").rows("Family");
    let families: BTreeSet<_> = families
        .iter()
        .flat_map(|(_, cells)| codes(&cells[0]))
        .collect();
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    for page in user_pages() {
        for word in page
            .text
            .split(|c| !part(c))
            .filter(|word| word.starts_with("nodens_"))
        {
            let family = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix).filter(|f| families.contains(*f)));
            assert!(
                families.contains(family.unwrap_or(word)),
                "{}: {word} is not in docs/metrics.md",
                page.name
            );
        }
    }
}

/// Whether each key of `shown` is in `live`, too; of lists, the first elements are compared.
fn missing(shown: &serde_json::Value, live: &serde_json::Value, path: &str) -> Vec<String> {
    use serde_json::Value::{Array, Object};
    match (shown, live) {
        (Object(shown), Object(live)) => shown
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match live.get(key) {
                    Some(live) => missing(value, live, &path),
                    None => vec![path],
                }
            })
            .collect(),
        (Array(shown), Array(live)) => match (shown.first(), live.first()) {
            (Some(shown), Some(live)) => missing(shown, live, path),
            _ => Vec::new(),
        },
        (Object(_) | Array(_), _) => vec![path.to_owned()],
        _ => Vec::new(),
    }
}

#[test]
fn the_status_shown_has_the_keys_of_the_real_one() {
    /// Response codes are keys, and which there are differs.
    fn without_codes(status: &mut serde_json::Value) {
        status["answered_here"]["replies"].take();
        for route in status["routes"].as_array_mut().expect("a list") {
            route["replies"].take();
        }
    }
    let (_server, nodens) = running();
    let refused = Ask::new("refused.example.", rr::AXFR).send(nodens.address(), Over::Tcp);
    assert_eq!(refused.rcode(), dns::rcode::REFUSED);
    let mut live = wait_for("a failure and a time", || {
        let live = nodens.status();
        let failed = !live["failures"].as_array().expect("a list").is_empty();
        let times = &live["upstreams"][0]["servers"][0]["rtt_milliseconds"];
        (failed && !times.as_array().expect("a list").is_empty()).then_some(live)
    });
    let page = Page::read("docs/metrics.md");
    let blocks = page.blocks.iter().filter(|block| block.info == "json");
    let [block] = blocks.collect::<Vec<_>>()[..] else {
        panic!("one block of JSON");
    };
    let mut shown: serde_json::Value = serde_json::from_str(&block.text()).expect("it is JSON");
    without_codes(&mut live);
    without_codes(&mut shown);
    assert_eq!(
        missing(&shown, &live, ""),
        Vec::<String>::new(),
        "keys that are not there"
    );
    let mut left_out = live.as_object().expect("an object").clone();
    left_out.retain(|key, _| shown.get(key).is_none());
    let said: BTreeSet<_> = page.spans().collect();
    for key in left_out.keys() {
        assert!(
            said.contains(key),
            "{key} is neither shown nor said to be left out"
        );
    }
    for (key, value) in shown.as_object().expect("an object") {
        let back = missing(&live[key], value, key);
        assert!(back.is_empty(), "left out without a word: {back:?}");
    }
}

#[test]
fn the_names_and_clients_shown_have_the_keys_of_the_real_ones() {
    let (server, _) = running();
    let nodens = Nodens::start(&format!(
        "status: {{top: all}}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    Ask::new("counted.example.", rr::A).send(nodens.address(), Over::Udp);
    let live = wait_for("what was counted", || {
        let top = nodens.status()["top"].take();
        let counted = |list: &str| top[list].as_array().is_some_and(|list| !list.is_empty());
        (counted("names") && counted("slowest") && counted("clients")).then_some(top)
    });
    let page = Page::read("docs/metrics.md");
    let mut blocks = page.blocks.iter();
    let block = blocks.find(|block| block.info == "json top");
    let shown = serde_json::from_str(&block.expect("a block of it").text()).expect("it is JSON");
    assert_eq!(missing(&shown, &live, ""), Vec::<String>::new());
    assert_eq!(missing(&live, &shown, ""), Vec::<String>::new());
}

/// A line of the log without what differs from run to run: level, target, words and keys.
fn shape(line: &str) -> Vec<String> {
    let words = words(line).into_iter().skip(1);
    let key = |word: String| match word.split_once('=') {
        Some((key, _)) => format!("{key}="),
        None => word,
    };
    words.map(key).collect()
}

#[test]
fn log_lines_look_as_shown() {
    let ((udp, tcp), (_server, nodens)) = (free_sockets(), running());
    let reply = Ask::new("answered.example.", rr::A).send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), dns::rcode::NOERROR);
    // Nobody listens there any more: the kernel says so at once.
    let gone = udp.local_addr().expect("it is bound");
    drop((udp, tcp));
    nodens.rewrite(
        &["127.0.0.1:0"],
        &format!("log: {{queries: all}}\nupstreams: {{vpc: {{servers: [\"{gone}\"]}}}}"),
    );
    nodens.hang_up();
    nodens.wait_for_metric(
        "nodens_upstream_state",
        &[("state", "down"), ("transport", "udp")],
        1.0,
    );
    let reply = Ask::new("logged.example.", rr::A).send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), dns::rcode::SERVFAIL);
    let mut compared = 0;
    for page in user_pages() {
        let lines = page.blocks.iter().flat_map(|block| &block.lines);
        for line in lines.filter(|line| line.starts_with("20") && line.contains("Z ")) {
            let wanted = shape(line);
            wait_for(&format!("a line such as {line} ({})", page.name), || {
                nodens
                    .log()
                    .lines()
                    .any(|line| shape(line) == wanted)
                    .then_some(())
            });
            compared += 1;
        }
    }
    assert!(compared >= 3, "only {compared} lines were found");
}
