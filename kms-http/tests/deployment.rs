//! Checks the manifests of `examples/http` against the program.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Server, example, program};
use serde_json::Value;
use tempfile::TempDir;

fn read(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// Parses the documents of a YAML file.
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(name)).unwrap()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

#[tokio::test]
async fn the_manifests_for_kubernetes_fit_the_program() {
    let documents = documents("kubernetes.yaml");
    let deployment = &of_kind(&documents, "Deployment")["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    // The variables are known settings with valid values.
    let home = TempDir::new().unwrap();
    let mut check = program(&home);
    check.env_remove("HOME").args(["--json", "config", "check"]);
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        match variable["value"].as_str() {
            Some(value) if value.starts_with("file:") => {
                let key = home.path().join("root.key");
                std::fs::write(&key, format!("hex:{}", "07".repeat(32))).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
                std::fs::set_permissions(&key, mode).unwrap();
                check.env(name, format!("file:{}", key.display()));
            }
            Some(value) => drop(check.env(name, value)),
            None => {
                assert!(variable["valueFrom"]["secretKeyRef"]["name"].is_string(), "{variable}");
                check.env(name, "postgres://kms:secret@db:5432/kms");
            }
        }
    }
    let checked = check.output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let settings: Value = serde_json::from_slice(&checked.stdout).unwrap();
    // Ports and probes match the program.
    let port = &container["ports"][0];
    let listen = settings["http.listen"].as_str().unwrap();
    assert!(listen.ends_with(&format!(":{}", port["containerPort"])), "{listen}");
    assert_eq!(of_kind(&documents, "Service")["spec"]["ports"][0]["targetPort"], port["name"]);
    let server = Server::start_on_file(&[]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], port["name"], "{probe}");
        assert_eq!(server.client_with(None).get(get["path"].as_str().unwrap()).await.status, 200, "{probe}");
    }
    // The grace period covers the drain time and the shutdown timeout.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let seconds = |name: &str| settings[name].as_str().unwrap().parse::<u64>().unwrap();
    let drain = seconds("http.drain_seconds");
    assert!(grace > drain + seconds("http.shutdown_timeout_seconds"), "{grace}");
    // The drain time is long enough for load balancers to notice.
    let probe = &container["readinessProbe"];
    assert!(drain > probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap());
    // The service, the budget and the deployment select the same pods.
    let labels = &deployment["template"]["metadata"]["labels"];
    assert_eq!(&deployment["selector"]["matchLabels"], labels);
    assert_eq!(&of_kind(&documents, "Service")["spec"]["selector"], labels);
    let budget = &of_kind(&documents, "PodDisruptionBudget")["spec"];
    assert_eq!(&budget["selector"]["matchLabels"], labels);
    assert!(budget["minAvailable"].as_u64() < deployment["replicas"].as_u64());
    assert!(pod["securityContext"]["fsGroup"].is_u64());
    // Each mount has a volume.
    let volumes: Vec<&Value> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    for container in [container, &pod["initContainers"][0]] {
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(volumes.contains(&&mount["name"]), "{mount}");
        }
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    }
}

/// The command in the unit that ships the log works unchanged on another path.
#[tokio::test]
async fn the_unit_that_ships_the_log_works() {
    let unit = read("mini-kms-export.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/kms-http ")).unwrap();
    let server = Server::start_on_file(&[]);
    server.client().aes_key("users").await;
    let file = server.home.path().join("audit.jsonl");
    let mut command = program(&server.home);
    for argument in start.split(' ') {
        if argument.starts_with('/') {
            command.arg(&file)
        } else {
            command.arg(argument)
        };
    }
    let mut export = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for _ in 0..600 {
        if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("KEY_CREATE")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    export.kill().unwrap();
    export.wait().unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("KEY_CREATE"));
    // The agent reads the file that the unit writes, and the fields of its records.
    let agent = &documents("fluent-bit.yaml")[0]["pipeline"];
    let path = start.split(' ').find(|argument| argument.starts_with('/')).unwrap();
    assert_eq!(agent["inputs"][0]["path"], path);
    assert_eq!(agent["filters"][0]["regex"], "seq ^[0-9]+$");
}

#[test]
fn units_are_sound() {
    let is_there = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|run| run.status.success());
    if !is_there {
        eprintln!("SKIPPED: systemd-analyze is not there");
        return;
    }
    // The program has another path here.
    let folder = TempDir::new().unwrap();
    let binary = env!("CARGO_BIN_EXE_kms-http");
    let mut paths = Vec::new();
    for name in ["mini-kms.service", "mini-kms-export.service"] {
        let path = folder.path().join(name);
        std::fs::write(&path, read(name).replace("/usr/local/bin/kms-http", binary)).unwrap();
        paths.push(path);
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    // Directives that this version of systemd does not know are not faults of the unit.
    let faults: Vec<&str> = said.lines().filter(|line| line.contains("mini-kms") && !is_about_version(line)).collect();
    assert!(faults.is_empty(), "{said}");
}

/// `Type=notify-reload` came with systemd 253.
fn is_about_version(line: &str) -> bool {
    line.contains("notify-reload")
}
