//! The documentation page `/docs`: embedded Swagger UI, which loads nothing from other servers.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use utoipa_swagger_ui::Config;

/// The HTML page that Swagger UI renders into.
const PAGE: &str = include_str!("page.html");
/// The script that starts Swagger UI with `/openapi.json`.
const START: &str = include_str!("page.js");

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
    /// The bytes of the file.
    pub content: Bytes,
}

/// The page and the files that it loads.
pub fn files() -> Vec<File> {
    let own = |path, content_type, text: &'static str| File { path, content_type, content: text.into() };
    let css = "text/css; charset=utf-8";
    let script = "text/javascript; charset=utf-8";
    vec![
        own("/docs", "text/html; charset=utf-8", PAGE),
        own("/docs/start.js", script, START),
        File { path: "/docs/swagger-ui.css", content_type: css, content: embedded("swagger-ui.css") },
        File { path: "/docs/swagger-ui.js", content_type: script, content: embedded("swagger-ui-bundle.js") },
    ]
}

/// A file of the Swagger UI distribution. A test checks that the files above exist.
fn embedded(name: &str) -> Bytes {
    let found = utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok().flatten();
    found.map_or_else(Bytes::new, |file| match file.bytes {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => bytes.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_there_and_load_nothing_from_elsewhere() {
        for File { path, content, .. } in files() {
            assert!(content.len() > 100, "{path} is missing");
        }
        for text in [PAGE, START] {
            assert!(!text.contains("//"), "a URL of another place, or a comment");
        }
    }
}
