"""How the command line says which runtime carries a run out, and which Ray cluster that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sage.errors import InputError

if TYPE_CHECKING:
    from sage.runtime.ray_cluster import RayCluster

__all__ = ["Address", "Nodes", "RuntimeName", "Slots", "Workers", "cluster_from"]

RuntimeName = Annotated[str, typer.Option("--runtime", help="How calls are carried out: local or ray.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Which Ray cluster: local starts one on this machine (the default), auto is the one it is part of, "
        "HOST:PORT of a head node, or ray://HOST:PORT from outside.",
        show_default=False,
    ),
]
Nodes = Annotated[
    int | None, typer.Option(min=1, help="Nodes of a cluster that is started here.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Worker processes on each node, for functions; as many as it has CPUs.",
        show_default=False,
    ),
]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Functions at once in each worker; one.", show_default=False)
]


def cluster_from(
    runtime: str, address: str | None, nodes: int | None, workers: int | None = None, slots: int | None = None
) -> str | RayCluster:
    """What a session is told of its runtime.

    Raises:
        InputError: an unknown runtime, or options of a cluster without one.
    """
    from sage.runtime.local import parse_runtime
    from sage.runtime.ray_cluster import RayCluster

    said = {"--address": address, "--nodes": nodes, "--workers": workers, "--slots": slots}
    given = [option for option, value in said.items() if value is not None]
    if parse_runtime(runtime) is None:
        if given:
            raise InputError(f"{given[0]} is of a Ray cluster; say --runtime ray too")
        return runtime
    return RayCluster(address=address or "local", nodes=nodes, workers=workers, slots=slots or 1)
