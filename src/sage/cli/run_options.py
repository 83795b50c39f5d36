"""What is typed behind ``sage run``, checked and turned into what the run is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.cli.run_many import One, for_each
from sage.cli.source import Given, from_file, one_record
from sage.errors import InputError, nearest

if TYPE_CHECKING:
    from sage import Pipeline
    from sage.runtime.options import ManyArguments
    from sage.settings import Settings

__all__ = [
    "given_of",
    "job_options",
    "only_one",
    "pairs",
    "parts_of",
    "paths_of",
    "policy_of",
    "refuse_for_streams",
    "refuse_same_file",
    "refuse_unused",
    "stagger_of",
    "tenants_of",
]


def given_of(pipeline: Pipeline, source: str | None, fields: list[str], *, skip_bad: bool) -> Given:
    """The records of one pipeline: from a file, or the one that is given by its fields."""
    if source is not None and fields:
        raise InputError("--input and --set exclude each other; a single record is given by --set alone")
    if source is not None:
        return from_file(pipeline.plan, source, skip_bad=skip_bad)
    if not fields and pipeline.inputs:
        wanted = " ".join(f"--set {name}=…" for name in pipeline.plan.inputs)
        raise InputError(f"there are no records to run; give --input FILE, or one record: {wanted}")
    return one_record(pipeline.plan, fields)


def pairs(option: str, form: str, said: list[str]) -> dict[str, list[str]]:
    """``NAME=VALUE`` options by name."""
    found: dict[str, list[str]] = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text!r}: expected {form}")
        found.setdefault(name, []).append(value)
    return found


def refuse_for_streams(said: Mapping[str, Any]) -> None:
    """Refuse options that say nothing to a stream."""
    for option, value in said.items():
        if value:
            raise InputError(f"{option} is for pipelines; a stream says itself where its records come from")


def refuse_unused(pipelines: Sequence[Pipeline], engines: Mapping[str, Any]) -> None:
    """An engine for a pool that no step names is a slip of the pen."""
    used = [pool for pipeline in pipelines for pool in pipeline.plan.pools()]
    names = " or ".join(repr(pipeline.name) for pipeline in pipelines)
    for pool in engines:
        if pool not in used:
            raise InputError(
                f"--engine {pool}=…: no step of {names} uses pool {pool!r}: {nearest(pool, used)}"
            )


def only_one(option: str, said: Sequence[str]) -> str | None:
    """What an option says that is for one pipeline; None if it is not said."""
    if len(said) > 1:
        raise InputError(f"{option} is given {len(said)} times for one pipeline; give it once")
    return said[0] if said else None


def paths_of(option: str, said: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each file with the option that names it."""
    return [(option, path) for path in said]


def parts_of(
    pipelines: Sequence[Pipeline],
    sources: Sequence[str],
    outputs: Sequence[str],
    options: Sequence[ManyArguments],
    *,
    skip_bad: bool,
) -> list[One]:
    """Every pipeline with its input and output."""
    if len(sources) not in {1, len(pipelines)}:
        raise InputError(
            f"{len(pipelines)} pipelines have {len(sources)} inputs; give --input once for each, in their order, "
            "or one for all"
        )
    if outputs and len(outputs) != len(pipelines):
        raise InputError(
            f"{len(pipelines)} pipelines have {len(outputs)} outputs; give --output once for each, in their order, "
            "or none: then each line on standard output names its pipeline"
        )
    if "-" in outputs:
        raise InputError("--output - cannot tell several pipelines apart; leave it out, or name files")
    given = for_each("--input", sources, len(pipelines))
    none: list[str | None] = [None] * len(pipelines)
    return [
        One(pipeline, from_file(pipeline.plan, str(path), skip_bad=skip_bad), dict(said), to)
        for pipeline, path, said, to in zip(pipelines, given, options, outputs or none, strict=True)
    ]


def policy_of(policy: str | None, share: str | None, settings: Settings) -> str | None:
    """The policy with another share, if one is said; None leaves it to the settings."""
    return policy if share is None else f"{policy or settings.policy},share={share}"


def tenants_of(path: Path | None) -> Mapping[str, Any]:
    """The tenants of a file; none without one."""
    from sage.runtime.tenants_file import read_tenants

    return {} if path is None else read_tenants(path)


def stagger_of(said: str | None) -> Any:
    """What stands between the starts of pipelines."""
    from sage.runtime.together import checked_stagger

    return checked_stagger(_number(said, float))


def refuse_same_file(paths: Sequence[tuple[str, str | None]]) -> None:
    """Refuse a file that would be written over; inputs may be the same."""
    seen: dict[Path, str] = {}
    for option, path in paths:
        if path is None or path == "-":
            continue
        place = Path(path).resolve()
        other = seen.get(place)
        seen[place] = option
        if other is not None and (other, option) != ("--input", "--input"):
            raise InputError(f"{other} and {option} are the same file, {path}; it would be overwritten")


def job_options(
    tenant: str | None,
    priority: str | None,
    deadline_s: str | None,
    timeout_s: float | None,
    budget_tokens: int | None,
    *,
    expire: bool,
) -> ManyArguments:
    """What is said of jobs, numbers as numbers."""
    if timeout_s is not None and timeout_s <= 0:
        raise InputError(f"--timeout-s is {timeout_s:g}, expected seconds above 0")
    said: dict[str, Any] = {
        "tenant": tenant,
        "priority": _number(priority, int),
        "deadline_s": _number(deadline_s, float),
        "timeout_s": timeout_s,
        "budget_tokens": budget_tokens,
        "expire": expire or None,
    }
    options: Any = {name: value for name, value in said.items() if value is not None}
    checked: ManyArguments = options
    return checked


def _number(text: str | None, kind: type[int | float]) -> int | float | str | None:
    """A number where the text is one; names and references stay text."""
    try:
        return None if text is None else kind(text)
    except ValueError:
        return text
