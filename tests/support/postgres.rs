//! A PostgreSQL server for one test: a data directory of its own, on a free port of the loopback interface.

use super::{PATIENCE, poll, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The server. It ends when this is dropped, or when the test's process dies.
pub(crate) struct Postgres {
    data: PathBuf,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
    _keep: tempfile::TempDir,
}

/// The table of uWSGI's documentation, and a trigger that says when it changes.
const TABLE: &str = "CREATE TABLE vassals (name text PRIMARY KEY, config text, ts timestamptz NOT NULL DEFAULT now(), \
     uid int, gid int, socket text);";
const TRIGGER: &str = "CREATE FUNCTION vassals_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY uwsgi_emperor_vassals; \
     RETURN NULL; END $$; \
     CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON vassals \
     FOR EACH STATEMENT EXECUTE FUNCTION vassals_changed();";

impl Postgres {
    /// A server with an empty table `vassals`; `None`, and a line that says so, where there is no PostgreSQL.
    pub(crate) fn start() -> Option<Self> {
        let programs = programs()?;
        let keep = tempfile::Builder::new().prefix("emperor-pg-").tempdir().expect("a temporary directory");
        let owner = owner();
        fs::set_permissions(keep.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        let data = keep.path().join("data");
        fs::create_dir(&data).expect("a directory for the data");
        if let Some(owner) = &owner {
            chown(&data, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("its owner");
        }
        let mut postgres = Self { data, programs, port: 0, server: None, _keep: keep };
        let mut initdb = postgres.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let done = initdb.arg("-D").arg(&postgres.data).output().expect("initdb");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        postgres.run();
        postgres.sql(TABLE);
        Some(postgres)
    }

    /// The same, and what changes is announced.
    pub(crate) fn announcing() -> Option<Self> {
        let postgres = Self::start()?;
        postgres.sql(TRIGGER);
        Some(postgres)
    }

    /// Runs the server, on the port that it had before.
    pub(crate) fn run(&mut self) {
        if self.port == 0 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            self.port = free.local_addr().expect("its number").port();
        }
        let mut server = self.command("postgres");
        server.args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "unix_socket_directories=",
        ]);
        server.arg("-D").arg(&self.data).arg("-p").arg(self.port.to_string());
        let log = fs::File::options().create(true).append(true).open(self.data.with_extension("log"));
        server.stdout(Stdio::null()).stderr(log.expect("the server's log"));
        self.server = Some(server.spawn().expect("postgres"));
        let up = poll(PATIENCE, || self.try_sql("SELECT 1").ok());
        assert!(up.is_some(), "{}", fs::read_to_string(self.data.with_extension("log")).expect("its log"));
    }

    /// Ends it at once, with all its connections.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = i32::try_from(server.id()).expect("a process id");
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
            let _ = server.wait();
        }
    }

    /// How to reach it, as libpq wants it.
    pub(crate) fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// An `emperor` argument with this query.
    pub(crate) fn source(&self, sql: &str) -> String {
        format!("pg://{};{sql}", self.conninfo())
    }

    /// An `emperor` argument with the query for all columns.
    pub(crate) fn all(&self) -> String {
        self.source("SELECT name, config, EXTRACT(EPOCH FROM ts), uid, gid, socket FROM vassals")
    }

    /// Runs SQL, and gives what it prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|cause| panic!("{sql}: {cause}"))
    }

    /// Puts a vassal there, or another version of it: each is a second younger than the one before.
    pub(crate) fn vassal(&self, name: &str, config: &str) {
        self.sql(&format!(
            "INSERT INTO vassals AS v (name, config) VALUES ('{name}', $config${config}$config$) \
             ON CONFLICT (name) DO UPDATE SET config = EXCLUDED.config, ts = v.ts + interval '1 second'"
        ));
    }

    fn try_sql(&self, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", &self.conninfo()]);
        let mut psql = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let text = sql.to_owned();
        let mut input = psql.stdin.take().expect("its input");
        let writer = std::thread::spawn(move || {
            // It may have ended before it has read all.
            let _ = std::io::Write::write_all(&mut input, text.as_bytes());
        });
        let done = psql.wait_with_output().map_err(|error| error.to_string())?;
        writer.join().expect("the writer");
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        }
    }

    /// One of its programs, as the user that may run it; it ends when this thread does.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let Some(owner) = owner() {
            let (uid, gid) = (owner.uid.to_string(), owner.gid.to_string());
            command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
        }
        command.arg(self.programs.join(program)).current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server refuses to run as root.
fn owner() -> Option<User> {
    let root = nix::unistd::geteuid().is_root();
    let user = |name| User::from_name(name).ok().flatten();
    root.then(|| user("postgres").or_else(|| user("nobody")).expect("a user for the server"))
}

/// Where Debian puts the programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|it| Some((it.file_name().to_str()?.parse::<u32>().ok()?, it.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .max();
    if newest.is_none() {
        skip("postgresql is not installed");
    }
    newest.map(|(_, bin)| bin)
}

/// Whether uWSGI's own monitor for PostgreSQL is there to be compared with.
pub(crate) fn has_plugin() -> bool {
    let there = Path::new("/usr/lib/uwsgi/plugins/emperor_pg_plugin.so").exists();
    if !there {
        skip("uwsgi-plugin-emperor-pg is not installed");
    }
    there
}
