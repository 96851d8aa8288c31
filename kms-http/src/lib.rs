//! Mini KMS as a service. Routes translate between HTTP and [`kms_lib`], which decides.
//!
//! A module uses only modules below it in this table.
//!
//! | module | contents |
//! | --- | --- |
//! | [`cli`] | the command line; exit codes |
//! | [`server`] | listeners, connections, shutdown |
//! | [`api`] | the routes |
//! | [`openapi`] | the contract, generated from the descriptions of the routes |
//! | [`metrics`] | what Prometheus scrapes |
//! | [`anchors`] | signed states of the log outside of the database |
//! | [`auth`] | who the caller is |
//! | [`otlp`] | OpenTelemetry traces (feature `otlp`) |
//! | [`tls`] | certificates and handshakes |
//! | [`request`] | what happens to every request: id, headers, limits, fair turns |
//! | [`error`] | errors as HTTP responses |
//! | [`settings`] | the configuration: file, environment, flags |

#![forbid(unsafe_code)]

pub mod anchors;
pub mod api;
pub mod auth;
pub mod cli;
pub mod error;
pub mod metrics;
pub mod openapi;
pub mod otlp;
pub mod request;
pub mod server;
pub mod settings;
pub mod tls;
