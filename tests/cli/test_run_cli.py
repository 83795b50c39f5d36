from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.cli import app, exit_code
from sage.runtime.runs import list_runs
from sage.settings import Settings

HELLO = 'pipeline: hello\nsteps:\n  line: {template: "Hello, {name}!"}\n'
FLOWS = """
import asyncio, sys, time
from sage import Pipeline, register
from sage.ops import each, generate, step

def halved(n: float) -> float:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n / 2

async def waited(n: int) -> int:
    if n:
        print("waiting", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    return n

def blocked(n: int) -> int:
    if n:
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(600)
    return n

half = Pipeline("half", half=halved)
asks = Pipeline("asks", answer=generate("{question}"))
asks_each = Pipeline("asks_each", answers=each("questions", generate("{item}")))
waits = Pipeline("waits", waited=waited)
blocks = Pipeline("blocks", blocked=step(blocked, pool="cpu"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with pipelines in it, and an empty home."""
    (tmp_path / "hello.yaml").write_text(HELLO, encoding="utf-8")
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("sage_file_"):
            del sys.modules[name]


def run(*args: str) -> int:
    return exit_code(lambda: app(args=["run", *args], prog_name="sage"))


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def written(name: str, *records: Any) -> str:
    Path(name).write_text(lines(*records), encoding="utf-8")
    return name


