//! Completions for bash, zsh and fish: what they do is in `packaging/completions`, what they know comes from the option
//! table and the grammar of the command line.
//!
//! Ours and not a library's: most options are uWSGI's and no library knows them, and names of vassals are asked of the
//! running emperor. A tenant chooses those, so no shell may ever expand them.

use std::fmt::Write as _;

use clap::{Arg, ValueHint};
use emperor::config::options::{self, Argument, HandledBy, Kind, Opt};

use crate::manual::{is_of_a_vassal, is_of_an_emperor};

/// The name of each script's file, and its text.
pub(crate) fn scripts() -> Vec<(&'static str, String)> {
    let roles = roles();
    let script = |name, frame: &str, made: String| (name, frame.replace("@MADE@\n", &made));
    vec![
        script("emperor.bash", include_str!("../completions/emperor.bash.in"), bash(&roles)),
        script("_emperor", include_str!("../completions/_emperor.in"), zsh(&roles)),
        script("emperor.fish", include_str!("../completions/emperor.fish.in"), fish(&roles)),
    ]
}

/// What may stand behind a subcommand; without a name, behind `emperor` alone and `emperor run`.
struct Role {
    name: String,
    about: String,
    words: Vec<Word>,
    operand: Expect,
}

/// One option.
struct Word {
    long: String,
    help: String,
    /// What its value is, if it takes one.
    value: Option<Expect>,
    again: bool,
}

impl Role {
    /// The pattern of a shell's `case` for it, which comes last for `emperor` alone.
    fn pattern(&self) -> &str {
        if self.name.is_empty() { "*" } else { &self.name }
    }
}

/// Those that have a `case` of their own.
fn cases(roles: &[Role]) -> impl Iterator<Item = &Role> {
    roles.iter().filter(|role| role.name != "run")
}

/// The subcommands.
fn commands(roles: &[Role]) -> impl Iterator<Item = &Role> {
    roles.iter().filter(|role| !role.name.is_empty())
}

/// What a shell offers.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Files,
    Vassals,
    Nothing,
}

fn roles() -> Vec<Role> {
    let mut grammar = emperor::cli::grammar();
    grammar.build();
    let of_the_emperor: fn(&Opt) -> bool = |option| is_of_an_emperor(option.canonical());
    let of_a_vassal: fn(&Opt) -> bool = |option| {
        let known = option.plugin_name() == "core" && option.handled_by != HandledBy::Emperor;
        known || is_of_a_vassal(option.canonical())
    };
    let alone = Role {
        name: String::new(),
        about: String::new(),
        words: table(of_the_emperor),
        operand: Expect::Files,
    };
    let mut roles: Vec<Role> = grammar
        .get_subcommands()
        .map(|command| {
            let name = command.get_name().to_owned();
            let words = match &*name {
                "run" => Vec::new(),
                "vassal" => table(of_a_vassal),
                _ => command.get_arguments().filter_map(word).collect(),
            };
            let operand = match &*name {
                "run" | "vassal" => Expect::Files,
                _ => command.get_positionals().next().map_or(Expect::Nothing, expect),
            };
            Role { name, about: plain(command.get_about()), words, operand }
        })
        .collect();
    roles.push(alone);
    roles
}

fn table(belongs: fn(&Opt) -> bool) -> Vec<Word> {
    let mut members: Vec<&Opt> = options::all().iter().filter(|option| belongs(option)).collect();
    members.sort_by_key(|option| option.rank);
    let word = |option: &Opt| Word {
        long: option.name.to_owned(),
        help: option.help.to_owned(),
        value: (option.argument != Argument::None).then_some(match option.kind {
            Kind::Bool | Kind::Int | Kind::Rawint | Kind::U64 | Kind::U16 | Kind::Mb => Expect::Nothing,
            _ => Expect::Files,
        }),
        again: matches!(option.kind, Kind::List | Kind::Special | Kind::Load | Kind::Placeholder),
    };
    members.into_iter().map(word).collect()
}

fn word(argument: &Arg) -> Option<Word> {
    Some(Word {
        long: argument.get_long()?.to_owned(),
        help: plain(argument.get_help()),
        value: argument.get_action().takes_values().then(|| expect(argument)),
        again: matches!(argument.get_action(), clap::ArgAction::Append),
    })
}

