//! `pg://CONNINFO[;SQL]`: vassals that are rows of a PostgreSQL database.
//!
//! A trigger says on the channel [`CHANNEL`] that there is something new, and then the query is made: as with
//! directories, what is heard is a hint. Where nothing can be heard the query is made every `emperor-freq`, as uWSGI's
//! Emperor does. One connection is kept; while there is none, the vassals go on.
//!
//! Caller: the carrier's task, on the loop's own thread. Nothing here blocks it: a host's name is looked up in a thread
//! of the runtime's.

mod conninfo;
mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::carried::{News, Outbox, Row, digest};
use conninfo::{PORT, complete, without_password};
use wire::{Bounded, Room, Target};

/// The channel on which a change is announced.
const CHANNEL: &str = "uwsgi_emperor_vassals";
/// The query where the argument has none. Source: uWSGI 2.0.21.
const DEFAULT_SQL: &str = "SELECT name, config, EXTRACT(EPOCH FROM ts) FROM vassals";
/// Whether something in the database announces changes: only then it is enough to listen.
const IS_ANNOUNCED: &str = "SELECT count(*) FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
     WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND strpos(p.prosrc, 'uwsgi_emperor_vassals') > 0";

/// How long a connection may take to come about, unless `connect_timeout` says otherwise.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long an answer may take.
const QUERY_TIME: Duration = Duration::from_secs(30);
/// Most rows of an answer.
const MOST_ROWS: usize = 100_000;
/// How long after a failure the next attempt comes: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A query is followed by so many times its duration without another one, as a scan of a directory is.
const REST: u32 = 10;

/// An argument that was understood.
#[derive(Clone, Debug)]
pub(super) struct Query {
    config: Config,
    sql: Arc<str>,
    /// The argument without its password.
    shown: Arc<str>,
}

/// What went wrong.
#[derive(Debug)]
enum Fault {
    /// The server cannot be reached, or has gone away.
    Lost(String),
    /// It does not want to answer.
    Refused(String),
    /// The loop is gone.
    Unwanted,
}

impl Query {
    /// Understands what stands behind `pg://`.
    ///
    /// # Errors
    /// What is wrong with it, without its password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (conninfo, sql) = text.split_once(';').unwrap_or((text, ""));
        let sql = if sql.trim().is_empty() { DEFAULT_SQL } else { sql.trim() };
        let shown = without_password(conninfo);
        let mut config: Config = conninfo.parse().map_err(|error| format!("{shown}: {}", chain(&error)))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(format!(
                "{shown}: sslmode=require, and this program has no TLS; use a UNIX socket, or sslmode=disable \
                 through a tunnel"
            ));
        }
        complete(&mut config);
        let shown = if sql == DEFAULT_SQL { format!("pg://{shown}") } else { format!("pg://{shown};{sql}") };
        Ok(Self { config, sql: sql.into(), shown: shown.into() })
    }

    /// The argument for people: without its password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Looks, and says what there is, for as long as anybody wants to know. Without announcements it looks so often.
    pub(super) async fn carry(self, every: Duration, wish: Arc<Notify>, outbox: Outbox) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let fault = match self.connect().await {
                Ok(session) => session.serve(&self, every, &wish, &outbox).await,
                Err(fault) => fault,
            };
            let Fault::Lost(cause) = fault else { return };
            let shown = &self.shown;
            let text = format!(
                "{shown}: no connection: {cause}; its vassals keep running, and it is tried again by and by, and at \
                 once on SIGWINCH; see whether the server runs and lets this user in"
            );
            if !outbox.send(News::Trouble(text)).await {
                return;
            }
            if began.elapsed() >= LAST_PAUSE {
                pause = FIRST_PAUSE;
            }
            sleep(FIRST_PAUSE).await;
            tokio::select! {
                () = sleep(pause.saturating_sub(FIRST_PAUSE)) => {}
                () = wish.notified() => {}
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Session, Fault> {
        let patience = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIME);
        let mut last = Fault::Lost("no host is named".into());
        for target in self.targets() {
            match timeout(patience, self.connect_to(&target)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(cause)) => last = Fault::Lost(format!("{target}: {cause}")),
                Err(_) => last = Fault::Lost(format!("{target}: no answer within {patience:?}")),
            }
        }
        Err(last)
    }

    /// Where the server may be, in the order given.
    fn targets(&self) -> Vec<Target> {
        let (hosts, addresses, ports) =
            (self.config.get_hosts(), self.config.get_hostaddrs(), self.config.get_ports());
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        let target = |at: usize| match (addresses.get(at), hosts.get(at)) {
            (Some(address), _) => Some(Target::Tcp(address.to_string(), port(at))),
            (None, Some(Host::Tcp(name))) => Some(Target::Tcp(name.clone(), port(at))),
            (None, Some(Host::Unix(directory))) => {
                Some(Target::Unix(directory.join(format!(".s.PGSQL.{}", port(at)))))
            }
            (None, None) => None,
        };
        (0..hosts.len().max(addresses.len())).filter_map(target).collect()
    }

    async fn connect_to(&self, target: &Target) -> Result<Session, String> {
        let (bounded, room) = target.connect().await.map_err(|error| error.to_string())?;
        let (client, connection) =
            self.config.connect_raw(bounded, NoTls).await.map_err(|error| chain(&error))?;
        Ok(Session { client, line: Line { connection, heard: false }, room })
    }
}

