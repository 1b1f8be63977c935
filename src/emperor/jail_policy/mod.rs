//! What every vassal is subject to, whatever its own file says: `vassal-sandbox`, and the file of `emperor-policy`.
//!
//! The file has sections of options as a vassal's file may have them: `[default]` for all, `[owner NAME]` for the files
//! of a user, by name or number, `[vassal PATTERN]` for the files whose names match. They count in this order, and
//! within it in that of the file; what comes later overrides what came before. Only root, or the emperor's own user,
//! may be able to write the file.

mod watch;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::config::{Limits, Loader, Machine, Mode, lossy};
use crate::emperor::source::Identity;
use crate::vassal::terms::{Level, Terms};

pub use watch::PolicyWatch;

/// The policy of an emperor. The default asks nothing of anybody.
#[derive(Debug, Default)]
pub struct JailPolicy {
    level: Level,
    file: Option<PolicyFile>,
}

#[derive(Debug)]
struct PolicyFile {
    path: PathBuf,
    /// The version that was read.
    version: Version,
    text: Vec<u8>,
    /// The version that could not be used, if that was said.
    broken: Option<Version>,
    sections: Vec<(Subjects, String)>,
    /// What each set of sections comes down to.
    terms: HashMap<Vec<usize>, Arc<Terms>>,
}

/// Modification time, inode and length.
type Version = (i64, i64, u64, u64);

/// Whom a section is about.
#[derive(Clone, Debug)]
enum Subjects {
    All,
    Owner(u32),
    Vassals(glob::Pattern),
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else could write it.
    #[error("the policy {} could be changed by others than root: chown root it, and chmod go-w", path.display())]
    Loose {
        /// Its path.
        path: PathBuf,
    },
    /// It says what cannot be.
    #[error("{}: {cause}", path.display())]
    Content {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// More is no policy that a person has written.
const MOST_BYTES: u64 = 1 << 20;

impl JailPolicy {
    /// `vassal-sandbox` and the file of `emperor-policy`.
    ///
    /// # Errors
    /// [`PolicyError`]: a policy that cannot be used is no reason to go on without it.
    pub fn new(level: Level, file: Option<&Path>) -> Result<Self, PolicyError> {
        let absolute = |path: &Path| {
            let failed = |source| PolicyError::Read { path: path.to_owned(), source };
            PolicyFile::read(&std::path::absolute(path).map_err(failed)?, level)
        };
        let file = file.map(absolute).transpose()?;
        Ok(Self { level, file })
    }

    /// A watch on its file, if it has one. Without it a change is noticed when the next vassal starts.
    #[must_use]
    pub fn watch(&self) -> Option<PolicyWatch> {
        let path = &self.file.as_ref()?.path;
        let watch = PolicyWatch::new(path);
        let told = |error| {
            warn!("[emperor] changes of {} are only noticed at the next start: {error}", path.display())
        };
        watch.map_err(told).ok()
    }

    /// Reads a file that has changed again. One that cannot be used leaves what it said before in force.
    pub fn refresh(&mut self) {
        if let Some(file) = &mut self.file {
            file.refresh(self.level);
        }
    }

    /// Whether nobody is asked anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.level == Level::None && self.file.is_none()
    }

    /// What a vassal is subject to, as the file is now.
    ///
    /// # Errors
    /// [`PolicyError`], when the file changes while it is read.
    pub fn of(&mut self, name: &[u8], identity: &Identity) -> Result<Arc<Terms>, PolicyError> {
        self.refresh();
        let Some(file) = &mut self.file else { return Ok(Arc::new(Terms::of_level(self.level))) };
        file.of(self.level, name, identity.uid)
    }
}

impl JailPolicy {
    /// A number that stands for all of what a vassal is subject to; none if that is nothing, or cannot be found out.
    pub fn digest(&mut self, name: &[u8], identity: &Identity) -> Option<u64> {
        if self.is_none() {
            return None;
        }
        let terms = self.of(name, identity).ok().filter(|terms| **terms != Terms::of_level(Level::None))?;
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&*terms).ok()?.hash(&mut hasher);
        Some(hasher.finish())
    }
}

impl PolicyFile {
    fn read(path: &Path, level: Level) -> Result<Self, PolicyError> {
        let (text, version) = trusted_text(path)?;
        let wrong = |cause: String| PolicyError::Content { path: path.to_owned(), cause };
        let mut sections = sections(&text).map_err(wrong)?;
        sections.sort_by_key(|section| section.0.rank()); // stable: the file's order within a kind
        let path = path.to_owned();
        let read = Self { path, version, text, broken: None, sections, terms: HashMap::new() };
        // Each section by itself: a mistake is found now and not when a vassal starts.
        for index in 0..read.sections.len() {
            read.load(level, &[index])?;
        }
        Ok(read)
    }

