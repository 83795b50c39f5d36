"""The instrument against a server that writes down the truth. Times are generous here: what the machine allows is
recorded by ``benchmarks/instrument.py``; that counts and keys agree, and what a stream is taken for, is tested."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage.bench.arrivals import Arrivals
from sage.bench.load_run import Loaded, load
from sage.bench.prompts import Prompts
from sage.bench.results import Cell, StoredCell
from sage.bench.serve_spec import Serve, Target
from sage.bench.truth import Told, agreement
from sage.errors import EngineError
from sage.runtime.manifest import read_manifest
from sage.settings import Settings
from sage.testing.server import Behaviour, EmulatedServer

IGNORE_EOS = {"ignore_eos": True}


def measured(
    folder: Path, behaviour: Behaviour, *, loads: int = 1, target: dict[str, Any] | None = None, **said: Any
) -> tuple[list[Loaded], list[Told]]:
    """The same load once or more on one server; and what the server says of it."""

    async def main() -> tuple[list[Loaded], list[Told]]:
        async with EmulatedServer(behaviour) as server:
            found = []
            for number in range(loads):
                cell = folder / f"cell-{number}"
                cell.mkdir()
                usual: dict[str, Any] = {
                    "arrivals": Arrivals(process="closed", clients=4, jobs=24),
                    "prompts": Prompts(input_len="60", output_len="8"),
                    "target": Target(base_url=server.url, **{"extra": IGNORE_EOS, **(target or {})}),
                }
                spec = Serve(**{**usual, **said})
                found.append(await load(spec, cell, Settings(home=folder / "home")))
            told = [msgspec.convert(msgspec.to_builtins(one), Told) for one in server.truth]
            return found, told

    return asyncio.run(main())


def doubts(found: Loaded) -> list[str]:
    """What must be said of a load. That the generator was late is left out: here it shares its loop with the server."""
    return [flag.kind for flag in found.summary.flags if flag.kind != "generator_limited"]


def run_id(folder: Path) -> str:
    return read_manifest(folder / "cell-0" / "run.json").run_id


def test_counts_are_the_servers_own_to_the_last_token(tmp_path: Path) -> None:
    (found,), told = measured(tmp_path, Behaviour(ttft_s=0.01, token_s=0.002))
    agreed = agreement(found.requests, told, run_id(tmp_path))
    assert (agreed.requests, agreed.wrong_counts) == (24, ())
    assert found.summary.output_tokens == 24 * 8
    assert found.summary.prompt_tokens == 24 * 60


def test_the_client_never_sees_a_token_before_it_was_sent(tmp_path: Path) -> None:
    (found,), told = measured(tmp_path, Behaviour(ttft_s=0.01, token_s=0.002))
    by_key = {one.idempotency_key: one for one in told}
    name = run_id(tmp_path)
    for request in found.requests:
        truth = by_key[f"{name}-{request.id}"]
        assert request.first is not None
        assert request.dispatched is not None
        assert request.first - request.dispatched >= truth.pieces[0] - truth.arrived


def test_a_role_without_a_token_is_not_the_first_token(tmp_path: Path) -> None:
    (found,), told = measured(tmp_path, Behaviour(ttft_s=0.1, role_first=True))
    assert agreement(found.requests, told, run_id(tmp_path)).wrong_counts == ()
    assert found.summary.ttft_s.min is not None
    assert found.summary.ttft_s.min >= 0.1


def test_pieces_of_several_tokens_have_gaps_of_several_tokens(tmp_path: Path) -> None:
    behaviour = Behaviour(token_s=0.005, piece_tokens=4)
    (found,), told = measured(tmp_path, behaviour, target={"count_along": True})
    assert agreement(found.requests, told, run_id(tmp_path)).wrong_counts == ()
    summary = found.summary
    assert (summary.tbt_s.n, summary.itl_s.n) == (24, 96)
    assert summary.tbt_s.mean is not None
    assert summary.itl_s.mean == pytest.approx(summary.tbt_s.mean / 4)


def test_a_server_that_does_not_count_along_leaves_such_gaps_untold(tmp_path: Path) -> None:
    (found,), _ = measured(tmp_path, Behaviour(piece_tokens=4))
    assert found.summary.itl_s.n == 0
    assert "24 of 24 answers" in found.summary.itl_s.why["n"]


def test_a_second_load_of_the_same_prompts_meets_a_warm_cache_and_says_so(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, Behaviour(prefix_cache=True), loads=2)
    assert [doubts(one) for one in found] == [[], ["warm_prefix_cache"]]


def test_a_beginning_that_prompts_share_on_purpose_is_no_warm_cache(tmp_path: Path) -> None:
    prompts = Prompts(input_len="20", output_len="4", prefix_len=200)
    (found,), _ = measured(tmp_path, Behaviour(prefix_cache=True), prompts=prompts)
    assert found.summary.cached_tokens > 0.5 * found.summary.prompt_tokens
    assert doubts(found) == []


def test_a_server_without_counts_is_counted_by_its_pieces_and_says_so(tmp_path: Path) -> None:
    (found,), _ = measured(tmp_path, Behaviour(usage=False))
    assert found.summary.tokens_from == {"pieces": 24}
    assert doubts(found) == ["no_usage"]


def test_answers_of_another_length_than_asked_for_are_said(tmp_path: Path) -> None:
    behaviour = Behaviour(context_tokens=64)
    (found,), _ = measured(tmp_path, behaviour)
    assert doubts(found) == ["short_answers"]


def test_faults_of_the_server_are_failures_and_their_reasons_are_told(tmp_path: Path) -> None:
    behaviour = Behaviour(script=("ok",) * 10 + ("503", "cut", "garbage", "429"))
    (found,), _ = measured(tmp_path, behaviour)
    assert found.summary.requests["failed"] == 4
    assert found.summary.errors == {"overloaded 503": 1, "stalled": 1, "garbled": 1, "overloaded 429": 1}


def test_a_server_that_is_not_there_is_said_before_anything_is_kept(tmp_path: Path) -> None:
    spec = Serve(
        arrivals=Arrivals(process="closed", clients=1, jobs=1),
        target=Target(base_url="http://127.0.0.1:9/v1"),
    )
    with pytest.raises(EngineError, match="is it running"):
        asyncio.run(load(spec, tmp_path, Settings(home=tmp_path / "home")))


def test_a_wrong_count_and_a_wrong_time_are_disagreement(tmp_path: Path) -> None:
    (found,), told = measured(tmp_path, Behaviour(token_s=0.002))
    one, *rest = found.requests[4:]
    name = run_id(tmp_path)
    miscounted = [msgspec.structs.replace(one, output_tokens=9), *rest]
    assert agreement(miscounted, told, name).wrong_counts == (f"request {one.id}: 9 output tokens, truth 8",)
    late = [msgspec.structs.replace(r, first=(r.first or 0) + 0.1) for r in found.requests]
    bad = {one.figure for one in agreement(late, told, name).deviations if not one.ok}
    assert {"ttft_s mean", "ttft_s p50", "ttft_s p95"} <= bad
    assert not agreement([], told, name).ok


def test_what_was_measured_can_be_read_back(tmp_path: Path) -> None:
    (found,), _ = measured(tmp_path, Behaviour())
    assert StoredCell(tmp_path / "cell-0", Cell(name="cell-0")).requests() == found.requests
