//! URLs of database servers: their allowed contents, what the drivers understand, and what this crate handles itself.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::types::error::{Error, ErrorCode, Result};

/// The default time limit for connecting to one host.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// The maximum of `connect_timeout`, in seconds.
const CONNECT_WAIT_MAX: u64 = 300;
/// Parameters of both engines, spelled as both drivers understand them.
const SHARED: [&str; 5] = ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "connect_timeout"];
const MYSQL: [&str; 1] = ["socket"];
const POSTGRES: [&str; 3] = ["application_name", "channel_binding", "target_session_attrs"];
/// Other spellings of these parameters.
const ALIASES: [(&str, &str); 7] = [
    ("sslmode", "ssl-mode"),
    ("sslca", "ssl-ca"),
    ("sslrootcert", "ssl-ca"),
    ("ssl-root-cert", "ssl-ca"),
    ("sslcert", "ssl-cert"),
    ("sslkey", "ssl-key"),
    ("connect-timeout", "connect_timeout"),
];
/// Parameters of libpq and of MySQL's clients that this crate does not support. They are named when they are refused;
/// an unknown parameter is not, since it may be part of the password.
const UNSUPPORTED: &str = " charset client_encoding collation compress dbname fallback_application_name gssdelegation \
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname \
    load_balance_hosts options passfile password port replication require_auth requirepeer requiressl service \
    ssl-capath ssl-cipher ssl-crl ssl_max_protocol_version ssl_min_protocol_version sslcertmode sslcompression sslcrl \
    sslcrldir sslnegotiation sslpassword sslsni statement-cache-capacity tcp_user_timeout time-zone timezone \
    tls-version user ";

/// The URL of a database on a server. It contains a password, so only its [`fmt::Display`] form may be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    hosts: Vec<Host>,
    parameters: Parameters,
}

/// One of the hosts of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The URL of the database on this host for the driver, with the password.
    pub url: String,
    /// The address without its brackets if it is an IPv6 address, since the drivers would look it up with them.
    pub literal: Option<Ipv6Addr>,
}

#[derive(Clone, PartialEq, Eq)]
struct Parameters {
    /// The parameters that the driver understands.
    query: String,
    has_mode: bool,
    has_application_name: bool,
    connect_wait: Duration,
    /// Whether read-only servers are skipped, if the URL says so.
    must_write: Option<bool>,
    /// The certificate and key files that the URL names.
    files: Vec<String>,
}

impl Url {
    /// Parses a URL of this scheme: `mysql` or `postgres`. Parameters that would have no effect are refused.
    pub(super) fn parse(url: &str, scheme: &'static str) -> Result<Self> {
        let rest = url.split_once("://").map(|(_, rest)| rest);
        let rest =
            rest.ok_or_else(|| invalid(format!("store_url: {scheme}://USER:PASSWORD@HOST/DATABASE is expected")))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        if database.is_empty() || database.contains(['/', '@']) || query.contains('@') || url.contains(['#', '\0']) {
            return Err(invalid(
                "store_url: no database is named, or a character is not percent-encoded (%2F for a slash)",
            ));
        }
        let parameters = Parameters::parse(query, scheme)?;
        let (user, places) = authority.rsplit_once('@').map_or(("", authority), |(user, places)| (user, places));
        let at = if user.is_empty() { "" } else { "@" };
        let several = places.contains(',');
        let hosts = places.split(',').map(|place| {
            let literal = host(place, several)?;
            Ok(Host { url: format!("{scheme}://{user}{at}{place}/{database}{}", parameters.query), literal })
        });
        Ok(Self { text: format!("{scheme}://{rest}"), hosts: hosts.collect::<Result<_>>()?, parameters })
    }

    /// Checks that the named files can be read, since a connection that fails for this reason does not report it.
    pub fn check_files(&self) -> Result<()> {
        for file in self.parameters.files.iter().filter(|file| !file.contains('%')) {
            std::fs::File::open(file)
                .map_err(|e| invalid(format!("store_url: {file} cannot be read: {e}")).with_source(e))?;
        }
        Ok(())
    }
    /// The hosts, in the order in which they are tried.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }
    /// Whether the URL sets the TLS mode.
    pub(super) fn has_ssl_mode(&self) -> bool {
        self.parameters.has_mode
    }
    /// Whether the URL sets the application name of connections.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only PostgreSQL has such a parameter"))]
    pub(super) fn has_application_name(&self) -> bool {
        self.parameters.has_application_name
    }
    /// The time limit for connecting to one host.
    pub(super) fn connect_wait(&self) -> Duration {
        self.parameters.connect_wait
    }
    /// Whether read-only servers, such as standbys, are skipped.
    pub(super) fn must_write(&self) -> bool {
        self.parameters.must_write.unwrap_or(self.hosts.len() > 1)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.text))
    }
}

