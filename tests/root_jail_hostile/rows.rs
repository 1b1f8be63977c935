//! What each attempt comes to: `attempts.tsv`.

use nix::fcntl::{Flock, FlockArg};

use super::support::skip;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root_jail_hostile/attempts.tsv");

/// What an attempt comes to where this machine has no control groups to limit it by.
pub(crate) const UNLIMITED: &str = "unlimited";

/// What the program said of each attempt.
pub(crate) type Found = BTreeMap<String, String>;

/// The columns of the table, and how the documentation calls them.
const COLUMNS: &[(&str, &str)] = &[
    ("uwsgi", "uWSGI's Emperor, tenant"),
    ("unit", "hardened unit"),
    ("none-tenant", "`none`, tenant"),
    ("standard-tenant", "`standard`, tenant"),
    ("strict-tenant", "`strict`, tenant"),
    ("standard-user", "`standard`, user"),
    ("strict-user", "`strict`, user"),
    ("standard-root", "`standard`, root"),
    ("strict-root", "`strict`, root"),
];

/// The kinds of attempts by how their names begin, and how the documentation calls them.
const KINDS: &[(&str, &str)] = &[
    ("process", "see, signal, trace, read, change another tenant's process"),
    ("emperor", "the same with the emperor"),
    ("init", "the same with process 1; reach the host's files through it"),
    ("file", "read and write others' files, the emperor's log, the vassals' directory, the system"),
    ("socket", "connect to others' sockets, by path and abstract"),
    ("ipc", "others' shared memory and message queues"),
    ("key", "keys in the emperor's keyring"),
    ("become", "another user, root by set-id programs, capabilities"),
    ("make", "leave a set-id program"),
    ("device", "make and open devices; type on root's terminal"),
    ("mount", "mount, unmount, change the root directory"),
    ("kernel", "BPF, perf, io_uring, modules, reboot, swap, clock, host name, log"),
    ("namespace", "make namespaces, enter others'"),
    ("filter", "other numberings of system calls"),
    ("proc", "write to /proc"),
    ("sys", "write to /sys, leave the control group"),
    ("escape", "out by chroot, descriptors, file handles"),
    ("network", "reach services and other networks, raw sockets, privileged ports"),
    ("share", "200 processes, 256 MiB, a whole processor, 320 MiB of /tmp, real time"),
    ("daemon", "stay after the stop"),
];

/// Begins the note of an attempt at something that the kernel does not have with which the rows were made: it does not
/// count.
const ABSENT: &str = "absent";

/// One attempt.
pub(crate) struct Row {
    /// As the program calls it.
    pub(crate) name: String,
    cells: Vec<String>,
    /// Why it succeeds nowhere.
    note: String,
}

impl Row {
    fn cell(&self, rows: &Rows, column: &str) -> &str {
        let at = rows.columns.iter().position(|name| name == column).expect("a column of the rows");
        &self.cells[at]
    }

    /// Whether it succeeds where nothing holds it, or the row says why not.
    pub(crate) fn is_real(&self) -> bool {
        !self.note.is_empty() || self.cells.iter().any(|cell| cell.split('|').any(|word| word == "succeeded"))
    }
}

/// All of them.
pub(crate) struct Rows {
    head: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

pub(crate) fn bless() -> bool {
    std::env::var_os("EMPEROR_BLESS").is_some()
}

impl Rows {
    pub(crate) fn read() -> Self {
        Self::parse(&fs::read_to_string(PATH).expect("attempts.tsv"))
    }

    fn parse(text: &str) -> Self {
        let head: String = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .fold(String::new(), |all, line| all + line + "\n");
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<_> =
            lines.next().expect("the names of the columns").split('\t').map(str::to_owned).collect();
        let columns = names[1..names.len() - 1].to_vec();
        let row = |line: &str| {
            let cells: Vec<_> = line.split('\t').map(str::to_owned).collect();
            assert_eq!(cells.len(), names.len(), "{line:?}");
            Row {
                name: cells[0].clone(),
                note: cells[cells.len() - 1].clone(),
                cells: cells[1..cells.len() - 1].to_vec(),
            }
        };
        Self { head, rows: lines.map(row).collect(), columns }
    }

    fn text(&self) -> String {
        let mut text = format!("{}attempt\t{}\tnote\n", self.head, self.columns.join("\t"));
        for row in &self.rows {
            writeln!(text, "{}\t{}\t{}", row.name, row.cells.join("\t"), row.note).expect("a string");
        }
        text
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// The counts, by kind.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("| attempts | {} |\n", COLUMNS.map_names());
        text += &format!("| --- |{}\n", " --- |".repeat(COLUMNS.len()));
        let count = |kind: Option<&str>, column: &str| {
            let of_kind = |row: &&Row| kind.is_none_or(|kind| row.name.split('-').next() == Some(kind));
            let real = self.rows.iter().filter(|row| !row.note.starts_with(ABSENT));
            let made: Vec<_> = real.filter(of_kind).map(|row| row.cell(self, column)).collect();
            let held = made.iter().filter(|cell| !cell.starts_with("succeeded")).count();
            format!("{held} of {}", made.len())
        };
        let mut line = |what: &str, kind: Option<&str>| {
            let cells: Vec<_> = COLUMNS.iter().map(|(column, _)| count(kind, column)).collect();
            writeln!(text, "| {what} | {} |", cells.join(" | ")).expect("a string");
        };
        for (kind, what) in KINDS {
            line(&format!("{kind}: {what}"), Some(kind));
        }
        line("**all**", None);
        text
    }
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for &[(&str, &str)] {
    fn map_names(&self) -> String {
        self.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" | ")
    }
}

/// Fails unless each attempt came to what its row says, and all were made.
pub(crate) fn judge(column: &str, found: &Found) {
    if bless() {
        return write(column, found);
    }
    let rows = Rows::read();
    let mut wrong = Vec::new();
    for row in rows.all() {
        let (expected, got) =
            (row.cell(&rows, column), found.get(&row.name).map_or("not made", String::as_str));
        if got == UNLIMITED {
            skip(&format!("{}: no limit can be set here", row.name));
        } else if !expected.split('|').any(|word| word == got) {
            wrong.push(format!("{}: {got} instead of {expected}", row.name));
        }
    }
    let known: BTreeSet<_> = rows.all().map(|row| &row.name).collect();
    wrong.extend(found.keys().filter(|name| !known.contains(name)).map(|name| format!("{name}: no row")));
    assert!(wrong.is_empty(), "{column}:\n{}", wrong.join("\n"));
}

/// What was found becomes what is expected. Other test processes may do the same at the same time.
fn write(column: &str, found: &Found) {
    let file = File::open(PATH).expect("attempts.tsv");
    let _lock = Flock::lock(file, FlockArg::LockExclusive).expect("a lock");
    let mut rows = Rows::read();
    let at = rows.columns.iter().position(|name| name == column).expect("a column of the rows");
    for (name, got) in found {
        let known = rows.rows.iter().position(|row| row.name == *name);
        let row = known.unwrap_or_else(|| {
            let cells = vec!["-".to_owned(); rows.columns.len()];
            rows.rows.push(Row { name: name.clone(), cells, note: String::new() });
            rows.rows.len() - 1
        });
        let cell = &mut rows.rows[row].cells[at];
        if !cell.split('|').any(|word| word == got) {
            cell.clone_from(got);
        }
    }
    fs::write(PATH, rows.text()).expect("attempts.tsv");
}
