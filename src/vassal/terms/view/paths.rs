//! Paths that are opened, closed or hidden, one option each.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::super::{Asked, TermsError};
use super::{MOST_PATHS, TMP_RANGE, size, text, tmpfs};
use crate::vassal::plan::Text;
use crate::vassal::plan::scene::{Bind, Entry, What};

/// Longest path. Source: `PATH_MAX`.
const MOST_BYTES: usize = 4096;

/// What is wanted at one path.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// What.
    pub kind: PathKind,
    /// The path on the host.
    pub source: Text,
    /// Where it appears; the same path but for `bind` and `bind-read-only`.
    pub target: Text,
    /// Written with a leading `-`: left out where it does not exist.
    pub optional: bool,
    /// Bytes of a `temporary-file-system`; 0 is the size of a private `/tmp`.
    #[serde(default)]
    pub bytes: u64,
    /// Whose word it is; `None` for the emperor's. Never read from outside: a tenant could say that it is the emperor.
    #[serde(skip)]
    pub tenant: Option<(u32, u32)>,
}

/// The option of a path.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// `read-write-paths`
    ReadWrite,
    /// `read-only-paths`
    ReadOnly,
    /// `inaccessible-paths`
    Inaccessible,
    /// `temporary-file-system`
    Temporary,
    /// `bind`
    Bind,
    /// `bind-read-only`
    BindReadOnly,
}

const OPTIONS: [(&str, PathKind); 6] = [
    ("read-write-paths", PathKind::ReadWrite),
    ("read-only-paths", PathKind::ReadOnly),
    ("inaccessible-paths", PathKind::Inaccessible),
    ("temporary-file-system", PathKind::Temporary),
    ("bind", PathKind::Bind),
    ("bind-read-only", PathKind::BindReadOnly),
];

pub(super) fn read(asked: Asked<'_>) -> Result<Vec<PathRule>, TermsError> {
    let mut rules = Vec::new();
    for (option, kind) in OPTIONS {
        for got in asked.words(option) {
            let wrong = |cause: String| TermsError::new(&got, option, cause);
            if rules.len() == MOST_PATHS {
                return Err(wrong(format!("there are more than {MOST_PATHS} paths in all")));
            }
            let rule = PathRule::parse(kind, &text(&got)).map_err(wrong)?;
            rules.push(rule);
        }
    }
    Ok(rules)
}

impl PathRule {
    /// Reads one word: a path, with `:` and another path for `bind` and `bind-read-only`, with `:size=…` for
    /// `temporary-file-system`.
    fn parse(kind: PathKind, word: &Text) -> Result<Self, String> {
        use std::os::unix::ffi::OsStrExt;
        let of = |bytes: &[u8]| Text::from(std::ffi::OsStr::from_bytes(bytes));
        let bytes = word.as_bytes();
        let (optional, bytes) = bytes.strip_prefix(b"-").map_or((false, bytes), |rest| (true, rest));
        let (first, second) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        let mut rule = Self { kind, source: of(first), target: of(first), optional, bytes: 0, tenant: None };
        match (kind, second) {
            (_, None) => {}
            (PathKind::Bind | PathKind::BindReadOnly, Some(target)) => rule.target = of(target),
            (PathKind::Temporary, Some(option)) => {
                let size_of = option.strip_prefix(b"size=").and_then(|size| str::from_utf8(size).ok());
                rule.bytes = size(size_of.ok_or("`PATH` or `PATH:size=256M` is wanted")?)?;
            }
            _ => return Err("one path is wanted, without `:`".into()),
        }
        rule.check()?;
        Ok(rule)
    }

    /// Whether it is within bounds.
    pub(super) fn check(&self) -> Result<(), String> {
        for path in [&self.source, &self.target] {
            let up = |part| part == Component::ParentDir;
            let bytes = path.as_bytes();
            if !path.as_path().is_absolute() || path.as_path().components().any(up) {
                return Err(format!("an absolute path without `..` is wanted; this is `{path}`"));
            }
            if bytes.len() >= MOST_BYTES || bytes.contains(&0) {
                return Err(format!("no path is as long as that, or holds a NUL: `{path}`"));
            }
        }
        let everywhere = self.target.as_path() == Path::new("/");
        if everywhere && self.kind != PathKind::ReadOnly {
            return Err("`/` can only be made read-only as a whole".into());
        }
        if self.source != self.target && !matches!(self.kind, PathKind::Bind | PathKind::BindReadOnly) {
            return Err(format!("{} cannot appear as {}", self.source, self.target));
        }
        if self.bytes != 0 && !TMP_RANGE.contains(&self.bytes) {
            return Err(format!("a size from 64K to 1T is wanted; this is {} bytes", self.bytes));
        }
        Ok(())
    }

    /// The same for the launcher. `opened`: some tenant opens something, which the emperor's word has to cover.
    pub(super) fn entry(&self, tmp_bytes: u64, opened: bool) -> Entry {
        let bind =
            |read_only| What::Bind(Bind { source: self.source.clone(), read_only, opened_as: self.tenant });
        let closes = matches!(self.kind, PathKind::ReadOnly | PathKind::Inaccessible);
        let what = match self.kind {
            PathKind::ReadWrite | PathKind::Bind => bind(false),
            PathKind::BindReadOnly => bind(true),
            PathKind::ReadOnly => What::ReadOnly,
            PathKind::Inaccessible => What::Inaccessible,
            PathKind::Temporary => {
                // A tenant's wish for more than the emperor gives to /tmp is a wish.
                let wanted = if self.bytes == 0 { tmp_bytes } else { self.bytes };
                let bytes = if self.tenant.is_some() { wanted.min(tmp_bytes) } else { wanted };
                What::Tmpfs(tmpfs(bytes, 0o755, false))
            }
        };
        let last = self.kind == PathKind::Inaccessible || closes && opened && self.tenant.is_none();
        Entry { target: self.target.clone(), what, optional: self.optional, last }
    }
}
