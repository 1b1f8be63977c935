//! Man pages: prose from `packaging/man`, lists from the option table and the grammar of the command line.

use clap::{Arg, Command};
use emperor::config::options::{self, Argument, GROUPS, HandledBy, Kind, Opt};
use roff::{Inline, Roff, bold, italic, roman};

/// The name of each page's file, and its text.
pub(crate) fn pages(date: &str) -> Vec<(&'static str, String)> {
    [
        ("emperor.1", include_str!("../man/emperor.1.in")),
        ("emperor.ini.5", include_str!("../man/emperor.ini.5.in")),
        ("emperor-vassal.5", include_str!("../man/emperor-vassal.5.in")),
    ]
    .map(|(name, prose)| {
        let list = match name {
            "emperor.1" => commands(),
            "emperor.ini.5" => options_of(is_of_an_emperor),
            _ => options_of(is_of_a_vassal),
        };
        let text = prose
            .replace("@DATE@", date)
            .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
            .replace("@COMMANDS@\n", &list)
            .replace("@OPTIONS@\n", &list);
        (name, text)
    })
    .into()
}

/// Whether an emperor's own configuration may say it, and something comes of that.
pub(crate) fn is_of_an_emperor(option: &Opt) -> bool {
    is_documented(option) && option.handled_by != HandledBy::Vassal
}

/// Whether it is an option of ours for vassals' files.
pub(crate) fn is_of_a_vassal(option: &Opt) -> bool {
    is_documented(option) && option.plugin_name() == "vassal"
}

fn is_documented(option: &Opt) -> bool {
    let is_name = option.canonical().name == option.name;
    is_name && !option.group.is_empty() && option.handled_by != HandledBy::Ignored
}

/// A list of options under the headings of their groups.
fn options_of(belongs: fn(&Opt) -> bool) -> String {
    let mut page = Roff::new();
    for group in GROUPS {
        let mut members: Vec<&Opt> =
            options::all().iter().filter(|option| option.group == *group && belongs(option)).collect();
        members.sort_by_key(|option| (option.is_ours(), option.rank));
        if !members.is_empty() {
            page.control("SS", [group.trim_start_matches("Vassal: ")]);
        }
        for option in members {
            page.control("TP", []);
            page.text(names(option));
            page.text([roman(sentence(option.help))]);
        }
    }
    page.to_roff()
}

/// All names of an option, and what it takes.
fn names(option: &Opt) -> Vec<Inline> {
    let mut line = vec![bold(option.name)];
    if option.is_ours() {
        line.push(roman("*"));
    }
    if option.short != 0 {
        line.extend([roman(", "), bold(format!("-{}", char::from(option.short)))]);
    }
    for alias in options::all().iter().filter(|other| is_alias(other, option)) {
        line.extend([roman(", "), bold(alias.name)]);
    }
    let value = match (option.argument, option.kind) {
        (Argument::None, _) | (_, Kind::Bool) => "yes/no",
        (_, Kind::LogicEnd | Kind::Clear) => return line,
        (_, Kind::Int | Kind::Rawint | Kind::U64 | Kind::U16 | Kind::Exit) => "number",
        (_, Kind::Mb) => "MiB",
        (_, Kind::List) => "text, list",
        _ => "text",
    };
    line.extend([roman(" = "), italic(value)]);
    line
}

fn is_alias(other: &Opt, option: &Opt) -> bool {
    other.name != option.name && other.canonical().name == option.name
}

/// Each command with what it takes.
fn commands() -> String {
    let mut grammar = emperor::cli::grammar();
    grammar.build();
    let mut page = Roff::new();
    for command in grammar.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let usage = command.render_usage().to_string();
        page.control("SS", [usage.trim_start_matches("Usage: ")]);
        page.text([roman(about(command))]);
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            page.control("TP", []);
            page.text(words(argument));
            page.text([roman(sentence(&argument.get_help().map(ToString::to_string).unwrap_or_default()))]);
        }
    }
    page.to_roff()
}

fn about(command: &Command) -> String {
    sentence(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

fn words(argument: &Arg) -> Vec<Inline> {
    let value = argument.get_value_names().and_then(<[_]>::first).map(ToString::to_string);
    let value = value.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
    let Some(long) = argument.get_long() else { return vec![italic(value)] };
    let mut line = vec![bold(format!("--{long}"))];
    if let Some(short) = argument.get_short() {
        line.extend([roman(", "), bold(format!("-{short}"))]);
    }
    if argument.get_action().takes_values() {
        line.extend([roman(" "), italic(value)]);
    }
    line
}

/// A line of help as prose.
fn sentence(help: &str) -> String {
    let mut letters = help.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let text: String =
        if help.starts_with("uWSGI") { help.to_owned() } else { first.chain(letters).collect() };
    if text.ends_with('.') { text } else { text + "." }
}
