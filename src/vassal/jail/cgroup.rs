//! Control groups that the administrator names: uWSGI's `cgroup`, `cgroup-opt`, `cgroup-dir-mode`, on both versions.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, fstatfs};

use super::super::link::Failure;
use super::super::plan::Step;
use super::super::terms::cgroup::NamedGroups;

/// Makes each directory, or sets its mode where it is there, enters it, then writes the options to every one. As in
/// uWSGI a file that a group does not have is passed over, and a value that is refused ends the launch.
///
/// Entered by `cgroup.procs`, which both versions have and which takes the whole process.
pub(in super::super) fn enter(groups: &NamedGroups) -> Result<(), Failure> {
    let failed =
        |object: &Path, error: &io::Error| Failure::new(Step::ControlGroup, &object.display(), error);
    for directory in &groups.directories {
        let path = directory.as_path();
        make(path, groups.mode).map_err(|error| failed(path, &error))?;
        let procs = path.join("cgroup.procs");
        write(&procs, b"0").map_err(|error| failed(&procs, &error))?;
    }
    for directory in &groups.directories {
        for (file, value) in &groups.options {
            let path = directory.as_path().join(file.as_path());
            match write(&path, value.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => written.map_err(|error| failed(&path, &error))?,
            }
        }
    }
    Ok(())
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = File::open(path)?;
            is_a_group(fstatfs(&there)?.filesystem_type())?;
            there.set_permissions(Permissions::from_mode(mode))
        }
        Err(error) => Err(error),
        Ok(()) => {
            let made = is_a_group(fstatfs(&File::open(path)?)?.filesystem_type());
            if made.is_err() {
                // It is empty: we have just made it.
                let _ = fs::remove_dir(path);
            }
            made
        }
    }
}

fn is_a_group(kind: FsType) -> io::Result<()> {
    if [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&kind) {
        return Ok(());
    }
    Err(io::Error::other("not on a cgroup file system; name a directory below /sys/fs/cgroup"))
}

fn write(path: &Path, value: &[u8]) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW;
    File::options().write(true).custom_flags(flags).open(path)?.write_all(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vassal::plan::Text;

    #[test]
    fn only_directories_of_control_groups_are_made_and_written_to() {
        let place = tempfile::tempdir().unwrap();
        let there = place.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, Permissions::from_mode(0o755)).unwrap();
        for name in ["there", "made"] {
            let path = place.path().join(name);
            let groups = NamedGroups {
                directories: vec![Text::from(path.as_os_str())],
                mode: 0o700,
                options: vec![("file".into(), "value".into())],
            };
            let failure = enter(&groups).unwrap_err();
            assert_eq!(failure.step, Step::ControlGroup);
            assert_eq!(failure.object, path.display().to_string());
            assert!(failure.cause.contains("cgroup file system"), "{failure}");
        }
        assert!(!place.path().join("made").exists(), "what was made by mistake is gone again");
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!there.join("file").exists());
    }
}
