//! The loader's door: everything a configuration can ask of the machine goes through [`World`].
//!
//! This is the only file of the room that touches the file system. Nothing here waits for ever: files are opened
//! without blocking and read up to a limit, so a fifo or a device cannot hang the reader.

mod fetch;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::net::ToSocketAddrs as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// What a path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// A path that was looked up.
#[derive(Clone, Debug)]
pub struct Found {
    /// The absolute path: resolved, unless the last component is a symbolic link, which stays as it is.
    pub path: PathBuf,
    /// The inode of that path itself.
    pub inode: u64,
}

/// The outside, as a configuration sees it. Paths are as written; relative ones are relative to [`World::directory`].
pub trait World {
    /// Where a configuration file really is.
    ///
    /// # Errors
    /// The path leads nowhere.
    fn locate(&self, path: &[u8]) -> io::Result<Found>;
    /// The bytes of a file; a directory reads as empty.
    ///
    /// # Errors
    /// It cannot be opened or read, or is longer than `most` (`FileTooLarge`).
    fn read(&self, path: &[u8], most: usize) -> io::Result<Vec<u8>>;
    /// Standard input up to its end.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `most`.
    fn read_stdin(&self, most: usize) -> io::Result<Vec<u8>>;
    /// An inherited descriptor up to its end.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is longer than `most`.
    fn read_descriptor(&self, number: i32, most: usize) -> io::Result<Vec<u8>>;
    /// What a shell command prints.
    ///
    /// # Errors
    /// It cannot be run, prints more than `most`, or commands are not allowed here (`PermissionDenied`).
    fn run(&self, command: &[u8], environment: &[(&[u8], &[u8])], most: usize) -> io::Result<Vec<u8>>;
    /// A configuration that the emperor sent (`emperor://…`).
    ///
    /// # Errors
    /// None was sent.
    fn sent(&self) -> io::Result<Vec<u8>>;
    /// The body of an HTTP resource.
    ///
    /// # Errors
    /// It cannot be had, or the network is not allowed here (`PermissionDenied`).
    fn fetch(&self, url: &str, most: usize) -> io::Result<Vec<u8>>;
    /// The kind of what a path leads to, following links.
    fn kind(&self, path: &[u8]) -> Option<PathKind>;
    /// Whether it could be read.
    fn readable(&self, path: &[u8]) -> bool;
    /// Matches of a shell pattern, sorted, directories with `/` behind; the pattern itself if nothing matches.
    fn glob(&self, pattern: &[u8]) -> Vec<Vec<u8>>;
    /// Names and contents of the regular files of a directory whose names do not begin with a dot.
    ///
    /// # Errors
    /// It cannot be listed.
    fn variables(&self, directory: &[u8], most: usize) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>>;
    /// The start directory.
    fn directory(&self) -> PathBuf;
    /// The program that is running.
    fn program(&self) -> PathBuf;
    /// The name of this host.
    fn host_name(&self) -> Vec<u8>;
    /// The IPv4 address of a host.
    fn resolve(&self, host: &str) -> Option<String>;
    /// How many processors are switched on.
    fn cpus(&self) -> usize;
    /// User and group id.
    fn ids(&self) -> (u32, u32);
    /// The name of a user.
    fn user_name(&self, id: u32) -> Option<Vec<u8>>;
    /// The name of a group.
    fn group_name(&self, id: u32) -> Option<Vec<u8>>;
    /// Whether there is a user of that name.
    fn has_user(&self, name: &[u8]) -> bool;
    /// Whether there is a group of that name.
    fn has_group(&self, name: &[u8]) -> bool;
    /// Time since 1970, taken once.
    fn started(&self) -> Duration;
    /// The largest queue a listening socket can have.
    fn somaxconn(&self) -> Option<u64>;
    /// Where uWSGI looks for its plugins; `None` if it has none, so that all of them must be built in.
    fn plugin_folder(&self) -> Option<PathBuf>;
}

/// The machine we run on.
#[derive(Clone, Debug)]
pub struct Machine {
    directory: PathBuf,
    program: Option<PathBuf>,
    ids: Option<(u32, u32)>,
    started: Duration,
    commands: bool,
    network: bool,
    sent: Option<Vec<u8>>,
    /// A file whose text is known, whatever has become of it.
    known: Option<Arc<(PathBuf, Vec<u8>)>>,
    plugin_folder: Option<PathBuf>,
    /// Standard input can be read once, a configuration more often.
    stdin: Arc<OnceLock<Vec<u8>>>,
}

impl Machine {
    /// The machine as this process sees it, without `exec://` and without the network.
    #[must_use]
    pub fn new() -> Self {
        Self {
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            program: None,
            ids: None,
            started: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            commands: false,
            network: false,
            sent: None,
            known: None,
            plugin_folder: None,
            stdin: Arc::default(),
        }
    }

