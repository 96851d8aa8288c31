//! Mini KMS as a service. Routes translate between HTTP and [`kms_lib`], which decides.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`cli`] | the command line; exit codes |
//! | [`settings`] | file, environment, flags |
//! | [`server`] | listening, connections, shutting down |
//! | [`tls`] | certificates and handshakes |
//! | [`front`] | what happens to every request: id, headers, limits, turns |
//! | [`auth`] | who is calling |
//! | [`api`] | the routes |
//! | [`metrics`] | what Prometheus scrapes |
//! | [`openapi`] | the contract, made from the routes |

#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod cli;
pub mod front;
pub mod metrics;
pub mod openapi;
pub mod server;
pub mod settings;
pub mod tls;
