//! One HTTP resource, for configurations that live on another machine.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// HTTP/1.0 GET, the whole exchange within [`FETCH_TIME`].
pub(super) fn fetch(url: &str, host_name: &str, most: usize) -> io::Result<Vec<u8>> {
    let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let until = Instant::now() + FETCH_TIME;
    let mut last = bad(format!("{host} has no address"));
    for address in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_write_timeout(Some(left(until)?))?;
        let request =
            format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: uWSGI on {host_name}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut block = [0; 16 << 10];
        loop {
            stream.set_read_timeout(Some(left(until)?))?;
            let count = stream.read(&mut block)?;
            if count == 0 {
                break;
            }
            answer.extend_from_slice(&block[..count]);
            if answer.len() > most {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most} bytes")));
            }
        }
        let end =
            answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| bad("no HTTP answer".into()))?;
        let status = answer.get(9..12).unwrap_or_default();
        if !answer.starts_with(b"HTTP/") || status.first() != Some(&b'2') {
            return Err(bad(format!("Not usable HTTP response: {}", String::from_utf8_lossy(status))));
        }
        return Ok(answer.split_off(end + 4));
    }
    Err(last)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
}

/// How long a configuration may take to come over the network. The old server's limit is 4 s for each step.
const FETCH_TIME: Duration = Duration::from_secs(10);
