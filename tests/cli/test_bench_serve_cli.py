"""``sage bench serve``, ``audit`` and ``compare`` from the command line, against an emulated server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sage.cli.bench import app
from sage.errors import EngineError, InputError
from sage.testing.server import Behaviour, EmulatedServer

RUNNER = CliRunner()


class Serving(threading.Thread):
    """An emulated server on a loop of its own, until it is told to stop."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.url = ""
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()

    def run(self) -> None:
        self.loop.run_until_complete(self.serve())
        self.loop.close()

    async def serve(self) -> None:
        self.over = asyncio.Event()
        async with EmulatedServer(self.behaviour) as server:
            self.url = server.url
            self.ready.set()
            await self.over.wait()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.join()


def serving(behaviour: Behaviour) -> Iterator[str]:
    server = Serving(behaviour)
    server.start()
    server.ready.wait()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    yield from serving(Behaviour(ttft_s=0.005, concurrency=64))


@pytest.fixture
def failing_url() -> Iterator[str]:
    yield from serving(Behaviour(rates={"500": 0.3}))


SMALL = (
    "--num-prompts",
    "12",
    "--max-concurrency",
    "4",
    "--random-input-len",
    "5",
    "--random-output-len",
    "3",
)


def invoke(*words: str) -> Result:
    return RUNNER.invoke(app, list(words))


def served(url: str, out: Path, *words: str) -> Result:
    return invoke("serve", "--base-url", url, *SMALL, "--out", str(out), *words)


def test_a_load_prints_what_a_client_sees(url: str, tmp_path: Path) -> None:
    done = served(url, tmp_path / "out", "--ignore-eos", "--goodput", "ttft:5000", "tpot:500", "e2el:9000")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "12 requests: 12 done; 4 of warm-up not counted"
    names = ("TTFT", "TPOT", "ITL", "E2E")  # those of the server too, where this process was late
    shown = dict.fromkeys(line.split()[0] for line in lines[2:] if line.startswith(names))
    assert tuple(shown) == names
    assert "p99 needs 368 requests" in done.stdout
    assert "within TTFT 5000 ms, TPOT 500 ms, E2E 9000 ms" in lines[-1]
    assert f" -> {tmp_path / 'out'}" in done.stderr


def test_json_is_one_object_whose_figures_the_folder_keeps(url: str, tmp_path: Path) -> None:
    done = served(url, tmp_path / "out", "--json", "--repeats", "2")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (one,) = told["loads"]
    assert (told["experiment"], told["kind"], len(one["repeats"])) == ("serve", "measured", 2)
    kept = json.loads((tmp_path / "out" / "repeat-1" / "summary.json").read_text())
    assert one["repeats"][1] == kept


def test_the_flat_file_has_vllms_names(url: str, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    done = served(
        url, tmp_path / "out", "--save-result", "--result-dir", str(flat), "--result-filename", "r.json",
        "--goodput", "e2el:9000",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads((flat / "r.json").read_text())
    assert (told["completed"], told["failed"], told["num_prompts"]) == (12, 0, 12)
    assert told["request_goodput"] == told["request_throughput"]
    assert {
        "mean_ttft_ms",
        "median_tpot_ms",
        "p99_itl_ms",
        "std_e2el_ms",
        "total_input_tokens",
    } <= told.keys()
    assert told["p99_ttft_ms"] is None


def test_v1_may_be_left_out_of_the_address_and_completions_asked_for(url: str, tmp_path: Path) -> None:
    bare = url.removesuffix("/v1")
    done = served(bare, tmp_path / "out", "--endpoint", "/v1/completions")
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "repeat-0" / "run.json").read_text())
    assert manifest["arguments"]["target"] == {
        "base_url": url, "model": None, "api": "completions", "count_along": False, "extra": {},
    }  # fmt: skip


def test_failures_end_with_1_and_are_named(failing_url: str, tmp_path: Path) -> None:
    done = served(failing_url, tmp_path / "out", "--num-prompts", "40")
    assert done.exit_code == 1
    assert "failed;" in done.stdout
    assert "of them: failed 500" in done.stderr


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    done = served("http://127.0.0.1:9", tmp_path / "results" / "out")
    assert isinstance(done.exception, EngineError)
    assert done.exception.exit_code == 3
    assert not list(tmp_path.iterdir())


