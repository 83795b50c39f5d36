"""Logs that cannot be true, each planted in a good one, and each refused for its own reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage import InputError
from sage.bench.arrivals import Arrivals
from sage.bench.audit import CHECKS, audit, refuse_unsound
from sage.bench.load_run import load, summary_of
from sage.bench.metrics import LoadSummary
from sage.bench.prompts import Prompts
from sage.bench.records import Request
from sage.bench.results import Cell, compact, open_experiment, read_experiment, write_json, write_lines
from sage.bench.serve_spec import Serve
from sage.bench.simulation import simulate
from sage.bench.simulation_spec import read_spec
from sage.events import Event, JobEnded, TaskEnded, encode_events
from sage.runtime.manifest import Manifest, read_manifest
from sage.runtime.packed import sha256_of
from sage.runtime.runs import read_events
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

CLOSED = Serve(
    arrivals=Arrivals(process="closed", clients=4, jobs=80), prompts=Prompts(input_len="3", output_len="4")
)
OPEN = msgspec.structs.replace(
    CLOSED, arrivals=Arrivals(process="constant", rate=20.0, jobs=80), max_concurrency=4
)


def make(folder: Path, spec: Serve = CLOSED) -> Path:
    """An experiment of one load in virtual time."""

    async def main(cell: Path) -> None:
        clock = asyncio.get_running_loop().time
        engine = FakeEngine(ttft_s=0.1, token_s=0.02, limit=1000)
        await load(spec, cell, Settings(home=folder / "home"), engine=engine, clock=clock, kind="simulated")

    out = folder / "out"
    with (
        open_experiment(out, "serve", kind="simulated", config={}) as experiment,
        experiment.running("repeat-0", axes={}) as cell,
    ):
        run_virtual(main(cell))
    return out


class Planted:
    """A good folder that is about to be spoiled."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.cell = out / "repeat-0"

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.cell / "events.jsonl"))

    @property
    def requests(self) -> list[Request]:
        return read_experiment(self.out).cells[0].requests()

    @property
    def summary(self) -> dict[str, Any]:
        return read_experiment(self.out).cells[0].summary(dict[str, Any])

    def write_events(self, events: list[Event]) -> None:
        (self.cell / "events.jsonl").write_bytes(encode_events(events))

    def write_requests(self, requests: list[Request]) -> None:
        write_lines(self.cell / "requests.jsonl", requests)

    def write_summary(self, **changes: Any) -> None:
        write_json(self.cell / "summary.json", {**self.summary, **changes})

    def change_manifest(self, **changes: Any) -> None:
        manifest: Manifest = read_manifest(self.cell / "run.json")
        write_json(self.cell / "run.json", msgspec.structs.replace(manifest, **changes))

    def recompute(self) -> None:
        """The summary that the spoiled files give, as a forger would."""
        manifest = read_manifest(self.cell / "run.json")
        write_json(self.cell / "summary.json", summary_of(manifest, self.requests, self.events))

    def seal(self) -> None:
        """Put the hashes of the spoiled files into the manifest, so that nothing but the fault is left to find."""
        stored = read_experiment(self.out)
        cell = stored.manifest.cells[0]
        hashes = {name: sha256_of(self.cell / name) for name in cell.sha256}
        sealed: Cell = msgspec.structs.replace(cell, sha256=hashes)
        write_json(self.out / "experiment.json", msgspec.structs.replace(stored.manifest, cells=(sealed,)))


def of_jobs(change: Callable[[JobEnded], JobEnded | None]) -> Callable[[Planted], None]:
    def plant(planted: Planted) -> None:
        changed = (change(event) if isinstance(event, JobEnded) else event for event in planted.events)
        planted.write_events([event for event in changed if event is not None])

    return plant


def of_tasks(change: Callable[[TaskEnded], TaskEnded]) -> Callable[[Planted], None]:
    def plant(planted: Planted) -> None:
        planted.write_events([change(e) if isinstance(e, TaskEnded) else e for e in planted.events])

    return plant


def of_requests(change: Callable[[Request], Request]) -> Callable[[Planted], None]:
    def plant(planted: Planted) -> None:
        planted.write_requests([change(request) for request in planted.requests])

    return plant


def of_summary(**changes: Any) -> Callable[[Planted], None]:
    return lambda planted: planted.write_summary(**changes)


def only(number: int, **changes: Any) -> Callable[[Any], Any]:
    def change(one: Any) -> Any:
        is_it = (one.id if isinstance(one, Request) else one.job) == number
        return msgspec.structs.replace(one, **changes) if is_it else one

    return change


def ended_twice(planted: Planted) -> None:
    events = planted.events
    end = next(event for event in events if isinstance(event, JobEnded) and event.job == 9)
    planted.write_events([*events[:-1], msgspec.structs.replace(end, t=events[-1].t), events[-1]])


