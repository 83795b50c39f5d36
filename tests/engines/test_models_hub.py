"""Models from a hub, played by a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.engines.models import installed, model_faults, pull, resolve
from sage.engines.models_hub import parse_hub_reference
from sage.errors import InputError, SetupError
from sage.settings import Settings

WEIGHTS = b"GGUF" + b"numbers" * 5000
REFERENCE = "hf:org/repo/model.gguf"


@dataclass
class Hub:
    """What the server answers with, and what it was asked."""

    url: str
    store_url: str  # the same server under another name
    files: dict[str, bytes] = field(default_factory=lambda: {"model.gguf": WEIGHTS})
    sent: dict[str, bytes] = field(default_factory=dict)  # instead of the file, after the headers of the file
    status: int = 200
    states_hashes: bool = True
    keys: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, path = self.headers["Host"].partition(":")[0], self.path
            played.keys.append((host, self.headers["Authorization"]))
            name = (
                path.split("/", 5)[5]
                if path.startswith("/org/repo/resolve/")
                else path.removeprefix("/store/")
            )
            content = played.files.get(name)
            if played.status != 200 or content is None:
                self.send_error(played.status if played.status != 200 else 404)
            elif path.startswith("/store/"):
                self.answer(200, played.sent.get(name, content), {"ETag": '"of the store"'}, len(content))
            elif name.endswith(".json"):  # small: sent at once, named as git does
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                self.answer(
                    200, played.sent.get(name, content), {"ETag": f'"{blob}"'} if played.states_hashes else {}
                )
            else:
                tag = f'"{hashlib.sha256(content).hexdigest()}"'
                headers = {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content))}
                where = {"Location": f"{played.store_url}/store/{name}"}
                self.answer(302, b"", {**(headers if played.states_hashes else {}), **where})

        def answer(
            self, status: int, body: bytes, headers: dict[str, str], length: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    port = server.server_address[1]
    played = Hub(f"http://127.0.0.1:{port}", f"http://localhost:{port}")
    monkeypatch.setenv("HF_ENDPOINT", played.url)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield played
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_large_file_is_checked_by_the_sha256_the_hub_states(hub: Hub, tmp_home: Settings) -> None:
    steps: list[tuple[int, int | None]] = []
    path = pull(REFERENCE, tmp_home, lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == WEIGHTS
    assert path == tmp_home.models_dir / "hf/org/repo/main/model.gguf"
    assert steps[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert resolve(REFERENCE, tmp_home) == path
    assert [model.reference for model in installed(tmp_home)] == [REFERENCE]


def test_a_file_that_is_here_is_not_fetched_again(hub: Hub, tmp_home: Settings) -> None:
    path = pull(REFERENCE, tmp_home)
    hub.status = 500
    assert pull(REFERENCE, tmp_home) == path


def test_damage_is_found_and_mended(hub: Hub, tmp_home: Settings) -> None:
    path = pull(REFERENCE, tmp_home)
    path.write_bytes(WEIGHTS[::-1])
    assert "has sha256" in model_faults(REFERENCE, tmp_home)[0]
    pull(REFERENCE, tmp_home)
    assert path.read_bytes() == WEIGHTS


def test_a_repository_alone_is_the_folder_of_an_embedder(hub: Hub, tmp_home: Settings) -> None:
    hub.files = {name: name.encode() for name in ("config.json", "tokenizer.json", "1_Pooling/config.json")}
    hub.files["model.safetensors"] = WEIGHTS
    folder = pull("hf:org/repo@v1", tmp_home)
    assert folder == tmp_home.models_dir / "hf/org/repo/v1"
    assert {name: (folder / name).read_bytes() for name in hub.files} == hub.files


def test_the_key_is_shown_to_the_hub_alone(
    hub: Hub, tmp_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(REFERENCE, tmp_home)
    assert hub.keys == [("127.0.0.1", "Bearer hf_secret"), ("localhost", None)]


@pytest.mark.parametrize(
    ("sent", "said"),
    [(WEIGHTS[::-1], "arrived with hash"), (WEIGHTS[:-1], "broke off after 35,003 of 35,004 bytes")],
)
def test_a_file_that_arrives_otherwise_is_refused(
    sent: bytes, said: str, hub: Hub, tmp_home: Settings
) -> None:
    hub.sent["model.gguf"] = sent
    with pytest.raises(SetupError, match=said):
        pull(REFERENCE, tmp_home)
    folder = tmp_home.models_dir / "hf/org/repo/main"
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_small_file_is_checked_as_git_does(hub: Hub, tmp_home: Settings) -> None:
    hub.files["config.json"] = b"{}"
    hub.sent["config.json"] = b"[]"
    with pytest.raises(SetupError, match=r"config\.json arrived with hash"):
        pull("hf:org/repo/config.json", tmp_home)


def test_a_hub_that_states_no_hash_is_not_trusted(hub: Hub, tmp_home: Settings) -> None:
    hub.states_hashes = False
    with pytest.raises(SetupError, match="states no hash"):
        pull(REFERENCE, tmp_home)


@pytest.mark.parametrize(
    ("status", "said"), [(404, "check the spelling"), (401, "set HF_TOKEN"), (503, "try again later")]
)
def test_a_refusal_says_what_to_do(status: int, said: str, hub: Hub, tmp_home: Settings) -> None:
    hub.status = status
    with pytest.raises(SetupError, match=said):
        pull(REFERENCE, tmp_home)


def test_a_hub_that_does_not_answer_says_how_to_do_without(
    tmp_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=r"does not answer.*Without a network: put model\.gguf into"):
        pull(REFERENCE, tmp_home)


def test_a_file_put_there_by_hand_is_taken(tmp_home: Settings) -> None:
    path = tmp_home.models_dir / "hf/org/repo/main/model.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    assert resolve(REFERENCE, tmp_home) == path


@pytest.mark.parametrize(
    "text",
    [
        "hf:org",
        "hf:org/",
        "hf:org/repo/",
        "hf:../repo/x",
        "hf:org/repo/../x",
        "hf:org/repo/a//b",
        "hf:org/repo@/x",
    ],
)
def test_a_malformed_reference_is_refused(text: str, tmp_home: Settings) -> None:
    with pytest.raises(InputError, match="is no hub reference"):
        resolve(text, tmp_home)


@given(st.text(alphabet="a./\\@:-", max_size=12))
def test_no_reference_leaves_its_folder(rest: str) -> None:
    try:
        reference = parse_hub_reference(f"hf:o/r{rest}")
    except InputError:
        return
    root = Path("/models")
    place = root / reference.place
    assert ".." not in place.parts
    for name in reference.required:
        assert (place / name).resolve().is_relative_to(place.resolve())