impl Parameters {
    fn parse(query: &str, scheme: &'static str) -> Result<Self> {
        let mut found = Self {
            query: String::new(),
            has_mode: false,
            has_application_name: false,
            connect_wait: CONNECT_WAIT,
            must_write: None,
            files: Vec::new(),
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            found.add(known(name, scheme)?, value)?;
        }
        Ok(found)
    }

    fn add(&mut self, name: &'static str, value: &str) -> Result<()> {
        match name {
            "connect_timeout" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=CONNECT_WAIT_MAX).contains(seconds));
                let seconds = seconds.ok_or_else(|| {
                    invalid(format!("store_url: connect_timeout must be between 1 and {CONNECT_WAIT_MAX} seconds"))
                })?;
                self.connect_wait = Duration::from_secs(seconds);
                return Ok(());
            }
            "channel_binding" => return channel_binding(value),
            "target_session_attrs" => {
                self.must_write = Some(writes(value)?);
                return Ok(());
            }
            "ssl-ca" | "ssl-cert" | "ssl-key" => self.files.push(value.to_owned()),
            "ssl-mode" => self.has_mode = true,
            "application_name" => self.has_application_name = true,
            _ => {}
        }
        let between = if self.query.is_empty() { '?' } else { '&' };
        self.query.extend([&String::from(between), name, "=", value]);
        Ok(())
    }
}

/// The canonical spelling of a parameter.
fn known(name: &str, scheme: &'static str) -> Result<&'static str> {
    let (own, others) = if scheme == "mysql" { (&MYSQL[..], &POSTGRES[..]) } else { (&POSTGRES[..], &MYSQL[..]) };
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    if let Some(found) = SHARED.iter().chain(own).find(|known| **known == name) {
        return Ok(found);
    }
    let there_are = format!("the parameters of a {scheme} URL are {}, {}", SHARED.join(", "), own.join(", "));
    if name == "socket" {
        return Err(invalid(format!(
            "store_url: socket is a parameter of mysql URLs; here the host is the socket's folder, such as \
             postgres://USER@%2Frun%2Fpostgresql/DATABASE; {there_are}"
        )));
    }
    let mut named = others.iter().copied().chain(UNSUPPORTED.split_whitespace());
    match named.find(|known| *known == name) {
        Some(name) => Err(invalid(format!("store_url: {name} is not supported; {there_are}"))),
        // The name may be part of the password.
        None => Err(invalid(format!("store_url: an unknown parameter; {there_are}"))),
    }
}

/// The driver authenticates by SCRAM-SHA-256 without channel binding.
fn channel_binding(value: &str) -> Result<()> {
    match value {
        "disable" | "prefer" => Ok(()),
        "require" => Err(invalid(
            "store_url: channel_binding=require is not supported by the driver; leave it out, and let TLS check the \
             server's certificate (ssl-mode=verify-full, the default)",
        )),
        _ => Err(invalid("store_url: channel_binding must be disable or prefer")),
    }
}

fn writes(value: &str) -> Result<bool> {
    match value {
        "any" => Ok(false),
        "read-write" | "primary" => Ok(true),
        _ => Err(invalid(
            "store_url: target_session_attrs must be any, read-write or primary, because the service \
             writes",
        )),
    }
}

/// Checks a host and its port; returns the address if it is IPv6.
fn host(place: &str, one_of_several: bool) -> Result<Option<Ipv6Addr>> {
    let malformed = |what: &str| Err(invalid(format!("store_url: {what}")));
    let (literal, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return malformed("a host has no closing bracket") };
            let Ok(address) = address.parse() else {
                return malformed("the text in brackets is not an IPv6 address (zones are not supported)");
            };
            (Some(address), port.strip_prefix(':').or(if port.is_empty() { None } else { Some("?") }))
        }
        None => {
            let (name, port) = place.split_once(':').map_or((place, None), |(name, port)| (name, Some(port)));
            if port.is_some_and(|port| port.contains(':')) {
                return malformed("an IPv6 address must be in brackets, such as [::1]:5432");
            }
            if name.is_empty() && one_of_several {
                return malformed("one of the hosts is empty");
            }
            (None, port)
        }
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return malformed("a port is not a number below 65536, or a character of the password is not percent-encoded");
    }
    Ok(literal)
}

/// Removes the password from a URL, if it has one.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => match rest[..at].split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***{}", &rest[at..]),
            None => url.to_owned(),
        },
        // The password has a slash that is not written as %2F, so its end cannot be determined.
        None if rest.contains('@') => format!("{scheme}://***"),
        None => url.to_owned(),
    }
}

