//! Whether the memory that this process may take holds a full cache. If not, the kernel ends the process once the cache has filled,
//! days after the mistake was made.
//!
//! Owns what the limit is: the lowest of those of our cgroup and of the ones above it (`memory.max`; in version 1
//! `memory.limit_in_bytes`). In a container the path of our own may not be there, and the root is ours.

use std::fs;
use std::path::Path;

use crate::config::CacheConfig;

/// Where cgroups are mounted, and where those of version 1 have that of memory (cgroups(7)).
const MOUNTS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory"),
];
/// What is taken beside the cache: an idle process (10 MB), connections and sockets in use.
const BESIDE_THE_CACHE: u64 = 24 << 20;
/// Percent of `cache.max_size` that a full cache takes at most (`tests/memory.rs`).
const FULL_CACHE_PERCENT: u64 = 115;

/// Warns if a full cache takes more memory than this process may.
pub(super) fn warn_of_cache(cache: &CacheConfig) {
    let limit = limit(|path| fs::read_to_string(path).ok());
    let needed = needed(cache.max_size);
    if let Some(limit) = limit.filter(|limit| needed > *limit) {
        let shown = |bytes: u64| format!("{}MiB", bytes >> 20);
        tracing::warn!(
            cache.max_size = shown(cache.max_size),
            limit = shown(limit),
            "a full cache takes more memory than this process may: the kernel will end it; lower cache.max_size, or raise the limit \
             of memory (resources.limits.memory in the chart)"
        );
    }
}

fn needed(max_size: u64) -> u64 {
    max_size.saturating_mul(FULL_CACHE_PERCENT) / 100 + BESIDE_THE_CACHE
}

/// The lowest limit of our cgroup and those above it, in bytes; none if there is none.
fn limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let ours = read(Path::new("/proc/self/cgroup"))?;
    let mut limits = Vec::new();
    // hierarchy-ID:controllers:path
    for line in ours.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        for (mount, file, controller) in MOUNTS {
            if controllers.split(',').all(|one| one != controller) {
                continue;
            }
            let path = Path::new(path.trim_start_matches('/'));
            for above in path.ancestors() {
                let file = Path::new(mount).join(above).join(file);
                limits.extend(read(&file).and_then(|text| text.trim().parse::<u64>().ok()));
            }
        }
    }
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limit_with(files: &[(&str, &str)]) -> Option<u64> {
        limit(|path| {
            let mut files = files.iter();
            let found = files.find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let ours = ("/proc/self/cgroup", "0::/kubepods/pod1/c\n");
        for (name, files, want) in [
            ("no cgroups", vec![], None),
            (
                "no limit",
                vec![ours, ("/sys/fs/cgroup/kubepods/memory.max", "max\n")],
                None,
            ),
            (
                "version 2, the pod's",
                vec![
                    ours,
                    ("/sys/fs/cgroup/kubepods/pod1/c/memory.max", "536870912\n"),
                    ("/sys/fs/cgroup/kubepods/pod1/memory.max", "268435456\n"),
                    ("/sys/fs/cgroup/kubepods/memory.max", "max\n"),
                ],
                Some(256 * MIB),
            ),
            (
                "version 2, in a container",
                vec![
                    ("/proc/self/cgroup", "0::/\n"),
                    ("/sys/fs/cgroup/memory.max", "134217728\n"),
                ],
                Some(128 * MIB),
            ),
            (
                "version 1, whose path is the host's",
                vec![
                    (
                        "/proc/self/cgroup",
                        "5:cpu,cpuacct:/x\n4:memory:/docker/x\n",
                    ),
                    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n"),
                ],
                Some(128 * MIB),
            ),
        ] {
            assert_eq!(limit_with(&files), want, "{name}");
        }
    }

    #[test]
    fn the_charts_limit_bears_the_default_cache_and_not_one_as_large_as_itself() {
        assert!(needed(64 * MIB) < 256 * MIB);
        assert!(needed(256 * MIB) > 256 * MIB);
    }
}