    /// With the text of a file that was read before, at this absolute path.
    #[must_use]
    pub fn with_text(mut self, path: PathBuf, text: Vec<u8>) -> Self {
        self.known = Some(Arc::new((path, text)));
        self
    }

    /// Allows `exec://`.
    #[must_use]
    pub fn allow_commands(mut self, yes: bool) -> Self {
        self.commands = yes;
        self
    }

    /// Allows `http://` and `resolve`.
    #[must_use]
    pub fn allow_network(mut self, yes: bool) -> Self {
        self.network = yes;
        self
    }

    /// Takes another start directory, as a vassal has.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        // As getcwd(2) would say it: without a slash at the end.
        self.directory = self.directory.join(directory.into()).components().collect();
        self
    }

    /// Takes another program for `%b`.
    #[must_use]
    pub fn as_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Takes other ids for `%u` and the like, as a vassal of another owner has.
    #[must_use]
    pub fn as_ids(mut self, uid: u32, gid: u32) -> Self {
        self.ids = Some((uid, gid));
        self
    }

    /// Holds a configuration that a source of vassals supplied, to be read as `emperor://NAME`.
    #[must_use]
    pub fn with_sent(mut self, text: Vec<u8>) -> Self {
        self.sent = Some(text);
        self
    }

    /// Takes a text for standard input.
    #[must_use]
    pub fn with_stdin(self, text: Vec<u8>) -> Self {
        Self { stdin: Arc::new(OnceLock::from(text)), ..self }
    }

    /// Takes another folder for the plugins of uWSGI.
    #[must_use]
    pub fn with_plugins_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugin_folder = Some(folder.into());
        self
    }

    /// No path at all leads nowhere, not to the directory.
    fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            return PathBuf::new();
        }
        self.directory.join(std::ffi::OsStr::from_bytes(path))
    }

    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl World for Machine {
    fn locate(&self, path: &[u8]) -> io::Result<Found> {
        let at = self.at(path);
        if self.known.as_ref().is_some_and(|known| known.0 == at) {
            return Ok(Found { path: at, inode: 0 });
        }
        let resolved = fs::canonicalize(&at)?;
        let meta = fs::symlink_metadata(&at)?;
        if meta.is_symlink() {
            return Ok(Found { path: at, inode: meta.ino() });
        }
        Ok(Found { path: resolved, inode: meta.ino() })
    }

    fn read(&self, path: &[u8], most: usize) -> io::Result<Vec<u8>> {
        let path = self.at(path);
        if let Some(known) = self.known.as_ref().filter(|known| known.0 == path) {
            return bounded(known.1.as_slice(), most);
        }
        let file = Self::open(&path)?;
        if file.metadata()?.is_dir() {
            return Ok(Vec::new());
        }
        bounded(file, most)
    }

    fn read_stdin(&self, most: usize) -> io::Result<Vec<u8>> {
        if let Some(text) = self.stdin.get() {
            return Ok(text.clone());
        }
        let text = bounded(io::stdin().lock(), most)?;
        Ok(self.stdin.get_or_init(|| text).clone())
    }

    fn read_descriptor(&self, number: i32, most: usize) -> io::Result<Vec<u8>> {
        bounded(Self::open(Path::new(&format!("/proc/self/fd/{number}")))?, most)
    }

    fn run(&self, command: &[u8], environment: &[(&[u8], &[u8])], most: usize) -> io::Result<Vec<u8>> {
        if !self.commands {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let text = std::ffi::OsStr::from_bytes;
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(text(command))
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (text(name), text(value))))
            .current_dir(&self.directory)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().map_or(Ok(Vec::new()), |out| bounded(out, most));
        if out.is_err() {
            let _ = child.kill();
        }
        child.wait()?;
        out
    }

    fn sent(&self) -> io::Result<Vec<u8>> {
        self.sent
            .clone()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no emperor sent a configuration"))
    }

    fn fetch(&self, url: &str, most: usize) -> io::Result<Vec<u8>> {
        if !self.network {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        fetch::fetch(url, &String::from_utf8_lossy(&self.host_name()), most)
    }

    fn kind(&self, path: &[u8]) -> Option<PathKind> {
        let kind = fs::metadata(self.at(path)).ok()?.file_type();
        Some(match () {
            () if kind.is_file() => PathKind::File,
            () if kind.is_dir() => PathKind::Directory,
            () => PathKind::Other,
        })
    }

    fn readable(&self, path: &[u8]) -> bool {
        let at = self.at(path);
        let Ok(meta) = fs::metadata(&at) else { return false };
        let kind = meta.file_type();
        if kind.is_dir() {
            return fs::read_dir(&at).is_ok();
        }
        // Opening these has effects of its own: a device may rewind, a writer of a fifo may wake up.
        if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            let (uid, gid) = self.ids();
            let bit = match () {
                () if meta.uid() == uid => 0o400,
                () if meta.gid() == gid => 0o040,
                () => 0o004,
            };
            return uid == 0 || meta.mode() & bit != 0;
        }
        Self::open(&at).is_ok()
    }

    fn glob(&self, pattern: &[u8]) -> Vec<Vec<u8>> {
        let found = std::str::from_utf8(pattern).ok().and_then(|text| self.matches(text)).unwrap_or_default();
        if found.is_empty() { vec![pattern.to_vec()] } else { found }
    }

    fn variables(&self, directory: &[u8], most: usize) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let at = self.at(directory);
        let mut out = Vec::new();
        for entry in fs::read_dir(&at)? {
            let name = entry?.file_name().into_vec();
            let path = at.join(std::ffi::OsStr::from_bytes(&name));
            if name.first() != Some(&b'.') && fs::metadata(&path).is_ok_and(|m| m.is_file()) {
                let text = bounded(Self::open(&path)?, most)?;
                out.push((name, text));
            }
        }
        Ok(out)
    }

    fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    fn program(&self) -> PathBuf {
        self.program.clone().or_else(|| fs::read_link("/proc/self/exe").ok()).unwrap_or_default()
    }

    fn host_name(&self) -> Vec<u8> {
        let mut name = fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
        name.truncate(name.trim_ascii_end().len());
        name
    }

    fn resolve(&self, host: &str) -> Option<String> {
        if !self.network && host.parse::<std::net::Ipv4Addr>().is_err() {
            return None;
        }
        (host, 0).to_socket_addrs().ok()?.find(std::net::SocketAddr::is_ipv4).map(|a| a.ip().to_string())
    }

    fn cpus(&self) -> usize {
        let listed = fs::read_to_string("/sys/devices/system/cpu/online").ok().map(|text| {
            text.trim()
                .split(',')
                .map(|range| {
                    let (from, to) = range.split_once('-').unwrap_or((range, range));
                    match (from.parse::<usize>(), to.parse::<usize>()) {
                        (Ok(from), Ok(to)) if to >= from => to - from + 1,
                        _ => 0,
                    }
                })
                .sum()
        });
        listed
            .filter(|count| *count > 0)
            .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
            .unwrap_or(1)
    }

    fn ids(&self) -> (u32, u32) {
        self.ids.unwrap_or_else(|| {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let id = |label: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(label))?;
                line.split_ascii_whitespace().next()?.parse().ok()
            };
            (id("Uid:").unwrap_or(u32::MAX), id("Gid:").unwrap_or(u32::MAX))
        })
    }

    fn user_name(&self, id: u32) -> Option<Vec<u8>> {
        name_of("/etc/passwd", id)
    }

    fn group_name(&self, id: u32) -> Option<Vec<u8>> {
        name_of("/etc/group", id)
    }

    fn has_user(&self, name: &[u8]) -> bool {
        has_name("/etc/passwd", name)
    }

    fn has_group(&self, name: &[u8]) -> bool {
        has_name("/etc/group", name)
    }

    fn started(&self) -> Duration {
        self.started
    }

    fn somaxconn(&self) -> Option<u64> {
        fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
    }

    fn plugin_folder(&self) -> Option<PathBuf> {
        let found = || PLUGIN_FOLDERS.iter().map(PathBuf::from).find(|folder| folder.is_dir());
        self.plugin_folder.clone().or_else(found)
    }
}

