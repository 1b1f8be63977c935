//! What a path hangs on: every link and every directory on the way to what it names.
//!
//! A directory's watch tells nothing of a link that leads elsewhere, nor of a directory above that is renamed.
//! Here a path is walked as the kernel walks it, and the walk says what has to be watched to hear of every
//! change of its end.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, lstat};

/// Something to watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Dependency {
    /// One name in a directory: a link, or a directory, on the way.
    Name(PathBuf, Box<[u8]>),
    /// One name in a directory, and that it was written: a file at the end of the way, there or not.
    File(PathBuf, Box<[u8]>),
    /// That the directory is itself moved or removed.
    Place(PathBuf),
    /// The content of a file.
    Content(PathBuf),
}

/// Where a path leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// To a directory: its real path, its device and inode.
    Directory(PathBuf, u64, u64),
    /// To something else that is there.
    File,
    /// To nothing: the first path that is not there.
    Missing(PathBuf),
    /// Through something that is not a directory.
    NotADirectory(PathBuf),
    /// In a circle of links.
    Loop,
    /// The kernel refuses: where, and why.
    Refused(PathBuf, Errno),
}

/// A path walked to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Walk {
    pub(super) end: End,
    pub(super) dependencies: Vec<Dependency>,
}

/// Walks to a source's directory. Its renamed ancestors are heard of, too.
pub(super) fn to_directory(path: &Path) -> Walk {
    walk(PathBuf::from("/"), path, true)
}

/// Walks to the file behind a name in a directory whose real path is given.
pub(super) fn to_file(directory: &Path, name: &[u8]) -> Walk {
    walk(directory.to_owned(), Path::new(OsStr::from_bytes(name)), false)
}

struct Step {
    directory: PathBuf,
    name: Box<[u8]>,
    link: bool,
}

fn walk(start: PathBuf, path: &Path, ancestors: bool) -> Walk {
    let mut steps: Vec<Step> = Vec::new();
    let end = run(start, path, &mut steps);
    let there = matches!(end, End::Directory(..) | End::File);
    let last = steps.len().saturating_sub(1);
    let mut dependencies = Vec::with_capacity(steps.len() + 1);
    if let (End::File, Some(step)) = (&end, steps.last()) {
        dependencies.push(Dependency::Content(step.directory.join(OsStr::from_bytes(&step.name))));
    }
    for (at, step) in steps.into_iter().enumerate() {
        // A directory that is removed while somebody works in it does not say so itself: when the end is
        // missing, each directory on the way is asked for the next name.
        if at == last && !ancestors && !step.link {
            dependencies.push(Dependency::File(step.directory, step.name));
        } else if step.link || at == last || !there {
            dependencies.push(Dependency::Name(step.directory, step.name));
        } else if ancestors {
            dependencies.push(Dependency::Place(step.directory));
        }
    }
    Walk { end, dependencies }
}

fn run(start: PathBuf, path: &Path, steps: &mut Vec<Step>) -> End {
    let mut here = start;
    let mut ahead: Vec<Box<[u8]>> = Vec::new();
    push_reversed(&mut ahead, path.as_os_str().as_bytes());
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match &*name {
            b"" | b"." => continue,
            b".." => {
                here.pop();
                continue;
            }
            _ => {}
        }
        let next = here.join(OsStr::from_bytes(&name));
        let found = lstat(&next);
        let kind = found.map(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT);
        let link = kind == Ok(SFlag::S_IFLNK);
        steps.push(Step { directory: here.clone(), name, link });
        if steps.len() > MOST_STEPS {
            return End::Loop;
        }
        match kind {
            Ok(SFlag::S_IFLNK) => {
                links += 1;
                if links > MOST_LINKS {
                    return End::Loop;
                }
                match nix::fcntl::readlink(&next) {
                    Ok(target) => {
                        let target = target.into_vec();
                        if target.first() == Some(&b'/') {
                            here = PathBuf::from("/");
                        }
                        push_reversed(&mut ahead, &target);
                    }
                    Err(Errno::ENOENT | Errno::EINVAL) => return End::Missing(next), // it has just changed
                    Err(errno) => return End::Refused(next, errno),
                }
            }
            Ok(SFlag::S_IFDIR) => here = next,
            Ok(_) if ahead.iter().all(|rest| rest.is_empty()) => return End::File,
            Ok(_) | Err(Errno::ENOTDIR) => return End::NotADirectory(next),
            Err(Errno::ENOENT) => return End::Missing(next),
            Err(errno) => return End::Refused(next, errno),
        }
    }
    match lstat(&here) {
        Ok(found) => End::Directory(here, found.st_dev, found.st_ino),
        Err(Errno::ENOENT | Errno::ENOTDIR) => End::Missing(here),
        Err(errno) => End::Refused(here, errno),
    }
}

