//! The host on which the configuration is loaded.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::yaml;

/// Files and facts of the host that defaults are taken from.
#[derive(Debug)]
pub(super) struct HostFacts {
    pub(super) resolv_conf: PathBuf,
    pub(super) hostname: PathBuf,
    /// The kubelet's configuration, which knows the address of kube-dns.
    pub(super) kubelet: PathBuf,
    /// A file that exists where the kernel has IPv6.
    pub(super) ipv6: PathBuf,
    /// Where kube-dns is, if the user says so.
    pub(super) cluster_dns: Option<IpAddr>,
    /// Where the files that the configuration is made of are read from.
    pub(super) files: Files,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hostname: PathBuf::from("/proc/sys/kernel/hostname"),
            kubelet: PathBuf::from("/var/lib/kubelet/config.yaml"),
            ipv6: PathBuf::from("/proc/net/if_inet6"),
            cluster_dns: None,
            files: Files::default(),
        }
    }
}

impl HostFacts {
    /// Where kube-dns is, as the user says, or the kubelet.
    pub(super) fn cluster_dns(&self) -> Option<IpAddr> {
        self.cluster_dns
            .or_else(|| kubelets_cluster_dns(&self.kubelet))
    }
}

/// The first address of `clusterDNS` in the kubelet's configuration, where there is one.
fn kubelets_cluster_dns(file: &Path) -> Option<IpAddr> {
    let (document, _) = yaml::parse(&fs::read_to_string(file).ok()?);
    let addresses = document?.dict.remove("clusterDNS")?;
    addresses.as_array()?.first()?.as_str()?.parse().ok()
}
