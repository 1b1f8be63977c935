//! Man pages and completions, made as a package makes them and read by the programs that people read them with.

#[path = "../packaging/documents/completions.rs"]
mod completions;
#[path = "../packaging/documents/manual.rs"]
mod manual;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use emperor::config::options::{self, Opt};
use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll};

/// All documents, in a folder of this bed.
fn written(bed: &Bed) -> PathBuf {
    fs::create_dir(bed.path("documents")).expect("a folder");
    for (name, text) in manual::pages("2026-01-02").into_iter().chain(completions::scripts()) {
        bed.write(Path::new("documents").join(name), text);
    }
    bed.path("documents")
}

/// Whether there is such a program; says that the test is skipped where there is none.
fn there_is(program: &str) -> bool {
    let found = support::tools::on_path(program).is_some();
    if !found {
        support::skip(&format!("needs {program}"));
    }
    found
}

fn run(program: &str, words: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(words)
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "1000")
        .env_remove("MANPAGER")
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    said(&output)
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// A page as people see it, each paragraph on one line.
fn rendered(page: &str, folder: &Path) -> String {
    let mut plain = String::new();
    for letter in run("mandoc", &["-T", "utf8", "-O", "width=1000", page], folder).chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[test]
fn nothing_is_wrong_with_the_man_pages() {
    let bed = Bed::new();
    let folder = written(&bed);
    let (man, mandoc) = (there_is("man"), there_is("mandoc"));
    for (name, text) in manual::pages("2026-01-02") {
        for place in ["@DATE@", "@VERSION@", "@COMMANDS@", "@OPTIONS@"] {
            assert!(!text.contains(place), "{name}: {place}");
        }
        if man {
            let said = run("man", &["--warnings", "-E", "UTF-8", "-Z", "-l", name], &folder);
            let warnings: Vec<&str> = said.lines().filter(|line| line.contains("warning")).collect();
            assert!(said.contains("x T ") && warnings.is_empty(), "{name}: {warnings:?}");
        }
        if mandoc {
            // What is only a matter of style is the length of a line of its source.
            let said = run("mandoc", &["-T", "lint", name], &folder);
            let problems: Vec<&str> = said.lines().filter(|line| !line.contains(": STYLE: ")).collect();
            assert!(problems.is_empty(), "{problems:?}");
        }
    }
}

#[test]
fn every_option_is_in_its_page_under_its_heading_with_its_default() {
    if !there_is("mandoc") {
        return;
    }
    let bed = Bed::new();
    let folder = written(&bed);
    for page in ["emperor.ini.5", "emperor-vassal.5"] {
        let belongs = if page == "emperor.ini.5" { manual::is_of_an_emperor } else { manual::is_of_a_vassal };
        let found = entries(&rendered(page, &folder));
        let wanted: Vec<&Opt> = options::all().iter().filter(|option| belongs(option)).collect();
        assert_eq!(found.len(), wanted.len(), "{page}: {found:?}");
        for option in wanted {
            let heading = option.group.trim_start_matches("Vassal: ");
            let entry = found
                .iter()
                .find(|entry| entry.name == option.name)
                .map(|entry| (&*entry.heading, &*entry.help));
            let Some((under, help)) = entry else { panic!("{} is not in {page}", option.name) };
            assert_eq!(under, heading, "{}", option.name);
            assert_eq!(
                help.trim_end_matches('.').to_lowercase(),
                option.help.to_lowercase(),
                "{}",
                option.name
            );
        }
    }
    let nowhere = |option: &&Opt| {
        let told = !option.group.is_empty() && option.canonical().name == option.name;
        let ignored = option.handled_by == options::HandledBy::Ignored;
        told && !ignored && !manual::is_of_an_emperor(option) && !manual::is_of_a_vassal(option)
    };
    assert_eq!(options::all().iter().find(nowhere).map(|option| option.name), None);
}

/// One option of a page.
#[derive(Debug)]
struct Entry {
    heading: String,
    name: String,
    help: String,
}

/// The options of a page: three blanks before a heading, seven before a name, and what it means on the next line.
fn entries(page: &str) -> Vec<Entry> {
    let chapter = page.split("\nOPTIONS\n").nth(1).and_then(|rest| rest.split("\nEXAMPLE").next());
    let (mut heading, mut found) = (String::new(), Vec::new());
    let mut lines = chapter.expect("a chapter of options").lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        match line.len() - text.len() {
            3 => heading = text.into(),
            7 => {
                let name = text.split([',', '*', ' ']).next().unwrap_or_default().into();
                let help = lines.next().unwrap_or_default().trim().into();
                found.push(Entry { heading: heading.clone(), name, help });
            }
            _ => {}
        }
    }
    found
}