/// An error in `store_url`.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("mysql://kms:secret@db/kms", "mysql://kms:***@db/kms"),
            ("mysql://kms:se@cret@db/kms", "mysql://kms:***@db/kms"),
            ("mysql://kms:secret@[::1]:3306,db/kms", "mysql://kms:***@[::1]:3306,db/kms"),
            ("postgres://kms@db:5432/kms?ssl-mode=disable", "postgres://kms@db:5432/kms?ssl-mode=disable"),
            ("postgres://kms:se/cret@db/kms", "postgres://***"),
            ("postgres://kms:se?cret@db/kms", "postgres://***"),
            ("sqlite:kms.db", "sqlite:kms.db"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }

    #[test]
    fn hosts_are_tried_one_by_one() {
        let url = Url::parse("postgres://u:p,w@one:1,[::1]:2,three/kms?sslmode=disable&connect_timeout=7", "postgres");
        let url = url.unwrap();
        let hosts: Vec<_> = url.hosts().iter().map(|host| (host.url.as_str(), host.literal)).collect();
        let literal: Ipv6Addr = "::1".parse().unwrap();
        assert_eq!(
            hosts,
            [
                ("postgres://u:p,w@one:1/kms?ssl-mode=disable", None),
                ("postgres://u:p,w@[::1]:2/kms?ssl-mode=disable", Some(literal)),
                ("postgres://u:p,w@three/kms?ssl-mode=disable", None),
            ]
        );
        assert_eq!(url.connect_wait(), Duration::from_secs(7));
        assert!(url.must_write() && url.has_ssl_mode());
        let any = Url::parse("postgres://one,two/kms?target_session_attrs=any", "postgres").unwrap();
        assert!(!any.must_write());
        let one = |more: &str| Url::parse(&format!("postgres://one/kms{more}"), "postgres").unwrap();
        assert!(!one("").must_write() && one("?target_session_attrs=read-write").must_write());
    }

    #[test]
    fn every_spelling_reaches_the_driver_in_one_that_it_knows() {
        for (scheme, given, passed) in [
            ("mysql", "sslrootcert=/ca.pem", "?ssl-ca=/ca.pem"),
            ("mysql", "sslcert=a&sslkey=b&socket=/s", "?ssl-cert=a&ssl-key=b&socket=/s"),
            ("postgres", "sslca=/ca.pem&sslmode=require", "?ssl-ca=/ca.pem&ssl-mode=require"),
            ("postgres", "channel_binding=prefer&application_name=billing", "?application_name=billing"),
            ("postgres", "connect-timeout=3", ""),
        ] {
            let url = Url::parse(&format!("{scheme}://db/kms?{given}"), scheme).unwrap();
            assert_eq!(url.hosts()[0].url, format!("{scheme}://db/kms{passed}"));
        }
    }

    #[test]
    fn what_is_not_supported_is_named_and_what_may_be_a_password_is_not() {
        for (url, scheme, named) in [
            ("postgres://db/kms?options=-cfsync%3Doff", "postgres", "options is not supported"),
            ("postgres://db/kms?socket=/tmp", "postgres", "the socket's folder"),
            ("postgres://db/kms?channel_binding=require", "postgres", "channel_binding=require is not supported"),
            ("postgres://db/kms?channel_binding=yes", "postgres", "disable or prefer"),
            ("postgres://db/kms?target_session_attrs=standby", "postgres", "the service writes"),
            ("postgres://db/kms?connect_timeout=0", "postgres", "between 1 and 300"),
            ("postgres://db/kms?connect_timeout=x", "postgres", "between 1 and 300"),
            ("mysql://db/kms?application_name=x", "mysql", "application_name is not supported"),
            ("mysql://db/kms?charset=latin1", "mysql", "charset is not supported"),
            ("mysql://db/kms?hunter2=x", "mysql", "an unknown parameter"),
            ("mysql://u:p@::1/kms", "mysql", "in brackets"),
            ("mysql://u:p@[::1/kms", "mysql", "closing bracket"),
            ("mysql://u:p@[fe80::1%25eth0]/kms", "mysql", "not an IPv6 address"),
            ("mysql://u:p@[::1]x/kms", "mysql", "a port"),
            ("mysql://u:p@db:x/kms", "mysql", "a port"),
            ("mysql://u:p@one,,two/kms", "mysql", "one of the hosts is empty"),
        ] {
            let error = Url::parse(url, scheme).err().unwrap();
            assert!(error.message().contains(named) && !error.message().contains("hunter2"), "{url}: {error}");
        }
    }
}
