//! `emperor-on-demand-exec`: commands that look for the addresses of sockets, beside the loop, not too many at once, and
//! not for ever.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::{error, warn};

use super::companion::first_line;
use super::{Demand, MOST};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::hands::side::Errand;
use crate::emperor::hands::{Hands, Token, command};
use crate::sys::spawn::{Candidate, Groups, Program};
use crate::sys::wait::{self, Ending};

/// The commands that run, and the vassals that wait for one.
#[derive(Debug, Default)]
pub(in crate::emperor::hands) struct Asks {
    running: Vec<Option<Ask>>,
    queue: VecDeque<Key>,
}

#[derive(Debug)]
struct Ask {
    key: Key,
    /// The shell, which leads a process group of its own.
    pid: i32,
    /// What it prints. Kept open until it has ended: nobody is to stumble over a closed pipe.
    answer: OwnedFd,
    heard: Vec<u8>,
    is_over: bool,
    deadline: Option<Instant>,
}

/// A command that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(10);

impl Asks {
    fn count(&self) -> usize {
        self.running.iter().flatten().count()
    }

    fn insert(&mut self, ask: Ask) -> usize {
        let free = self.running.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        self.running[place] = Some(ask);
        place
    }
}

impl Hands {
    /// Has a command look for the address of a vassal's socket, as soon as there is room for one more.
    pub(super) fn ask_about(&mut self, key: Key, court: &Court) {
        self.asks.queue.push_back(key);
        self.ask_next(court);
    }

    fn ask_next(&mut self, court: &Court) {
        let room = usize::try_from(self.launch.on_demand.at_once.max(1)).unwrap_or(usize::MAX);
        while self.asks.count() < room
            && let Some(key) = self.asks.queue.pop_front()
        {
            let Some(vassal) = court.get(key) else { continue };
            if let Err(cause) = self.ask(key, vassal) {
                let event = self.refuse(key, vassal, &format!("cannot run emperor-on-demand-exec: {cause}"));
                self.late.push(event);
            }
        }
    }