    fn refresh(&mut self, level: Level) {
        let found = std::fs::metadata(&self.path).ok().map(|there| version(&there));
        if found == Some(self.version) || (self.broken.is_some() && self.broken == found) {
            return;
        }
        match Self::read(&self.path, level) {
            Ok(new) => {
                info!(
                    "[emperor] the policy {} is read again; it counts from the next start on",
                    self.path.display()
                );
                *self = new;
            }
            Err(cause) if found.is_some() || self.broken.is_none() => {
                error!("[emperor] {}; what it said before stays in force", Told(&cause));
                self.broken = Some(found.unwrap_or_default());
            }
            Err(_) => {}
        }
    }

    fn of(&mut self, level: Level, name: &[u8], uid: u32) -> Result<Arc<Terms>, PolicyError> {
        let about =
            |(index, (subjects, _)): (usize, &(Subjects, String))| subjects.hold(name, uid).then_some(index);
        let sections: Vec<usize> = self.sections.iter().enumerate().filter_map(about).collect();
        if let Some(terms) = self.terms.get(&sections) {
            return Ok(Arc::clone(terms));
        }
        let terms = Arc::new(self.load(level, &sections)?);
        self.terms.insert(sections, Arc::clone(&terms));
        Ok(terms)
    }

    fn load(&self, level: Level, sections: &[usize]) -> Result<Terms, PolicyError> {
        let mut arguments: Vec<OsString> = vec!["--set".into(), format!("sandbox={level}").into()];
        for index in sections {
            let mut section = self.path.clone().into_os_string();
            section.push(":");
            section.push(&self.sections[*index].1);
            arguments.extend(["--ini".into(), section]);
        }
        let wrong = |cause: String| PolicyError::Content { path: self.path.clone(), cause };
        let world = Machine::new().with_text(self.path.clone(), self.text.clone());
        let config = Loader::new(&world, Limits::default()).load(&arguments, &[], Mode::Vassal);
        let config = config.map_err(|error| wrong(error.to_string()))?;
        if let Some((pair, near)) = config.unknown().next() {
            let near = near.map(|near| format!("; {} is one", near.name)).unwrap_or_default();
            return Err(wrong(format!("{}: {} is no option{near}", pair.origin(), lossy(pair.key()))));
        }
        let terms = Terms::read(&config).map_err(|error| wrong(error.to_string()))?;
        if terms.program.is_some() {
            return Err(wrong("`command` belongs into a vassal's own file".into()));
        }
        Ok(terms)
    }
}

/// An error with its cause, in a line.
struct Told<'e>(&'e PolicyError);

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        std::error::Error::source(self.0).map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