def test_results_are_audited_and_a_changed_log_is_refused(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    served(url, out)
    done = invoke("audit", str(out), "--json")
    assert (done.exit_code, json.loads(done.stdout)["sound"]) == (0, True)
    log = out / "repeat-0" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"completion_tokens":3', b'"completion_tokens":9', 1))
    done = invoke("audit", str(out))
    assert done.exit_code == 1
    assert "hashes: " in done.stdout
    assert "was changed after it was written" in done.stdout
    refused = invoke("compare", str(out), str(out))
    assert isinstance(refused.exception, InputError)
    assert "cannot be true" in str(refused.exception)


def test_two_results_are_compared_and_a_gate_ends_with_1(url: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    served(url, old)
    served(url, new)
    done = invoke("compare", str(old), str(new), "--fail-if", "requests_per_s:-99.9%", "--json")
    assert (done.exit_code, json.loads(done.stdout)["failed"]) == (0, False)
    done = invoke("compare", str(old), str(new), "--fail-if", "e2e_mean:+0ms", "--fail-if", "e2e_mean:-0ms")
    assert done.exit_code == 1
    assert "failed: e2e_mean" in done.stdout


def test_a_pipeline_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "ask.yaml").write_text('pipeline: ask\nsteps: {answer: {generate: "{question}"}}\n')
    records = tmp_path / "q.jsonl"
    records.write_text("".join(json.dumps({"question": f"what is {n}?"}) + "\n" for n in range(20)))
    done = invoke(
        "serve", "--pipeline", str(tmp_path / "ask.yaml"), "--input", str(records), "--num-prompts", "12",
        "--max-concurrency", "4", "--engine", "llm=fake:memory", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "12 requests: 12 done" in done.stdout
    assert invoke("audit", str(tmp_path / "out")).exit_code == 0


def test_a_sweep_has_a_row_for_each_load_and_says_where_the_knee_is(url: str, tmp_path: Path) -> None:
    words = [word for count in "12345" for word in ("--max-concurrency", count)]
    out = tmp_path / "out"
    done = invoke(
        "serve", "--base-url", url, "--num-prompts", "10", "--random-input-len", "5", "--random-output-len", "3",
        "--goodput", "e2el:9000", "--out", str(out), *words,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "concurrency"
    assert [line.split()[0] for line in lines[1:6]] == ["1", "2", "3", "4", "5"]
    assert lines[6].startswith(("no knee", "more concurrency"))
    assert len(list(out.glob("concurrency-*_repeat-0"))) == 5
    assert invoke("audit", str(out)).exit_code == 0


def test_the_suites_are_listed() -> None:
    assert "serve" in json.loads(invoke("list", "--json").stdout)["suites"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ((), "say what is loaded"),
        (("--base-url", "http://x", "--pipeline", "p.yaml"), "say what is loaded"),
        (("--base-url", "http://x", "--input", "q.jsonl"), "--input says nothing about a server"),
        (("--pipeline", "p.yaml", "--model", "m"), "--model says nothing about a pipeline"),
        (("--base-url", "http://x", "--request-rate", "0"), "above 0, or inf"),
        (("--base-url", "http://x", "--burstiness", "-1"), "--burstiness is -1"),
        (("--base-url", "http://x", "--burstiness", "0.5"), "say --request-rate, too"),
        (
            ("--base-url", "http://x", "--request-rate", "3", "--think-s", "1"),
            "--think-s does not go with a rate",
        ),
        (("--base-url", "http://x", "--ramp-up-start-rps", "3"), "a ramp needs"),
        (("--base-url", "http://x", "--ramp-up-strategy", "exponential"), "expected linear"),
        (("--base-url", "http://x", "--dataset-name", "sharegpt"), "choose from 'file', 'random', 'trace'"),
        (("--base-url", "http://x", "--dataset-name", "trace"), "a trace needs one"),
        (("--base-url", "http://x", "--dataset-path", "f.jsonl"), "leave it out for random prompts"),
        (
            ("--base-url", "http://x", "--random-input-len", "max", "--max-concurrency", "1"),
            "says nothing here",
        ),
        (("--base-url", "http://x", "--backend", "tgi"), "--backend 'tgi'"),
        (("--base-url", "http://x", "--endpoint", "/v1/embeddings"), "expected /v1/chat/completions"),
        (("--base-url", "http://x", "--extra-body", "{"), "is no JSON object"),
        (("--base-url", "http://x", "--percentile-metrics", "ttfb"), "did you mean 'ttft'"),
        (("--base-url", "http://x", "--metric-percentiles", "75"), "choose from 50, 90, 95, 99, 99.9"),
        (("--base-url", "http://x", "--goodput", "ttft:x"), "expected ttft:MILLISECONDS"),
        (("--base-url", "http://x", "stray"), "objective 'stray'"),
        (("--base-url", "http://x", *("--max-concurrency", "1") * 2), "has a value twice"),
        (
            (
                "--base-url",
                "http://x",
                *(w for n in "12" for w in ("--max-concurrency", n, "--request-rate", n)),
            ),
            "sweep one of them",
        ),
        (("--pipeline", "p.yaml", "--temperature", "1"), "--temperature says nothing about a pipeline"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words: tuple[str, ...], wrong: str) -> None:
    done = invoke("serve", *words)
    assert isinstance(done.exception, InputError), done.output
    assert wrong in str(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--request-rate", "5"), {"process": "poisson", "rate": 5.0, "jobs": 400}),
        (("--request-rate", "5", "--burstiness", "0.5"), {"process": "gamma", "burstiness": 0.5}),
        (("--request-rate", "5", "--burstiness", "inf"), {"process": "constant"}),
        (("--request-rate", "5", "--burst-size", "8"), {"process": "burst", "size": 8}),
        (("--request-rate", "inf", "--max-concurrency", "3"), {"process": "closed", "clients": 3}),
        ((), {"process": "burst", "size": 400}),
        (
            ("--ramp-up-start-rps", "1", "--ramp-up-end-rps", "9"),
            {"process": "ramp", "rate": 1.0, "to_rate": 9.0},
        ),
    ],
)
def test_options_say_how_requests_come(
    words: tuple[str, ...], expected: dict[str, Any], monkeypatch: Any
) -> None:
    from sage.cli import bench_serve

    seen: list[Any] = []

    def stop(points: Any, *_: Any) -> Any:
        seen.extend(point.spec for point in points)
        raise InputError("enough")

    monkeypatch.setattr(bench_serve, "_carried_out", stop)
    invoke("serve", "--base-url", "http://x", *words)
    arrivals = seen[0].arrivals
    assert {name: getattr(arrivals, name) for name in expected} == expected
