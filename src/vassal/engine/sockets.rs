//! The listening sockets of a running vassal: bound at the start, compared with the configuration at each
//! reload. A socket whose address is still wanted is never closed.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::listen::{Address, Connection, Listener};
use super::options::Options;
use super::{Failure, log};
use crate::vassal::socket::SocketFile;

/// The queue of waiting connections that uWSGI asks for by default.
const BACKLOG: u32 = 100;
/// Pause after a failed accept(2), which is most often a lack of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// The sockets, in the order of the configuration.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    bound: Vec<Bound>,
    /// Which one is asked first for the next connection, so that a busy one cannot starve the others.
    turn: usize,
    resting: Option<Instant>,
}

#[derive(Debug)]
struct Bound {
    address: Address,
    listener: Listener,
    file: Option<SocketFile>,
}

impl Sockets {
    /// Binds what `options` want and is not bound yet, and closes what they no longer want.
    ///
    /// # Errors
    /// [`Failure::Listen`]; then the sockets are as before.
    pub(super) fn update(&mut self, options: &Options) -> Result<(), Failure> {
        let wanted = |bound: &Bound| options.sockets.contains(&bound.address);
        let fresh = || options.sockets.iter().filter(|address| !self.has(address));
        let mut opened = bind_all(fresh(), options);
        if matches!(&opened, Err(Failure::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse)
            && !self.bound.iter().all(wanted)
        {
            // One of our own that is going may hold the address: `:80` after `127.0.0.1:80`.
            let fresh: Vec<Address> = fresh().cloned().collect();
            let going: Vec<Address> =
                self.bound.extract_if(.., |bound| !wanted(bound)).map(|b| b.address).collect();
            opened = bind_all(fresh.iter(), options);
            if opened.is_err() {
                self.bound.extend(bind_all(going.iter(), options)?);
            }
        }
        let opened = opened?;
        for bound in self.bound.extract_if(.., |bound| !wanted(bound)) {
            bound.close(options.vacuum);
        }
        for kept in &self.bound {
            let failed = |source| Failure::Listen { address: kept.address.clone(), source };
            kept.listener.set_backlog(options.backlog.unwrap_or(BACKLOG)).map_err(failed)?;
            kept.set_mode(options)?;
        }
        for bound in opened {
            log(&format!("listening on {}", bound.listener.name(&bound.address)));
            self.bound.push(bound);
        }
        Ok(())
    }

    /// Closes all of them.
    pub(super) fn close(&mut self, vacuum: bool) {
        self.bound.drain(..).for_each(|bound| bound.close(vacuum));
    }

    fn has(&self, address: &Address) -> bool {
        self.bound.iter().any(|bound| bound.address == *address)
    }

    /// The next connection, of whichever socket.
    pub(super) async fn accept(&mut self) -> Connection {
        loop {
            if let Some(until) = self.resting {
                sleep_until(until).await;
                self.resting = None;
            }
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(connection) => return connection,
                Err(error) => {
                    log(&format!("cannot accept a connection: {error}"));
                    self.resting = Some(Instant::now() + BREATH);
                }
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        let count = self.bound.len();
        self.turn = self.turn.wrapping_add(1);
        let order = (0..count).map(|step| (self.turn + step) % count);
        order.map(|at| self.bound[at].listener.poll_accept(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    }
}

impl Bound {
    fn new(address: &Address, options: &Options) -> Result<Self, Failure> {
        let failed = |source| Failure::Listen { address: address.clone(), source };
        let backlog = options.backlog.unwrap_or(BACKLOG);
        let (listener, file) = Listener::bind(address, backlog, options.mode).map_err(failed)?;
        Ok(Self { address: address.clone(), listener, file })
    }

    fn set_mode(&self, options: &Options) -> Result<(), Failure> {
        let (Some(mode), Some(file)) = (options.mode, &self.file) else { return Ok(()) };
        let failed = |source| Failure::Listen { address: self.address.clone(), source };
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).map_err(failed)
    }

    /// Closes the socket. Its file stays unless `vacuum` wants it gone.
    fn close(mut self, vacuum: bool) {
        if !vacuum {
            std::mem::forget(self.file.take());
        }
    }
}

fn bind_all<'a>(
    addresses: impl Iterator<Item = &'a Address>,
    options: &Options,
) -> Result<Vec<Bound>, Failure> {
    addresses.map(|address| Bound::new(address, options)).collect()
}
