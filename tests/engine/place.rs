//! Vassals in folders of their own, served by the built-in engine or by uWSGI, asked over unix sockets.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No wait of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a vassal in it; gone with its value.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(place.path().join("www")).expect("a folder for pages");
        fs::write(place.path().join("www/index.html"), "<p>hello</p>\n").expect("a page");
        Self(place)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the vassal `v.ini`, whose socket is `v.sock`, with more lines.
    pub(crate) fn vassal(&self, more: &str) {
        let head = "[uwsgi]\nplugin = 0:notfound\nhttp-socket = %dv.sock\nstatic-index = index.html\n";
        fs::write(self.at("v.ini"), format!("{head}{more}\n")).expect("a vassal");
    }

    /// A program that serves `v.ini`, its output in `log`.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        let log = fs::File::create(self.at("log")).expect("a log");
        command.args(&program[1..]).args(["--ini", "v.ini"]).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        command
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    /// The answer to a request, once somebody accepts it.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match connect(&self.at("v.sock")).and_then(|stream| ask(stream, request)) {
                Ok(answer) => return answer,
                Err(error) if Instant::now() > deadline => panic!("no answer: {error}; log:\n{}", self.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n"))
    }
}

/// As the emperor starts it: with the arguments that uWSGI would get.
pub(crate) const ENGINE: &[&str] = &[env!("CARGO_BIN_EXE_emperor")];

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("a process"))
    }

    /// The exit status, or minus the signal.
    pub(crate) fn ended(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = eventually("the process ends", || self.0.try_wait().expect("a child"));
        status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `ready` gives as soon as it gives something.
pub(crate) fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = ready() {
            return it;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An answer of a web server.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a request and reads until the server closes.
pub(crate) fn ask(mut stream: UnixStream, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
        .ok_or_else(|| io::Error::other(format!("not an answer: {}", String::from_utf8_lossy(&bytes))))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).collect();
    Some(Answer { status, headers, body: bytes[end + 4..].to_vec() })
}
