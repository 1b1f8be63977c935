//! The old program up to the point where it would start to serve: for `--show-config`, `--get` and `--no-server`.

use super::answers::Config;
use super::door::World;
use super::engine::Mode;
use super::loader::Loader;
use super::model::{Limits, Output};
use super::values;
use std::ffi::OsString;
use std::io::{self, Write};

/// Reads a configuration as uWSGI would, prints what it prints, and returns its exit status.
///
/// `arguments` are those behind the program's name. `--show-config` writes the list to `log` as the old server does,
/// then the options that end it before it serves anybody are looked at. A closed `stdout` or `log` is no error.
pub fn as_uwsgi(
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    world: &dyn World,
    stdout: &mut dyn Write,
    log: &mut dyn Write,
) -> u8 {
    let (output, status) =
        match Loader::new(world, Limits::default()).load(arguments, environment, Mode::Uwsgi) {
            Ok(config) => after_reading(config, world),
            Err(error) => {
                let mut output = (*error.output).clone();
                let place =
                    if error.origin.is_known() { format!(" ({})", error.origin) } else { String::new() };
                output.say(&[format!("{}{place}", error.trouble).as_bytes()]);
                (output, 1)
            }
        };
    let _ = write(stdout, &output.stdout).and_then(|()| write(log, &output.log));
    status
}

fn write(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn after_reading(mut config: Config, world: &dyn World) -> (Output, u8) {
    if let Some(status) = config.exit {
        return (config.output, status);
    }
    if config.flag("show-config") {
        let shown = config.show();
        config.output.log.extend_from_slice(&shown);
    }
    let status = match missing_owner(&config, world) {
        Some(text) => {
            config.output.say(&[text.as_bytes()]);
            1
        }
        None => 0,
    };
    (config.output, status)
}

/// As root, users and groups are looked up once everything is read.
fn missing_owner(config: &Config, world: &dyn World) -> Option<String> {
    if world.ids().0 != 0 {
        return None;
    }
    let gone = |kind: &str, name: &[u8]| Some(format!("{kind} {} not found.", super::lossy(name)));
    if let Some(group) = config.string("gid")
        && values::numeric_id(group.value).is_none()
        && !world.has_group(group.value)
    {
        return gone("group", group.value);
    }
    if let Some(user) = config.string("uid")
        && values::numeric_id(user.value).is_none()
        && !world.has_user(user.value)
    {
        return gone("user", user.value);
    }
    None
}
