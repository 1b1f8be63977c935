//! From an `emperor` argument to what is looked at, and where.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::SourceInfo;
use super::carried::Carrier;
use super::name::Names;
use super::pattern::{self, Level};

/// The imperial monitors that this program has.
pub const SCHEMES: &[&str] =
    if cfg!(feature = "postgres") { &["dir", "glob", "pg"] } else { &["dir", "glob"] };

/// Why an `emperor` argument cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing to look at.
    #[error("emperor argument {argument:?} names nothing: give a directory, a file or a pattern")]
    Empty {
        /// The argument as given.
        argument: OsString,
    },
    /// The part before `://` is nobody's.
    #[error(
        "emperor argument {argument:?}: there is no imperial monitor {scheme:?}, only {}; \
         for a file of that name write ./ before it", SCHEMES.join(" and ")
    )]
    UnknownScheme {
        /// The argument as given.
        argument: OsString,
        /// What stands before `://`.
        scheme: String,
    },
    /// A monitor that was left out when this program was built.
    #[error(
        "emperor argument {scheme}://…: this program was built without that imperial monitor; build it with cargo's \
         --features {feature}"
    )]
    LeftOut {
        /// What stands before `://`.
        scheme: &'static str,
        /// Cargo's name of what is missing.
        feature: &'static str,
    },
    /// The parameters of a connection that cannot be used.
    #[error("emperor argument {scheme}://{cause}")]
    Connection {
        /// What stands before `://`.
        scheme: &'static str,
        /// The parameters without their password, and what is wrong with them.
        cause: String,
    },
    /// A file that no rule takes for a vassal's.
    #[error(
        "emperor argument {argument:?} is no directory and cannot be a vassal: its name ends in none of \
         {known}; add its ending with emperor-extra-extension"
    )]
    NotAVassal {
        /// The argument as given.
        argument: OsString,
        /// The endings that are known.
        known: String,
    },
    /// More sources than a [`super::SourceId`] can number.
    #[error("more than 65535 emperor arguments")]
    TooMany,
}

/// An argument that was understood.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) info: SourceInfo,
    /// Bare names below one directory, rather than paths as a pattern gives them.
    pub(super) is_dir: bool,
    /// The directory that is looked at first, not yet resolved.
    pub(super) base: PathBuf,
    /// What names match in it, in the directories found there, and so on; the last one matches files.
    pub(super) levels: Rc<[Level]>,
    /// What stands in a vassal's name before the first of them.
    pub(super) prefix: Box<[u8]>,
    /// What reads it, if it has no files.
    pub(super) carrier: Option<Carrier>,
}

/// Where relative arguments are meant from. Both are absolute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    /// What the emperor is in.
    pub(super) cwd: &'a Path,
    /// What it goes back to for patterns, as uWSGI: what it was started in.
    pub(super) patterns: &'a Path,
}

impl Spec {
    /// Understands one argument.
    pub(super) fn parse(argument: &OsStr, start: Start<'_>, names: &Names) -> Result<Self, SourceError> {
        let bytes = argument.as_bytes();
        let (scheme, rest) = split_scheme(bytes);
        if rest.is_empty() || rest.contains(&0) {
            return Err(SourceError::Empty { argument: argument.to_owned() });
        }
        match scheme {
            Some(b"dir") => Ok(Self::directory(&start.cwd.join(OsStr::from_bytes(rest)))),
            Some(b"glob") => Self::glob(argument, rest, start.patterns, names),
            Some(b"pg") => Self::postgres(rest, start.cwd),
            Some(other) => Err(SourceError::UnknownScheme {
                argument: argument.to_owned(),
                scheme: String::from_utf8_lossy(other).into_owned(),
            }),
            None => Self::plain(argument, start, names),
        }
    }

