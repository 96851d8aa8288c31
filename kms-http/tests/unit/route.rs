//! Unit tests of `src/api/route.rs`: how requests are admitted.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::settings::AuthMethod;
use axum::Router;
use axum::body::Body;
use kms_lib::{Config, Kms};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tower_service::Service;

/// A service with the routes `/work`, `/list` and `/patient`, whose handlers wait for a permit of the test.
struct Routes {
    app: Arc<App>,
    router: Router,
    /// One permit for each handler that has begun. The handlers wait for permits of `go_on`.
    begun: Arc<Semaphore>,
    go_on: Arc<Semaphore>,
    calls: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl Routes {
    async fn new(concurrency: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let kms = Kms::open(Config::new(url).root_key_bytes([7; 32])).await.unwrap();
        let http = crate::settings::Http { concurrency, auth: vec![AuthMethod::TrustedHeaders], ..Default::default() };
        let app = Arc::new(App::new(kms, http).unwrap());
        let (begun, go_on, calls) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::default());
        let handler = {
            let (begun, go_on, calls) = (Arc::clone(&begun), Arc::clone(&go_on), Arc::clone(&calls));
            move |_: Call| {
                let (begun, go_on, calls) = (Arc::clone(&begun), Arc::clone(&go_on), Arc::<AtomicUsize>::clone(&calls));
                async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    begun.add_permits(1);
                    go_on.acquire().await.unwrap().forget();
                    crate::api::reply::no_content()
                }
            }
        };
        let doc = || Doc::new("Tests", "tests");
        let routes = [
            Route::get("/work", "work", handler.clone()).doc(doc()),
            Route::get("/list", "list", handler.clone()).doc(doc().lists::<crate::openapi::schemas::Key>()),
            Route::get("/patient", "patient", handler).doc(doc().patient()),
        ];
        let router = routes.into_iter().fold(Router::new(), |router, route| {
            let meter = app.metrics.meter(route.operation.id, route.operation.method.clone(), route.operation.path);
            let (path, handler) = route.mount(meter);
            router.route(path, handler)
        });
        let router = router.with_state(Arc::clone(&app));
        Self { app, router, begun, go_on, calls, _folder: folder }
    }

    /// Sends a request with this body.
    fn send_body(&self, body: Vec<u8>) -> tokio::task::JoinHandle<u16> {
        let request = Request::builder().uri("/work").header("host", "localhost").header("x-principal", "a");
        let mut request = request.header("x-role", "admin").body(Body::from(body)).unwrap();
        request.extensions_mut().insert(RequestContext::alone(&Default::default(), Arc::default()));
        let mut router = self.router.clone();
        tokio::spawn(async move { router.call(request).await.unwrap().status().as_u16() })
    }

    /// Sends a request whose head arrived this long ago.
    fn send(&self, path: &str, principal: &str, age: Duration) -> tokio::task::JoinHandle<u16> {
        let request = Request::builder().uri(path).header("host", "localhost").header("x-principal", principal);
        let mut request = request.header("x-role", "admin").body(Body::empty()).unwrap();
        let mut context = RequestContext::alone(request.headers(), Arc::default());
        context.started = context.started.checked_sub(age).unwrap();
        request.extensions_mut().insert(context);
        let mut router = self.router.clone();
        tokio::spawn(async move { router.call(request).await.unwrap().status().as_u16() })
    }

    async fn have_begun(&self, handlers: u32) {
        let all = tokio::time::timeout(Duration::from_secs(60), self.begun.acquire_many(handlers)).await;
        all.expect("the requests are not admitted").unwrap().forget();
    }

    async fn wait(&self, waiting: usize) {
        while self.app.gate.load().1 + self.app.heavy.load().1 < waiting {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn waiting_lists_occupy_no_place() {
    let routes = Routes::new(5).await;
    let lists: Vec<_> = (0..14).map(|n| routes.send("/list", &format!("a{n}"), NOW)).collect();
    routes.have_begun(4).await;
    routes.wait(10).await;
    let work = routes.send("/work", "b", NOW);
    routes.have_begun(1).await;
    routes.go_on.add_permits(15);
    assert_eq!(work.await.unwrap(), 204);
    for list in lists {
        assert_eq!(list.await.unwrap(), 204);
    }
}

#[tokio::test]
async fn few_large_requests_are_processed_concurrently() {
    let routes = Routes::new(16).await;
    let batch = |items: usize| "{},".repeat(items).into_bytes();
    let mut requests: Vec<_> = (0..5).map(|_| routes.send_body(vec![b'x'; LARGE + 1])).collect();
    requests.extend((0..5).map(|_| routes.send_body(batch(MANY + 1))));
    // One caller gets at most two of the four turns.
    routes.have_begun(2).await;
    routes.wait(8).await;
    requests.extend([routes.send_body(vec![b'x'; LARGE]), routes.send_body(batch(MANY))]);
    routes.have_begun(2).await;
    assert_eq!(routes.calls.load(Ordering::SeqCst), 4);
    routes.go_on.add_permits(12);
    for request in requests {
        assert_eq!(request.await.unwrap(), 204);
    }
}

#[tokio::test]
async fn one_principal_leaves_turns_for_lists_to_others() {
    let routes = Routes::new(16).await;
    let greedy: Vec<_> = (0..30).map(|_| routes.send("/list", "greedy", NOW)).collect();
    routes.have_begun(2).await;
    routes.wait(28).await;
    let modest = routes.send("/list", "modest", NOW);
    routes.have_begun(1).await;
    routes.go_on.add_permits(3);
    let modest = tokio::time::timeout(Duration::from_secs(60), modest).await.expect("the other principal gets no turn");
    assert_eq!(modest.unwrap(), 204);
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn patient_handlers_occupy_no_place() {
    let routes = Routes::new(1).await;
    let patient: Vec<_> = (0..20).map(|_| routes.send("/patient", "auditor", NOW)).collect();
    routes.have_begun(20).await;
    let work = routes.send("/work", "b", NOW);
    routes.have_begun(1).await;
    let more = routes.send("/patient", "auditor", NOW);
    routes.have_begun(1).await;
    routes.go_on.add_permits(22);
    for request in patient.into_iter().chain([work, more]) {
        assert_eq!(request.await.unwrap(), 204);
    }
}

#[tokio::test]
async fn cancelled_and_late_requests_are_not_processed() {
    let routes = Routes::new(1).await;
    let first = routes.send("/work", "a", NOW);
    routes.have_begun(1).await;
    // One request is cancelled while it waits, and one times out before it is admitted.
    let gone = routes.send("/work", "a", NOW);
    routes.wait(1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(routes.send("/work", "a", routes.app.http.request_timeout()).await.unwrap(), 504);
    routes.go_on.add_permits(2);
    assert_eq!(first.await.unwrap(), 204);
    assert_eq!(routes.send("/work", "a", NOW).await.unwrap(), 204);
    assert_eq!(routes.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_timeout_of_a_request_begins_with_its_head() {
    let routes = Routes::new(1).await;
    let late = routes.send("/work", "a", routes.app.http.request_timeout() - Duration::from_millis(300));
    routes.have_begun(1).await;
    let status = tokio::time::timeout(Duration::from_secs(25), late).await.expect("the request timed out").unwrap();
    assert_eq!(status, 504);
}

#[test]
fn verifications_of_the_log_occupy_no_place() {
    let operations = crate::api::operations(&crate::settings::Http::default());
    let patient = operations.iter().filter(|operation| operation.doc.kind.is_patient);
    assert_eq!(patient.map(|operation| operation.id).collect::<Vec<_>>(), ["verifyAudit"]);
}

/// A request that waits for its body holds little memory: thousands of callers may send theirs slowly. Before, it held
/// copies of its head in each of the futures that pass it on.
#[tokio::test]
async fn the_future_of_a_request_is_small() {
    let routes = Routes::new(4).await;
    let request = Box::new(Request::new(Body::empty()));
    let meter = routes.app.metrics.meter("x", Method::GET, "/x");
    let kind = Doc::new("Tests", "tests").kind;
    let handler = async |_: Call| crate::api::reply::no_content();
    let bytes = size_of_val(&guarded(Arc::clone(&routes.app), request, Arc::new(meter), kind, handler));
    assert!(bytes <= 2_200, "{bytes} bytes");
}
