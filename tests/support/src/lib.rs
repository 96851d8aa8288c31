//! Private servers for tests, databases and one that answers as AWS KMS does: in temporary folders, on free ports of
//! the loopback interface, under their own user where the tests run as root. They can be killed and started again, and
//! are gone when dropped.

pub mod aws;
mod aws_proxy;
mod certificates;
mod galera;
mod mariadb;
mod metadata;
mod moto;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;

pub use aws_proxy::{AwsProxy, Fault, Seen};
pub use certificates::Certificates;
pub use galera::Galera;
pub use mariadb::MariaDb;
pub use metadata::Metadata;
pub use moto::{AwsKey, Moto, MotoAdmin, REGION};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::free_port;
pub use proxy::{Mode, Proxy};

/// A database server that a test may treat badly.
pub trait Server: Send + Sync {
    /// The URL of a new, empty database on it.
    fn create_database(&self) -> String;
    /// The TCP port of the server on the loopback interface.
    fn port(&self) -> u16;
    /// Kills it at once, as a crash of the machine would (but for what the operating system keeps).
    fn kill(&mut self);
    /// Starts it again, and waits until it answers.
    fn start(&mut self);
}

/// The name of a database that nobody has.
fn database_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("kms_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
