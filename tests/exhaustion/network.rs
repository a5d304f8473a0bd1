//! A node and its server in network namespaces of their own, connected by one link.

use crate::common::TempDir;
use crate::common::namespace::{Instance, Namespace, assert_root, both};

/// The node's address, and its server's.
pub(crate) const NODE: &str = "10.9.0.2";
pub(crate) const SERVER: &str = "10.9.0.1";

/// A node, and its server, whose namespace also holds the clients.
pub(crate) struct Network {
    pub(crate) server: Namespace,
    pub(crate) node: Namespace,
    pub(crate) dir: TempDir,
    _server: Instance,
}

impl Network {
    pub(crate) fn new() -> Self {
        assert_root();
        let (server, node) = (Namespace::new("server"), Namespace::new("node"));
        server.connect("node", &node, "server");
        server.ip(&format!("addr add {SERVER}/24 dev node"));
        node.ip(&format!("addr add {NODE}/24 dev server"));
        let dir = TempDir::new();
        let records = "records: {\"*.example\": {A: 192.0.2.1}}";
        let nobody = "upstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}";
        let yaml = format!("listen: [\"{SERVER}:53\"]\nworkers: 1\n{records}\n{nobody}");
        let upstream = Instance::start(&server, &dir, "server", &yaml);
        Self {
            server,
            node,
            dir,
            _server: upstream,
        }
    }

    /// Asks at this address of the node, once each, for so many names that begin with this word; how many have an address.
    pub(crate) fn ask(&self, at: &str, word: &str, count: usize) -> usize {
        self.ask_with("+notcp", at, word, count)
    }

    /// The same with another option of dig.
    pub(crate) fn ask_with(&self, option: &str, at: &str, word: &str, count: usize) -> usize {
        let names = (0..count).map(|number| format!("{word}{number}.example"));
        let at = format!("@{at}");
        let output = self
            .server
            .command("dig")
            .args([&at, option, "+tries=1", "+timeout=5", "+noall", "+answer"])
            .args(names)
            .output()
            .expect("dig is installed: apt-get install dnsutils");
        both(&output).matches("192.0.2.1").count()
    }
}