def cut(planted: Planted) -> None:
    planted.write_events(planted.events[:-1])


def clock_went_back(planted: Planted) -> None:
    events = planted.events
    late = msgspec.structs.replace(events[-1], t=events[-1].t - 2.0)
    planted.write_events([*events[:-1], late])


def all_failed(planted: Planted) -> None:
    gone = {"outcome": "failed", "first": None, "error": "failed 500", "pieces": ()}
    planted.write_events(
        [
            msgspec.structs.replace(event, **gone)
            if isinstance(event, TaskEnded)
            else msgspec.structs.replace(event, outcome="failed", error="failed 500")
            if isinstance(event, JobEnded)
            else event
            for event in planted.events
        ]
    )
    from sage.bench.records import requests_of

    due = {request.id: request for request in planted.requests}
    again = requests_of(planted.events, {number: request.scheduled for number, request in due.items()})
    planted.write_requests([msgspec.structs.replace(r, warmup=due[r.id].warmup) for r in again])
    planted.change_manifest(counts={"failed": 84}, status="failed")
    planted.recompute()


def busier_than_its_clients(planted: Planted) -> None:
    arguments = read_manifest(planted.cell / "run.json").arguments
    arrivals = {**arguments["arrivals"], "clients": 1}
    planted.change_manifest(arguments={**arguments, "arrivals": arrivals})


def fewer_endpoints(planted: Planted) -> None:
    manifest = read_manifest(planted.cell / "run.json")
    both = (*manifest.engines["llm"], "fake:idle")
    planted.change_manifest(engines={"llm": both}, limits={**manifest.limits, "fake:idle": 4})


def other_schedule(planted: Planted) -> None:
    file = planted.cell / "schedule.json"
    table = msgspec.json.decode(file.read_bytes())
    table["schedule"]["times"][3] += 0.01
    write_json(file, table)


def unordered(planted: Planted) -> None:
    stat = planted.summary["e2e_s"]
    planted.write_summary(e2e_s={**stat, "p95": stat["p50"] / 2})


def too_few(planted: Planted) -> None:
    stat = planted.summary["e2e_s"]
    planted.write_summary(e2e_s={**stat, "p99": stat["max"]})


def faster(planted: Planted) -> None:
    planted.write_summary(requests_per_s=planted.summary["requests_per_s"] * 1.2)


#: Name of the fault -> how it is planted, the check that must find it, what it must say, and what else may notice.
FAULTS: dict[str, tuple[Callable[[Planted], None], str, str, set[str]]] = {
    "a job without an end": (
        of_jobs(lambda e: None if e.job == 9 else e),
        "conservation",
        "job 9",
        {"requests"},
    ),
    "a job with two ends": (
        ended_twice,
        "conservation",
        "job 9 ended 2 times",
        {"requests", "figures", "little"},
    ),
    "a request that is not in the log": (
        lambda p: p.write_requests([*p.requests, msgspec.structs.replace(p.requests[-1], id=999)]),
        "conservation",
        "never ended",
        {"figures"},
    ),
    "counts that differ": (lambda p: p.change_manifest(counts={"done": 85}), "conservation", "counts", set()),
    "a log without its last line": (cut, "ended", "was cut", {"figures"}),
    "a run that was killed": (lambda p: p.change_manifest(status="running"), "ended", "never ended", set()),
    "a first token before the call": (
        of_tasks(only(9, first=0.0)),
        "order",
        "job 9, step 'answer': ready, dispatched, first",
        {"requests"},
    ),
    "an end before the arrival": (of_jobs(only(9, arrived=99.0)), "order", "job 9: arrived", {"requests"}),
    "a clock that went back": (clock_went_back, "order", "the clock went back", set()),
    "a request that says another time": (
        of_requests(only(9, last=0.25)),
        "requests",
        "request 9: last",
        {"figures", "order"},
    ),
    "a request that was answered by nobody": (
        of_requests(only(9, output_tokens=400)),
        "requests",
        "request 9: output_tokens is 400, in the log 4",
        {"figures"},
    ),
    "a call beyond the limit": (
        lambda p: p.change_manifest(limits={"fake:memory": 3}),
        "limit",
        "3 of 3",
        set(),
    ),
    "an endpoint that nobody configured": (
        lambda p: p.change_manifest(limits={"fake:other": 4}),
        "limit",
        "does not know it",
        set(),
    ),
    "more in flight than clients": (busier_than_its_clients, "little", "of 1 clients", {"schedule"}),
    "throughput that latency does not allow": (faster, "little", "were in flight", {"figures"}),
    "a balance that leaves an idle node out": (fewer_endpoints, "idle", "over 1 endpoints of 2", {"figures"}),
    "percentiles out of order": (unordered, "percentiles", "e2e_s: p95", {"figures"}),
    "a percentile that its sample does not carry": (
        too_few,
        "percentiles",
        "p99 from a sample of 80",
        {"figures"},
    ),
    "a figure that was typed": (of_summary(output_tokens=321), "figures", "output_tokens is 321", set()),
    "another schedule": (other_schedule, "schedule", "another schedule", set()),
    "nothing but failures": (all_failed, "vacuous", "none of 80 requests was answered", set()),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("good"))


