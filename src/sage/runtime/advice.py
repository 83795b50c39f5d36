"""What to change first, by rules over the figures of ``explain``. Each says when it speaks; none guesses.

A rule speaks from a fifth of the time of all jobs that were done (half, for an engine that simply works), or
from one in twenty where something failed. At most three are kept, in the order of what they bear on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from sage.runtime.timings import Explanation, Finding, StepTime

__all__ = ["FEW_JOBS", "advise"]

FEW_JOBS = 20  # below this the figures describe these jobs and promise nothing of others
MAX_FINDINGS = 3
MUCH = 0.2
MOST = 0.5
SOME = 0.05
LEAST_RETRIES = 3
LEAST_ALONE = 10


def advise(found: Explanation) -> tuple[tuple[Finding, ...], str]:
    """What to change first, and how far that carries."""
    findings = sorted((item for rule in _RULES for item in rule(found)), key=lambda item: -item.weight)
    return tuple(findings[:MAX_FINDINGS]), _note(found, bool(findings))


def _note(found: Explanation, has_findings: bool) -> str:
    done = found.jobs.get("done", 0)
    if not done:
        return "No job was done, so there is no critical path to speak of."
    these = "This is 1 job" if done == 1 else f"These are {done} jobs"
    few = f"{these}: too few to say more than what happened to them." if done < FEW_JOBS else ""
    if has_findings:
        return few
    top = max(_on_path(found), key=lambda step: step.path_share or 0.0, default=None)
    if top is None:
        return f"Nothing stands out. {few}".rstrip()
    return (
        f"Nothing stands out: the largest share of the critical path is that of step {top.step!r}, "
        f"{_percent(top.path_share or 0.0)}. {few}"
    ).rstrip()


def _failures(found: Explanation) -> Iterator[Finding]:
    """One job in twenty, or more, failed."""
    failed, total = found.jobs.get("failed", 0), sum(found.jobs.values())
    if not total or failed < SOME * total:
        return
    if not failed:
        return
    step = max(found.steps, key=lambda step: step.failed_jobs, default=None)
    where = (
        f", {step.failed_jobs} of them in step {step.step!r}" if step is not None and step.failed_jobs else ""
    )
    yield Finding(
        rule="failures",
        text=f"{failed} of {total} jobs failed{where}: see their errors before anything else.",
        numbers={"failed": failed, "jobs": total},
        weight=1 + failed / total,
    )


def _queues(found: Explanation) -> Iterator[Finding]:
    """The queue in front of a pool is a fifth of all jobs' time."""
    steps: defaultdict[tuple[str, ...], list[StepTime]] = defaultdict(list)
    for step in _on_path(found):
        if step.path_s["queued"] > 0:
            steps[step.pools].append(step)
    for pools, waiting in steps.items():
        queued_s = sum(step.path_s["queued"] for step in waiting)
        if queued_s / found.all_e2e_s < MUCH:
            continue
        held_s = sum(step.held_s for step in waiting)
        used = [
            end.utilisation for end in found.endpoints if end.pool in pools and end.utilisation is not None
        ]
        whose = f", whose endpoints were {_percent(sum(used) / len(used))} used" if used else ""
        yield Finding(
            rule="queue",
            text=(
                f"{_named(waiting)} {_percent(held_s / found.all_e2e_s)} of the critical path and waited "
                f"{_percent(queued_s / held_s)} of that for {_quoted(pools)}{whose}: add an endpoint or raise the "
                "limit; fewer jobs at once would shorten each job, not the run."
            ),
            numbers={
                "path_share": held_s / found.all_e2e_s,
                "queued_share": queued_s / held_s,
                "queued_s": queued_s,
                **({"utilisation": sum(used) / len(used)} if used else {}),
            },
            weight=queued_s / found.all_e2e_s,
        )


def _engines(found: Explanation) -> Iterator[Finding]:
    """An endpoint at work on one step is half of all jobs' time."""
    for step in _on_path(found):
        service = step.path_s["service"] / found.all_e2e_s
        if service < MOST:
            continue
        call, first = step.service_s.mean, step.first_s.mean
        numbers = {"path_share": step.path_share or 0.0, "service_s": step.path_s["service"]}
        how = "a faster engine, or fewer calls, is what helps"
        if call and first is not None:
            numbers |= {"service_mean_s": call, "first_mean_s": first}
            part = first / call
            how = (
                f"{_percent(part)} of a call is the wait for its first token, so a shorter prompt or a prefix "
                "cache helps most"
                if part >= MOST
                else f"{_percent(1 - part)} of a call is writing after the first token, so a shorter answer helps most"
            )
        yield Finding(
            rule="service",
            text=(
                f"Step {step.step!r} holds {_percent(step.path_share or 0)} of the critical path, "
                f"{_percent(step.path_s['service'] / step.held_s)} of that with its call at work: {how}."
            ),
            numbers=numbers,
            weight=service,
        )


