//! `nodens completions` and `nodens man`: what real shells make of the scripts, and groff of the pages.
//!
//! Limits: no PowerShell and no Elvish is run; Debian has neither. Their scripts are looked through for every command.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{TempDir, nodens};

/// What a command prints; it must succeed and have nothing to complain of.
fn printed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{command:?}: {}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Commands as `--help` lists them.
fn listed_commands() -> BTreeSet<String> {
    let help = printed(nodens().arg("--help"));
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A description that is broken into lines goes on further to the right.
    let entries = lines.filter_map(|line| line.strip_prefix("  "));
    let names = entries.filter_map(|entry| entry.split(' ').next().filter(|name| !name.is_empty()));
    names.map(str::to_owned).collect()
}

fn completion_script(directory: &TempDir, shell: &str) -> PathBuf {
    let script = printed(nodens().args(["completions", shell]));
    directory.write(&format!("nodens.{shell}"), &script)
}

/// What is typed so far, and what a shell must offer for it, nothing else.
const COMPLETED: [(&str, &[&str]); 6] = [
    ("nodens ser", &["serve"]),
    ("nodens check --con", &["--config"]),
    ("nodens co", &["completions"]),
    ("nodens node re", &["remove"]),
    ("nodens resolve --r", &["--resolv-conf"]),
    ("nodens top --int", &["--interval"]),
];

/// Checks what a shell offers, one word a line, by a way to ask it.
fn completes(mut ask: impl FnMut(&str) -> String) {
    for (typed, offered) in COMPLETED {
        let words: BTreeSet<_> = ask(typed).lines().map(str::to_owned).collect();
        let wanted: BTreeSet<_> = offered.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(words, wanted, "for {typed:?}");
    }
}

#[test]
fn the_script_for_each_shell_names_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(nodens().args(["completions", shell]));
        for command in listed_commands() {
            assert!(script.contains(&command), "{shell}: no {command}");
        }
    }
}

#[test]
fn an_unknown_shell_is_told_which_are_known() {
    let output = nodens().args(["completions", "dash"]).output();
    let output = output.expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for shell in ["dash", "bash", "zsh", "fish", "powershell"] {
        assert!(errors.contains(shell), "no {shell} in: {errors}");
    }
}

#[test]
#[ignore = "needs bash; .ci/run runs it"]
fn bash_completes() {
    // As readline does it: the function that `complete` names gets the command, the word, and the word before.
    const ASK: &str = r#"
        source "$1"
        read -r -a COMP_WORDS <<< "$2"
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMP_LINE="$2" COMP_POINT="${#2}"
        registered="$(complete -p nodens)"
        [[ "$registered" =~ -F\ ([^ ]+) ]] || { echo "no function: $registered" >&2; exit 1; }
        "${BASH_REMATCH[1]}" nodens "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let directory = TempDir::new();
    let script = completion_script(&directory, "bash");
    completes(|typed| {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-c", ASK, "bash"]);
        printed(bash.arg(&script).arg(typed))
    });
}

#[test]
#[ignore = "needs fish; .ci/run runs it"]
fn fish_completes() {
    let directory = TempDir::new();
    let script = completion_script(&directory, "fish");
    completes(|typed| {
        let mut fish = Command::new("fish");
        let ask = "source $argv[1]; complete --do-complete $argv[2]";
        fish.args(["--no-config", "-c", ask])
            .env("HOME", directory.path(""));
        // Each line is a word, a tabulator, and its description.
        let offered = printed(fish.arg(&script).arg(typed));
        let words = offered.lines().filter_map(|line| line.split('\t').next());
        words.collect::<Vec<_>>().join("\n")
    });
}

