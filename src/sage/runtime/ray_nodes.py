"""The nodes of a Ray cluster, as they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Look", "NodeFacts", "Rows", "node_rows", "nodes_in"]

#: Id, address, resources in all, and those that are free, of each node that is alive; with Ray's names.
Rows: TypeAlias = list[tuple[str, str, Mapping[str, float], Mapping[str, float]]]

#: Reads them. Blocks for some milliseconds.
Look: TypeAlias = Callable[[], Rows]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node that is alive."""

    id: str
    address: str
    total: Mapping[str, float]  # resources by our names: cpu, gpu, and those with a name of their own
    free: Mapping[str, float]

    def room_for(self, shape: Mapping[str, float]) -> int:
        """How many workers of a shape could start on it now; a shape that takes nothing fits once."""
        return _times(shape, self.free)

    def size_for(self, shape: Mapping[str, float]) -> int:
        """How many could run on it if nothing else did."""
        return _times(shape, self.total)


def _times(shape: Mapping[str, float], amounts: Mapping[str, float]) -> int:
    asked = {name: amount for name, amount in shape.items() if amount}
    return min((int(amounts.get(name, 0) // amount) for name, amount in asked.items()), default=1)


def node_rows() -> Rows:
    """What a process in a cluster finds; see ``Look``."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()  # type: ignore[no-untyped-call]  # Ray's
    return [
        (node["NodeID"], node["NodeManagerAddress"], node["Resources"], free.get(node["NodeID"], {}))
        for node in ray.nodes()  # type: ignore[no-untyped-call]  # as above
        if node["Alive"]
    ]


def nodes_in(rows: Rows) -> list[NodeFacts]:
    """Those nodes, in the order of their ids."""
    nodes = (
        NodeFacts(id=node, address=address, total=_named(total), free=_named(free))
        for node, address, total, free in rows
    )
    return sorted(nodes, key=lambda node: node.id)


def _named(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources by our names; those that Ray keeps for itself are left out."""
    return {
        {"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount
        for name, amount in resources.items()
        if not name.startswith("node:") and name != "object_store_memory"
    }
