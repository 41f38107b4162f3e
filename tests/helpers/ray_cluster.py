"""A Ray cluster on this machine, in a process that does what it reads on stdin, a line each.

    python -m tests.helpers.ray_cluster

It has a head that runs nothing and two workers of one processor. ``kill`` ends the first of them
with SIGKILL; the end of stdin ends the cluster. The first worker, and what runs on it, has the
variables that begin with ``FIRST_`` without that.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Start, tell the address, obey."""
    from ray.cluster_utils import Cluster

    given = {k.removeprefix("FIRST_"): v for k, v in os.environ.items() if k.startswith("FIRST_")}
    memory = {"object_store_memory": 80 << 20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **memory},
    )
    os.environ.update(given)
    first = cluster.add_node(num_cpus=1, **memory)
    for name in given:
        del os.environ[name]
    cluster.add_node(num_cpus=1, **memory)
    cluster.wait_for_nodes()
    print(f"address {cluster.address}", flush=True)
    try:
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(first, allow_graceful=False)
                print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
