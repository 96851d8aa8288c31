//! The documentation page `/docs`: embedded Swagger UI, which loads nothing from other servers.

use std::io::Read;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::read::DeflateDecoder;

/// The HTML page that Swagger UI renders into.
const PAGE: &str = include_str!("page.html");
/// The script that starts Swagger UI with `/openapi.json`.
const START: &str = include_str!("page.js");

/// The script and the styles of Swagger UI, which the build script took from its archive. Inflated when a browser first
/// asks for them.
static SWAGGER_SCRIPT: LazyLock<Bytes> =
    LazyLock::new(|| inflate(include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.deflate"))));
static SWAGGER_STYLES: LazyLock<Bytes> =
    LazyLock::new(|| inflate(include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.deflate"))));

/// The `Content-Security-Policy` of the page: it may load its own scripts and styles and call this service. Swagger UI
/// needs inline styles, and images in its style sheet.
pub const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                               img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                               frame-ancestors 'none'";

/// A file of the page.
pub struct File {
    /// The path at which the file is served.
    pub path: &'static str,
    /// The value of the header `content-type`.
    pub content_type: &'static str,
    /// Returns the bytes of the file.
    pub content: fn() -> Bytes,
}

/// The page and the files that it loads.
pub fn files() -> Vec<File> {
    let css = "text/css; charset=utf-8";
    let script = "text/javascript; charset=utf-8";
    let file = |path, content_type, content| File { path, content_type, content };
    vec![
        file("/docs", "text/html; charset=utf-8", || Bytes::from_static(PAGE.as_bytes())),
        file("/docs/start.js", script, || Bytes::from_static(START.as_bytes())),
        file("/docs/swagger-ui.css", css, || SWAGGER_STYLES.clone()),
        file("/docs/swagger-ui.js", script, || SWAGGER_SCRIPT.clone()),
    ]
}

/// Inflates an embedded file. A test checks that this succeeds.
fn inflate(deflated: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    match DeflateDecoder::new(deflated).read_to_end(&mut bytes) {
        Ok(_) => bytes.into(),
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_there_and_load_nothing_from_elsewhere() {
        for File { path, content, .. } in files() {
            assert!(content().len() > 100, "{path} is missing");
        }
        for text in [PAGE, START] {
            assert!(!text.contains("//"), "a URL of another place, or a comment");
        }
    }
}
