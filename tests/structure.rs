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
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
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

/// `Worker::serve` in a document is a function, type or variant `serve` in the source, and a type or module `Worker`.
#[test]
fn what_the_architecture_names_exists() {
    let root = root();
    let source: String = files(&root.join("src"))
        .iter()
        .map(|file| code(file))
        .collect();
    let words: BTreeSet<&str> = source
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let pages = fs::read_dir(root.join("docs/architecture")).expect("a folder of the project");
    let pages = pages.map(|page| page.expect("readable").path());
    let mut named = 0;
    for page in pages.chain([root.join("ARCHITECTURE.md")]) {
        let text = fs::read_to_string(&page).expect("UTF-8");
        let is_path = |span: &&str| {
            span.contains("::")
                && span
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
        };
        for span in text.split('`').skip(1).step_by(2).filter(is_path) {
            for word in span.split("::").filter(|word| !word.is_empty()) {
                let is_module = root.join("src").join(word).exists();
                assert!(
                    is_module || words.contains(word),
                    "{}: {span}",
                    page.display()
                );
            }
            named += 1;
        }
    }
    assert!(named > 40, "only {named} were found");
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