fn push_reversed(ahead: &mut Vec<Box<[u8]>>, path: &[u8]) {
    ahead.extend(path.split(|byte| *byte == b'/').rev().map(Box::from));
}

/// As many as the kernel follows. Source: path_resolution(7).
const MOST_LINKS: u32 = 40;

/// Forty links of a tenant's can lead through eighty thousand directories, each step a look at a path of four
/// thousand bytes: seconds, in which nothing else happens. No path that a person has made is that long.
const MOST_STEPS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        (dir, root)
    }

    fn name(dir: &Path, name: &str) -> Dependency {
        Dependency::Name(dir.to_owned(), name.as_bytes().into())
    }

    #[test]
    fn a_plain_directory_hangs_on_its_name_and_on_the_places_above() {
        let (_keep, root) = scene();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let walk = to_directory(&root.join("a/b/"));
        assert!(matches!(&walk.end, End::Directory(path, _, _) if *path == root.join("a/b")));
        assert_eq!(walk.dependencies.last(), Some(&name(&root.join("a"), "b")));
        assert!(walk.dependencies.contains(&Dependency::Place(root)));
        let names = walk.dependencies.iter().filter(|d| matches!(d, Dependency::Name(..))).count();
        assert_eq!(names, 1);
    }

    #[test]
    fn a_link_on_the_way_is_asked_for_and_dots_are_followed() {
        let (_keep, root) = scene();
        std::fs::create_dir_all(root.join("releases/1/v")).unwrap();
        symlink("./releases/../releases/1", root.join("current")).unwrap();
        let walk = to_directory(&root.join("current/v"));
        assert!(matches!(&walk.end, End::Directory(path, _, _) if *path == root.join("releases/1/v")));
        assert!(walk.dependencies.contains(&name(&root, "current")));
        assert!(walk.dependencies.contains(&name(&root.join("releases/1"), "v")));
    }

    #[test]
    fn what_is_missing_is_asked_for_in_every_directory_above() {
        let (_keep, root) = scene();
        let walk = to_directory(&root.join("x/y"));
        assert_eq!(walk.end, End::Missing(root.join("x")));
        assert_eq!(walk.dependencies.last(), Some(&name(&root, "x")));
        assert!(walk.dependencies.iter().all(|d| matches!(d, Dependency::Name(..))));
    }

    #[test]
    fn a_chain_of_links_to_a_file_hangs_on_each_link_and_on_the_file() {
        let (_keep, root) = scene();
        for dir in ["v", "w", "z"] {
            std::fs::create_dir(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("z/real"), "x").unwrap();
        symlink(root.join("z/real"), root.join("w/second")).unwrap();
        symlink("../w/second", root.join("v/a.ini")).unwrap();
        let walk = to_file(&root.join("v"), b"a.ini");
        assert_eq!(walk.end, End::File);
        for dependency in [
            Dependency::Content(root.join("z/real")),
            name(&root.join("v"), "a.ini"),
            name(&root.join("w"), "second"),
            Dependency::File(root.join("z"), (*b"real").into()),
        ] {
            assert!(walk.dependencies.contains(&dependency), "{dependency:?} in {walk:?}");
        }
    }

    #[test]
    fn links_that_go_a_very_long_way_are_not_followed_to_the_end() {
        let (_keep, root) = scene();
        let (deep, back) = ("d/".repeat(900), "../".repeat(900));
        std::fs::create_dir_all(root.join(&deep)).unwrap();
        for link in 0..19 {
            symlink(format!("{deep}up{link}"), root.join(format!("l{link}"))).unwrap();
            symlink(format!("{back}l{}", link + 1), root.join(&deep).join(format!("up{link}"))).unwrap();
        }
        std::fs::write(root.join("l19"), "").unwrap();
        assert!(std::fs::metadata(root.join("l0")).unwrap().is_file(), "the kernel gets there");
        let began = std::time::Instant::now();
        let walk = to_file(&root, b"l0");
        assert_eq!(walk.end, End::Loop);
        assert!(walk.dependencies.len() <= MOST_STEPS + 1, "{}", walk.dependencies.len());
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_millis(500), "{took:?}");
    }

    #[test]
    fn circles_and_files_on_the_way_end_the_walk() {
        let (_keep, root) = scene();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(to_file(&root, b"a").end, End::Loop);
        std::fs::write(root.join("file"), "").unwrap();
        assert_eq!(to_directory(&root.join("file/x")).end, End::NotADirectory(root.join("file")));
        assert!(
            matches!(to_directory(Path::new("/")).end, End::Directory(path, _, _) if path == Path::new("/"))
        );
    }
}
