//! A directory, the sources on it, and what they said.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use emperor::emperor::source::{Identity, Oddity, Report, SourceId, SourceOptions, Sources, VassalName};

/// No machine is so slow that something it was told of takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) sources: Sources,
    pub(crate) said: Vec<Report>,
    runtime: tokio::runtime::Runtime,
    _keep: tempfile::TempDir,
}

/// An empty directory `v`, with the real path of what is around it.
pub(crate) fn stage() -> (tempfile::TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("v")).unwrap();
    (keep, root)
}

impl World {
    /// Sources on `v`, scanned once.
    pub(crate) fn new() -> Self {
        Self::with(stage(), &["v"], SourceOptions::default())
    }

    /// The same, and a file that rests while it is open is none of the test's concern.
    pub(crate) fn patient() -> Self {
        let options = SourceOptions { settle: PATIENCE / 2, ..SourceOptions::default() };
        Self::with(stage(), &["v"], options)
    }

    pub(crate) fn with(
        (keep, root): (tempfile::TempDir, PathBuf),
        arguments: &[&str],
        options: SourceOptions,
    ) -> Self {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let sources = Sources::open(&arguments, &root, &options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = Self { root, sources, said: Vec::new(), runtime, _keep: keep };
        world.rescan();
        world
    }

    pub(crate) fn rescan(&mut self) {
        self.sources.rescan(Instant::now(), &mut |report| self.said.push(report));
    }

    /// A path in the directory `v`.
    pub(crate) fn v(&self, name: &str) -> PathBuf {
        self.root.join("v").join(name)
    }

    /// Forgets what was said, after it has become quiet.
    pub(crate) fn settle(&mut self) {
        self.run(Duration::from_millis(150), |_| false);
        self.said.clear();
    }

    /// Runs the sources as an emperor would until something was said; fails when it never is.
    pub(crate) fn until(&mut self, what: &str, mut enough: impl FnMut(&Report) -> bool) {
        if !self.run(PATIENCE, &mut enough) {
            panic!("never said: {what}; said: {:#?}", self.said);
        }
    }

    /// Runs the sources for so long, and says whether something was said by then.
    pub(crate) fn run(&mut self, time: Duration, mut enough: impl FnMut(&Report) -> bool) -> bool {
        let end = Instant::now() + time;
        let mut seen = 0;
        loop {
            while seen < self.said.len() {
                seen += 1;
                if enough(&self.said[seen - 1]) {
                    return true;
                }
            }
            if Instant::now() >= end {
                return false;
            }
            let (sources, said) = (&mut self.sources, &mut self.said);
            let wake = sources.next_timeout().map_or(end, |at| at.min(end));
            let hinted = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = sources.hinted() => true,
                    () = tokio::time::sleep_until(wake.into()) => false,
                }
            });
            if hinted {
                sources.on_hint(Instant::now(), &mut |report| said.push(report));
            } else {
                sources.on_timeout(Instant::now(), &mut |report| said.push(report));
            }
        }
    }

    pub(crate) fn until_seen(&mut self, name: &str) -> Identity {
        let mut found = None;
        self.until(&format!("{name} seen"), |report| match report {
            Report::Seen(_, vassal, identity) if *vassal == VassalName::new(name.as_bytes()) => {
                found = Some(*identity);
                true
            }
            _ => false,
        });
        found.unwrap()
    }

    /// Until the file is reported as it is on the disk.
    pub(crate) fn until_seen_as(&mut self, name: &str, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).unwrap();
        let mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        self.until(&format!("{name} seen as it is"), |report| {
            matches!(report, Report::Seen(_, vassal, identity) if vassal.as_bytes() == name.as_bytes()
                && (identity.mtime_ns, identity.inode, identity.size) == (mtime_ns, meta.ino(), meta.size()))
        });
    }

    pub(crate) fn until_gone(&mut self, name: &str) {
        self.until(
            &format!("{name} gone"),
            |report| matches!(report, Report::Gone(_, vassal) if vassal.as_bytes() == name.as_bytes()),
        );
    }

    pub(crate) fn until_odd(&mut self, name: &str, oddity: &Oddity) {
        self.until(
            &format!("{name} odd: {oddity:?}"),
            |report| matches!(report, Report::Odd(_, vassal, why) if vassal.as_bytes() == name.as_bytes() && why == oddity),
        );
    }

    /// The texts of what went wrong.
    pub(crate) fn troubles(&self) -> Vec<&str> {
        let texts = self.said.iter().filter_map(|report| match report {
            Report::Trouble(_, text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    pub(crate) fn until_scanned(&mut self) {
        self.until("a scan", |report| matches!(report, Report::ScanEnded(_)));
    }

    pub(crate) fn until_trouble(&mut self, part: &str) {
        self.until(
            &format!("trouble with {part}"),
            |report| matches!(report, Report::Trouble(_, text) if text.contains(part)),
        );
    }

    /// The names that were seen, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        let names = self.said.iter().filter_map(|report| match report {
            Report::Seen(_, vassal, _) => Some(vassal.to_string()),
            _ => None,
        });
        names.collect()
    }

    pub(crate) fn says_gone(&self) -> bool {
        self.said.iter().any(|report| matches!(report, Report::Gone(..)))
    }
}

pub(crate) const FIRST: SourceId = SourceId(0);

pub(crate) fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::write(path, text).unwrap();
}
