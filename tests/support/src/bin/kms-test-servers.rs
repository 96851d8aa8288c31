//! Starts a private MariaDB and a private PostgreSQL server, prints where they are as shell assignments, and keeps them
//! until its standard input ends. What is not installed is left out.

#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::io::Read;

use kms_test_support::{MariaDb, Postgres, Server};

fn main() {
    let mariadb = MariaDb::try_new(&[]);
    let postgres = Postgres::try_new(&[]);
    if let Some(server) = &mariadb {
        server.sql(
            "CREATE USER kms_admin@'127.0.0.1' IDENTIFIED BY 'kms-test'; GRANT ALL ON *.* TO kms_admin@'127.0.0.1'",
        );
        println!("KMS_TEST_MYSQL_URL=mysql://kms_admin:kms-test@127.0.0.1:{}/mysql?ssl-mode=disabled", server.port());
    }
    if let Some(server) = &postgres {
        println!(
            "KMS_TEST_POSTGRES_URL=postgres://postgres:kms-test@127.0.0.1:{}/postgres?ssl-mode=disable",
            server.port()
        );
    }
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
