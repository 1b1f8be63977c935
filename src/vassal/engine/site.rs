//! Which file answers a request, by uWSGI's rules for `check-static`, `static-map`, `static-index` and
//! `static-safe`.
//!
//! Caller: the engine's connections, with the rights of the vassal: whatever a race between looking and
//! opening could reach, the vassal may read anyway.
//! Source: measured on uWSGI 2.0.21; `tests/engine_parity.rs` compares the two.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The static files of one vassal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Site {
    /// Folders that are looked into first, in order.
    pub(super) check: Vec<PathBuf>,
    /// Folders or files by the path they are mounted at; asked after `check`, in order.
    pub(super) maps: Vec<(OsString, PathBuf)>,
    /// Names tried, in order, when a folder is asked for.
    pub(super) index: Vec<PathBuf>,
    /// Where symbolic links may lead, besides the folder they stand in.
    pub(super) safe: Vec<PathBuf>,
}

/// A file to send.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// With the links resolved; its suffix tells the type.
    pub(super) path: PathBuf,
}

impl Site {
    /// Whether there is nothing that could ever be served.
    pub(super) fn is_empty(&self) -> bool {
        self.check.is_empty() && self.maps.is_empty()
    }

    /// Looks for the file behind the path of a request, as it stands in the request line.
    ///
    /// A file that this process may not read is as good as missing, as with uWSGI.
    pub(super) fn find(&self, raw: &str) -> Option<Found> {
        let path = decode(raw)?;
        let checks = self.check.iter().map(|root| (root, path.as_slice()));
        let maps = self.maps.iter().filter_map(|(mount, root)| Some((root, below(&path, mount.as_bytes())?)));
        checks.chain(maps).find_map(|(root, rest)| self.look(root, rest))
    }

    fn look(&self, root: &Path, rest: &[u8]) -> Option<Found> {
        let root = fs::canonicalize(root).ok()?;
        // A path of its own would replace the root; an empty one would ask a file for what is inside it.
        let start = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
        let asked = match &rest[start..] {
            [] => root.clone(),
            inside => root.join(OsStr::from_bytes(inside)),
        };
        let path = self.resolve(&root, &asked)?;
        if !path.is_dir() {
            return open(path);
        }
        self.index.iter().filter_map(|name| self.resolve(&root, &path.join(name))).find_map(open)
    }

    /// The path without links, if it leads to where this site may serve from.
    fn resolve(&self, root: &Path, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(path).ok()?;
        let allowed = |place: &PathBuf| fs::canonicalize(place).is_ok_and(|place| real.starts_with(place));
        (real.starts_with(root) || self.safe.iter().any(allowed)).then_some(real)
    }
}

fn open(path: PathBuf) -> Option<Found> {
    // A fifo or a device must not be opened: that alone can block or have an effect.
    path.is_file().then_some(())?;
    // Should the file be replaced by a link or a fifo at this very moment, this fails or does not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(&path).ok()?;
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(Found {
        file,
        length: meta.len(),
        modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        path,
    })
}

/// What follows the mount point in `path`, if that is mounted there.
fn below<'p>(path: &'p [u8], mount: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(mount)?;
    (rest.is_empty() || rest.starts_with(b"/") || mount.ends_with(b"/")).then_some(rest)
}

/// The bytes behind a percent-encoded path; `None` if a NUL is among them, which no file name holds.
fn decode(raw: &str) -> Option<Vec<u8>> {
    let mut left = raw.as_bytes();
    let mut out = Vec::with_capacity(left.len());
    while let [byte, rest @ ..] = left {
        let escaped = rest.get(..2).filter(|_| *byte == b'%').and_then(hex);
        out.push(escaped.unwrap_or(*byte));
        left = if escaped.is_some() { &rest[2..] } else { rest };
    }
    (!out.contains(&0)).then_some(out)
}

fn hex(digits: &[u8]) -> Option<u8> {
    // `from_str_radix` would take a sign.
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u8::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    /// `welcome/` with pages, a folder beside it whose name begins alike, and links in and out.
    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for folder in ["welcome/sub", "welcome/empty", "welcome2", "outside"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in
            ["welcome/index.html", "welcome/sub/index.html", "welcome/a b.txt", "outside/x", "welcome2/x"]
        {
            fs::write(at(file), file).unwrap();
        }
        symlink("../outside/x", at("welcome/out")).unwrap();
        symlink("../welcome2/x", at("welcome/near")).unwrap();
        symlink("a b.txt", at("welcome/in")).unwrap();
        symlink("nowhere", at("welcome/dangling")).unwrap();
        place
    }

    fn site(place: &tempfile::TempDir) -> Site {
        Site {
            check: vec![place.path().join("welcome")],
            index: vec!["index.html".into()],
            ..Site::default()
        }
    }

    fn got(site: &Site, path: &str) -> Option<String> {
        let mut found = site.find(path)?;
        let mut text = String::new();
        found.file.read_to_string(&mut text).unwrap();
        assert_eq!(found.length, text.len() as u64);
        Some(text)
    }

    #[test]
    fn parity_folders_are_answered_by_their_index_without_a_redirect() {
        let place = place();
        let site = site(&place);
        for (path, file) in [
            ("/", Some("welcome/index.html")),
            ("", Some("welcome/index.html")),
            ("/sub", Some("welcome/sub/index.html")),
            ("/sub/", Some("welcome/sub/index.html")),
            ("//sub//index.html", Some("welcome/sub/index.html")),
            ("/a%20b.txt", Some("welcome/a b.txt")),
            ("/in", Some("welcome/a b.txt")),
            ("/a+b.txt", None),
            ("/a%20b.txt/", None),
            ("/empty/", None),
            ("/missing", None),
            ("/dangling", None),
            ("/a%20b.txt%00", None),
            ("/%zz", None),
            ("/%", None),
        ] {
            assert_eq!(got(&site, path).as_deref(), file, "{path}");
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_served_unless_it_is_declared_safe() {
        let place = place();
        let mut site = site(&place);
        for path in [
            "/out",
            "/near",
            "/../outside/x",
            "/%2e%2e/outside/x",
            "/..%2foutside%2fx",
            "/sub/../../outside/x",
        ] {
            assert_eq!(got(&site, path), None, "{path}");
        }
        assert_eq!(got(&site, "/sub/../in").as_deref(), Some("welcome/a b.txt"));
        site.safe.push(place.path().join("outside"));
        assert_eq!(got(&site, "/out").as_deref(), Some("outside/x"));
        assert_eq!(got(&site, "/near"), None);
    }

    #[test]
    fn parity_folders_are_asked_in_order_and_mounts_after_them() {
        let place = place();
        let mut site = site(&place);
        site.maps =
            vec![("/".into(), place.path().join("outside")), ("/m".into(), place.path().join("welcome2"))];
        assert_eq!(got(&site, "/index.html").as_deref(), Some("welcome/index.html"));
        assert_eq!(got(&site, "/x").as_deref(), Some("outside/x"));
        assert_eq!(got(&site, "/m/x").as_deref(), Some("welcome2/x"));
        assert_eq!(got(&site, "/mx"), None, "uWSGI serves this, by accident");
        site.maps = vec![("/icon".into(), place.path().join("outside/x"))];
        assert_eq!(got(&site, "/icon").as_deref(), Some("outside/x"));
        assert_eq!(got(&site, "/icon/more"), None);
    }

    #[test]
    fn a_fifo_is_never_opened() {
        let place = place();
        nix::unistd::mkfifo(&place.path().join("welcome/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(got(&site(&place), "/fifo"), None);
    }
}
