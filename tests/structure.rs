//! The structure of the source: no circle between modules, and ARCHITECTURE.md's picture and the table of
//! budgets in docs/architecture/limits.md are true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Every source file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// `src/upstream/ask.rs` → `upstream::ask`, `src/upstream/mod.rs` → `upstream`.
fn module(file: &Path) -> String {
    let source = root().join("src");
    let relative = file.strip_prefix(source).expect("below src");
    let parts: Vec<String> = relative
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .filter(|part| part != "mod")
        .collect();
    parts.join("::")
}

/// The code of a file that is built into the binary: without comments, and without the tests at its end.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("UTF-8");
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The paths that a file names behind `crate::` or `super::`, its `use` lists taken apart.
fn paths(code: &str, own: &str) -> Vec<String> {
    let parent = own.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = Vec::new();
    for (prefix, base) in [("crate::", ""), ("super::", parent)] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches("::");
            let full = |path: &str| match (base, path) {
                ("", path) => path.to_owned(),
                (base, "") => base.to_owned(),
                (base, path) => format!("{base}::{path}"),
            };
            if rest[end..].starts_with('{') {
                let list = &rest[end + 1..rest[end..].find('}').map_or(rest.len(), |to| end + to)];
                for item in list
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                {
                    let item = item.split_whitespace().next().unwrap_or("");
                    let item = item.trim_end_matches("::self");
                    found.push(full(&format!("{path}::{item}").replace("::self", "")));
                }
            } else {
                found.push(full(path));
            }
        }
    }
    found
}

/// Which module uses which. `depth` 1 looks at the folders alone.
fn arrows(depth: usize) -> Arrows {
    let files = files(&root().join("src"));
    let modules: BTreeSet<String> = files.iter().map(|file| module(file)).collect();
    let shortened = |module: &str| -> String {
        let parts: Vec<&str> = module.split("::").take(depth).collect();
        parts.join("::")
    };
    let mut arrows = Arrows::new();
    for file in &files {
        let own = module(file);
        if matches!(own.as_str(), "main" | "lib") || own.split("::").any(|part| part == "tests") {
            continue;
        }
        for path in paths(&code(file), &own) {
            let mut target = path.trim_start_matches("::").to_owned();
            while !target.is_empty() && !modules.contains(&target) {
                target = target
                    .rsplit_once("::")
                    .map_or(String::new(), |(front, _)| front.to_owned());
            }
            let (from, to) = (shortened(&own), shortened(&target));
            if !to.is_empty() && from != to {
                arrows.entry(from).or_default().insert(to);
            }
        }
    }
    arrows
}

/// A circle, if there is one.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let here = way.last().expect("a start").clone();
        for next in arrows.get(&here).into_iter().flatten() {
            if way.contains(next) {
                way.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                way.push(next.clone());
                if walk(arrows, way, done) {
                    return true;
                }
                way.pop();
            }
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        walk(arrows, &mut way, &mut done).then_some(way)
    })
}

#[test]
fn no_folder_uses_one_that_uses_it() {
    assert_eq!(circle(&arrows(1)), None);
}

/// A parent names its children to show them to others; what it uses is what it defines.
#[test]
fn no_file_uses_one_that_uses_it() {
    let mut arrows = arrows(usize::MAX);
    for (from, to) in &mut arrows {
        let below = format!("{from}::");
        to.retain(|to| !to.starts_with(&below));
    }
    assert_eq!(circle(&arrows), None);
}

#[test]
fn the_picture_in_architecture_md_shows_the_arrows_there_are() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there");
    let start = text.find("```mermaid").expect("a picture");
    let text = &text[start + "```mermaid".len()..];
    let picture = &text[..text.find("```").expect("its end")];
    let mut drawn = Arrows::new();
    for line in picture.lines() {
        if let Some((from, to)) = line.split_once("-->") {
            for to in to.split('&') {
                let (from, to) = (from.trim().to_owned(), to.trim().to_owned());
                drawn.entry(from).or_default().insert(to);
            }
        }
    }
    assert_eq!(drawn, arrows(1));
}

#[test]
fn every_fixed_budget_stands_in_the_table_of_limits() {
    let text = fs::read_to_string(root().join("docs/architecture/limits.md")).expect("it is there");
    let budgets = fs::read_to_string(root().join("src/budgets.rs")).expect("it is there");
    for line in budgets.lines() {
        let Some(name) = line.strip_prefix("pub const ") else {
            continue;
        };
        let name = name.split(':').next().expect("a name");
        assert!(
            text.contains(&format!("`{name}`")),
            "{name} is not in the table"
        );
    }
}

/// The blocks of a file, as rustfmt indents them, whose first line `starts` accepts: that line, up to the one with the end.
fn blocks<'c>(code: &'c str, starts: impl Fn(&str) -> bool) -> Vec<Vec<&'c str>> {
    let lines: Vec<&str> = code.lines().collect();
    let first = lines.iter().enumerate();
    let first = first.filter(|(_, line)| starts(line.trim_start()));
    let block = |(at, line): (usize, &&'c str)| {
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &&str| {
            let rest = line.strip_prefix(indent).unwrap_or_default();
            rest.starts_with('}') || rest.starts_with(");")
        };
        let in_one_line = line.ends_with([';', '}']);
        let rest = lines[at..].iter().position(ends);
        let length = if in_one_line { 0 } else { rest.unwrap_or(0) };
        lines[at..=at + length].to_vec()
    };
    first.map(block).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Whether a line declares `name` by one of these keywords.