    /// Starts the command. The name is an argument of the shell's, never part of its text.
    fn ask(&mut self, key: Key, vassal: &Vassal) -> io::Result<()> {
        let Demand::Command(command) = self.launch.on_demand.demand.clone() else { return Ok(()) };
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let (answer, says) = io::pipe()?;
        let answer = OwnedFd::from(answer);
        fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let script = [b"exec >&3 3>&-\n", command.as_bytes(), b" \"$1\""].concat();
        let words =
            [b"/bin/sh".to_vec(), b"-c".to_vec(), script, b"sh".to_vec(), vassal.name.as_bytes().to_vec()];
        let arguments = command::c_strings(words);
        let environment = command::c_strings(
            std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()),
        );
        let cwd = place.map_or(OsStr::new("/"), |place| place.path().as_os_str());
        let cwd = CString::new(cwd.as_bytes()).unwrap_or_default();
        let program = Program {
            candidates: &[Candidate { path: c"/bin/sh", arguments: &arguments }],
            environment: &environment,
            cwd: Some(&cwd),
            stdin: None,
            passed: [Some(says.as_fd()), None, None],
            kept: &[],
            parent_death_signal: nix::libc::SIGKILL,
            own_group: true,
            new_pid_namespace: false,
            groups: Groups::default(),
        };
        let child = self.spawner.spawn(&program).map_err(io::Error::other)?;
        drop(says);
        let (pid, deadline) = (child.pid, Some(Instant::now() + PATIENCE));
        let ask = Ask { key, pid, answer, heard: Vec::new(), is_over: false, deadline };
        let place = self.asks.insert(ask);
        let what = format!("emperor-on-demand-exec for {}", vassal.name);
        self.send(child, what, Errand::Ask(place))?;
        if let Some(ask) = self.asks.running[place].as_ref() {
            let token = Token::Answer(place).to_bits();
            self.epoll.add(&ask.answer, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(())
    }

    /// A command has printed something.
    pub(in crate::emperor::hands) fn hear_answer(&mut self, place: usize, court: &Court) -> Option<Event> {
        let ask = self.asks.running.get_mut(place)?.as_mut()?;
        if !ask.hear() {
            return None;
        }
        let _ = self.epoll.delete(&ask.answer); // it was added, and is open
        self.answered(place, court)
    }

    /// A command has ended: what it has printed by now is all.
    pub(in crate::emperor::hands) fn asked(
        &mut self,
        place: usize,
        ending: Ending,
        court: &Court,
    ) -> Option<Event> {
        let ask = self.asks.running.get_mut(place)?.as_mut()?;
        let was_killed = ask.deadline.is_none();
        if let Some(vassal) = court.get(ask.key).filter(|_| ending != Ending::Exited(0) && !was_killed) {
            warn!("[emperor] emperor-on-demand-exec for {} {ending}", vassal.name);
        }
        ask.hear();
        // Somebody it left behind may have the other end.
        let _ = self.epoll.delete(&ask.answer);
        let event = self.answered(place, court);
        self.asks.running[place] = None;
        self.ask_next(court);
        event
    }

    /// Uses an answer, once.
    fn answered(&mut self, place: usize, court: &Court) -> Option<Event> {
        let ask = self.asks.running.get_mut(place)?.as_mut()?;
        if std::mem::replace(&mut ask.is_over, true) {
            return None;
        }
        let (key, line) = (ask.key, first_line(&ask.heard).to_vec());
        if line.is_empty() {
            return Some(self.is_ordinary(key));
        }
        let vassal = court.get(key)?;
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        Some(self.bind(key, court, &line, "emperor-on-demand-exec", &directory))
    }

    /// When the next command has taken too long.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.late.is_empty() || self.has_unwatched_files() {
            return Some(Instant::now());
        }
        let asks = self.asks.running.iter().flatten().filter_map(|ask| ask.deadline);
        asks.chain(self.group_timeout()).chain(self.doors_timeout()).chain(self.queues_timeout()).min()
    }

    /// Kills commands that have taken too long, with all that they have started.
    pub fn on_timeout(&mut self, now: Instant, court: &Court, events: &mut Vec<Event>) {
        events.append(&mut self.late);
        self.watch_fresh_files(court);
        self.look_at_groups(now, court, events);
        self.open_doors_again(now);
        self.look_at_queues(now, court, events);
        for place in 0..self.asks.running.len() {
            let Some(ask) = self.asks.running[place].as_mut() else { continue };
            if ask.deadline.is_none_or(|at| at > now) {
                continue;
            }
            ask.kill();
            let (key, over) = (ask.key, std::mem::replace(&mut ask.is_over, true));
            let Some(vassal) = court.get(key) else { continue };
            if over {
                let (name, seconds) = (&vassal.name, PATIENCE.as_secs());
                error!(
                    "[emperor] emperor-on-demand-exec for {name} is not done after {seconds} s and is killed"
                );
            } else {
                let why = format!(
                    "emperor-on-demand-exec has not printed a line within {} s, and is killed",
                    PATIENCE.as_secs()
                );
                events.push(self.refuse(key, vassal, &why));
            }
        }
    }

    /// A vassal is no more: nobody wants to know.
    pub(in crate::emperor::hands) fn stop_asking(&mut self, key: Key) {
        for ask in self.asks.running.iter_mut().flatten().filter(|ask| ask.key == key) {
            ask.is_over = true;
            ask.kill();
        }
    }
}

impl Ask {
    /// Reads what there is; `true` if that is all that counts.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; MOST];
        while self.heard.len() < MOST {
            match nix::unistd::read(&self.answer, &mut bytes[self.heard.len()..]) {
                Ok(0) => return true,
                Ok(count) => {
                    let begin = self.heard.len();
                    self.heard.extend_from_slice(&bytes[begin..begin + count]);
                    if first_line(&self.heard).len() < self.heard.len() {
                        return true;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn kill(&mut self) {
        self.deadline = None;
        // It is not reaped yet, so its number is its own, and that of its group.
        wait::kill_group(self.pid);
    }
}
