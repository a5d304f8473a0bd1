//! A resolver of some kind in front of scripted servers.

use std::net::SocketAddr;

use crate::common::wait_for;
use crate::resolver::{Group, Kind, Resolver, Setup};
use crate::server::{Does, Query, Server, Tcp};

/// Names under which resolvers check health, or are asked whether they are ready. A fault of single names spares them.
fn is_of_health(query: &Query) -> bool {
    query.probe || ["ready.example.", "a.root-servers.net."].contains(&&query.name[..])
}

/// A server that answers clients' questions by this script, and is well otherwise.
pub(crate) fn odd<D: Into<Does>>(script: impl Fn(&Query) -> D + Send + Sync + 'static) -> Server {
    odd_with(Tcp::Serves, script)
}

/// The same with something else behind its TCP port.
pub(crate) fn odd_with<D: Into<Does>>(
    tcp: Tcp,
    script: impl Fn(&Query) -> D + Send + Sync + 'static,
) -> Server {
    Server::start_with(tcp, spare(script))
}

/// The script, and honest answers to what is asked about health.
pub(crate) fn spare<D: Into<Does>>(
    script: impl Fn(&Query) -> D + Send + Sync + 'static,
) -> impl Fn(&Query) -> Does + Send + Sync + 'static {
    move |query| {
        if is_of_health(query) {
            query.honest().into()
        } else {
            script(query).into()
        }
    }
}

/// Two servers by one script, as they are of one make.
pub(crate) fn pair<D: Into<Does>>(
    script: impl Fn(&Query) -> D + Send + Sync + Clone + 'static,
) -> Vec<Server> {
    vec![odd(script.clone()), odd(script)]
}

/// The resolver and its servers; both end with the value.
pub(crate) struct Scene {
    pub(crate) resolver: Resolver,
    pub(crate) servers: Vec<Server>,
}

impl Scene {
    /// All names go to these servers, in this order.
    pub(crate) fn of(kind: Kind, servers: Vec<Server>) -> Self {
        Self::with(kind, servers, |_| {})
    }

    /// The same with further settings.
    pub(crate) fn with(kind: Kind, servers: Vec<Server>, more: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::one(servers.iter().map(|server| server.address).collect());
        more(&mut setup);
        let resolver = Resolver::start(kind, &setup);
        Self { resolver, servers }
    }

    /// The root goes to the first server, this zone to the second.
    pub(crate) fn zone(kind: Kind, zone: &'static str, root: Server, child: Server) -> Self {
        let group = |name, server: &Server| Group {
            name,
            servers: vec![server.address],
        };
        let setup = Setup {
            groups: vec![group("root", &root), group("child", &child)],
            routes: vec![(".", vec!["root"]), (zone, vec!["child"])],
            ..Setup::default()
        };
        let resolver = Resolver::start(kind, &setup);
        let servers = vec![root, child];
        Self { resolver, servers }
    }

    /// Waits until nodens knows its servers. At start it asks all of them at once, which is not the situation.
    pub(crate) fn settled(self, kind: Kind) -> Self {
        if kind == Kind::Nodens {
            let servers = self.servers.len();
            wait_for("all servers to be good", || {
                let page = self.resolver.get("/metrics");
                let good = |line: &&str| {
                    line.starts_with("nodens_upstream_state{")
                        && line.contains("state=\"good\"")
                        && line.ends_with(" 1")
                };
                (page.lines().filter(good).count() >= servers).then_some(())
            });
        }
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.resolver.address
    }

    /// How often all servers together were asked for names that start so.
    pub(crate) fn asked(&self, word: &str) -> usize {
        let of = |server: &Server| {
            let asked = server.asked();
            asked.iter().filter(|q| q.name.starts_with(word)).count()
        };
        self.servers.iter().map(of).sum()
    }
}