    fn plain(argument: &OsStr, start: Start<'_>, names: &Names) -> Result<Self, SourceError> {
        let path = start.cwd.join(argument);
        let found = std::fs::metadata(&path);
        if found.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            return Ok(Self::directory(&path));
        }
        let bytes = argument.as_bytes();
        if pattern::has_wildcard(bytes) {
            return match only_match(start.cwd, bytes) {
                Some(path) if path.is_dir() => Ok(Self::directory(&path)),
                _ => Self::glob(argument, bytes, start.patterns, names),
            };
        }
        if found.is_err() && !names.accepts(bytes) {
            Ok(Self::directory(&path))
        } else {
            Self::glob(argument, bytes, start.patterns, names)
        }
    }

    fn directory(path: &Path) -> Self {
        // Not there yet, or not to be entered: the way to it says so when it is looked at.
        let real = path.canonicalize().unwrap_or_else(|_| path.components().collect());
        Self {
            info: SourceInfo { argument: real.to_string_lossy().into_owned(), cwd: real, carries: false },
            is_dir: true,
            base: path.to_owned(),
            levels: Rc::new([Level::Any]),
            prefix: Box::default(),
            carrier: None,
        }
    }

    fn glob(argument: &OsStr, text: &[u8], cwd: &Path, names: &Names) -> Result<Self, SourceError> {
        let (before, components) = split_pattern(text);
        let levels: Rc<[Level]> = components.iter().map(|component| Level::parse(component)).collect();
        match levels.last() {
            None => return Err(SourceError::Empty { argument: argument.to_owned() }),
            Some(Level::Literal(name)) if !names.accepts(name) => {
                return Err(SourceError::NotAVassal { argument: argument.to_owned(), known: names.list() });
            }
            Some(_) => {}
        }
        let prefix = pattern::unescape(before);
        Ok(Self {
            info: SourceInfo {
                argument: String::from_utf8_lossy(text).into_owned(),
                cwd: cwd.to_owned(),
                carries: false,
            },
            is_dir: false,
            base: cwd.join(OsStr::from_bytes(&prefix)),
            levels,
            prefix: prefix.into(),
            carrier: None,
        })
    }

    #[cfg(feature = "postgres")]
    fn postgres(rest: &[u8], cwd: &Path) -> Result<Self, SourceError> {
        let query = super::pg::Query::parse(&String::from_utf8_lossy(rest))
            .map_err(|cause| SourceError::Connection { scheme: "pg", cause })?;
        Ok(Self {
            info: SourceInfo { argument: query.shown().to_owned(), cwd: cwd.to_owned(), carries: true },
            is_dir: false,
            base: PathBuf::new(),
            levels: Rc::new([]),
            prefix: Box::default(),
            carrier: Some(Carrier { query, wish: None }),
        })
    }

    #[cfg(not(feature = "postgres"))]
    fn postgres(_rest: &[u8], _cwd: &Path) -> Result<Self, SourceError> {
        Err(SourceError::LeftOut { scheme: "pg", feature: "postgres" })
    }
}

fn split_scheme(bytes: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let Some(at) = bytes.windows(3).position(|three| three == b"://") else { return (None, bytes) };
    let scheme = &bytes[..at];
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(byte));
    if is_scheme { (Some(scheme), &bytes[at + 3..]) } else { (None, bytes) }
}

/// The text before the first component with a wildcard (or before the last one, when none has any), and the
/// components from there on.
fn split_pattern(text: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let mut start = 0;
    let mut last = 0;
    for component in text.split(|byte| *byte == b'/') {
        if pattern::has_wildcard(component) {
            last = start;
            break;
        }
        if !component.is_empty() {
            last = start;
        }
        start += component.len() + 1;
    }
    let rest = text[last..].split(|byte| *byte == b'/').filter(|c| !c.is_empty() && *c != b".");
    (&text[..last], rest.collect())
}

