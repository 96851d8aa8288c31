//! Certificates for a server on the loopback interface, by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{folder, give, run};

/// An authority, and a server's key and certificate signed by it.
pub struct Certificates(TempDir);

impl Certificates {
    /// Creates the certificates in a folder that only the current user can read.
    pub fn new(user: &str) -> Self {
        let made = Self(folder(user));
        let files = ["ca.key", "ca.pem", "server.key", "server.csr", "server.pem"].map(|name| made.file(name));
        let [authority_key, authority, key, request, certificate] = files.each_ref().map(|file| file.as_os_str());
        let extensions = made.file("extensions");
        std::fs::write(&extensions, "subjectAltName=IP:127.0.0.1,IP:::1\nbasicConstraints=CA:FALSE\n")
            .expect("the extensions");
        let openssl = |arguments: &[&std::ffi::OsStr]| {
            let mut command = Command::new("openssl");
            command.args(arguments);
            run(command);
        };
        let words = |text: &'static str| text.split(' ').map(std::ffi::OsStr::new);
        let mut make: Vec<_> =
            words("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout").collect();
        make.extend([authority_key, "-out".as_ref(), authority]);
        openssl(&make);
        let mut ask: Vec<_> = words("req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout").collect();
        ask.extend([key, "-out".as_ref(), request]);
        openssl(&ask);
        let mut sign: Vec<_> = words("x509 -req -days 2 -CAcreateserial -in").collect();
        sign.extend([
            request,
            "-CA".as_ref(),
            authority,
            "-CAkey".as_ref(),
            authority_key,
            "-out".as_ref(),
            certificate,
        ]);
        sign.extend(["-extfile".as_ref(), extensions.as_os_str()]);
        openssl(&sign);
        for file in &files {
            give(file, made.0.path());
        }
        made
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// The folder with `ca.pem`, `server.pem` and `server.key`.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}