/// The text of a file that nobody but root, or we, could have written: neither it nor its name.
fn trusted_text(path: &Path) -> Result<(Vec<u8>, Version), PolicyError> {
    let failed = |source| PolicyError::Read { path: path.to_owned(), source };
    let own = nix::unistd::geteuid().as_raw();
    let is_ours = |there: &Metadata| {
        [0, own].contains(&there.uid()) && (there.mode() & 0o022 == 0 || there.mode() & 0o1000 != 0)
    };
    let file = File::open(path).map_err(failed)?;
    let there = file.metadata().map_err(failed)?;
    let real = path.canonicalize().map_err(failed)?;
    for above in real.ancestors().skip(1) {
        if !is_ours(&std::fs::metadata(above).map_err(failed)?) {
            return Err(PolicyError::Loose { path: above.to_owned() });
        }
    }
    if !there.is_file() || !is_ours(&there) {
        return Err(PolicyError::Loose { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok((text, version(&there)))
}

fn version(there: &Metadata) -> Version {
    (there.mtime(), there.mtime_nsec(), there.ino(), there.size())
}

/// The headers of the file, each with whom it is about.
fn sections(text: &[u8]) -> Result<Vec<(Subjects, String)>, String> {
    let mut found: Vec<(Subjects, String)> = Vec::new();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let Some(header) = line.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) else { continue };
        let header = std::str::from_utf8(header).map_err(|_| "a section's name is not UTF-8".to_owned())?;
        if found.iter().any(|(_, known)| known == header) {
            return Err(format!("there are two sections [{header}]"));
        }
        found.push((Subjects::parse(header)?, header.to_owned()));
    }
    Ok(found)
}

impl Subjects {
    fn parse(header: &str) -> Result<Self, String> {
        if header.contains(':') {
            return Err(format!("[{header}]: a name with a colon is written with ? in its place"));
        }
        match header.split_once(' ').map_or((header, ""), |(kind, who)| (kind, who.trim())) {
            ("default", "") => Ok(Self::All),
            ("owner", who) if !who.is_empty() => match who.parse() {
                Ok(uid) => Ok(Self::Owner(uid)),
                Err(_) => {
                    uid_of(who).map(Self::Owner).ok_or_else(|| format!("[{header}]: there is no user {who}"))
                }
            },
            ("vassal", pattern) if !pattern.is_empty() => {
                glob::Pattern::new(pattern).map(Self::Vassals).map_err(|error| format!("[{header}]: {error}"))
            }
            _ => Err(format!("[{header}]: [default], [owner NAME] or [vassal PATTERN] is wanted")),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::All => 0,
            Self::Owner(_) => 1,
            Self::Vassals(_) => 2,
        }
    }

    fn hold(&self, name: &[u8], uid: u32) -> bool {
        match self {
            Self::All => true,
            Self::Owner(owner) => *owner == uid,
            // As people see it: what is not UTF-8 can only be met by a wildcard.
            Self::Vassals(pattern) => pattern.matches(&String::from_utf8_lossy(name)),
        }
    }
}

/// The number of a user, from the machine's own list: other lists can keep their readers waiting.
pub(super) fn uid_of(name: &str) -> Option<u32> {
    let list = std::fs::read_to_string("/etc/passwd").ok()?;
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A policy, in a directory that nobody else can write.
    fn policy(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.ini");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        (dir, path)
    }

    fn identity(uid: u32) -> Identity {
        Identity { mtime_ns: 0, ctime_ns: 0, device: 0, inode: 0, size: 0, uid, gid: uid }
    }

    fn level(policy: &mut JailPolicy, name: &str, uid: u32) -> Level {
        policy.of(name.as_bytes(), &identity(uid)).unwrap().level
    }

    #[test]
    fn the_more_a_section_says_of_whom_it_means_the_more_it_counts() {
        let (_dir, path) = policy(
            "[vassal shop*.ini]\nsandbox = none\n[default]\nsandbox = standard\n[owner 1234]\nsandbox = strict\n",
        );
        let mut policy = JailPolicy::new(Level::None, Some(&path)).unwrap();
        assert_eq!(level(&mut policy, "a.ini", 1), Level::Standard);
        assert_eq!(level(&mut policy, "a.ini", 1234), Level::Strict);
        assert_eq!(level(&mut policy, "shop1.ini", 1234), Level::None);
    }

    #[test]
    fn without_a_section_that_says_more_the_emperors_own_option_counts() {
        let (_dir, path) = policy("[owner root]\nsandbox = strict\n");
        let mut policy = JailPolicy::new(Level::Standard, Some(&path)).unwrap();
        assert_eq!(level(&mut policy, "a.ini", 1), Level::Standard);
        assert_eq!(level(&mut policy, "a.ini", 0), Level::Strict);
    }

    #[test]
    fn what_others_could_write_is_no_policy() {
        let (dir, path) = policy("[default]\nsandbox = strict\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        let refused = JailPolicy::new(Level::None, Some(&path)).unwrap_err().to_string();
        assert!(refused.contains("could be changed by others than root"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(JailPolicy::new(Level::None, Some(&path)).is_err());
    }

    #[test]
    fn a_mistake_is_found_at_once_and_later_leaves_the_old_policy_in_force() {
        for (wrong, told) in [
            ("[default]\nsandbox = tight\n", "`none`, `standard` or `strict` is wanted"),
            ("[default]\nsandbx = none\n", "sandbx is no option; sandbox is one"),
            ("[tenants]\n", "[default], [owner NAME] or [vassal PATTERN] is wanted"),
            ("[owner nobody-of-that-name]\n", "there is no user nobody-of-that-name"),
            ("[default]\ncommand = x\n", "belongs into a vassal's own file"),
            ("[default]\n[default]\n", "there are two sections [default]"),
        ] {
            let (_dir, path) = policy(wrong);
            let error = JailPolicy::new(Level::None, Some(&path)).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let (_dir, path) = policy("[default]\nsandbox = strict\n");
        let mut policy = JailPolicy::new(Level::None, Some(&path)).unwrap();
        std::fs::write(&path, "[default]\nsandbox = tight, really\n").unwrap();
        assert_eq!(level(&mut policy, "a.ini", 1), Level::Strict);
        std::fs::write(&path, "[default]\nsandbox = standard\n").unwrap();
        assert_eq!(level(&mut policy, "a.ini", 1), Level::Standard);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(level(&mut policy, "a.ini", 1), Level::Standard);
    }
}
