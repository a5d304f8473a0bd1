//! `nodens node remove`: take away what nodens set up on the node.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::ConfigArgs;
use crate::config::load;
use crate::node;

/// Look after what nodens sets up on the node
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Delete the interface (of the loopback interface: our addresses only) and the nftables table
    ///
    /// Stop nodens before: a running one puts both back within seconds.
    #[command(after_long_help = super::examples::NODE_REMOVE)]
    Remove(ConfigArgs),
}

pub(super) fn run(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    let NodeCommand::Remove(config) = &args.command;
    let loaded = match load(&config.flags()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    let node = loaded.config.node.unwrap_or_else(|| {
        let node = node::defaults();
        let name = &node.interface.name;
        println!("the configuration has no `node:`; looking for the default interface, {name}");
        node
    });
    let removed = node::remove(&node)?;
    for object in &removed {
        println!("removed {object}");
    }
    if removed.is_empty() {
        println!("nothing to remove");
    }
    Ok(ExitCode::SUCCESS)
}
