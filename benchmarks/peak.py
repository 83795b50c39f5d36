"""A process that does one thing, then says in its last line what that took and the most memory it ever held.

    python benchmarks/peak.py import
    python benchmarks/peak.py stream 1000000
    python benchmarks/peak.py sage run pipeline.yaml …

Nothing is imported before it is needed: that is what is measured.
"""

import os.path
import sys
import time


def peak_memory_mb() -> float:
    """The most this process ever held. Not getrusage's figure on Linux, where a child inherits its parent's."""
    if os.path.exists("/proc/self/status"):  # noqa: PTH110 - pathlib costs memory
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - pathlib costs memory
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def import_sage() -> int:
    import sage  # noqa: F401 - the import is the point

    return 0


def stream(count: int) -> int:
    """Records from a generator through four inline steps, each dropped as it comes out."""
    import asyncio

    from sage import Pipeline, Session
    from sage.ops import template

    pipeline = Pipeline(
        "flat", a=template("{x}"), b=template("{a}!"), c=template("{b}?"), d=template("{c} {x}")
    )

    async def main() -> None:
        records = ({"x": f"record {number}"} for number in range(count))
        async with Session(record=False) as session:
            seen = 0
            async for _record in session.stream(pipeline, records):
                seen += 1
        assert seen == count, seen

    asyncio.run(main())
    return 0


def command_line(arguments: list[str]) -> int:
    """The ``sage`` command, in this process."""
    from sage.cli import main

    sys.argv = ["sage", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def run(what: str, arguments: list[str]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "import":
        code = import_sage()
    elif what == "stream":
        code = stream(int(arguments[0]))
    else:
        code = command_line(arguments)
    cpu_ms, wall_ms = (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000
    num_modules = len(sys.modules)
    peak_mb = peak_memory_mb()
    import json

    found = {"cpu_ms": cpu_ms, "wall_ms": wall_ms, "peak_mb": peak_mb, "modules": num_modules}
    print("\n" + json.dumps(found))
    sys.exit(code)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
