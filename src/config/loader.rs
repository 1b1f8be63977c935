//! The front of the room: one call reads a whole configuration.

use super::answers::Config;
use super::door::World;
use super::engine::{Engine, Mode};
use super::error::{ConfigError, Halt};
use super::model::Limits;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// Reads configurations.
#[derive(Clone, Copy)]
pub struct Loader<'w> {
    pub(super) world: &'w dyn World,
    limits: Limits,
    program: &'w str,
}

/// One reading: what came of it, why it broke off if it did, and the file to read instead.
pub(super) struct Reading {
    pub config: Config,
    pub error: Option<ConfigError>,
    fallback: Option<Vec<u8>>,
}

impl<'w> Loader<'w> {
    /// A loader that asks `world` for everything it needs and stops at `limits`.
    #[must_use]
    pub fn new(world: &'w dyn World, limits: Limits) -> Self {
        Self { world, limits, program: "uwsgi" }
    }

    /// The name this program was called by, for the words of a wrong command line.
    #[must_use]
    pub fn called(mut self, program: &'w str) -> Self {
        self.program = program;
        self
    }

    /// Reads the environment, the command line (without the program's name), and all files they name.
    ///
    /// When that would end the program with status 1 and a `fallback-config` was given, that file is read instead,
    /// as the only argument.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and the cause; everything said before is in its `output`.
    pub fn load(
        &self,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
        mode: Mode,
    ) -> Result<Config, ConfigError> {
        let mut first = self.read(arguments, environment, mode, false);
        let failed = first.error.is_some() || first.config.exit == Some(1);
        let Some(file) = first.fallback.take().filter(|_| failed) else { return first.into_result() };
        let mut said = std::mem::take(&mut first.config.output);
        if let Some(error) = &first.error {
            said.say(&[error.to_string().as_bytes()]);
        }
        said.say(&[b"!!! Fallback config to ", &file, b" !!!"]);
        let mut second = self.read(&[OsString::from_vec(file)], environment, mode, false);
        let output = &mut second.config.output;
        said.stdout.append(&mut output.stdout);
        said.log.append(&mut output.log);
        *output = said;
        second.into_result()
    }

    /// Reads once; `keep` the texts for a closer look.
    pub(super) fn read(
        &self,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
        mode: Mode,
        keep: bool,
    ) -> Reading {
        let mut engine = Engine::new(self.world, self.limits, self.program, mode);
        engine.texts = keep.then(Vec::new);
        let (exit, error) = match engine.run(arguments, environment) {
            Ok(()) => (None, None),
            Err(Halt::Exit(status)) => (Some(status), None),
            Err(Halt::Error(error)) => (Some(1), Some(error)),
        };
        let fallback = engine.fallback.take();
        Reading { config: engine.finish(exit), error, fallback }
    }
}

impl Reading {
    fn into_result(self) -> Result<Config, ConfigError> {
        match self.error {
            None => Ok(self.config),
            Some(mut error) => {
                error.output = Box::new(self.config.output);
                Err(error)
            }
        }
    }
}
