//! The parameters of a connection: what is added to them, and how they are shown.

use tokio_postgres::Config;

/// Where a server on the same machine listens. Source: Debian's libpq.
const SOCKETS: &str = "/var/run/postgresql";
/// Where it listens otherwise.
pub(super) const PORT: u16 = 5432;

/// What libpq takes from elsewhere when it is not said.
pub(super) fn complete(config: &mut Config) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(variable("PGHOST").unwrap_or_else(|| SOCKETS.into()));
    }
    if let (true, Some(port)) = (config.get_ports().is_empty(), variable("PGPORT")) {
        config.port(port.parse().unwrap_or(PORT));
    }
    if config.get_user().is_none() {
        // Here, at the start: looking for a user may take time.
        let own = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        if let Some(user) = variable("PGUSER").or_else(own) {
            config.user(user);
        }
    }
    if let (None, Some(name)) = (config.get_dbname(), variable("PGDATABASE")) {
        config.dbname(name);
    }
    if let (None, Some(password)) = (config.get_password(), variable("PGPASSWORD")) {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name("emperor");
    }
}

/// Connection parameters for people.
pub(super) fn without_password(conninfo: &str) -> String {
    let mut out = String::new();
    let mut rest = conninfo;
    if let Some((scheme, behind)) = conninfo.split_once("://") {
        let end = behind.find('/').unwrap_or(behind.len());
        let secret = behind[..end].rfind('@').and_then(|at| Some((behind[..at].find(':')?, at)));
        out = format!("{scheme}://");
        rest = behind;
        if let Some((colon, at)) = secret {
            out += &format!("{}:***", &behind[..colon]);
            rest = &behind[at..];
        }
    }
    while let Some(at) = rest.find("password") {
        let behind = &rest[at + "password".len()..];
        let value = behind.trim_start();
        let Some(value) = value.strip_prefix('=').map(str::trim_start) else {
            out += &rest[..rest.len() - behind.len()];
            rest = behind;
            continue;
        };
        out += &format!("{}password=***", &rest[..at]);
        rest = &value[end_of_value(value)..];
    }
    out + rest
}

/// Where a value ends: at its second quote, or at the next blank or `&`.
fn end_of_value(value: &str) -> usize {
    let quoted = value.starts_with('\'');
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            c if !quoted && (c.is_whitespace() || c == '&') => return at,
            _ => {}
        }
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::super::Query;

    #[test]
    fn passwords_are_not_shown() {
        for (argument, shown) in [
            ("user=u password=x dbname=d", "pg://user=u password=*** dbname=d"),
            ("password = 'a b\\' c' user=u", "pg://password=*** user=u"),
            (
                "postgresql://u:x@h:1/d?password=y&application_name=z",
                "pg://postgresql://u:***@h:1/d?password=***&application_name=z",
            ),
            ("postgresql://h/d", "pg://postgresql://h/d"),
        ] {
            assert_eq!(Query::parse(argument).unwrap().shown(), shown);
        }
        let wrong = Query::parse("user=u password=secret sslmode=require").unwrap_err();
        assert!(wrong.contains("TLS") && !wrong.contains("secret"), "{wrong}");
        let wrong = Query::parse("password=secret colour=red").unwrap_err();
        assert!(wrong.contains("colour") && !wrong.contains("secret"), "{wrong}");
    }
}
