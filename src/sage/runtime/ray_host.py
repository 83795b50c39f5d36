"""A process that holds a small Ray cluster on this machine, for as long as whoever started it lives.

It is told what to do by lines on standard input and answers each by a line of JSON. When its input ends, because
it is no longer needed or because its owner was killed, it ends the cluster and itself.
"""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

__all__ = ["serve"]

STORE_BYTES = 100 * 2**20  # of the object store of each node


def serve(commands: TextIO, answers: TextIO) -> None:
    """``add CPUS [RESOURCES]`` adds a node and says the cluster's address and the node's id; ``kill ID`` ends one at once."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster()
    nodes: dict[str, Any] = {}
    try:
        for line in commands:
            verb, _, rest = line.strip().partition(" ")
            if verb == "add":
                cpus, _, resources = rest.partition(" ")
                try:
                    answer = _add(cluster, nodes, int(cpus), json.loads(resources or "{}"))
                except Exception as error:  # noqa: BLE001 - whatever Ray raises; the other nodes go on
                    answer = {"error": f"{type(error).__name__}: {error}"}
            else:
                assert verb == "kill", line
                cluster.remove_node(nodes.pop(rest), allow_graceful=False)
                answer = {"node": rest}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        cluster.shutdown()


def _add(cluster: Any, nodes: dict[str, Any], cpus: int, resources: dict[str, float]) -> dict[str, str]:
    node = cluster.add_node(
        num_cpus=cpus,
        resources=resources,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        include_log_monitor=False,
        node_ip_address="127.0.0.1",
    )
    nodes[node.node_id] = node
    return {"address": cluster.address, "node": node.node_id}


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
