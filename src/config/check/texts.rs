//! Traps that are visible only in the text of a file.

use super::{Findings, Severity};
use crate::config::answers::{Config, ReadText};
use crate::config::ini::{Line, classify};
use crate::config::load::Format;
use crate::config::model::{Origin, lossy};
use crate::config::options::{self, Kind, Opt};
use std::collections::HashSet;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let with_pairs: HashSet<&[u8]> = config
        .pairs()
        .iter()
        .filter_map(|pair| pair.origin().file_line())
        .map(|(file, _)| &file.given[..])
        .collect();
    for (at, text) in config.texts.iter().enumerate() {
        let seen =
            config.texts[..at].iter().any(|t| t.file.given == text.file.given && t.section == text.section);
        if seen {
            continue;
        }
        let read: Vec<&[u8]> =
            config.texts.iter().filter(|t| t.file.given == text.file.given).map(|t| &t.section[..]).collect();
        magic(text, findings);
        whole(text, with_pairs.contains(&text.file.given[..]), findings);
        if text.format == Format::Ini {
            sections(text, &read, config, findings);
            comments(text, findings);
        }
        if let Some(origin) = &text.stopped {
            let remedy = "anchors, aliases and tags cannot be used";
            findings.add(
                Severity::Warning,
                origin,
                "reading stops here; nothing below it counts",
                Some(remedy),
            );
        }
        for origin in &text.dropped {
            findings.add(
                Severity::Warning,
                origin,
                "a key without a value is dropped in yaml",
                Some("write `\"\"` as its value"),
            );
        }
    }
}

/// The file as a whole: empty, binary, with a byte order mark, without the section.
fn whole(text: &ReadText, has_pairs: bool, findings: &mut Findings) {
    let origin = Origin::line(&text.file, 0);
    let first = Origin::line(&text.file, 1);
    let raw = &text.raw[..];
    let odd = raw.iter().filter(|b| b.is_ascii_control() && !b.is_ascii_whitespace() && **b != 0x1b).count();
    if raw.trim_ascii().is_empty() {
        return findings.add(Severity::Warning, &origin, "the file is empty", None);
    }
    if odd * 20 > raw.len() || raw.starts_with(b"\x7fELF") {
        return findings.add(Severity::Warning, &origin, "this looks like a binary file", None);
    }
    if raw.contains(&0) {
        findings.add(Severity::Warning, &origin, "a NUL byte ends the text of its line", Some("remove it"));
    }
    if raw.starts_with(b"\xef\xbb\xbf") {
        let message = match text.format {
            Format::Ini if raw[3..].trim_ascii_start().starts_with(b"[") => {
                "a byte order mark stands before the first section header, so that section is lost"
            }
            _ => "the file begins with a byte order mark",
        };
        findings.add(Severity::Warning, &first, message, Some("save the file as UTF-8 without BOM"));
    }
    if !has_pairs && matches!(text.format, Format::Ini | Format::Yaml) {
        let section = lossy(&text.section);
        let message = format!("nothing was read: there is no section {section} in it, or it is empty");
        findings.add(Severity::Warning, &origin, message, None);
    }
}

/// `%x` without a meaning is removed, with the newline if that is what follows.
fn magic(text: &ReadText, findings: &mut Findings) {
    for (line, row) in (1..).zip(text.raw.split_inclusive(|b| *b == b'\n')) {
        let comment =
            text.format == Format::Ini && matches!(row.trim_ascii_start().first(), Some(b';' | b'#'));
        let mut rest = row;
        while let Some(at) = rest.iter().position(|b| *b == b'%') {
            let next = rest.get(at + 1).copied();
            rest = rest.get(at + 2..).unwrap_or_default();
            let origin = Origin::line(&text.file, line);
            match next {
                Some(b'\n') => findings.add(
                    Severity::Warning,
                    &origin,
                    "the % at the end of this line swallows the newline, so the next line is joined to it",
                    Some("write %%"),
                ),
                None if !comment => {
                    findings.add(
                        Severity::Warning,
                        &origin,
                        "the % at the end of the file vanishes",
                        Some("write %%"),
                    );
                }
                Some(next) if !comment && !HAS_MEANING.contains(&next) => {
                    let shown = lossy(&[b'%', next]);
                    let message = format!("`{shown}` has no meaning and vanishes");
                    let remedy = format!("write `%{shown}` if it is to stay");
                    findings.add(Severity::Warning, &origin, message, Some(&remedy));
                }
                _ => {}
            }
        }
    }
}

