//! A private Galera cluster of MariaDB servers on the loopback interface.

use std::path::Path;

use crate::mariadb::MariaDb;
use crate::process::free_port;
use crate::{Server, database_name};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// A Galera cluster of MariaDB servers.
pub struct Galera {
    nodes: Vec<MariaDb>,
    ports: Vec<(u16, u16)>,
}

impl Galera {
    /// Starts a cluster of `count` nodes, or returns None if MariaDB or Galera is not installed.
    pub fn try_new(count: usize) -> Option<Self> {
        if !Path::new(PROVIDER).is_file() {
            return None;
        }
        let nodes = (0..count).map(|_| MariaDb::prepare(&[])).collect::<Option<Vec<_>>>()?;
        let ports = (0..count).map(|_| (free_port(), free_port())).collect();
        let mut cluster = Self { nodes, ports };
        for node in 0..count {
            cluster.start_node(node, node == 0);
        }
        Some(cluster)
    }

    fn start_node(&mut self, node: usize, is_first: bool) {
        let address = |(group, _): &(u16, u16)| format!("127.0.0.1:{group}");
        let members =
            if is_first { String::new() } else { self.ports.iter().map(address).collect::<Vec<_>>().join(",") };
        let (group, incremental) = self.ports[node];
        let state = free_port();
        let mut arguments = vec![
            "--wsrep-on=ON".to_owned(),
            format!("--wsrep-provider={PROVIDER}"),
            "--wsrep-cluster-name=kms-test".to_owned(),
            format!("--wsrep-cluster-address=gcomm://{members}"),
            format!("--wsrep-node-address=127.0.0.1:{group}"),
            format!("--wsrep-node-name=node{node}"),
            format!("--wsrep-sst-receive-address=127.0.0.1:{state}"),
            "--wsrep-sst-method=rsync".to_owned(),
            format!(
                "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};\
                 ist.recv_addr=127.0.0.1:{incremental};gcache.size=64M;pc.recovery=false"
            ),
            "--binlog-format=ROW".to_owned(),
            "--innodb-autoinc-lock-mode=2".to_owned(),
        ];
        if is_first {
            arguments.push("--wsrep-new-cluster".to_owned());
        }
        self.nodes[node].set_arguments(arguments);
        self.nodes[node].launch();
        self.nodes[node].wait_for("SHOW STATUS LIKE 'wsrep_ready'", "ON");
        self.nodes[node].wait_for("SHOW STATUS LIKE 'wsrep_local_state_comment'", "Synced");
    }

    /// Creates a database. Returns its URL on each node.
    pub fn create_database(&self) -> Vec<String> {
        let name = database_name();
        self.nodes[0].sql(&format!(
            "CREATE DATABASE {name}; CREATE USER IF NOT EXISTS kms@'127.0.0.1' IDENTIFIED BY 'kms-test'; \
             GRANT ALL ON {name}.* TO kms@'127.0.0.1'"
        ));
        // The other nodes refuse the user until they have received it.
        for node in &self.nodes {
            node.sql("SET SESSION wsrep_sync_wait = 15; SELECT COUNT(*) FROM mysql.db");
        }
        let url = |node: &MariaDb| format!("mysql://kms:kms-test@127.0.0.1:{}/{name}?ssl-mode=disabled", node.port());
        self.nodes.iter().map(url).collect()
    }

    /// Kills a node at once.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a killed node again. It has rejoined the cluster and is up to date when this returns.
    pub fn rejoin(&mut self, node: usize) {
        self.start_node(node, false);
    }

    /// The activity of the sessions on all nodes, which must be running.
    pub fn sessions(&self) -> String {
        let sessions = "SELECT id, user, command, time, state, LEFT(info, 90) FROM information_schema.processlist";
        self.nodes.iter().map(|node| format!("\n{}", node.sql(sessions))).collect()
    }

    /// Executes statements on a node.
    pub fn sql(&self, node: usize, statements: &str) -> String {
        self.nodes[node].sql(statements)
    }
}
