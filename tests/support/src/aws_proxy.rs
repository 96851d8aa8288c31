//! A proxy between the AWS SDK and a server that implements AWS KMS. It records every request, and fails the requests
//! that a test selects, as AWS KMS or the network would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The fault, if any, that the proxy causes for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault: the request passes unchanged.
    Pass,
    /// The request passes after this delay.
    Delay(Duration),
    /// The connection is closed without a response, and the server does not receive the request.
    Cut,
    /// The server receives the request, and its response is cut in the middle.
    CutAnswer,
    /// No response, and the connection stays open.
    Silence,
    /// A response with this status, whose body is not one of AWS.
    Status(u16),
    /// The error with this name, in the form of AWS KMS. Its message repeats the request, which no error of Mini KMS
    /// may show.
    Aws(&'static str),
    /// The error with this name, and a `Date` header this many seconds ahead of the machine's clock.
    AwsAhead(&'static str, i64),
}

/// A request that the proxy received.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The operation of AWS KMS, such as `Encrypt`.
    pub operation: String,
    /// The JSON in the body.
    pub body: Value,
    /// The access key id that signed the request.
    pub access_key: String,
    /// When the request arrived.
    pub at: Instant,
}

impl Seen {
    /// The key that the request names.
    pub fn key(&self) -> &str {
        self.body["KeyId"].as_str().unwrap_or_default()
    }
    /// The value of this name in the encryption context.
    pub fn context(&self, name: &str) -> &str {
        self.body["EncryptionContext"][name].as_str().unwrap_or_default()
    }
}

type Rule = Arc<dyn Fn(&Seen) -> Fault + Send + Sync>;

struct Shared {
    server: u16,
    seen: Mutex<Vec<Seen>>,
    rule: Mutex<Rule>,
    closed: AtomicBool,
}

/// An HTTP proxy between the SDK and the server. Stopped when dropped.
pub struct AwsProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl AwsProxy {
    /// Starts a proxy in front of the server at this port. Everything passes until [`AwsProxy::rule`] is called.
    pub fn new(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            server,
            seen: Mutex::default(),
            rule: Mutex::new(Arc::new(|_| Fault::Pass)),
            closed: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if own.closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let own = Arc::clone(&own);
                thread::spawn(move || {
                    let _ = client.set_nodelay(true);
                    serve(&own, &client);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, shared }
    }

    /// The endpoint to configure for the SDK.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the function that selects the fault for each further request.
    pub fn rule(&self, rule: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *self.shared.rule.lock().expect("the rule") = Arc::new(rule);
    }

    /// Causes this fault for all further requests.
    pub fn always(&self, fault: Fault) {
        self.rule(move |_| fault.clone());
    }

    /// Causes this fault for the next `count` requests. Later requests pass.
    pub fn next(&self, count: usize, fault: Fault) {
        let left = Mutex::new(count);
        self.rule(move |_| {
            let mut left = left.lock().expect("the count");
            match *left {
                0 => Fault::Pass,
                _ => {
                    *left -= 1;
                    fault.clone()
                }
            }
        });
    }

    /// The requests received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("the requests").clone()
    }

    /// The requests received since the last call of this method.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().expect("the requests"))
    }
}

impl Drop for AwsProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// One HTTP/1.1 message: its head with the empty line, and its body.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut head = String::new();
        loop {
            let begin = head.len();
            if from.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if &head[begin..] == "\r\n" {
                head.truncate(begin);
                break;
            }
        }
        let mut message = Self { head, body: Vec::new() };
        let length = message.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        message.body = vec![0; length];
        from.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn bytes(&self, is_last: bool) -> Vec<u8> {
        let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
        let mut bytes = self.head.lines().filter(is_kept).collect::<Vec<_>>().join("\r\n").into_bytes();
        bytes.extend_from_slice(if is_last { b"\r\nconnection: close\r\n\r\n" } else { b"\r\n\r\n" });
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Serves one connection of the SDK.
fn serve(shared: &Shared, client: &TcpStream) {
    let mut requests = BufReader::new(client);
    while let Some(request) = Message::read(&mut requests) {
        let seen = seen(&request);
        shared.seen.lock().expect("the requests").push(seen.clone());
        let rule = Arc::clone(&shared.rule.lock().expect("the rule"));
        let fault = rule(&seen);
        let send = |bytes: &[u8]| {
            let mut client = client;
            client.write_all(bytes).is_ok()
        };
        let goes_on = match fault {
            Fault::Pass => forward(shared, &request).is_some_and(|answer| send(&answer.bytes(false))),
            Fault::Delay(time) => {
                thread::sleep(time);
                forward(shared, &request).is_some_and(|answer| send(&answer.bytes(false)))
            }
            Fault::Cut => false,
            Fault::CutAnswer => {
                let answer = forward(shared, &request).map(|answer| answer.bytes(false)).unwrap_or_default();
                send(&answer[..answer.len().saturating_sub(20)]);
                false
            }
            Fault::Silence => {
                // Waits until the client closes the connection.
                let _ = requests.read(&mut [0]);
                false
            }
            Fault::Status(status) => send(&answer(status, "text/html", "<p>not AWS</p>", 0)),
            Fault::Aws(name) => send(&aws_error(name, &request, 0)),
            Fault::AwsAhead(name, seconds) => send(&aws_error(name, &request, seconds)),
        };
        if !goes_on {
            return;
        }
    }
}

fn seen(request: &Message) -> Seen {
    let target = request.header("x-amz-target").unwrap_or_default();
    let signed = request.header("authorization").unwrap_or_default();
    let access_key = signed.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    Seen {
        operation: target.rsplit('.').next().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&request.body).unwrap_or(Value::Null),
        access_key: access_key.to_owned(),
        at: Instant::now(),
    }
}

fn forward(shared: &Shared, request: &Message) -> Option<Message> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.server)).ok()?;
    server.write_all(&request.bytes(true)).ok()?;
    Message::read(&mut BufReader::new(&server))
}

/// An error response of AWS's JSON 1.1 protocol.
fn aws_error(name: &str, request: &Message, ahead: i64) -> Vec<u8> {
    let message = format!("this message repeats the request: {}", String::from_utf8_lossy(&request.body));
    let status = match name {
        "KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException" => 500,
        _ => 400,
    };
    answer(status, "application/x-amz-json-1.1", &json!({"__type": name, "message": message}).to_string(), ahead)
}

fn answer(status: u16, content_type: &str, body: &str, ahead: i64) -> Vec<u8> {
    let date = http_date(ahead);
    format!(
        "HTTP/1.1 {status} Fault\r\ndate: {date}\r\nx-amzn-requestid: 7a1c2d3e-0000-4000-8000-0123456789ab\r\n\
         content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The time in the format of HTTP (RFC 9110), this many seconds ahead of the machine's clock.
fn http_date(ahead: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
    let seconds = i64::try_from(now.as_secs()).expect("a time") + ahead;
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1970 as a date of the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{weekday}, {day:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", names[month as usize - 1])
}