/// Every byte that means something behind `%`.
const HAS_MEANING: &[u8] = b"%([psnedcoxijPSNEDCOXIJ0123456789vVhktTuUgGb";

/// Options outside of the section that is read.
fn sections(text: &ReadText, read: &[&[u8]], config: &Config, findings: &mut Findings) {
    let mut header: Option<&[u8]> = None;
    let mut said = false;
    for (at, row) in text.raw.split(|b| *b == b'\n').enumerate() {
        let origin = Origin::line(&text.file, u32::try_from(at + 1).unwrap_or(u32::MAX));
        match classify(row) {
            Line::Header(name) => {
                header = Some(name);
                said = read.contains(&name);
                let bare: Vec<u8> = name.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
                if !said && bare.to_ascii_lowercase().starts_with(b"uwsgi") && text.section == b"uwsgi" {
                    said = true;
                    let message =
                        format!("the name of this section is `{}`, not `uwsgi`: it is not read", lossy(name));
                    let remedy = "the line must be exactly [uwsgi]";
                    findings.add(Severity::Warning, &origin, message, Some(remedy));
                }
            }
            Line::Pair(key, _) if !said => {
                let Some(option) = options::find(key).filter(|o| config.plugins().know(o)) else { continue };
                said = true;
                let message = match header {
                    None => format!("{} stands above every section header, so it is not read", option.name),
                    Some(b"zerg") => continue,
                    Some(name) => format!("{} stands in [{}], which is not read", option.name, lossy(name)),
                };
                let remedy = format!("put it below [{}]", lossy(&text.section));
                findings.add(Severity::Warning, &origin, message, Some(&remedy));
            }
            _ => {}
        }
    }
}

/// Comments and quotes that became part of a value.
fn comments(text: &ReadText, findings: &mut Findings) {
    for (at, row) in text.raw.split(|b| *b == b'\n').enumerate() {
        let Line::Pair(key, value) = classify(row) else { continue };
        let origin = Origin::line(&text.file, u32::try_from(at + 1).unwrap_or(u32::MAX));
        let option = options::find(key);
        if let Some(comment) = trailing_comment(value).filter(|_| option.is_some_and(takes_no_comment)) {
            let kept = lossy(value[..comment].trim_ascii_end());
            let message = format!("there are no comments behind a value: the value is `{}`", lossy(value));
            let remedy = format!("put the comment on a line of its own and write `{} = {kept}`", lossy(key));
            findings.add(Severity::Warning, &origin, message, Some(&remedy));
        }
        if let [quote @ (b'"' | b'\''), inner @ .., last] = value
            && quote == last
            && option.is_some_and(takes_no_comment)
        {
            let message = "quotes are part of the value here";
            let remedy = format!("write `{} = {}`", lossy(key), lossy(inner));
            findings.add(Severity::Warning, &origin, message, Some(&remedy));
        }
    }
}

/// Where ` ;` or ` #` stands in a value.
fn trailing_comment(value: &[u8]) -> Option<usize> {
    value.windows(2).position(|two| matches!(two, [b' ' | b'\t', b';' | b'#'])).map(|at| at + 1)
}

/// Whether `;`, `#` and quotes can mean nothing to this option.
fn takes_no_comment(option: &Opt) -> bool {
    match option.kind {
        Kind::Bool
        | Kind::BoolOff
        | Kind::Int
        | Kind::Rawint
        | Kind::U64
        | Kind::U16
        | Kind::Mb
        | Kind::Mode3
        | Kind::Umask
        | Kind::User
        | Kind::Group
        | Kind::Socket
        | Kind::SharedSocket
        | Kind::PluginList
        | Kind::Namespaces
        | Kind::Capabilities
        | Kind::Load => true,
        Kind::Str => {
            ["chdir", "pidfile", "logto", "daemonize", "chroot", "stats", "module", "wsgi-file", "home"]
                .iter()
                .any(|name| option.canonical().name.starts_with(name))
        }
        _ => false,
    }
}
