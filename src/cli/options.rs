//! `emperor options [WORD]` and the grouped help: both from the one table of options.

use std::fmt::Write as _;

use crate::config::options::{self, Argument, GROUPS, HandledBy, Opt};

/// The options that mean something to the emperor, by group.
pub(super) fn grouped() -> String {
    let mut out = String::new();
    for group in GROUPS {
        let mut members: Vec<_> =
            options::all().iter().filter(|option| is_ours(option) && option.group == *group).collect();
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{group}:");
        members.sort_by_key(|option| option.rank);
        for option in members {
            let _ = writeln!(out, "  {:<38} {}", usage(option), option.help);
        }
        out.push('\n');
    }
    out
}

/// Every option whose name or help holds the word, with its aliases, kind and plugin.
pub(super) fn matching(word: &str) -> String {
    let mut out = String::new();
    let mut found: Vec<_> = options::all()
        .iter()
        .filter(|option| option.name.contains(word) || option.help.contains(word))
        .collect();
    found.sort_by_key(|option| option.rank);
    for option in found {
        let canonical = option.canonical();
        let alias =
            if canonical.name == option.name { String::new() } else { format!("same as {}", canonical.name) };
        let owner = match option.handled_by {
            HandledBy::Emperor | HandledBy::Process | HandledBy::Language => "emperor",
            HandledBy::Accepted => "accepted",
            HandledBy::Vassal | HandledBy::Ignored => option.plugin_name(),
        };
        let line = format!("{:<40} {owner:<12} {alias}{}", usage(option), option.help);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn is_ours(option: &Opt) -> bool {
    let handled = matches!(option.handled_by, HandledBy::Emperor | HandledBy::Process);
    handled && option.canonical().name == option.name
}

fn usage(option: &Opt) -> String {
    match option.argument {
        Argument::Value => format!("--{} VALUE", option.name),
        Argument::Optional => format!("--{}[=VALUE]", option.name),
        Argument::None => format!("--{}", option.name),
    }
}
