"""What ``sage explain`` says about waiting: the causes of a run, and the story of a job's tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sage.cli.output import shown_seconds

if TYPE_CHECKING:
    from sage.runtime.story import Story
    from sage.runtime.waits import Claim, PoolWaits, Waits

__all__ = ["print_story", "print_waits"]

LEAST_SHARE = 0.005  # of all waiting; what is less is not worth a line
MAX_CLAIMS = 4

PrintTable = Callable[..., None]


def print_waits(found: Waits, print_table: PrintTable) -> None:
    """The causes, the longest first, and who held the places meanwhile."""
    from sage.runtime.waits import CAUSES, LEAST_S

    if found.seconds <= LEAST_S:
        print("Why tasks waited\n  No task waited for a place, and no job was kept outside.\n")
        return
    rows = [
        (f"job, by {hold.rule}", "-", hold.seconds, hold.jobs, "kept outside by admission")
        for hold in found.outside
    ]
    rows += [
        (cause.cause, pool.pool, cause.seconds, cause.tasks, CAUSES[cause.cause])
        for pool in found.pools
        for cause in pool.causes
    ]
    rows.append(("pause", "-", found.pause.seconds, found.pause.tasks, CAUSES["pause"]))
    rows.sort(key=lambda row: -row[2])
    shown = [
        (name, pool, shown_seconds(seconds), f"{100 * seconds / found.seconds:.0f} %", str(count), what)
        for name, pool, seconds, count, what in rows
        if seconds >= LEAST_SHARE * found.seconds
    ]
    title = f"Why tasks waited: {shown_seconds(found.seconds)} in all"
    print_table(title, ("cause", "pool", "waited", "share", "tasks", "because"), shown)
    for pool in found.pools:
        for line in _pool_lines(pool):
            print(f"  {line}")
    if not found.is_known:
        print("  (This log does not say what calls were started by; it is of an earlier SAGE.)")
    print()


def _pool_lines(pool: PoolWaits) -> list[str]:
    if not pool.waited:
        return []
    lines = [f"pool {pool.pool!r}: {pool.waited} of {pool.tasks} tasks waited"]
    if pool.holders:
        lines.append(f"  meanwhile its places were held by {_claims(pool.holders)}")
    if pool.overtakers:
        lines.append(
            f"  {shown_seconds(_sum(pool.overtakers))} behind later ones: {_claims(pool.overtakers)}"
        )
    if pool.limits is not None and pool.limits[0] != pool.limits[1]:
        lines.append(
            f"  an endpoint got {pool.limits[0]} to {pool.limits[1]} calls at once, as its limit moved"
        )
    if pool.others >= 0.05:
        lines.append(f"  other runs of the session had {pool.others:.1f} calls on an endpoint, on average")
    return lines


def _claims(claims: tuple[Claim, ...]) -> str:
    total = _sum(claims)
    named = [
        f"{claim.pipeline} of tenant {claim.tenant!r} {100 * claim.seconds / total:.0f} %"
        for claim in claims[:MAX_CLAIMS]
    ]
    more = f" and {len(claims) - MAX_CLAIMS} more" if len(claims) > MAX_CLAIMS else ""
    return ", ".join(named) + more


def _sum(claims: tuple[Claim, ...]) -> float:
    return sum(claim.seconds for claim in claims)


def print_story(found: Story) -> None:
    """A job and its tasks, a moment a line."""
    print(f"job {found.job} of {found.pipeline}: {found.outcome} after {shown_seconds(found.e2e_s)}")
    for moment in found.moments:
        print(f"  {moment.t:10.3f} s  {moment.text}")
    for task in found.tasks:
        again = f", attempt {task.attempt}" if task.attempt > 1 else ""
        causes = ", ".join(f"{shown_seconds(cause.seconds)} {cause.cause}" for cause in task.causes)
        waited = f"waited {shown_seconds(task.waited_s)}: {causes}" if task.causes else "did not wait"
        print(f"\nstep {task.step}{again}: {waited}")
        for moment in task.moments:
            print(f"  {moment.t:10.3f} s  {moment.text}")
    if not found.tasks:
        print("\nIt made no call.")