/// A connection.
struct Session {
    client: Client,
    line: Line,
    room: Room,
}

/// What has to be read all the time, whatever else is awaited.
struct Line {
    connection: Connection<Bounded, NoTlsStream>,
    /// A change was announced.
    heard: bool,
}

impl Line {
    /// Reads until the connection ends, or until a change is announced if that is what is waited for.
    async fn read(&mut self, until_heard: bool) -> Result<(), Fault> {
        poll_fn(|context| {
            loop {
                if until_heard && self.heard {
                    return Poll::Ready(Ok(()));
                }
                match ready!(self.connection.poll_message(context)) {
                    Some(Ok(AsyncMessage::Notification(it))) => self.heard |= it.channel() == CHANNEL,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(Fault::Lost(chain(&error)))),
                    None => return Poll::Ready(Err(Fault::Lost("the server has closed it".into()))),
                }
            }
        })
        .await
    }
}

impl Session {
    /// Asks and waits, until that is not possible any more.
    async fn serve(mut self, query: &Query, every: Duration, wish: &Notify, outbox: &Outbox) -> Fault {
        match self.go_on(query, every, wish, outbox).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        }
    }

    async fn go_on(
        &mut self,
        query: &Query,
        every: Duration,
        wish: &Notify,
        outbox: &Outbox,
    ) -> Result<std::convert::Infallible, Fault> {
        let listens = match self.ask(&format!("LISTEN {CHANNEL}")).await {
            Ok(_) => true,
            Err(Fault::Refused(_)) => false, // a standby does not let anybody listen
            Err(fault) => return Err(fault),
        };
        let mut was_announced = None;
        let mut ever_heard = false;
        loop {
            let began = Instant::now();
            ever_heard |= std::mem::take(&mut self.line.heard);
            let answer = match self.ask(&query.sql).await {
                Err(Fault::Refused(cause)) => Err(cause),
                answer => rows(&answer?),
            };
            let is_refused = answer.is_err();
            let news = answer.map_or_else(
                |cause| {
                    let shown = &query.shown;
                    News::Trouble(format!(
                        "{shown}: {cause}; its vassals keep running; mend the table or the SQL behind the `;`"
                    ))
                },
                News::Rows,
            );
            if !outbox.send(news).await {
                return Err(Fault::Unwanted);
            }
            let is_announced = listens && (ever_heard || self.is_announced().await?);
            if was_announced.replace(is_announced) != Some(is_announced) {
                let shown = &query.shown;
                let text = if is_announced {
                    format!("{shown} is asked whenever {CHANNEL} is notified")
                } else {
                    format!(
                        "{shown} is asked every {every:?}: no trigger notifies {CHANNEL}; with one, changes are seen \
                         at once"
                    )
                };
                if !outbox.send(News::Remark(text)).await {
                    return Err(Fault::Unwanted);
                }
            }
            let rest = Instant::now() + began.elapsed() * REST;
            tokio::select! {
                heard = self.line.read(true) => heard?,
                () = wish.notified() => {}
                () = sleep(every), if is_refused || !is_announced => {}
            }
            tokio::select! {
                end = self.line.read(false) => end?,
                () = sleep_until(rest) => {}
            }
        }
    }

    async fn is_announced(&mut self) -> Result<bool, Fault> {
        match self.ask(IS_ANNOUNCED).await {
            Ok(answer) => Ok(answer.iter().any(
                |message| matches!(message, SimpleQueryMessage::Row(row) if field(row, 0).ok().flatten() != Some("0")),
            )),
            Err(Fault::Refused(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Makes a query; [`Fault::Refused`] if the server has an answer but not this one.
    async fn ask(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Fault> {
        self.room.make();
        let Self { client, line, .. } = self;
        let answer = tokio::select! {
            answer = client.simple_query(sql) => answer,
            end = line.read(false) => return Err(end.err().unwrap_or(Fault::Lost(String::new()))),
            () = sleep(QUERY_TIME) => return Err(Fault::Lost(format!("no answer within {QUERY_TIME:?}"))),
        };
        answer.map_err(|error| match error.as_db_error() {
            Some(said) if !client.is_closed() => {
                Fault::Refused(format!("{}: {}", said.severity(), said.message()))
            }
            _ => Fault::Lost(chain(&error)),
        })
    }
}

/// Reads an answer.
fn rows(answer: &[SimpleQueryMessage]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for message in answer {
        let SimpleQueryMessage::Row(found) = message else { continue };
        if found.len() < 2 {
            return Err(
                "the query must give at least two columns: the vassal's name and its configuration".into()
            );
        }
        if rows.len() >= MOST_ROWS {
            return Err(format!("the query gives more than {MOST_ROWS} rows"));
        }
        rows.extend(row(found)?);
    }
    Ok(rows)
}

/// One vassal; none without a name.
fn row(found: &SimpleQueryRow) -> Result<Option<Row>, String> {
    let Some(name) = field(found, 0)? else { return Ok(None) };
    let number = |at| field(found, at).map(|text| text.and_then(|text| text.trim().parse::<u32>().ok()));
    Ok(Some(Row {
        name: name.into(),
        text: field(found, 1)?.unwrap_or_default().into(),
        mtime_ns: field(found, 2)?.map_or(0, nanoseconds),
        owner: number(3)?.zip(number(4)?),
        socket: field(found, 5)?.map(str::to_owned),
    }))
}

/// A column; nothing for NULL, and for one that the query does not give.
fn field(row: &SimpleQueryRow, at: usize) -> Result<Option<&str>, String> {
    if at >= row.len() {
        return Ok(None);
    }
    row.try_get(at).map_err(|_| format!("column {} holds what is not UTF-8", at + 1))
}

/// A date as seconds since the epoch. What is no number still tells one version from another.
fn nanoseconds(text: &str) -> i64 {
    let text = text.trim();
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{fraction:0<9.9}");
    match (seconds.parse::<i64>(), fraction.parse::<i64>()) {
        (Ok(seconds), Ok(nanos)) => seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        _ => i64::try_from(digest(text.as_bytes()) % 1_000_000_000).unwrap_or(0),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_the_sql_stands_behind_the_first_semicolon() {
        // spec/emperor.md 3.3
        let query = Query::parse("host=127.0.0.1 port=5433 user=u dbname=d;SELECT 1;SELECT 2").unwrap();
        assert_eq!(&*query.sql, "SELECT 1;SELECT 2");
        assert_eq!(query.targets().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:5433"]);
        for argument in ["dbname=d", "dbname=d;", "dbname=d; "] {
            let query = Query::parse(argument).unwrap();
            assert_eq!(&*query.sql, DEFAULT_SQL);
        }
        let query = Query::parse("host=/tmp user=u,v").unwrap();
        assert_eq!(query.targets()[0].to_string(), "/tmp/.s.PGSQL.5432");
    }

    #[test]
    fn dates_keep_their_fraction_and_odd_ones_differ() {
        assert_eq!(nanoseconds("1795351462"), 1_795_351_462_000_000_000);
        assert_eq!(nanoseconds(" 1795351462.25"), 1_795_351_462_250_000_000);
        assert_eq!(nanoseconds("1795351462.1234567891"), 1_795_351_462_123_456_789);
        assert_ne!(nanoseconds("2026-11-22 10:00:00"), nanoseconds("2026-11-22 10:00:01"));
    }
}
