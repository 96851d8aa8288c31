//! The HTTP front end and command line of Mini KMS. Routes translate between HTTP and [`kms_lib`], which makes all
//! decisions.
//!
//! A module uses only modules below it in this table.
//!
//! | module | contents |
//! | --- | --- |
//! | [`cli`] | the command line; exit codes |
//! | [`server`] | listeners, connections, shutdown |
//! | [`api`] | the routes |
//! | [`openapi`] | the OpenAPI document, generated from the descriptions of the routes |
//! | [`metrics`] | the Prometheus metrics |
//! | [`anchors`] | signed checkpoints of the log, kept outside the database |
//! | [`auth`] | authentication of callers |
//! | [`otlp`] | OpenTelemetry traces (feature `otlp`) |
//! | [`tls`] | certificates and handshakes |
//! | [`request`] | handling common to all requests: id, headers, limits, fair queueing |
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
