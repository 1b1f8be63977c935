//! The command line by the rules of `getopt_long`: unique prefixes, clusters, glued values, files behind options.

use super::engine::{Engine, Mode};
use super::error::{Step, Trouble, halt};
use super::model::{Origin, lossy};
use super::options::{self, Argument, Opt};
use super::values::split_first;

impl Engine<'_> {
    /// Takes the options from left to right; returns the other arguments, which count from 1.
    pub(super) fn command_line(&mut self, arguments: &[Vec<u8>]) -> Step<Vec<(usize, Vec<u8>)>> {
        let mut files = Vec::new();
        let mut rest = arguments.iter().enumerate();
        while let Some((at, argument)) = rest.next() {
            let origin = Origin::argument(at + 1);
            match &argument[..] {
                b"--" => break,
                [b'-', b'-', long @ ..] => {
                    let (name, glued) = match split_first(long, b'=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (long, None),
                    };
                    let option = match self.long_option(name) {
                        Ok(option) => option,
                        Err(why) => return self.wrong(&origin, &why.replace("{}", &lossy(argument))),
                    };
                    let name = option.name;
                    let value = match (option.argument, glued) {
                        (Argument::None, Some(_)) => {
                            return self
                                .wrong(&origin, &format!("option '--{name}' doesn't allow an argument"));
                        }
                        (Argument::Value, None) => match rest.next() {
                            Some((_, value)) => Some(&value[..]),
                            None => {
                                return self
                                    .wrong(&origin, &format!("option '--{name}' requires an argument"));
                            }
                        },
                        (_, glued) => glued,
                    };
                    self.push(name.as_bytes(), value, origin)?;
                }
                [b'-', letters @ ..] if !letters.is_empty() => {
                    let mut letters = letters;
                    while let [letter, behind @ ..] = letters {
                        letters = behind;
                        let shown = char::from(*letter);
                        let Some(option) = self.short_option(*letter) else {
                            return self.wrong(&origin, &format!("invalid option -- '{shown}'"));
                        };
                        let value = match option.argument {
                            Argument::None => None,
                            _ if !letters.is_empty() => Some(std::mem::take(&mut letters)),
                            Argument::Optional => None,
                            Argument::Value => match rest.next() {
                                Some((_, value)) => Some(&value[..]),
                                None => {
                                    let text = format!("option requires an argument -- '{shown}'");
                                    return self.wrong(&origin, &text);
                                }
                            },
                        };
                        self.push(option.name.as_bytes(), value, origin.clone())?;
                    }
                }
                file => files.push((at + 1, file.to_vec())),
            }
        }
        files.extend(rest.map(|(at, argument)| (at + 1, argument.clone())));
        Ok(files)
    }

    fn wrong<T>(&mut self, origin: &Origin, what: &str) -> Step<T> {
        halt(origin, Trouble::CommandLine(format!("{}: {what}", self.program)))
    }

    /// An exact name, or the only one that begins so. Names of our own never make one of uWSGI's ambiguous.
    fn long_option(&self, name: &[u8]) -> Result<&'static Opt, String> {
        if let Some(option) = options::find(name).filter(|o| self.plugins.know(o)) {
            return Ok(option);
        }
        let from = options::all().partition_point(|o| o.name.as_bytes() < name);
        let begins = options::all()[from..].iter().take_while(|o| o.name.as_bytes().starts_with(name));
        let (own, mut found): (Vec<&Opt>, Vec<&Opt>) =
            begins.filter(|o| self.plugins.know(o)).partition(|o| o.is_ours());
        if found.is_empty() && self.mode != Mode::Uwsgi {
            found = own;
        }
        found.sort_by_key(|o| o.rank);
        match found[..] {
            [] => Err("unrecognized option '{}'".into()),
            [one] => Ok(one),
            _ => {
                let names: String = found.iter().map(|o| format!(" '--{}'", o.name)).collect();
                Err(format!("option '{{}}' is ambiguous; possibilities:{names}"))
            }
        }
    }

    /// The first long name that has this letter.
    fn short_option(&self, letter: u8) -> Option<&'static Opt> {
        let has = |o: &&Opt| o.short == letter && letter != 0 && self.plugins.know(o);
        options::all().iter().filter(has).min_by_key(|o| o.rank)
    }
}