#[test]
fn units_name_pages_that_exist() {
    let pages: Vec<String> = manual::pages("").iter().map(|(name, _)| (*name).to_owned()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let mut named = 0;
    for unit in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(unit.unwrap().path()).unwrap();
        for page in text.split(['=', ' ', '\n']).filter_map(|word| word.strip_prefix("man:")) {
            let file = page.trim_end_matches(')').replace('(', ".");
            assert!(pages.contains(&file), "{page}");
            named += 1;
        }
    }
    assert!(named > 0);
}

/// An emperor with vassals whose names a shell must not take for anything but text.
fn court(bed: &Bed) -> Emperor {
    for name in NAMES {
        bed.vassal(name);
    }
    let emperor = Builder::new(bed, Kind::Ours)
        .opt("emperor-control", bed.path("control.sock"))
        .opt("emperor-runtime-dir", bed.path("run"))
        .start();
    let all = || (names(bed).lines().count() == NAMES.len()).then_some(());
    assert!(poll(PATIENCE, all).is_some(), "{}\n{}", names(bed), bed.report());
    emperor
}

const NAMES: [&str; 5] =
    ["shop.ini", "shed.ini", "a $(touch GOTCHA) b.ini", "`touch GOTCHA`.ini", "it's;touch GOTCHA.ini"];

/// Those that need it, as they are typed.
const QUOTED: [&str; 3] =
    ["a\\ \\$\\(touch\\ GOTCHA\\)\\ b.ini", "\\`touch\\ GOTCHA\\`.ini", "it\\'s\\;touch\\ GOTCHA.ini"];

fn names(bed: &Bed) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_emperor"))
        .args(["status", "--names", "--control"])
        .arg(bed.path("control.sock"))
        .output()
        .expect("the client");
    said(&output)
}

/// A shell in the folder of the bed, with our program first in its PATH and the usual control socket out of reach.
fn shell(bed: &Bed, program: &str, words: &[&str], control: &str) -> String {
    let own = Path::new(env!("CARGO_BIN_EXE_emperor")).parent().expect("a folder");
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("timeout")
        .args(["40", program])
        .args(words)
        .current_dir(bed.root())
        .env("PATH", path)
        .env("HOME", bed.root())
        .env("LC_ALL", "C.UTF-8")
        .env("EMPEROR_CONTROL", bed.path(control))
        .stdin(Stdio::null())
        .output()
        .expect("the shell");
    said(&output)
}

/// What is offered behind a line, by a shell, with the control socket of this name: asks the shell itself.
type Ask = fn(&Bed, &str, &str) -> Vec<String>;