fn expect(argument: &Arg) -> Expect {
    match (argument.get_id().as_str(), argument.get_value_hint()) {
        ("names" | "name" | "vassal", _) => Expect::Vassals,
        (_, ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath) => Expect::Files,
        _ => Expect::Nothing,
    }
}

fn plain(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().trim_end_matches('.').to_owned()
}

fn bash(roles: &[Role]) -> String {
    let mut out = String::new();
    let names: Vec<&str> = commands(roles).map(|role| &*role.name).collect();
    let _ = writeln!(out, "    local commands='{}'", names.join(" "));
    out.push_str("    case $role in\n");
    for role in cases(roles) {
        let longs = |wanted: fn(&Word) -> bool| {
            let found: Vec<String> = role
                .words
                .iter()
                .filter(|word| wanted(word))
                .map(|word| format!("--{}", word.long))
                .collect();
            found.join(" ")
        };
        let operand = match role.operand {
            Expect::Files => "files",
            Expect::Vassals => "vassals",
            Expect::Nothing => "",
        };
        let _ = writeln!(out, "    {})", role.pattern());
        let _ = writeln!(out, "        flags='{}'", longs(|word| word.value.is_none()));
        let _ = writeln!(out, "        paths='{}'", longs(|word| word.value == Some(Expect::Files)));
        let others = longs(|word| word.value.is_some_and(|value| value != Expect::Files));
        let _ = writeln!(out, "        others='{others}'\n        operand='{operand}' ;;");
    }
    out.push_str("    esac\n");
    out
}

fn zsh(roles: &[Role]) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    // In a description of _arguments, and of _describe, these mean something.
    let told = |text: &str| {
        let text = text.replace('\\', "\\\\").replace(':', "\\:");
        quoted(&text.replace('[', "\\[").replace(']', "\\]"))
    };
    let action = |expect| match expect {
        Expect::Files => "_files",
        Expect::Vassals => "_emperor_vassals",
        Expect::Nothing => " ",
    };
    let mut out = String::from("    local -a commands=(\n");
    for role in commands(roles) {
        let _ = writeln!(out, "        '{}:{}'", role.name, quoted(&role.about.replace(':', "\\:")));
    }
    out.push_str("    )\n    case $role in\n");
    for role in cases(roles) {
        let _ = writeln!(out, "    {}) specs=(", role.pattern());
        for word in &role.words {
            let (again, help) = (if word.again { "*" } else { "" }, told(&word.help));
            let _ = match word.value {
                None => writeln!(out, "        '{again}--{}[{help}]'", word.long),
                Some(value) => {
                    writeln!(out, "        '{again}--{}=[{help}]:value:{}'", word.long, action(value))
                }
            };
        }
        let _ = match role.operand {
            Expect::Files => writeln!(out, "        '*:file:_files'"),
            Expect::Vassals => writeln!(out, "        '*:vassal:_emperor_vassals'"),
            Expect::Nothing => Ok(()),
        };
        out.push_str("        ) ;;\n");
    }
    out.push_str("    esac\n");
    out
}

fn fish(roles: &[Role]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut out = String::new();
    let names: Vec<&str> = cases(roles).map(|role| &*role.name).filter(|name| !name.is_empty()).collect();
    let _ = writeln!(out, "set -g __emperor_commands {}", names.join(" "));
    for role in commands(roles) {
        let _ = writeln!(
            out,
            "complete -c emperor -n __emperor_at_command -a {} -d '{}'",
            role.name,
            quoted(&role.about)
        );
    }
    for role in cases(roles) {
        let when = format!("complete -c emperor -n '__emperor_is \"{}\"'", role.name);
        let _ = match role.operand {
            Expect::Files => writeln!(out, "{when} -F"),
            Expect::Vassals => writeln!(out, "{when} -a '(__emperor_vassals)'"),
            Expect::Nothing => Ok(()),
        };
        for word in &role.words {
            let value = match word.value {
                None => "",
                Some(Expect::Files) => " -r -F",
                Some(_) => " -x",
            };
            let help =
                if word.help.is_empty() { String::new() } else { format!(" -d '{}'", quoted(&word.help)) };
            let _ = writeln!(out, "{when} -l {}{value}{help}", word.long);
        }
    }
    out
}
