"""An upload is one commit of the export's own files, and happens only when all is right.

The hub is a stand-in on this host, with the endpoints that huggingface_hub calls: it records what reaches it."""

import base64
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from decode.export.adapter import export
from decode.export.push import push
from launch.command import main
from model.errors import UserError
from model.weights import read_card


@dataclass
class Hub:
    """Repositories of a hub on this host."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """{path: content} of the only repository, me/asr."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """{sha256: content} of large files."""
    created: list[dict] = field(default_factory=list)
    private: bool = True
    exists: bool = False
    status: int = 0
    """The answer to everything, where it is not 0."""
    commits: int = 0
    tokens: set = field(default_factory=set)

    def answer(self, path: str, body: bytes) -> tuple[int, dict]:
        sent = json.loads(body) if body[:1] == b"{" and b"\n" not in body else {}
        if path == "/api/repos/create":
            self.created.append(sent)
            taken, self.exists = self.exists, True
            self.private = self.private if taken else sent["visibility"] == "private"
            return (409 if taken else 200), {"url": f"{self.address}/me/asr"}
        if path == "/api/models/me/asr":
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": "me/asr", "private": self.private, "siblings": siblings}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        if path.startswith("/api/models/me/asr/preupload/"):
            modes = {True: "lfs", False: "regular"}
            return 200, {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": modes[one["path"].endswith(".safetensors")],
                        "shouldIgnore": False,
                    }
                    for one in sent["files"]
                ]
            }
        if path == "/me/asr.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.address}/put/{one['oid']}"}}} for one in sent["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        assert path.startswith("/api/models/me/asr/commit/"), path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
        self.commits += 1
        return 200, {"commitUrl": f"{self.address}/me/asr/commit/c0ffee", "commitOid": "c0ffee"}


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization"))
            status, content = (hub.status, {"error": "no"}) if hub.status else hub.answer(self.path.split("?")[0], body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815

        def do_PUT(self) -> None:  # noqa: N802
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hub.stored[self.path.removeprefix("/put/")] = content
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(monkeypatch):
    with served(Hub()) as running:
        use(monkeypatch, running.address)
        yield running


def use(monkeypatch, address: str) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_ours")


@pytest.fixture
def out(tiny, tmp_path):
    export(tiny.adapter, tmp_path / "out")
    return tmp_path / "out"


def test_the_exports_own_files_are_uploaded_in_one_commit_to_a_private_repository(hub, out, capsys):
    assert main(["push", str(out), "me/asr"]) == 0
    assert f"{out}: uploaded to {hub.address}/me/asr (private)\n" == capsys.readouterr().out
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert hashlib.sha256(hub.files["adapter.safetensors"]).hexdigest() == read_card(out).weights_sha256
    assert hub.created == [{"name": "asr", "organization": "me", "visibility": "private"}] and hub.commits == 1
    assert "Bearer hf_ours" in hub.tokens


def test_what_an_earlier_export_left_there_goes_and_other_files_stay(hub, out):
    hub.files = {"lora.safetensors": b"old", "llm/model.safetensors": b"old", "LICENSE": b"mine", ".gitattributes": b""}
    push(out, "me/asr")
    assert set(hub.files) == {path.name for path in out.iterdir()} | {"LICENSE", ".gitattributes"}


def test_a_public_repository_needs_the_flag(hub, out):
    hub.exists, hub.private = True, False
    with pytest.raises(UserError, match="me/asr is a public repository; give --public"):
        push(out, "me/asr")
    assert not hub.files
    assert push(out, "me/asr", public=True).endswith("(public)")
    hub.exists, hub.created = False, []
    push(out, "me/asr", public=True)
    assert hub.created[0]["visibility"] == "public"


def test_only_an_export_is_uploaded_and_nothing_beside_it(hub, tiny, out, tmp_path):
    for name in ("state.json", "notes.txt", ".env", "lora/optimizer.safetensors", "llm/secret.json.bak"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("{}")
        with pytest.raises(UserError, match=f"holds '{name}', which is no file of an export"):
            push(out, "me/asr")
        (out / name).unlink()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    for link, target in (("origin.json", tmp_path / "secret" / "config.json"), ("encoder", tmp_path / "secret")):
        (out / link).symlink_to(target)
        with pytest.raises(UserError, match=f"holds '{link}', which is no file"):
            push(out, "me/asr")
        (out / link).unlink()
    (out / "adapter.safetensors").write_bytes(b"damaged")
    for folder, message in (
        (out, "does not match the sha256"),
        (tmp_path, "no adapter.json"),
        (tiny.adapter, "no README"),
    ):
        with pytest.raises(UserError, match=message):
            push(folder, "me/asr")
    assert not hub.tokens  # the hub was not asked


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"the hub does not know the token \(401\); run `hf auth login`"),
        (403, r"the token may not write to 'me/asr' \(403\); give one with write access"),
        (400, r"the hub refused the upload to 'me/asr' \(400\)"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(hub, out, status, message):
    hub.status = status
    with pytest.raises(UserError, match=message) as refused:
        push(out, "me/asr")
    assert "\n" not in str(refused.value)


def test_no_token_no_network_and_no_name_are_one_line(out, monkeypatch, tmp_path):
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot be reached .*; nothing was changed there"):
            push(out, "me/asr")
    with pytest.raises(UserError, match="'a/b/c' is no name of a repository; give OWNER/NAME"):
        push(out, "a/b/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(out, "me/asr")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no token .*; set HF_TOKEN, or run `hf auth login`"):
        push(out, "me/asr")
