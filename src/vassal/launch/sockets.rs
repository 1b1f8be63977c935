//! Listening sockets take the numbers at which programs look for them. Source: sd_listen_fds(3).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Launcher;
use crate::sys::process::DescriptorLimit;
use crate::sys::{alone, fds};
use crate::vassal::link::{CONFIG_FD_VARIABLE, FD_VARIABLE, Failure};
use crate::vassal::passing::{FIRST_SOCKET, Passing};
use crate::vassal::plan::Step;
use crate::zerg::client::{Offered, Server, attach};
use crate::zerg::wire::Label;

/// Variables that speak of inherited sockets. What somebody else has said in them is never about ours.
const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// How long a zerg server may take to answer. uWSGI's clients wait for ever, and cannot be stopped then.
const PATIENCE: Duration = Duration::from_secs(10);

impl Launcher {
    /// Puts the sockets at 3 and up, the link behind them, and a config pipe behind that.
    pub(super) fn pass_on(&mut self, passing: &Passing) -> Result<(), Failure> {
        let offered = self.attach(passing)?;
        let mut names = passing.names.clone();
        for offer in &offered {
            let called = offer.label.as_ref().map_or("zerg", Label::name);
            let free = (1..).map(|n| if n == 1 { called.to_owned() } else { format!("{called}-{n}") });
            names.extend(free.filter(|name| !names.contains(name)).take(1).collect::<Vec<_>>());
        }
        let count = passing.numbers.len() + offered.len();
        self.arrange(passing, offered)?;
        let link = self.link.as_ref().map(|link| (FD_VARIABLE, link.as_raw_fd().to_string()));
        let pipe = self.pipe.as_ref().map(|pipe| (CONFIG_FD_VARIABLE, pipe.as_raw_fd().to_string()));
        let values = [count.to_string(), std::process::id().to_string(), names.join(":")];
        let told = VARIABLES.into_iter().zip(values).filter(|_| !passing.silent && count > 0);
        let tell = |(name, value): (&str, String)| {
            let failed = |error| Failure::new(Step::Environment, &name, &error);
            alone::set_variable(name.as_ref(), value.as_ref()).map_err(failed)
        };
        for name in VARIABLES {
            alone::remove_variable(name.as_ref())
                .map_err(|error| Failure::new(Step::Environment, &name, &error))?;
        }
        link.into_iter().chain(pipe).chain(told).try_for_each(tell)
    }

    /// What the zerg servers offer.
    fn attach(&self, passing: &Passing) -> Result<Vec<Offered>, Failure> {
        let mut all = Vec::new();
        for server in &passing.zerg {
            match attach(Server(server.as_bytes()), PATIENCE) {
                Ok(offered) => all.extend(offered),
                Err(error) => {
                    let failure = Failure::new(Step::Zerg, server, &error.into_io());
                    if !passing.zerg_fallback {
                        return Err(failure);
                    }
                    self.log(&format!("goes on without a zerg server (zerg-fallback): {failure}"));
                }
            }
        }
        Ok(all)
    }

    fn arrange(&mut self, passing: &Passing, offered: Vec<Offered>) -> Result<(), Failure> {
        let failed = |what: &str, error: io::Error| Failure::new(Step::Descriptors, &what, &error);
        let first_free = passing.numbers.iter().map(|_| ()).chain(offered.iter().map(|_| ()));
        let first_free = first_free.fold(FIRST_SOCKET, |number, ()| number + 1);
        // Out of the way first: a number may be wanted that one of them has.
        let above = first_free + 2;
        let needed = u64::try_from(2 * above).unwrap_or(u64::MAX);
        if let Ok(DescriptorLimit { soft, .. }) = DescriptorLimit::get()
            && soft < needed
        {
            let why = format!(
                "they take {needed} descriptors, and its limit is {soft}: raise limit-nofile or max-fd"
            );
            return Err(failed("sockets", io::Error::other(why)));
        }
        let mut sockets = Vec::new();
        for (number, name) in passing.numbers.iter().zip(passing.described()) {
            let moved = fds::adopt(*number).and_then(|socket| fds::move_above(socket, above));
            sockets.push((moved.map_err(|error| failed(&name, error))?, name));
        }
        for Offered { socket, address, .. } in offered {
            let moved = fds::move_above(socket, above).map_err(|error| failed(&address, error))?;
            sockets.push((moved, address));
        }
        let away = |fd: Option<OwnedFd>| fd.map(|fd| fds::move_above(fd, above)).transpose();
        self.link = away(self.link.take()).map_err(|error| failed("emperor link", error))?;
        self.pipe = away(self.pipe.take()).map_err(|error| failed("config pipe", error))?;
        for (number, (socket, name)) in (FIRST_SOCKET..).zip(sockets) {
            let put = self.put(socket, number).map_err(|error| failed(&name, error))?;
            blocking(put.as_fd()).map_err(|error| failed(&name, error))?;
            if passing.stdin == usize::try_from(number - FIRST_SOCKET).ok() {
                fds::copy_to_stdin(put.as_fd()).map_err(|error| failed(&name, error))?;
            }
            self.kept.push(put);
        }
        if let Some(link) = self.link.take() {
            self.link = Some(self.put(link, first_free).map_err(|error| failed("emperor link", error))?);
        }
        if let Some(pipe) = self.pipe.take() {
            self.pipe = Some(self.put(pipe, first_free + 1).map_err(|error| failed("config pipe", error))?);
        }
        Ok(())
    }

    fn put(&self, fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
        if self.kept.iter().any(|kept| kept.as_raw_fd() == number) {
            let both = format!("safe-fd wants descriptor {number} as well; pass that under a higher number");
            return Err(io::Error::other(both));
        }
        fds::move_to(fd, number)
    }
}

/// The former process may have left it non-blocking, for all that have it; a program expects it as it is made.
fn blocking(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}