def read(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


# ---- records in and out


def test_one_record_is_given_by_its_fields(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("hello.yaml", "--set", "name=Ada=1") == 0
    assert capfd.readouterr().out == '{"name":"Ada=1","line":"Hello, Ada=1!"}\n'


def test_a_field_can_be_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("flows.py:half", "--set", "n:=3") == 0
    assert json.loads(capfd.readouterr().out) == {"n": 3, "half": 1.5}


def test_a_pipeline_without_inputs_runs_once(capfd: pytest.CaptureFixture[str]) -> None:
    Path("fixed.yaml").write_text("pipeline: p\nsteps: {a: {template: x}}", encoding="utf-8")
    assert run("fixed.yaml") == 0
    assert capfd.readouterr().out == '{"a":"x"}\n'


def test_results_of_a_file_go_to_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", {"name": "Ada"}, {"name": "Bo"})
    assert run("hello.yaml", "--input", source, "--output", "out.csv") == 0
    assert Path("out.csv").read_text() == 'name,line\nAda,"Hello, Ada!"\nBo,"Hello, Bo!"\n'
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("2 done -> out.csv; sage runs show ")


def test_results_go_to_standard_output_if_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    Path("in.csv").write_text("name\nAda\n", encoding="utf-8")
    assert run("hello.yaml", "--input", "in.csv") == 0
    assert capfd.readouterr().out == lines({"name": "Ada", "line": "Hello, Ada!"}).replace(
        '": "', '":"'
    ).replace('", "', '","')


def test_json_is_one_object_with_the_records(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", {"n": 2}, {"n": -1})
    assert run("flows.py:half", "--input", source, "--json") == 1
    shown = json.loads(capfd.readouterr().out)
    assert shown["jobs"] == {"done": 1, "failed": 1, "rejected": 0, "cancelled": 0}
    assert shown["output"] is None
    assert shown["records"] == [{"n": 2, "half": 1.0}]
    assert shown["metrics"]["jobs"] == shown["jobs"]
    assert [stored.manifest.run_id for stored in list_runs(Settings.load())] == [shown["run_id"]]


def test_json_with_an_output_leaves_the_records_there(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", {"name": "Ada"})
    assert run("hello.yaml", "--input", source, "--output", "out.jsonl", "--json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["output"] == "out.jsonl"
    assert "records" not in shown
    assert len(read("out.jsonl")) == 1


def test_nothing_is_recorded_if_so_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("hello.yaml", "--set", "name=Ada", "--no-record", "--json") == 0
    assert json.loads(capfd.readouterr().out)["metrics"] == {}
    assert list_runs(Settings.load()) == []


def test_results_keep_the_order_of_the_input_if_so_said() -> None:
    source = written("in.jsonl", *({"n": n} for n in range(100)))
    assert run("flows.py:half", "--input", source, "--output", "out.jsonl", "--ordered") == 0
    assert [record["n"] for record in read("out.jsonl")] == list(range(100))


def test_options_of_the_run_reach_its_manifest() -> None:
    options = ["--policy", "fifo", "--max-inflight", "3", "--tenant", "{name}", "--priority", "batch"]
    options += ["--deadline-s", "2.5", "--timeout-s", "9", "--expire"]
    assert run("hello.yaml", "--set", "name=Ada", *options) == 0
    (stored,) = list_runs(Settings.load())
    arguments = stored.manifest.arguments
    assert "fifo" in stored.manifest.policy
    assert arguments["max_inflight"] == 3
    assert arguments["tenant"] == "{name}"
    assert (arguments["priority"], arguments["deadline_s"], arguments["timeout_s"]) == ("batch", 2.5, 9.0)
    assert arguments["expire"] is True


def test_functions_that_yaml_names_are_imported(capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "import sage\n@sage.register\ndef shouted_in_cli(name: str) -> str:\n    return name.upper()\n",
        encoding="utf-8",
    )
    Path("fn.yaml").write_text("pipeline: p\nsteps: {a: {fn: shouted_in_cli}}", encoding="utf-8")
    assert run("fn.yaml", "--import", "mine.py", "--set", "name=ada") == 0
    assert json.loads(capfd.readouterr().out)["a"] == "ADA"


# ---- failures


def test_failed_records_go_to_their_file_and_the_rest_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", {"n": -1}, {"n": 4}, {"n": -2})
    assert run("flows.py:half", "--input", source, "--output", "out.jsonl", "--errors", "bad.jsonl") == 1
    assert read("out.jsonl") == [{"n": 4, "half": 2.0}]
    assert read("bad.jsonl")[0] == {
        "index": 0,
        "outcome": "failed",
        "step": "half",
        "attempts": 1,
        "error": "step 'half': raised ValueError: -1 is negative",
        "record": {"n": -1},
    }
    assert capfd.readouterr().err.startswith("1 done, 2 failed -> out.jsonl")


def test_without_a_file_for_them_the_first_failures_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", *({"n": -n} for n in range(1, 9)))
    assert run("flows.py:half", "--input", source) == 1
    shown = capfd.readouterr().err
    assert shown.count("failed: record") == 5
    assert "… and 3 more; --errors FILE keeps them all" in shown


def test_an_engine_that_cannot_be_reached_ends_with_3(capfd: pytest.CaptureFixture[str]) -> None:
    engine = "llm=openai:http://127.0.0.1:9/v1?model=m"
    assert run("flows.py:asks", "--set", "question=x", "--engine", engine, "--output", "kept.jsonl") == 3
    assert "does not answer" in capfd.readouterr().err
    assert not Path("kept.jsonl").exists()


def test_an_engine_is_for_steps_inside_control_flow_too() -> None:
    engine = "llm=openai:http://127.0.0.1:9/v1?model=m"
    assert run("flows.py:asks_each", "--set", 'questions:=["x"]', "--engine", engine) == 3


def test_a_broken_line_stops_everything_before_it_begins(capfd: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text('{"name": "Ada"}\n{"name": }\n', encoding="utf-8")
    assert run("hello.yaml", "--input", "in.jsonl", "--output", "out.jsonl") == 2
    assert capfd.readouterr().err.startswith("error: in.jsonl:2:10: JSON is malformed")
    assert not Path("out.jsonl").exists()
    assert list_runs(Settings.load()) == []


def test_a_record_that_lacks_an_input_stops_everything_too(capfd: pytest.CaptureFixture[str]) -> None:
    source = written("in.jsonl", {"name": "Ada"}, {"nme": "Bo"})
    assert run("hello.yaml", "--input", source) == 2
    assert "in.jsonl: record 2: pipeline 'hello' needs 'name'" in capfd.readouterr().err


def test_bad_input_is_left_out_if_so_said(capfd: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text('{"name": "Ada"}\n{"name": }\n{"nme": "Bo"}\n', encoding="utf-8")
    assert run("hello.yaml", "--input", "in.jsonl", "--output", "out.jsonl", "--skip-bad-input") == 1
    shown = capfd.readouterr().err
    assert "skipped: in.jsonl:2:10" in shown
    assert "failed: record 1 failed: pipeline 'hello' needs 'name'" in shown
    assert len(read("out.jsonl")) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nope.yaml"], "nope.yaml: no such file"),
        (["helo.yaml"], "helo.yaml: no such file; did you mean 'hello.yaml'?"),
        (["hello.yaml"], "there are no records to run; give --input FILE, or one record: --set name=…"),
        (["hello.yaml", "--set", "nme=x"], "pipeline 'hello' needs 'name', but the record has 'nme'"),
        (["hello.yaml", "--set", "name"], "--set 'name': expected FIELD=TEXT"),
        (["hello.yaml", "--set", "name:=Ada"], "for text write name=Ada"),
        (["hello.yaml", "--set", "name=a", "--set", "name=b"], "--set name=… stands twice"),
        (["hello.yaml", "--set", "name=a", "--input", "x.jsonl"], "--input and --set exclude each other"),
        (["hello.yaml", "--input", "no.jsonl"], "no.jsonl: no such file"),
        (["hello.yaml", "--input", "hello.txt"], "cannot tell the format"),
        (["hello.yaml", "--set", "name=a", "--output", "no/out.jsonl"], "no such folder 'no'"),
        (["hello.yaml", "--set", "name=a", "--output", "-", "--json"], "--json and --output - both write"),
        (
            ["hello.yaml", "--input", "a.jsonl", "--output", "./a.jsonl"],
            "--input and --output are the same file",
        ),
        (["hello.yaml", "--set", "name=a", "--policy", "fio"], "fio"),
        (["hello.yaml", "--set", "name=a", "--priority", "hgih"], "priority 'hgih'"),
        (["hello.yaml", "--set", "name=a", "--deadline-s", "soon"], "deadline_s is 'soon'"),
        (["hello.yaml", "--set", "name=a", "--timeout-s", "0"], "--timeout-s is 0"),
        (["hello.yaml", "--set", "name=a", "--index", "docs"], "--index 'docs': expected NAME=FOLDER"),
        (["flows.py:asks", "--set", "question=a", "--engine", "lm=x:y"], "did you mean 'llm'?"),
        (["flows.py:asks", "--set", "question=a", "--engine", "llm=nope:y"], "unknown engine 'nope'"),
        (["flows.py"], "flows.py has 5 pipelines; say which: flows.py:half"),
        (["flows.py:hlf"], "flows.py has no pipeline or stream 'hlf': did you mean 'half'?"),
        (["flows.py:halved"], "flows.py:halved is of type 'function', expected a Pipeline"),
        (["no_such_module:x"], "no module 'no_such_module' here"),
        (["./hello"], "expected a .yaml or .py file"),
        (["json:x"], "json has no pipeline or stream 'x': there are none"),
    ],
)
def test_a_mistake_is_one_clear_line(args: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*args) == 2
    shown = capfd.readouterr().err
    assert says in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nundefined\n", r"broken.py:2: importing it raised NameError: name 'undefined'"),
        ("def f(:\n", r"broken.py:1: invalid syntax"),
        ("import sys\nsys.exit(0)\n", r"broken.py:2: importing it raised SystemExit: 0"),
        ("import not_there\n", r"broken.py:1: importing it raised ModuleNotFoundError"),
        ("x = 1\n", r"broken.py has no pipeline or stream; make one"),
        (
            "from sage import Pipeline\nfrom sage.ops import template\np = Pipeline('p', a=template('{a}'))\n",
            "cycle",
        ),
    ],
)
def test_a_python_file_that_is_broken_is_named_with_the_line(
    code: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text(code, encoding="utf-8")
    assert run("broken.py:p" if "Pipeline" in code else "broken.py") == 2
    assert says in capfd.readouterr().err


def test_a_pipeline_is_found_in_a_module_and_beside_its_file(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "beside.py").write_text(
        "from sage.ops import template\nstep = template('{x}!')\n", encoding="utf-8"
    )
    (folder / "main_cli_flow.py").write_text(
        "from beside import step\nfrom sage import Pipeline\nonly = Pipeline('p', a=step)\n", encoding="utf-8"
    )
    try:
        assert run("main_cli_flow.py", "--set", "x=1") == 0
        assert run("main_cli_flow:only", "--set", "x=2") == 0
    finally:
        for name in ("beside", "main_cli_flow"):
            sys.modules.pop(name, None)
    assert capfd.readouterr().out == '{"x":"1","a":"1!"}\n{"x":"2","a":"2!"}\n'


# ---- as a process of its own

COMMAND = [sys.executable, "-c", "from sage.cli import main; main()"]


def started(*args: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "run", *args], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def interrupted(
    process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """Interrupt a process once it says that it waits; its exit code and what it printed."""
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.slow
def test_standard_input_is_read_as_it_comes() -> None:
    process = started("hello.yaml", "--input", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(lines({"name": "Ada"}))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["line"] == "Hello, Ada!"  # before the input has ended
        process.stdin.write(lines({"name": "Bo"}))
        process.stdin.close()
        assert json.loads(process.stdout.read())["line"] == "Hello, Bo!"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_broken_line_on_standard_input_ends_what_follows_it() -> None:
    done = subprocess.run(  # noqa: PLW1510 - the code is what is tested
        [*COMMAND, "run", "hello.yaml", "--input", "-"],
        input='{"name": "Ada"}\n{\n',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "error: standard input:2:2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(number: signal.Signals) -> None:
    source = written("in.jsonl", {"n": 0}, {"n": 1})
    code, _, err = interrupted(started("flows.py:waits", "--input", source, "--output", "out.jsonl"), number)
    assert code == 130
    assert err.startswith("interrupted: 1 done, 1 cancelled -> out.jsonl")
    assert read("out.jsonl") == [{"n": 0, "waited": 0}]
    (stored,) = list_runs(Settings.load())
    assert stored.manifest.status == "partial"
    assert stored.manifest.counts["done"] == 1


@pytest.mark.slow
def test_a_run_that_a_script_put_into_the_background_ends_when_it_is_told_to() -> None:
    source = written("in.jsonl", {"n": 0}, {"n": 1})
    deaf = ["sh", "-c", 'trap "" INT; exec "$0" "$@"', *COMMAND, "run", "flows.py:waits", "--input", source]
    process = subprocess.Popen(deaf, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)  # which is for the script
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out) == {"n": 0, "waited": 0}


@pytest.mark.slow
def test_an_interrupted_run_still_prints_its_json() -> None:
    source = written("in.jsonl", {"n": 0}, {"n": 1})
    code, out, _ = interrupted(started("flows.py:waits", "--input", source, "--json"))
    assert code == 130
    shown = json.loads(out)
    assert shown["records"] == [{"n": 0, "waited": 0}]
    assert shown["metrics"]["status"] == "partial"


@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_for_a_function_that_blocks() -> None:
    source = written("in.jsonl", {"n": 0}, {"n": 1})
    one_by_one = ("--max-inflight", "1")  # so that the first is done when the second says that it waits
    code, out, _ = interrupted(started("flows.py:blocks", "--input", source, *one_by_one))
    assert code == 130
    assert json.loads(out) == {"n": 0, "blocked": 0}


@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_for_its_input() -> None:
    process = started("flows.py:waits", "--input", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(lines({"n": 1}))
    process.stdin.flush()
    assert interrupted(process)[0] == 130


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error() -> None:
    source = written("in.jsonl", *({"name": "x" * 1000} for _ in range(2000)))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(  # noqa: PLW1510 - the code is what is tested
        [*COMMAND, "run", "hello.yaml", "--input", source], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