fn declares(line: &str, keywords: &[&str], name: &str) -> bool {
    let words: Vec<&str> = words(line).collect();
    words
        .windows(2)
        .any(|pair| keywords.contains(&pair[0]) && pair[1] == name)
}

/// Whether a type of this name has such a function, constant, field or variant.
fn type_has(sources: &[(String, String)], owner: &str, member: &str) -> bool {
    let is_impl = |line: &str| {
        let target = line.rsplit(" for ").next().unwrap_or(line);
        line.starts_with("impl") && words(target).any(|word| word == owner)
    };
    let defines = |line: &str| declares(line, &["struct", "enum", "trait"], owner);
    let declares_member = |line: &&str| declares(line, &["fn", "const", "type"], member);
    sources.iter().any(|(_, code)| {
        let mut impls = blocks(code, is_impl).into_iter().flatten();
        let definitions = blocks(code, defines).into_iter();
        let mut lines = definitions.flat_map(|block| block.into_iter().skip(1));
        impls.any(|line| declares_member(&line))
            || lines.any(|line| declares_member(&line) || is_field(line, member))
    })
}

/// Whether a line of a definition is this field or variant.
fn is_field(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let line = ["pub(super) ", "pub(crate) ", "pub "]
        .iter()
        .find_map(|visibility| line.strip_prefix(visibility))
        .unwrap_or(line);
    let rest = line.strip_prefix(name);
    rest.is_some_and(|rest| rest.starts_with([':', ',', '(', ' ']))
}

/// Whether a module of this name has such an item, or hands it on.
fn module_has(sources: &[(String, String)], owner: &str, member: &str) -> bool {
    const ITEMS: [&str; 8] = [
        "fn", "struct", "enum", "trait", "const", "static", "type", "mod",
    ];
    let is_owner = |path: &str| path.rsplit("::").next() == Some(owner);
    let mut of_module = sources.iter().filter(|(path, _)| is_owner(path));
    of_module.any(|(_, code)| {
        let is_use =
            |line: &str| line.starts_with("pub use ") || line.starts_with("pub(super) use ");
        let mut handed_on = code
            .split(';')
            .map(str::trim_start)
            .filter(|part| is_use(part));
        code.lines().any(|line| declares(line, &ITEMS, member))
            || handed_on.any(|part| words(part).any(|word| word == member))
    })
}

/// `Worker::serve` in a document is a function, constant, field or variant `serve` of a type `Worker`, and `reload::run` an item
/// `run` of a module `reload`.
#[test]
fn what_the_architecture_names_exists() {
    let root = root();
    let sources: Vec<(String, String)> = files(&root.join("src"))
        .iter()
        .map(|file| (module(file), code(file)))
        .collect();
    let pages = fs::read_dir(root.join("docs/architecture")).expect("a folder of the project");
    let pages = pages.map(|page| page.expect("readable").path());
    let mut named = 0;
    let mut wrong = Vec::new();
    for page in pages.chain([root.join("ARCHITECTURE.md")]) {
        let text = fs::read_to_string(&page).expect("UTF-8");
        let is_path = |span: &&str| {
            span.contains("::")
                && span
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
        };
        for span in text.split('`').skip(1).step_by(2).filter(is_path) {
            let parts: Vec<&str> = words(span).collect();
            let belongs = |pair: &[&str]| {
                let has = if pair[0].starts_with(char::is_uppercase) {
                    type_has
                } else {
                    module_has
                };
                has(&sources, pair[0], pair[1])
            };
            if !parts.windows(2).all(belongs) {
                wrong.push(format!("{}: {span}", page.display()));
            }
            named += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(named > 40, "only {named} were found");
}

#[test]
fn a_member_belongs_to_its_own_type_and_module_alone() {
    let code = "pub use other::Handed;\n\
                struct Small(u8);\n\
                pub struct Large {\n    pub(super) field: u8,\n}\n\
                enum Kind {\n    Unit,\n    Tuple(u8),\n}\n\
                impl Large {\n    pub fn of_large(&self) {}\n}\n\
                impl<T> From<Large> for Small {\n    const OF_SMALL: u8 = 1;\n}\n\
                fn free() {\n    let local = 1;\n}\n";
    let sources = [("outer::inner".to_owned(), code.to_owned())];
    for (owner, member) in [
        ("Large", "field"),
        ("Large", "of_large"),
        ("Small", "OF_SMALL"),
        ("Kind", "Unit"),
        ("Kind", "Tuple"),
    ] {
        assert!(type_has(&sources, owner, member), "{owner}::{member}");
    }
    for (owner, member) in [
        ("Large", "OF_SMALL"),
        ("Small", "field"),
        ("Small", "of_large"),
        ("Kind", "free"),
        ("Large", "local"),
    ] {
        assert!(!type_has(&sources, owner, member), "{owner}::{member}");
    }
    assert!(module_has(&sources, "inner", "free"));
    assert!(module_has(&sources, "inner", "Handed"));
    assert!(!module_has(&sources, "inner", "local"));
    assert!(!module_has(&sources, "outer", "free"));
}

#[test]
fn a_circle_is_found() {
    let of = |pairs: &[(&str, &str)]| -> Arrows {
        let mut arrows = Arrows::new();
        for (from, to) in pairs {
            arrows
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        arrows
    };
    assert_eq!(circle(&of(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&of(&[("a", "b"), ("b", "c"), ("c", "b")]));
    assert_eq!(
        found,
        Some(["a", "b", "c", "b"].map(str::to_owned).to_vec())
    );
}
