//! Server blocks at a port of their own that another block forwards to over loopback, as CoreDNS's documentation has it for
//! servers with certificates of several names. Here a server has its certificate's name, so the other block asks them itself.

use std::collections::BTreeMap;

use super::draft::{Draft, LineVerdict};
use super::forward;
use super::syntax::{Directive, ServerBlock};
use super::zones::BlockKey;

/// Plugins that do not change the answers of a block that forwards.
const SILENT: [&str; 6] = ["errors", "log", "loop", "reload", "bind", "prometheus"];

/// A block that only passes on what it is asked.
#[derive(Debug)]
pub(super) struct Relay {
    block: ServerBlock,
    port: u16,
}

/// Where this host is asked by itself.
const HERE: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];

/// Removes such blocks from the list of all blocks.
pub(super) fn split_off(servers: Vec<ServerBlock>) -> (Vec<Relay>, Vec<ServerBlock>) {
    let targets: Vec<String> = servers
        .iter()
        .flat_map(|block| &block.body)
        .filter(|directive| directive.name.text == "forward")
        .flat_map(|directive| directive.arguments.iter().skip(1))
        .map(|word| word.text.clone())
        .collect();
    let (mut relays, mut others) = (Vec::new(), Vec::new());
    for block in servers {
        let wanted = |port: &u16| {
            let mut here = HERE.iter().map(|host| format!("{host}:{port}"));
            here.any(|here| targets.contains(&here))
        };
        match port_of(&block).filter(wanted) {
            Some(port) => relays.push(Relay { block, port }),
            None => others.push(block),
        }
    }
    (relays, others)
}

/// The port of a block for all names that does nothing but forward.
fn port_of(block: &ServerBlock) -> Option<u16> {
    let [key] = block.keys.as_slice() else {
        return None;
    };
    let key = BlockKey::read(&key.text)?;
    let whole = key.scheme == "dns" && key.zones == ["."] && key.port != 53;
    let forwards = |directive: &&Directive| directive.name.text == "forward";
    let silent = |directive: &Directive| SILENT.contains(&directive.name.text.as_str());
    let mut body = block.body.iter();
    let alone = body.by_ref().filter(forwards).count() == 1
        && block.body.iter().all(|one| forwards(&one) || silent(one));
    (whole && alone).then_some(key.port)
}

/// The servers behind each such block, by the address at which it is asked; adds the remarks.
pub(super) fn servers(draft: &mut Draft, relays: &[Relay]) -> BTreeMap<String, Vec<String>> {
    let mut behind = BTreeMap::new();
    for relay in relays {
        let note = "its servers are asked by the block that forwards to it, and nothing listens at its port";
        for directive in &relay.block.body {
            draft.remark(directive, LineVerdict::Differs, note);
            if directive.name.text == "forward"
                && let Some(forward) = forward::read(draft, directive, &BTreeMap::new())
            {
                let here = HERE.iter().map(|host| format!("{host}:{}", relay.port));
                behind.extend(here.map(|here| (here, forward.servers.clone())));
            }
        }
    }
    behind
}