fn bash(bed: &Bed, line: &str, control: &str) -> Vec<String> {
    let script = r#"
        source documents/emperor.bash
        COMP_LINE=$1 COMP_POINT=${#1}
        COMP_WORDS=() rest=${1//=/ = }
        read -ra COMP_WORDS <<< "$rest"
        [[ $1 == *[[:space:]] ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        complete -p emperor > /dev/null || exit
        _emperor emperor "${COMP_WORDS[COMP_CWORD]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    lines(&shell(bed, "bash", &["--norc", "-c", script, "bash", line], control))
}

fn fish(bed: &Bed, line: &str, control: &str) -> Vec<String> {
    let script = "source documents/emperor.fish; complete -C $argv[1]";
    let said = shell(bed, "fish", &["--no-config", "-c", script, line], control);
    lines(&said).iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

/// Its completion works in a terminal only: an inner shell is typed to, and tells what it would add.
fn zsh(bed: &Bed, line: &str, control: &str) -> Vec<String> {
    let inner = r#"
        PROMPT=
        fpath=($PWD/documents $fpath)
        autoload -U compinit && compinit -u -D
        compadd() {
            if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
                builtin compadd "$@"
                return $?
            fi
            local -a offered
            builtin compadd -A offered "$@"
            (( $#offered )) && print -rl -- ${offered/#/offered:}
        }
        asked() { _main_complete; print ended; exit }
        zle -C asked complete-word asked
        bindkey '^I' asked
        print ready"#;
    bed.write("inner.zsh", inner);
    let outer = r#"
        zmodload zsh/zpty
        zpty inner zsh -f -i
        until_it_says() { local got; while zpty -r inner got; do print -r -- "${got%$'\r\n'}"; [[ $got == *$1* && $got != *print* ]] && return; done }
        zpty -w inner 'source inner.zsh'
        until_it_says ready
        zpty -w -n inner "$1"$'\t'
        until_it_says ended"#;
    let said = shell(bed, "zsh", &["-f", "-c", outer, "zsh", line], control);
    let offered = said.lines().filter_map(|line| line.trim().split("offered:").nth(1));
    let mut offered: Vec<String> = offered.map(str::to_owned).collect();
    offered.dedup();
    offered
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn completes(program: &str, ask: Ask, quoted: [&str; 3]) {
    if !there_is(program) {
        return;
    }
    let bed = Bed::new();
    written(&bed);
    bed.write("emperor-of-the-north.ini", "");
    let emperor = court(&bed);
    let sorted = |line: &str, control: &str| {
        let mut all = ask(&bed, line, control);
        all.sort();
        all
    };
    let offered = |line: &str| sorted(line, "control.sock");

    assert_eq!(offered("emperor st"), ["start", "status", "stop"]);
    assert_eq!(
        offered("emperor --emperor-tyrant-"),
        ["--emperor-tyrant-initgroups", "--emperor-tyrant-nofollow"]
    );
    assert_eq!(offered("emperor run --emperor-tyrant-n"), ["--emperor-tyrant-nofollow"]);
    assert_eq!(offered("emperor vassal --memory-ma"), ["--memory-max"]);
    assert_eq!(offered("emperor check --expl"), ["--explain"]);
    for line in [
        "emperor --ini emperor-of",
        "emperor emperor-of",
        "emperor check emperor-of",
        "emperor --ini=emperor-of",
    ] {
        let found = offered(line);
        assert!(found.len() == 1 && found[0].ends_with("emperor-of-the-north.ini"), "{line}: {found:?}");
    }
    assert_eq!(offered("emperor --emperor-freq emperor-of"), [""; 0]);

    assert_eq!(offered("emperor stop sh"), ["shed.ini", "shop.ini"]);
    assert_eq!(offered("emperor status sho"), ["shop.ini"]);
    let mut all: Vec<&str> = quoted.into_iter().chain(["shed.ini", "shop.ini"]).collect();
    all.sort_unstable();
    assert_eq!(offered("emperor restart "), all);
    assert!(!bed.path("GOTCHA").exists(), "a name was taken for a command");

    // Where another emperor is asked, and where none answers.
    let elsewhere = format!("emperor stop --control {} sh", bed.path("control.sock").display());
    assert_eq!(sorted(&elsewhere, "nobody.sock"), ["shed.ini", "shop.ini"]);
    assert_eq!(sorted("emperor stop sh", "nobody.sock"), [""; 0]);
    emperor.stop(&bed);
}

#[test]
fn bash_completes_commands_options_files_and_vassals() {
    completes("bash", bash, QUOTED);
}

#[test]
fn zsh_completes_commands_options_files_and_vassals() {
    completes("zsh", zsh, QUOTED);
}

#[test]
fn fish_completes_commands_options_files_and_vassals() {
    completes("fish", fish, [NAMES[2], NAMES[3], NAMES[4]]);
}
