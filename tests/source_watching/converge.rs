//! Whatever happens, and in whatever order: what was said comes to what is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use emperor::emperor::source::{Report, SourceOptions, VassalName};

use crate::world::{World, stage};

/// A generator small enough to be read: a failing round can be repeated by its number.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// What somebody who believes the reports takes to be there: inode, size and date of each.
type Belief = BTreeMap<VassalName, (u64, u64, i64)>;

fn believe(said: &[Report]) -> Belief {
    let mut belief = Belief::new();
    let mut scan: Option<Vec<VassalName>> = None;
    for report in said {
        match report {
            Report::ScanBegan(_) => scan = Some(Vec::new()),
            Report::Seen(_, name, identity) => {
                belief.insert(name.clone(), (identity.inode, identity.size, identity.mtime_ns));
                scan.iter_mut().for_each(|seen| seen.push(name.clone()));
            }
            Report::Writing(_, name) | Report::Unusable(_, name, _) => {
                scan.iter_mut().for_each(|seen| seen.push(name.clone()))
            }
            Report::Odd(_, name, _) | Report::Gone(_, name) => drop(belief.remove(name)),
            Report::ScanEnded(_) => {
                if let Some(seen) = scan.take() {
                    belief.retain(|name, _| seen.contains(name));
                }
            }
            Report::Trouble(..) => scan = None,
            Report::Supplies(..) | Report::Remark(..) => {} // a directory has neither
        }
    }
    belief
}

fn truth(root: &Path, directories: &[&str]) -> Belief {
    let mut truth = Belief::new();
    for directory in directories {
        let Ok(entries) = fs::read_dir(root.join(directory)) else { continue };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Ok(found) = fs::metadata(root.join(directory).join(&name)) else { continue };
            if found.is_file() && name.ends_with(".ini") {
                let prefix = if directories.len() > 1 { format!("{directory}/") } else { String::new() };
                let name = VassalName::new(format!("{prefix}{name}").as_bytes());
                let mtime = found.mtime() * 1_000_000_000 + found.mtime_nsec();
                truth.insert(name, (found.ino(), found.size(), mtime));
            }
        }
    }
    truth
}

/// One thing a user, a deployment or a tenant may do. Most of them fail sometimes, which is as good.
fn act(dice: &mut Dice, root: &Path, directories: &[&str]) {
    let names = ["a.ini", "b.ini", "c.ini", "d", "t1", "t2"];
    let directory = root.join(dice.of(directories));
    let (one, other) =
        (directory.join(dice.of(&names)), root.join(dice.of(directories)).join(dice.of(&names)));
    let target = root.join("targets").join(dice.of(&["x", "y", "z"]));
    let text = "x".repeat(dice.below(50));
    let _may_fail = match dice.below(16) {
        0..=2 => fs::write(&one, text),
        3 => fs::remove_file(&one),
        4 => fs::rename(&one, &other),
        5 => fs::copy(&one, &other).map(drop),
        6 => symlink(&target, &one),
        7 => symlink(other.file_name().unwrap(), &one),
        8 => symlink(&target, directory.join("new")).and_then(|()| fs::rename(directory.join("new"), &one)),
        9 => fs::write(&target, text),
        10 => fs::remove_file(&target),
        11 => fs::rename(&target, root.join("targets/x")),
        12 => match dice.below(3) {
            0 => fs::rename(root.join("targets"), root.join("elsewhere")),
            1 => fs::rename(root.join("elsewhere"), root.join("targets")),
            _ => symlink(root.join("targets/y"), &target),
        },
        13 => match dice.below(4) {
            0 => fs::rename(&directory, root.join("away")),
            1 => fs::rename(root.join("away"), &directory),
            2 => fs::create_dir(&directory),
            _ => fs::remove_dir_all(&directory),
        },
        14 => fs::create_dir(&one).and_then(|()| if text.len() > 25 { fs::remove_dir(&one) } else { Ok(()) }),
        _ => fs::remove_file(&one).and_then(|()| fs::write(&one, text)),
    };
}

fn rounds(arguments: &[&str], directories: &[&str], count: u64) {
    for round in 1..=count {
        let mut dice = Dice(round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (keep, root) = stage();
        for directory in directories.iter().chain(&["targets"]) {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let options = SourceOptions { settle: Duration::from_millis(10), ..SourceOptions::default() };
        let mut world = World::with((keep, root.clone()), arguments, options);
        for _ in 0..40 {
            for _ in 0..=dice.below(4) {
                act(&mut dice, &root, directories);
            }
            let pause = [0, 0, 100, 1_000, 4_000][dice.below(5)];
            world.run(Duration::from_micros(pause), |_| false);
        }
        for directory in directories {
            let _there_already = fs::create_dir_all(root.join(directory));
        }
        let truth = truth(&root, directories);
        let patience = Instant::now() + Duration::from_secs(5);
        while believe(&world.said) != truth && Instant::now() < patience {
            world.run(Duration::from_millis(20), |_| false);
        }
        world.run(Duration::from_millis(40), |_| false);
        assert_eq!(believe(&world.said), truth, "round {round}: {:?}", world.said);
    }
}

#[test]
fn what_was_said_of_a_directory_comes_to_what_is_there() {
    rounds(&["v"], &["v"], 30);
}

#[test]
fn what_was_said_of_a_pattern_comes_to_what_is_there() {
    rounds(&["glob://p/*/conf/*.ini"], &["p/1/conf", "p/2/conf"], 30);
}