#[test]
#[ignore = "needs zsh; .ci/run runs it"]
fn zsh_completes() {
    // Completion works in an interactive shell only, hence one in a pseudo-terminal. It completes what is typed there
    // when it gets a tabulator, and Control-X shows the line.
    const ASK: &str = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1= PS2= RPS1=; unsetopt zle_bracketed_paste; bindkey '^I' complete-word"
        zpty -w shell "autoload -Uz compinit; compinit -u -D; source ${(q)1}"
        zpty -w shell 'show() { print -r -- "<line>$BUFFER</line>"; BUFFER=; }; zle -N show; bindkey "^X" show'
        zpty -w shell 'print -r -- "<rea""dy>"'
        zpty -r shell before '*<ready>*'
        zpty -n -w shell "$2"$'\t'$'\x18'
        zpty -r shell line '*</line>*'
        print -r -- "$line"
        zpty -d shell
    "#;
    let directory = TempDir::new();
    let script = completion_script(&directory, "zsh");
    completes(|typed| {
        let mut zsh = Command::new("timeout");
        zsh.args(["20", "zsh", "-f", "-c", ASK, "zsh"])
            .env("HOME", directory.path(""))
            .env("TERM", "dumb");
        let shown = printed(zsh.arg(&script).arg(typed));
        let (_, line) = shown.rsplit_once("<line>").expect("the line");
        let (line, _) = line.split_once("</line>").expect("its end");
        let word = line.split_whitespace().next_back().expect("a word");
        // zsh puts the sign between a flag and its value, too.
        format!("{}\n", word.trim_end_matches('='))
    });
}

/// All pages, by their files' names.
fn pages(directory: &Path) -> Vec<(String, String)> {
    printed(nodens().args(["man", "--output"]).arg(directory));
    let entries = fs::read_dir(directory).expect("the directory is made");
    let page = |path: PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy();
        let text = fs::read_to_string(&path).expect("it is UTF-8");
        (name.into_owned(), text)
    };
    let pages = entries.map(|entry| page(entry.expect("an entry").path()));
    pages.collect()
}

#[test]
fn every_command_has_a_manual_page_with_its_flags() {
    let directory = TempDir::new();
    // It is made, with those above it.
    let pages = pages(&directory.path("share/man/man1"));
    let names: BTreeSet<_> = pages.iter().map(|(name, _)| name.clone()).collect();
    let commands = listed_commands();
    let mut wanted: BTreeSet<_> = commands
        .iter()
        .map(|command| format!("nodens-{command}.1"))
        .collect();
    let others = [
        "",
        "-cache-flush",
        "-cache-get",
        "-cache-list",
        "-node-remove",
    ];
    wanted.extend(others.map(|words| format!("nodens{words}.1")));
    assert_eq!(names, wanted);
    for (name, page) in &pages {
        // roff writes a hyphen that is to stay one with a backslash.
        let page = page.replace('\\', "");
        let arguments = name.trim_end_matches(".1").split('-').skip(1);
        let help = printed(nodens().args(arguments).arg("--help"));
        let flags = help
            .split_whitespace()
            .filter(|word| word.starts_with("--"));
        for flag in flags.map(|flag| flag.trim_end_matches([',', ')', '.'])) {
            // A value that may be left out stands in brackets, in a page in italics.
            let flag = flag.split('[').next().expect("split gives at least one");
            assert!(page.contains(flag), "{name}: no {flag}");
        }
    }
    let front = printed(nodens().arg("man"));
    for command in commands {
        let reference = format!("nodens-{command}(1)");
        assert!(front.replace('\\', "").contains(&reference), "{reference}");
    }
}

#[test]
#[ignore = "needs groff; .ci/run runs it"]
fn groff_formats_every_manual_page_without_a_warning() {
    let directory = TempDir::new();
    for (name, _) in pages(&directory.path("man1")) {
        let mut groff = Command::new("groff");
        groff.args(["-man", "-Tutf8", "-ww", "-P-c"]);
        let text = printed(groff.arg(directory.path("man1").join(&name)));
        let title = format!("{}(1)", name.trim_end_matches(".1"));
        assert!(text.contains(&title), "{name}:\n{text}");
    }
}
