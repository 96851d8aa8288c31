//! Mini KMS as a service. Routes translate between HTTP and [`kms_lib`], which decides.
