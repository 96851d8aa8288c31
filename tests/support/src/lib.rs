//! Private servers for tests: databases, and one that implements AWS KMS. They run in temporary folders, on free ports
//! of the loopback interface, and as their own user if the tests run as root. A test can kill them and start them
//! again. They are removed when dropped.

#[cfg(feature = "tls")]
pub mod authority;
pub mod aws;
mod aws_proxy;
mod bounded_proxy;
mod certificates;
#[cfg(feature = "engine")]
pub mod engine;
mod galera;
#[cfg(feature = "oidc")]
pub mod issuer;
mod mariadb;
mod metadata;
mod moto;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;

pub use aws_proxy::{AwsProxy, Fault, Seen};
pub use bounded_proxy::{Bound, bounded_proxy};
pub use certificates::Certificates;
pub use galera::Galera;
pub use mariadb::MariaDb;
pub use metadata::Metadata;
pub use moto::{AwsKey, KnownKey, Moto, MotoAdmin, REGION};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::free_port;
pub use proxy::{Mode, Proxy};

/// A database server that a test can kill and start again.
pub trait Server: Send + Sync {
    /// Creates an empty database on the server and returns its URL.
    fn create_database(&self) -> String;
    /// The TCP port of the server on the loopback interface.
    fn port(&self) -> u16;
    /// Kills the server, as a crash of the machine would, except that the operating system keeps what was written.
    fn kill(&mut self);
    /// Starts the server again and waits until it answers.
    fn start(&mut self);
}

/// A unique name for a database.
fn database_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("kms_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