/// The one path that matches, when there is exactly one.
fn only_match(cwd: &Path, text: &[u8]) -> Option<PathBuf> {
    let (before, components) = split_pattern(text);
    let mut found = vec![cwd.join(OsStr::from_bytes(&pattern::unescape(before)))];
    for component in components {
        let level = Level::parse(component);
        let mut next = Vec::new();
        for directory in found {
            if let Level::Literal(name) = &level {
                next.push(directory.join(OsStr::from_bytes(name)));
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().into_vec()));
            let matching = names.filter(|name| level.matches(name));
            next.extend(matching.map(|name| directory.join(OsStr::from_bytes(&name))));
        }
        found = next;
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    if found.len() == 1 { found.pop() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names() -> Names {
        Names::new(&[b".conf".to_vec()])
    }

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        (dir, root)
    }

    fn parse(argument: &str, cwd: &Path) -> Spec {
        Spec::parse(OsStr::new(argument), Start { cwd, patterns: cwd }, &names()).unwrap()
    }

    #[test]
    fn parity_an_existing_directory_is_watched_with_and_without_its_scheme() {
        // spec/emperor.md 3.1
        let (_keep, root) = scene();
        fs::create_dir(root.join("v")).unwrap();
        for argument in ["v", "dir://v", &format!("dir://{}/v", root.display()), "v/", "./v"] {
            let spec = parse(argument, &root);
            assert!(spec.is_dir, "{argument}");
            assert_eq!(spec.info.cwd, root.join("v"));
            assert_eq!(spec.info.argument, root.join("v").to_str().unwrap());
        }
    }

    #[test]
    fn every_relative_argument_is_meant_from_where_the_emperor_started() {
        let (_keep, root) = scene();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("b")).unwrap();
        assert_eq!(parse("a", &root).info.cwd, root.join("a"));
        assert_eq!(parse("b", &root).info.cwd, root.join("b"));
    }

    #[test]
    fn a_directory_behind_a_link_goes_by_its_real_path() {
        let (_keep, root) = scene();
        fs::create_dir(root.join("v")).unwrap();
        std::os::unix::fs::symlink("v", root.join("link")).unwrap();
        let spec = parse("link", &root);
        assert_eq!(spec.info.cwd, root.join("v"));
        assert_eq!(spec.base, root.join("link"));
    }

    #[test]
    fn what_is_not_there_is_a_directory_unless_it_is_named_like_a_vassal() {
        let (_keep, root) = scene();
        assert!(parse("later", &root).is_dir);
        assert!(parse("vassals.d/", &root).is_dir);
        let one = parse("sub/one.ini", &root);
        assert!(!one.is_dir);
        assert_eq!((one.base, &*one.prefix), (root.join("sub/"), &b"sub/"[..]));
        assert_eq!(*one.levels, [Level::Literal((*b"one.ini").into())]);
        assert_eq!(one.info.cwd, root);
    }

    #[test]
    fn a_pattern_is_split_at_its_first_wildcard() {
        let (_keep, root) = scene();
        let spec = parse("glob:///srv/apps/*/conf/[a-m]*.ini", &root);
        assert_eq!((spec.base.as_path(), &*spec.prefix), (Path::new("/srv/apps/"), &b"/srv/apps/"[..]));
        let parts = ["*", "conf", "[a-m]*.ini"].map(|text| Level::parse(text.as_bytes()));
        assert_eq!(*spec.levels, parts);
        assert_eq!(spec.info.argument, "/srv/apps/*/conf/[a-m]*.ini");
        let spec = parse("*.ini", &root);
        assert_eq!((spec.base.as_path(), &*spec.prefix), (root.join("").as_path(), &b""[..]));
    }

    #[test]
    fn a_pattern_that_means_one_directory_is_that_directory() {
        let (_keep, root) = scene();
        fs::create_dir(root.join("app1")).unwrap();
        assert_eq!(parse("app[1]", &root).info.cwd, root.join("app1"));
        assert!(!parse("glob://app[1]", &root).is_dir);
        fs::create_dir(root.join("app[1]")).unwrap();
        assert_eq!(parse("app[1]", &root).info.cwd, root.join("app[1]"));
        assert!(!parse("app*", &root).is_dir, "two directories");
    }

    #[test]
    fn mistakes_are_named() {
        let (_keep, root) = scene();
        fs::write(root.join("notes.txt"), "").unwrap();
        let error = |argument: &str| {
            Spec::parse(OsStr::new(argument), Start { cwd: &root, patterns: &root }, &names())
                .unwrap_err()
                .to_string()
        };
        assert!(error("gloob:///x/*.ini").contains("no imperial monitor \"gloob\", only dir and glob"));
        if cfg!(feature = "postgres") {
            assert!(error("pg://colour=red").contains("pg://colour=red"));
        } else {
            assert!(error("pg://host=x").contains("--features postgres"));
        }
        assert!(error("notes.txt").contains(".xml .ini .yml .yaml .js .json .conf"));
        assert!(error("dir://").contains("names nothing"));
        assert!(error("").contains("names nothing"));
    }

    #[test]
    fn a_name_with_a_colon_is_no_scheme() {
        let (_keep, root) = scene();
        assert!(parse("./a://b.ini", &root).base.starts_with(&root));
        assert!(parse("x:y.ini", &root).prefix.is_empty());
    }
}
