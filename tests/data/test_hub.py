"""A corpus on the hub is fetched once, domain by domain, with the reader's token: tried on a small hub of our own on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FILES = {
    "README.md": b"# A corpus\n",
    "childes.train.txt": b"*MOT:\tone two.\n\n*CHI:\tthree.\n" * 30,
    "gutenberg.train.txt": "“Four,” he said.\nfive six\n".encode() * 60,
}
REVISION = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as reading a public or gated dataset of text files takes."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "gated" in path and self.headers.get("authorization") != "Bearer secret":
            return self.answer(401, b'{"error": "token needed"}')
        if path.startswith("/api/datasets/"):
            return self.answer(*self.api(path))
        name = path.rpartition("/")[2]
        if "/resolve/" in path and name in FILES:
            return self.answer(200, FILES[name], {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha1(FILES[name]).hexdigest()}"'})
        return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def api(self, path: str) -> tuple[int, bytes]:
        if "missing" in path:
            return 404, b'{"error": "not found"}'
        if "/tree/" in path or "/paths-info/" in path:
            return 200, json.dumps(
                [{"type": "file", "path": name, "size": len(text), "oid": "0" * 40} for name, text in FILES.items()]
            ).encode()
        siblings = [{"rfilename": name} for name in FILES]
        return 200, json.dumps(
            {"id": "/".join(path.split("/")[3:5]), "sha": REVISION, "siblings": siblings, "tags": [], "private": False}
        ).encode()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        found = [{"type": "file", "path": name, "size": len(text), "oid": "0" * 40} for name, text in FILES.items() if name in asked]
        self.answer(200, json.dumps(found).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


CODE = (
    "import sys; from sleep_tune.errors import run_main; from sleep_tune.data.token_store import Source, prepare\n"
    "def main():\n"
    "    for entry in prepare(Source('hub', sys.argv[1]), None, 'light', 'lines', 16, 300).report:\n"
    "        print(entry.split, entry.domain, entry.raw_words, entry.words)\n"
    "run_main(main)"
)


def prepared(identifier: str, address: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {"HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "SLEEP_TUNE_CACHE": str(home / "cache")}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-c", CODE, identifier]
    return subprocess.run(command, env=kept | places | environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_corpus_is_fetched_once_with_its_domains(address: str, tmp_path: Path) -> None:
    done = prepared("someone/corpus", address, tmp_path)
    assert done.returncode == 0, done.stderr
    # 90 raw lines of childes and 120 of gutenberg: one of each is held out as dev
    words = {tuple(line.split()[:2]): [int(count) for count in line.split()[2:]] for line in done.stdout.splitlines()}
    assert set(words) == {(split, domain) for split in ("train", "dev") for domain in ("childes", "gutenberg")}
    assert words["train", "childes"][0] + words["dev", "childes"][0] == 150
    assert words["train", "gutenberg"][0] + words["dev", "gutenberg"][0] == 300
    again = prepared("someone/corpus", "http://127.0.0.1:9", tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_a_gated_corpus_needs_the_token(address: str, tmp_path: Path) -> None:
    refused = prepared("someone/gated", address, tmp_path, HF_READ_TOKEN="")
    assert refused.returncode == 2
    assert "HF_READ_TOKEN may not read it" in refused.stderr
    assert prepared("someone/gated", address, tmp_path, HF_READ_TOKEN="secret").returncode == 0


def test_an_unknown_corpus_is_one_line(address: str, tmp_path: Path) -> None:
    done = prepared("someone/missing", address, tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no such dataset" in done.stderr
    assert not list((tmp_path / "cache").glob("hub/*-*"))
