//! Service links: environment variables that Kubernetes and Docker inject for other services.

use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Whether an environment variable is a service link: one that Kubernetes injects into every pod of a namespace for
/// each Service there, in the form of Docker's container links.
///
/// A Service called `kms` yields `KMS_SERVICE_HOST`, `KMS_SERVICE_PORT`, `KMS_SERVICE_PORT_HTTPS`, `KMS_PORT`,
/// `KMS_PORT_8080_TCP` and, for that port, `_PROTO`, `_PORT` and `_ADDR`. These names collide with the prefixes `KMS_`
/// and `KMS_HTTP_`; a front end ignores such variables and refuses other unknown ones. The value must fit the name.
pub fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") {
        return is_address(value);
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port(value);
    }
    if name.ends_with("_PORT") && is_link_url(value) {
        return true;
    }
    let Some((_, after)) = name.split_once("_PORT_") else { return false };
    let mut parts = after.split('_');
    let (Some(port), Some(protocol)) = (parts.next(), parts.next()) else { return false };
    if !is_port(port) || !PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str()) {
        return false;
    }
    match (parts.next(), parts.next()) {
        (None, None) => is_link_url(value),
        (Some("PROTO"), None) => PROTOCOLS.contains(&value),
        (Some("PORT"), None) => is_port(value),
        (Some("ADDR"), None) => is_address(value),
        _ => false,
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether this is a URL such as `tcp://10.0.0.1:8080`.
fn is_link_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(protocol, place)| {
        let port = place.rsplit_once(':').map_or("", |(_, port)| port);
        PROTOCOLS.contains(&protocol) && is_port(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_any_service() {
        for prefix in ["KMS", "KMS_HTTP", "KMS_PROD_EU", "DB"] {
            for (suffix, value) in [
                ("SERVICE_HOST", "10.96.0.17"),
                ("SERVICE_HOST", "fd00:10:96::11"),
                ("SERVICE_PORT", "8080"),
                ("SERVICE_PORT_HTTPS", "8443"),
                ("SERVICE_PORT_HTTP_ADMIN", "8081"),
                ("PORT", "tcp://10.96.0.17:8080"),
                ("PORT", "udp://[fd00:10:96::11]:53"),
                ("PORT", "sctp://10.96.0.17:99"),
                ("PORT_8080_TCP", "tcp://10.96.0.17:8080"),
                ("PORT_8080_TCP_PROTO", "tcp"),
                ("PORT_8080_TCP_PORT", "8080"),
                ("PORT_8080_TCP_ADDR", "10.96.0.17"),
                ("PORT_53_UDP_ADDR", "fd00:10:96::11"),
            ] {
                assert!(is_service_link(&format!("{prefix}_{suffix}"), value), "{prefix}_{suffix}={value}");
            }
        }
    }

    #[test]
    fn other_names_and_values_are_not_links() {
        for (name, value) in [
            ("PORT", "tcp://10.96.0.17:8080"),
            ("KMS_PORT", "8080"),
            ("KMS_PORT", "http://10.96.0.17:8080"),
            ("KMS_PORT", "tcp://10.96.0.17"),
            ("KMS_HOST", "10.96.0.17"),
            ("KMS_SERVICE_HOST", "\u{fffd}"),
            ("KMS_SERVICE_PORT", "many"),
            ("KMS_PORT_8080_TCP_NAME", "x"),
            ("KMS_PORT_8080_TCP_ADDR_MORE", "10.96.0.17"),
            ("KMS_PORT_http_TCP", "tcp://10.96.0.17:8080"),
            ("KMS_STORE_URL", "tcp://10.96.0.17:8080"),
            ("KMS_HTTP_LISTEN", "10.96.0.17:8080"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
