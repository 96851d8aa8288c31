//! Who is calling: from a credential to a principal and a role.

pub mod error;
pub mod identity;
pub mod mtls;
pub mod oidc;

pub use error::AuthError;
