//! Examples at the end of each command's `--help`; `tests/help.rs` runs them all.
//!
//! The exit status is 0, except where the comment begins with another one.

pub(super) const NODENS: &str = "\
Examples:
  nodens check --config nodens.yaml
  nodens serve --config nodens.yaml
  nodens health --ready --config nodens.yaml

Each command has examples of its own: nodens serve --help";

pub(super) const SERVE: &str = "\
Examples:
  nodens serve --config nodens.yaml
  nodens serve --config nodens.yaml --set cache.max_size=128MiB --set log.queries=errors
  nodens serve --config Corefile --cluster-dns 10.96.0.10
  nodens serve --config nodens.yaml --state-dir state

Exit status: 0 after SIGTERM or SIGINT, 1 if a second signal ended it at once, 2 if it could not start.";

pub(super) const CHECK: &str = "\
Examples:
  nodens check --config nodens.yaml
  nodens check --config nodens.yaml --set 'routes.\"cluster.local\".max_negative_ttl=10s'
  nodens check --config nodens.yaml --set cache.max_ttl=9d   # 2: over the limit
  NODENS__CACHE__MAX_SIZE=16MiB nodens check --config nodens.yaml | grep max_size
  nodens check --config Corefile --cluster-dns 10.96.0.10

Exit status: 0 valid, 2 not.";

pub(super) const HEALTH: &str = "\
Examples:
  nodens health --config nodens.yaml
  nodens health --ready --socket nodens.sock
  nodens health --socket other.sock   # 1: nobody answers

Exit status: 0 yes, 1 no, or nobody answered within 3 s.";

pub(super) const IMPORT: &str = "\
Examples:
  nodens import Corefile
  nodens import Corefile --cluster-dns 10.96.0.10 --output imported.yaml
  nodens import Corefile --cluster-dns 10.96.0.10 --helm-values > values.yaml

From a cluster:
  kubectl -n kube-system get configmap coredns -o yaml | nodens import - --cluster-dns 10.96.0.10

Exit status: 0, 2 if a line cannot be taken.";

pub(super) const SCHEMA: &str = "\
Examples:
  nodens schema > nodens.schema.json

An editor with the YAML language server uses it for a file whose first line is
  # yaml-language-server: $schema=nodens.schema.json";

pub(super) const PROBE: &str = "\
Examples:
  nodens probe --config nodens.yaml
  nodens probe --config nodens.yaml registry.example.com. --json
  nodens probe --resolv-conf resolv.conf --deadline 2s registry.example.com   # 2: nobody answers

Exit status: 0 healthy, 1 degraded, 2 unusable.";

pub(super) const TOP: &str = "\
Examples:
  nodens top --config nodens.yaml
  nodens top --socket nodens.sock --interval 500ms
  nodens top --once --socket nodens.sock
  nodens top --once --socket other.sock   # 2: nobody answers

Exit status: 0; with --once, or where standard output is no terminal: 0 nothing is sick, 1 something is, or an instance
cannot be reached, 2 none can.";

pub(super) const CACHE_LIST: &str = "\
Examples:
  nodens cache list --config nodens.yaml
  nodens cache list --zone example.com --limit 10000 --json --socket nodens.sock

Exit status: 0, 2 if the instance cannot be asked.";

pub(super) const CACHE_GET: &str = "\
Examples:
  nodens cache get registry.example.com --config nodens.yaml
  nodens cache get registry.example.com A --socket nodens.sock
  nodens cache get other.example.com --socket nodens.sock   # 1: nothing is cached

Exit status: 0 something is cached, 1 nothing is, 2 if the instance cannot be asked.";

pub(super) const CACHE_FLUSH: &str = "\
Examples:
  nodens cache flush registry.example.com --config nodens.yaml
  nodens cache flush --zone example.com --socket nodens.sock
  nodens cache flush --all --socket nodens.sock

Exit status: 0, 2 if the instance cannot be asked.";

pub(super) const RESOLVE: &str = "\
Examples:
  nodens resolve registry.example.com --server 169.254.20.53
  nodens resolve registry.example.com A --server 169.254.20.53
  nodens resolve registry --server 169.254.20.53 --resolv-conf resolv.conf
  nodens resolve 10.1.20.5 --server 169.254.20.53

Exit status: 0 records came, 1 none came, 2 the arguments cannot be used.";

pub(super) const NODE_REMOVE: &str = "\
Examples:
  nodens node remove --config nodens.yaml

Exit status: 0 nothing of `node:` is left, 2 something is.";

pub(super) const DEMO: &str = "\
Examples:
  nodens demo --once

Exit status: 0 every step as promised, 1 not.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  nodens completions bash > nodens.bash
  nodens completions zsh > _nodens
  nodens completions fish > nodens.fish";

pub(super) const MAN: &str = "\
Examples:
  nodens man > nodens.1
  nodens man --output man1

Exit status: 0, 2 if the pages cannot be written.";
