//! `src/config/options.tsv` is the one source of the option table: `src/config/options_table.rs` and
//! `docs/options.md` are made from it. Run with `EMPEROR_BLESS=1` to write them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use emperor::config::options::GROUPS;

struct Row<'t> {
    name: &'t str,
    plugin: &'t str,
    argument: &'t str,
    short: &'t str,
    kind: &'t str,
    implies: &'t str,
    alias_of: &'t str,
    handled_by: &'t str,
    group: &'t str,
    help: &'t str,
    rank: usize,
}

fn rows(tsv: &str) -> Vec<Row<'_>> {
    let lines = tsv.lines().filter(|line| !line.starts_with('#'));
    let mut rows: Vec<Row<'_>> = lines
        .enumerate()
        .map(|(rank, line)| match line.split('\t').collect::<Vec<_>>()[..] {
            [name, plugin, argument, short, kind, implies, alias_of, handled_by, group, help] => {
                Row { name, plugin, argument, short, kind, implies, alias_of, handled_by, group, help, rank }
            }
            _ => panic!("ten columns are wanted: {line}"),
        })
        .collect();
    rows.sort_by_key(|row| row.name);
    rows
}

/// `list-regex` → `ListRegex`.
fn camel(word: &str) -> String {
    word.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

fn dash(text: &str) -> &str {
    if text == "-" { "" } else { text }
}

fn plugins<'t>(rows: &[Row<'t>]) -> Vec<&'t str> {
    let mut plugins: Vec<&str> = rows.iter().map(|row| row.plugin).collect();
    plugins.sort_by_key(|plugin| (*plugin != "core", *plugin != "emperor", *plugin != "vassal", *plugin));
    plugins.dedup();
    plugins
}