@pytest.fixture
def planted(good: Path, tmp_path: Path) -> Planted:
    import shutil

    return Planted(Path(shutil.copytree(good, tmp_path / "out")))


@pytest.mark.parametrize("spec", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_good_log_passes_every_check(spec: Serve, tmp_path: Path) -> None:
    found = audit(make(tmp_path, spec))
    assert (found.refused, found.cells, found.checks) == ((), 1, tuple(CHECKS))
    refuse_unsound(tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused_for_its_own_reason(fault: str, planted: Planted) -> None:
    plant, check, text, others = FAULTS[fault]
    plant(planted)
    planted.seal()
    found = audit(planted.out)
    by_check = {finding.check for finding in found.refused}
    assert check in by_check
    assert by_check <= {check, *others}
    assert any(text in finding.text for finding in found.refused if finding.check == check), found.refused
    with pytest.raises(InputError, match="cannot be true"):
        refuse_unsound(planted.out)


def test_every_check_finds_something_here() -> None:
    assert {check for _, check, _, _ in FAULTS.values()} | {"hashes"} == set(CHECKS)


@pytest.mark.parametrize("name", ["events.jsonl", "requests.jsonl", "summary.json"])
def test_a_file_that_was_changed_afterwards_is_refused(name: str, planted: Planted) -> None:
    file = planted.cell / name
    file.write_bytes(file.read_bytes() + b"\n")
    assert any(
        finding.check == "hashes" and "was changed after it was written" in finding.text
        for finding in audit(planted.out).refused
    )


def test_a_file_that_is_gone_is_refused_and_not_a_crash(planted: Planted) -> None:
    (planted.cell / "requests.jsonl").unlink()
    assert {finding.check for finding in audit(planted.out).refused} >= {"hashes"}


def test_a_gzipped_folder_is_as_sound_as_it_was(planted: Planted) -> None:
    compact(planted.out)
    assert audit(planted.out).is_sound


def test_one_cell_can_be_asked_for(planted: Planted) -> None:
    assert audit(planted.cell).cells == 1
    with pytest.raises(InputError, match="is no cell"):
        audit(planted.out / "nothing")


def test_a_wall_clock_that_was_set_is_noted_and_no_reason_to_refuse(planted: Planted) -> None:
    planted.change_manifest(
        kind="measured", started="2026-11-21T10:00:00+00:00", ended="2026-11-21T09:00:00+00:00"
    )
    planted.seal()
    found = audit(planted.out)
    assert found.is_sound
    assert "the wall clock was set while it ran" in found.notes[0].text


def test_what_another_version_did_not_know_is_no_fault_but_another_number_is(planted: Planted) -> None:
    older = {name: value for name, value in planted.summary.items() if name != "tbt_s"}
    write_json(planted.cell / "summary.json", older)
    planted.change_manifest(sage="0.0.1")
    planted.seal()
    assert audit(planted.out).is_sound
    planted.write_summary(window_s=older["window_s"] + 1.0)
    planted.seal()
    assert [finding.check for finding in audit(planted.out).refused] == ["figures"]


def test_a_folder_of_another_version_is_refused_in_one_line(planted: Planted) -> None:
    file = planted.out / "experiment.json"
    content = msgspec.json.decode(file.read_bytes())
    write_json(file, {**content, "schema_version": 99})
    with pytest.raises(InputError, match="written by a later SAGE"):
        audit(planted.out)


def test_an_experiment_without_cells_is_vacuous(tmp_path: Path) -> None:
    with open_experiment(tmp_path / "out", "serve", kind="measured", config={}):
        pass
    assert [finding.check for finding in audit(tmp_path / "out").refused] == ["vacuous"]


def test_a_summary_is_read_back_as_it_was(planted: Planted) -> None:
    stored = read_experiment(planted.out).cells[0].summary(LoadSummary)
    assert stored.requests["done"] == 80


def test_what_sage_simulate_keeps_is_audited_by_the_same_checks(tmp_path: Path) -> None:
    (tmp_path / "ask.yaml").write_text('pipeline: ask\nsteps: {answer: {generate: "{question}"}}\n')
    (tmp_path / "spec.yaml").write_text(
        "simulate: tiny\nengines: {llm: {profile: constant}}\ntraffic:\n  ask:\n    pipeline: ask.yaml\n"
        "    arrivals: {process: poisson, rate: 5, jobs: 30}\n    record: {question: {tokens: 20}}\n"
    )
    simulate(read_spec(tmp_path / "spec.yaml"), tmp_path / "out")
    assert audit(tmp_path / "out").is_sound
