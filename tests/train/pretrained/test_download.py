"""Downloads from a hub on this machine, with the client of the real one."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import toys
from safetensors.torch import load_file, save

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.train.pretrained import conversion, unpickle
from wbdc.train.pretrained.download import choose_files, fetch_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TENSORS = {"a": torch.arange(3.0)}


class Hub(BaseHTTPRequestHandler):
    """The two requests of a download: facts of a model, and its files."""

    files: dict[str, dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            name = "/".join(path.split("/")[2:4])
            files = self.files.get(name)
            siblings = [{"rfilename": f, "size": len(data)} for f, data in (files or {}).items()]
            tree = [
                {"type": "file", "path": f, "size": len(data), "oid": "0" * 40}
                for f, data in (files or {}).items()
            ]
            facts = {
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "siblings": siblings,
                "cardData": {"license": "apache-2.0"},
                "tags": [],
            }
            body = json.dumps(tree if "/tree/" in path else facts).encode()
        else:
            owner, model, _, _, *rest = path.split("/")
            files = self.files.get(f"{owner}/{model}")
            body = (files or {}).get("/".join(rest), b"")
        self.send_response(200 if files else 404)
        if not files:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Start a hub; return its files, to be filled."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield Hub.files
    server.shutdown()
    server.server_close()


def pickled(tmp_path) -> bytes:
    torch.save(TENSORS, tmp_path / "source.bin")
    return (tmp_path / "source.bin").read_bytes()


def test_weights_and_settings_are_downloaded_and_recorded(hub, tmp_path):
    hub["hfl/bert"] = {
        "model.safetensors": save(TENSORS),
        "pytorch_model.bin": b"not downloaded",
        "config.json": b"{}",
        "vocab.txt": b"[PAD]",
        "README.md": b"not downloaded",
    }
    record = toys.run_json("weights", "fetch", "hfl/bert", "--weights", tmp_path / "models")
    folder = tmp_path / "models/hfl/bert"
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "model.safetensors",
        "model.record.json",
        "config.json",
        "vocab.txt",
    }
    assert record["license"] == "apache-2.0"
    assert record["source"] == f"https://huggingface.co/hfl/bert/tree/{COMMIT}"
    assert record["sha256"] == hashlib.sha256(save(TENSORS)).hexdigest()


def test_a_pickle_is_converted(hub, tmp_path, monkeypatch):
    # in this process; tests of conversion run the other one
    monkeypatch.setattr(conversion, "_convert", lambda *files: unpickle.main(*map(str, files)))
    hub["hfl/old"] = {"pytorch_model.bin": pickled(tmp_path), "config.json": b"{}"}
    record = fetch_weights("hfl/old", tmp_path / "models", license="mit")
    folder = tmp_path / "models/hfl/old"
    assert torch.equal(load_file(folder / "model.safetensors")["a"], TENSORS["a"])
    assert record["license"] == "mit"
    assert record["converted_from"]["file"] == "pytorch_model.bin"


def test_an_unknown_model_is_refused(hub, tmp_path):
    with pytest.raises(UsageFault, match="the hub shows no model 'hfl/none' with the revision"):
        fetch_weights("hfl/none", tmp_path)
    with pytest.raises(UsageFault, match="names have the form OWNER/MODEL"):
        fetch_weights("not//a name", tmp_path)


def test_no_network_is_one_sentence_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    result = toys.wbdc("weights", "fetch", "hfl/bert", "--weights", tmp_path)
    assert result.exit_code == EnvironmentFault.code
    assert "run `wbdc weights fetch hfl/bert --weights FOLDER` on a machine with" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_folder_is_required(monkeypatch):
    monkeypatch.delenv("WBDC_WEIGHTS", raising=False)
    result = toys.wbdc("weights", "fetch", "hfl/bert")
    assert result.exit_code == 2
    assert "give the folder for the weights with --weights" in result.stderr


def test_one_file_of_weights_is_chosen():
    names = ["pytorch_model.bin", "open_clip_model.safetensors", "model.safetensors", "vocab.txt"]
    assert choose_files(names, "a/b") == ["open_clip_model.safetensors", "vocab.txt"]
    assert choose_files(["pytorch_model.bin"], "a/b") == ["pytorch_model.bin"]
    with pytest.raises(UsageFault, match="a/b has none of open_clip_model.safetensors"):
        choose_files(["model-00001-of-00002.safetensors"], "a/b")
