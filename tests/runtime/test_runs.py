from __future__ import annotations

import re
import stat
from pathlib import Path

import msgspec
import pytest

from sage.errors import InputError, SetupError
from sage.events import Event, JobEnded, Notice, PipelineSeen, RunEnded
from sage.runtime.runs import (
    EventLog,
    Manifest,
    RunFolder,
    create_run,
    list_runs,
    load_run,
    new_run_id,
    prune,
    read_events,
    size_bytes,
    write_private,
)
from sage.settings import Settings

EVENTS: list[Event] = [
    PipelineSeen(0.0, "p", ("a",), ("template",), ((),)),
    JobEnded(1.0, 0, "p", "done", 0.5, stamps=(0.5, 1.0)),
    RunEnded(1.0, "complete"),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def stored(settings: Settings, run_id: str, started: str, status: str = "complete") -> Path:
    path = settings.runs_dir / run_id
    path.mkdir(parents=True)
    content = msgspec.json.encode(Manifest(run_id=run_id, started=started))
    write_private(path / "run.json", content.replace(b'"running"', f'"{status}"'.encode()))
    return path


def test_a_run_is_recorded_and_loaded_again(settings: Settings) -> None:
    folder = create_run(settings, policy="slack", seed=7, arguments={"max_inflight": 64})
    folder.update(pipelines={"p": {"steps": {}}}, engines={"llm": ("openai:http://127.0.0.1:8000/v1",)})
    for event in EVENTS:
        folder.log.append(event)
    assert load_run(settings, "last").manifest.status == "running"
    folder.finish("complete", {"done": 1})

    run = load_run(settings, folder.manifest.run_id)
    assert list(run.events()) == EVENTS
    assert run.manifest == folder.manifest
    assert run.manifest.status == "complete"
    assert run.manifest.counts == {"done": 1}
    assert run.manifest.kind == "measured"
    assert run.manifest.pipelines == {"p": {"steps": {}}}
    assert run.manifest.engines == {"llm": ("openai:http://127.0.0.1:8000/v1",)}
    assert run.manifest.ended is not None
    assert run.manifest.packages["msgspec"] == msgspec.__version__
    assert run.manifest.machine is not None
    assert run.manifest.machine.num_cpus >= 1


def test_a_run_is_private_to_its_owner(settings: Settings) -> None:
    folder = create_run(settings)
    folder.finish("complete", {})
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert sorted(item.name for item in folder.path.iterdir()) == ["events.jsonl", "run.json"]
    assert all(stat.S_IMODE(item.stat().st_mode) == 0o600 for item in folder.path.iterdir())


def test_ids_can_be_typed_and_sorted() -> None:
    first, later = new_run_id("2026-11-21T03:59:12+00:00"), new_run_id("2026-11-21T04:00:00+00:00")
    assert re.fullmatch(r"20261121-0359-[a-z2-9]{4}", first)
    assert first < later
    assert len({new_run_id() for _ in range(50)}) == 50


def test_events_are_written_in_chunks_and_on_flush(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for number in range(511):
        log.append(Notice(float(number), "fit", "text"))
    assert path.stat().st_size == 0
    log.append(EVENTS[0])
    assert len(list(read_events(path))) == 512
    log.append(EVENTS[1])
    log.flush()
    assert len(list(read_events(path))) == 513
    log.close()
    log.close()


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(EVENTS[0])
    log.append(EVENTS[1])
    log.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert list(read_events(path)) == EVENTS[:1]
    path.write_bytes(whole[:-1])
    assert list(read_events(path)) == EVENTS[:2]


@pytest.mark.parametrize(
    "garbage", [b"{}\n", b"\n", b'{"type": "job"\n', b"\xff\n", b'{"type":"later","t":1}\n']
)
def test_garbage_inside_a_log_is_refused_with_its_line(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(EVENTS[0])
    log.close()
    path.write_bytes(path.read_bytes() + garbage + path.read_bytes())
    with pytest.raises(InputError, match=r"events.jsonl:2: is no event"):
        list(read_events(path))


def test_a_missing_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_events(tmp_path / "events.jsonl"))


def test_runs_are_found_by_id_prefix_or_last(settings: Settings) -> None:
    stored(settings, "20261120-1000-aaaa", "2026-11-20T10:00:00+00:00")
    stored(settings, "20261121-1000-bbbb", "2026-11-21T10:00:00+00:00")
    stored(settings, "20261121-1000-cccc", "2026-11-21T10:00:30+00:00")
    assert [run.manifest.run_id[-4:] for run in list_runs(settings)] == ["cccc", "bbbb", "aaaa"]
    assert load_run(settings, "last").manifest.run_id == "20261121-1000-cccc"
    assert load_run(settings, "20261120").manifest.run_id == "20261120-1000-aaaa"
    with pytest.raises(InputError, match="could be 20261121-1000-bbbb, 20261121-1000-cccc; say more"):
        load_run(settings, "20261121")
    with pytest.raises(
        InputError, match=r"no run '20261121-1000-bbxb' in .*did you mean '20261121-1000-bbbb'"
    ):
        load_run(settings, "20261121-1000-bbxb")
    for name in ("", "../runs", "."):
        with pytest.raises(InputError, match="no run"):
            load_run(settings, name)


def test_no_runs_is_no_error_to_list_but_one_to_load(settings: Settings) -> None:
    assert list_runs(settings) == []
    assert size_bytes(settings) == 0
    with pytest.raises(InputError, match="no runs are recorded"):
        load_run(settings, "last")


def test_a_broken_manifest_is_told_and_does_not_hide_the_others(settings: Settings) -> None:
    stored(settings, "20261120-1000-aaaa", "2026-11-20T10:00:00+00:00")
    (stored(settings, "20261120-1000-bbbb", "x") / "run.json").write_text("{")
    (stored(settings, "20261120-1000-cccc", "x") / "run.json").write_text('{"schema_version": 99}')
    told: list[InputError] = []
    assert len(list_runs(settings, told.append)) == 1
    assert [("no manifest" in str(error), "later SAGE" in str(error)) for error in told] == [
        (True, False),
        (False, True),
    ]
    with pytest.raises(InputError, match="upgrade SAGE"):
        load_run(settings, "20261120-1000-cccc")


NOW = "2026-11-22T00:00:00+00:00"


def test_pruning_keeps_the_latest_and_the_young(settings: Settings) -> None:
    for number in range(5):
        stored(settings, f"2026111{number}-1000-aaaa", f"2026-11-1{number}T10:00:00+00:00")
    before = size_bytes(settings)
    assert prune(settings, keep=4, older_than_s=30 * 86400, now=NOW) == 0
    freed = prune(settings, keep=3, now=NOW)
    assert freed == before - size_bytes(settings) > 0
    assert [run.manifest.run_id[:8] for run in list_runs(settings)] == ["20261114", "20261113", "20261112"]
    prune(settings, older_than_s=8 * 86400, now=NOW)
    assert [run.manifest.run_id[:8] for run in list_runs(settings)] == ["20261114"]


def test_pruning_spares_what_still_runs_and_what_is_no_run(settings: Settings, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    going: RunFolder = create_run(settings)
    (settings.runs_dir / "notes").mkdir()
    (settings.runs_dir / "20261110-1000-link").symlink_to(outside)
    assert prune(settings, keep=0) == 0
    assert going.path.exists()
    going.finish("complete", {})
    assert prune(settings, keep=0) > 0
    assert not going.path.exists()
    assert outside.exists()
    assert (settings.runs_dir / "notes").exists()


def test_a_killed_run_is_pruned_once_it_is_quiet(settings: Settings) -> None:
    path = stored(settings, "20261110-1000-aaaa", "2026-11-10T10:00:00+00:00", status="running")
    assert prune(settings, keep=0, now="2126-11-22T00:00:00+00:00") > 0
    assert not path.exists()


@pytest.mark.parametrize("limits", [{}, {"keep": -1}, {"older_than_s": -1}])
def test_pruning_without_sound_limits_is_refused(settings: Settings, limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match="prune: "):
        prune(settings, **limits)  # type: ignore[arg-type]  # the table holds ints only


def test_a_manifest_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_private(path, b"first")
    write_private(path, b"second")
    assert path.read_bytes() == b"second"
    assert [item.name for item in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(SetupError, match="record=False"):
        write_private(tmp_path / "nowhere" / "run.json", b"")


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(SetupError, match="SAGE_HOME"):
        create_run(Settings(home=tmp_path))