impl Machine {
    fn matches(&self, pattern: &str) -> Option<Vec<Vec<u8>>> {
        let absolute = pattern.starts_with('/');
        let base = self.directory.to_str()?;
        let full =
            if absolute { pattern.to_owned() } else { format!("{}/{pattern}", glob::Pattern::escape(base)) };
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            require_literal_separator: true,
            ..Default::default()
        };
        let mut out = Vec::new();
        for path in glob::glob_with(&full, options).ok()?.flatten() {
            let is_directory = path.is_dir();
            let shown =
                if absolute { path.as_path() } else { path.strip_prefix(&self.directory).unwrap_or(&path) };
            let mut bytes = shown.as_os_str().as_bytes().to_vec();
            if is_directory {
                bytes.push(b'/');
            }
            out.push(bytes);
        }
        out.sort();
        Some(out)
    }
}

/// Reads up to `most` bytes; more is an error, an empty fifo is an end.
fn bounded(from: impl io::Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match from.take(most as u64 + 1).read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most} bytes")));
    }
    Ok(bytes)
}

/// The first field of the line whose third is `id`, in a file of colon-separated fields.
fn name_of(file: &str, id: u32) -> Option<Vec<u8>> {
    let text = fs::read(file).ok()?;
    text.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string().as_bytes()).then(|| name.to_vec())
    })
}

fn has_name(file: &str, name: &[u8]) -> bool {
    let text = fs::read(file).unwrap_or_default();
    text.split(|b| *b == b'\n').any(|line| line.split(|b| *b == b':').next() == Some(name))
}

/// Where distributions put the plugins of uWSGI: Debian; Fedora; Arch and Alpine.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/uwsgi/plugins", "/usr/lib64/uwsgi", "/usr/lib/uwsgi"];
