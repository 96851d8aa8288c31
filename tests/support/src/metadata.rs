//! The part of EC2's instance metadata service (IMDSv2) that returns credentials.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A metadata service on a free port of the loopback interface. It runs until the process ends.
pub struct Metadata {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Metadata {
    /// Starts a service that returns this access key for a role called `tester`.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let credentials = serde_json::json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": access_key,
            "SecretAccessKey": secret_key, "Token": "a session token", "Expiration": "2126-01-01T00:00:00Z",
        })
        .to_string();
        let requests = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (requests, credentials) = (Arc::clone(&requests), credentials.clone());
                thread::spawn(move || serve(&client, &requests, &credentials));
            }
        });
        Self { port, asked }
    }

    /// The URL to configure as the endpoint of the metadata service.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The request lines received so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the requests").clone()
    }
}

fn serve(client: &TcpStream, requests: &Mutex<Vec<String>>, credentials: &str) {
    let mut lines = BufReader::new(client).lines();
    loop {
        let Some(Ok(request)) = lines.next() else { return };
        let mut has_token = false;
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            has_token |= line.to_ascii_lowercase().starts_with("x-aws-ec2-metadata-token: token");
        }
        requests.lock().expect("the requests").push(request.clone());
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let folder = "/latest/meta-data/iam/security-credentials/";
        let (status, body) = match (method, path.strip_prefix(folder)) {
            ("PUT", _) if path == "/latest/api/token" => (200, "token"),
            ("GET", Some("")) if has_token => (200, "tester"),
            ("GET", Some("tester")) if has_token => (200, credentials),
            _ => (404, ""),
        };
        let answer = format!(
            "HTTP/1.1 {status} Metadata\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\ncontent-length: {}\r\n\r\n\
            {body}",
            body.len()
        );
        let mut client = client;
        if client.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