fn render_rust(rows: &[Row<'_>]) -> String {
    let plugins = plugins(rows);
    let mut out = String::from(
        "//! Made from `options.tsv` by `EMPEROR_BLESS=1 cargo nextest run --test options_table`; do not edit.\n\n\
         #![cfg_attr(rustfmt, rustfmt_skip)]\n\n\
         use super::options::Argument::{self, None as N, Optional as P, Value as V};\n\
         use super::options::HandledBy::{self, Accepted, Emperor, Ignored, Language, Process, Vassal};\n\
         use super::options::Kind;\n\
         use super::options::{Opt, OptionId};\n\n",
    );
    let _ = writeln!(out, "pub(super) static PLUGINS: [&str; {}] = {plugins:?};\n", plugins.len());
    let _ = writeln!(out, "pub(super) static OPTIONS: [Opt; {}] = [", rows.len());
    for row in rows {
        let plugin = plugins.iter().position(|plugin| *plugin == row.plugin).expect("in the list");
        let argument = match row.argument {
            "none" => "N",
            "value" => "V",
            "optional" => "P",
            other => panic!("{}: argument {other}", row.name),
        };
        let short = if row.short == "-" { 0 } else { row.short.as_bytes()[0] };
        let implied: Vec<&str> = dash(row.implies).split(',').filter(|i| !i.is_empty()).collect();
        let immediate = implied.contains(&"immediate");
        let implies: Vec<&str> = implied.into_iter().filter(|i| *i != "immediate").collect();
        let target = if row.alias_of == "-" { row.name } else { row.alias_of };
        let same_as = rows.binary_search_by_key(&target, |row| row.name).expect("an alias of what is there");
        assert_eq!(rows[same_as].alias_of, "-", "{} is an alias of an alias", row.name);
        assert_eq!(rows[same_as].kind, row.kind, "{}", row.name);
        let _ = writeln!(
            out,
            "    o({:?}, {plugin}, {argument}, {short}, Kind::{}, {immediate}, &{implies:?}, {same_as}, {}, {:?}, {:?}, {}),",
            row.name,
            camel(row.kind),
            camel(row.handled_by),
            dash(row.group),
            dash(row.help),
            row.rank,
        );
    }
    out.push_str(
        "];\n\n\
         #[expect(clippy::too_many_arguments, reason = \"one for each column\")]\n\
         const fn o(\n    name: &'static str, plugin: u8, argument: Argument, short: u8, kind: Kind, immediate: bool,\n    \
         implies: &'static [&'static str], same_as: u16, handled_by: HandledBy, group: &'static str, help: &'static str,\n    \
         rank: u16,\n) -> Opt {\n    \
         Opt { name, plugin, argument, short, kind, immediate, implies, same_as: OptionId(same_as), handled_by, group, help, rank }\n}\n",
    );
    out
}

fn render_markdown(rows: &[Row<'_>]) -> String {
    let mut out = String::from(
        "# Options\n\n\
         What the emperor's own configuration may say, on the command line (`--name value`), in a file\n\
         (`name = value`) or in the environment (`UWSGI_NAME=value`). Options with a star are new; all others mean what\n\
         they mean to uWSGI. Everything else that uWSGI knows is accepted and belongs into the files of vassals; what\n\
         the emperor itself reads in those stands at the end, under headings that begin with \"Vassal\".\n\n\
         Made from `src/config/options.tsv`; do not edit.\n",
    );
    let mut groups: BTreeMap<usize, Vec<&Row<'_>>> = BTreeMap::new();
    for row in
        rows.iter().filter(|row| row.group != "-" && row.alias_of == "-" && row.handled_by != "ignored")
    {
        let at = GROUPS.iter().position(|group| *group == row.group);
        groups
            .entry(at.unwrap_or_else(|| panic!("{}: group {}", row.name, row.group)))
            .or_default()
            .push(row);
    }
    for (at, mut members) in groups {
        members.sort_by_key(|row| (is_ours(row), row.rank));
        let _ = write!(out, "\n## {}\n\n| option | value | meaning |\n| --- | --- | --- |\n", GROUPS[at]);
        for row in members {
            let mut names = format!("`{}`", row.name);
            if is_ours(row) {
                names.push_str(" \\*");
            }
            if row.short != "-" {
                let _ = write!(names, ", `-{}`", row.short);
            }
            for alias in rows.iter().filter(|other| other.alias_of == row.name) {
                let _ = write!(names, ", `{}`", alias.name);
            }
            let value = match (row.argument, row.kind) {
                ("none", _) | (_, "bool") => "yes/no",
                (_, "logic-end" | "clear") => "",
                (_, "int" | "rawint" | "u64" | "u16" | "exit") => "number",
                (_, "mb") => "MiB",
                (_, "list" | "special" | "env") => "text, list",
                _ => "text",
            };
            let value = if row.handled_by == "language" { value.trim_end_matches(", list") } else { value };
            let _ = writeln!(out, "| {names} | {value} | {} |", row.help.replace('|', "\\|"));
        }
    }
    out
}

/// Whether uWSGI does not know it.
fn is_ours(row: &Row<'_>) -> bool {
    matches!(row.plugin, "emperor" | "vassal")
}

#[test]
fn what_is_made_from_the_option_table_is_in_step_with_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tsv = std::fs::read_to_string(root.join("src/config/options.tsv")).unwrap();
    let rows = rows(&tsv);
    assert!(rows.windows(2).all(|two| two[0].name < two[1].name), "a name occurs twice");
    for (path, wanted) in
        [("src/config/options_table.rs", render_rust(&rows)), ("docs/options.md", render_markdown(&rows))]
    {
        let path = root.join(path);
        if std::env::var_os("EMPEROR_BLESS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{} is out of step: run with EMPEROR_BLESS=1", path.display());
    }
}

#[test]
fn every_option_that_is_acted_upon_has_one_line_of_help() {
    let tsv = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/options.tsv"))
        .unwrap();
    for row in rows(&tsv) {
        let acted = matches!(row.handled_by, "emperor" | "process" | "language") || row.plugin == "vassal";
        assert_eq!(acted || row.handled_by == "ignored" && row.help != "-", row.help != "-", "{}", row.name);
        assert!(!row.help.ends_with('.') && row.help.len() < 160, "{}: {}", row.name, row.help);
    }
}