def _held_back(found: Explanation) -> Iterator[Finding]:
    """A step whose inputs were there, or whose call was not yet asked for, is a fifth of all jobs' time."""
    for step in _on_path(found):
        only_calls = step.calls and not _has_body(step, found)
        waits = step.path_s["waited"] + (step.path_s["other"] if only_calls else 0.0)
        if waits / found.all_e2e_s >= MUCH:
            yield Finding(
                rule="held_back",
                text=(
                    f"Step {step.step!r} holds {_percent(step.path_share or 0)} of the critical path and spent "
                    f"{_percent(waits / step.held_s)} of that before its call was asked for: look at its "
                    "max_concurrency and at functions that block."
                ),
                numbers={"path_share": step.path_share or 0.0, "held_back_s": waits},
                weight=waits / found.all_e2e_s,
            )


def _outside(found: Explanation) -> Iterator[Finding]:
    """A fifth of all jobs' time passed before they were let in."""
    if found.outside_share is not None and found.outside_share >= MUCH:
        yield Finding(
            rule="admission",
            text=(
                f"Jobs spent {_percent(found.outside_share)} of their time before they were let in: "
                "raise max_inflight if the endpoints have room, else add endpoints."
            ),
            numbers={"outside_share": found.outside_share},
            weight=found.outside_share,
        )


def _blocks(found: Explanation) -> Iterator[Finding]:
    """An inline step was noticed to block, and did so for a twentieth of the window."""
    for item in found.blocking:
        if item.window_share is not None and item.window_share >= SOME:
            yield Finding(
                rule="blocking",
                text=(
                    f"Inline step {item.step!r} held everything else up for {_percent(item.window_share)} of the run, "
                    f"up to {1000 * (item.time_s.max or 0):.0f} ms at a time: make it async, or run it as "
                    'step(fn, pool="cpu").'
                ),
                numbers={"window_share": item.window_share, "longest_s": item.time_s.max or 0.0},
                weight=item.window_share,
            )


def _retries(found: Explanation) -> Iterator[Finding]:
    """One call in twenty was made again, three at least."""
    retries = sum(step.retries for step in found.steps if not step.is_inside)
    calls = sum(step.calls for step in found.steps if not step.is_inside)
    if retries < LEAST_RETRIES or retries < SOME * calls:
        return
    worst = max(found.endpoints, key=lambda end: end.tasks.get("failed", 0))
    failed = sum(end.tasks.get("failed", 0) for end in found.endpoints)
    kind = next(iter(worst.faults), "")
    paused = sum(step.path_s["paused"] for step in found.steps)
    yield Finding(
        rule="retries",
        text=(
            f"{retries} of {calls} calls were made again; {worst.tasks.get('failed', 0)} of the {failed} that failed "
            f"did so at {worst.endpoint!r}{f', most often with {kind!r}' if kind else ''}: look at that endpoint, "
            "or lower its limit."
        ),
        numbers={
            "retries": retries,
            "calls": calls,
            "failed_there": worst.tasks.get("failed", 0),
            "paused_s": paused,
        },
        weight=max(retries / calls, paused / found.all_e2e_s if found.all_e2e_s else 0.0),
    )


def _batches(found: Explanation) -> Iterator[Finding]:
    """Half of a step's calls, ten at least, took one task while others waited, and its queue held jobs up."""
    for step in found.steps:
        queued = step.path_s["queued"] / found.all_e2e_s if found.all_e2e_s else 0.0
        is_often = step.sent_alone >= max(LEAST_ALONE, MOST * step.calls)
        if is_often and step.waiting_then is not None and queued >= SOME:
            yield Finding(
                rule="batches",
                text=(
                    f"{step.sent_alone} of {step.calls} calls of step {step.step!r} took one input while "
                    f"{step.waiting_then:.0f} others waited: raise max_items or max_tokens of its batch."
                ),
                numbers={"sent_alone": step.sent_alone, "calls": step.calls, "waiting": step.waiting_then},
                weight=queued,
            )


_RULES: tuple[Callable[[Explanation], Iterator[Finding]], ...] = (
    _failures,
    _batches,  # before the queue it explains
    _queues,
    _engines,
    _held_back,
    _outside,
    _blocks,
    _retries,
)


def _on_path(found: Explanation) -> list[StepTime]:
    """Steps that held some of the jobs' time."""
    return [step for step in found.steps if not step.is_inside and step.held_s > 0 and found.all_e2e_s > 0]


def _has_body(step: StepTime, found: Explanation) -> bool:
    return any(
        other.is_inside
        and other.pipeline == step.pipeline
        and other.step.startswith((f"{step.step}.", f"{step.step}["))
        for other in found.steps
    )


def _named(steps: list[StepTime]) -> str:
    """The steps, the one that waited longest first, as the subject of a sentence."""
    ordered = sorted(steps, key=lambda step: -step.path_s["queued"])
    names = " and ".join(repr(step.step) for step in ordered[:2])
    more = f" and {len(ordered) - 2} more" if len(ordered) > 2 else ""
    return f"Step {names} holds" if len(ordered) == 1 else f"Steps {names}{more} hold"


def _quoted(pools: tuple[str, ...]) -> str:
    return f"pool{'s' if len(pools) > 1 else ''} {' and '.join(map(repr, pools))}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
