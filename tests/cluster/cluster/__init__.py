"""A one-node Kubernetes in namespaces of its own, and what is claimed of nodens in it. tests/cluster/run is the way in."""
