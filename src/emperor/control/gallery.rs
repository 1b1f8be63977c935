//! `emperor-http`: `/metrics` for whoever can connect, and nothing else.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{Asked, ControlError, Peer, http};

/// How many are served at once; the others wait in the backlog.
const ONLOOKERS: usize = 16;

/// Connections that may wait.
const BACKLOG: u32 = 64;

/// The open socket.
#[derive(Debug)]
pub struct Gallery {
    address: SocketAddr,
    requests: mpsc::Receiver<Asked>,
    accepting: JoinHandle<()>,
}

impl Drop for Gallery {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Gallery {
    /// Binds. Call inside the runtime. An address without a host is on the loopback device.
    ///
    /// # Errors
    /// The address is none, is in use, or may not be bound.
    pub fn bind(address: &str) -> Result<Self, ControlError> {
        let failed = |source| ControlError { option: "emperor-http", place: address.into(), source };
        let (address, listener) = listen(address).map_err(failed)?;
        let (sender, requests) = mpsc::channel(ONLOOKERS);
        let accepting = tokio::spawn(receive(listener, sender));
        Ok(Self { address, requests, accepting })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await, // the task that accepts holds its other end
        }
    }
}

fn listen(address: &str) -> io::Result<(SocketAddr, TcpListener)> {
    let found = whole(address).to_socket_addrs()?.next();
    let address = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    Ok((listener.local_addr()?, listener))
}

/// `PORT` and `:PORT` are meant on the loopback device: whoever wants others to see it says which.
fn whole(address: &str) -> String {
    let port = address.strip_prefix(':').unwrap_or(address);
    if port.parse::<u16>().is_ok() { format!("127.0.0.1:{port}") } else { address.into() }
}

async fn receive(listener: TcpListener, sender: mpsc::Sender<Asked>) {
    let seats = Arc::new(Semaphore::new(ONLOOKERS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    http::serve(stream, Peer::Onlooker, sender).await;
                    drop(seat);
                });
            }
            // No descriptor is left, or the client has gone: others are served when there is one again.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_nobody_elses_to_see() {
        assert_eq!(whole(":9117"), "127.0.0.1:9117");
        assert_eq!(whole("9117"), "127.0.0.1:9117");
        assert_eq!(whole("0.0.0.0:9117"), "0.0.0.0:9117");
        assert_eq!(whole("[::1]:9117"), "[::1]:9117");
    }
}
