"""A stand-in of the Hub's API on this machine: repositories of models and of datasets in memory.

It knows what `huggingface_hub`, `transformers` and `datasets` ask for when they upload, download, list and stream.
Commits are numbered; files above a few bytes are uploaded as LFS objects, as the Hub asks for weights and parquet.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class HubStandIn:
    """`repos` is name -> path -> content, `commits` name -> the names of its commits, `objects` what was uploaded by
    SHA-256, `requests` the log."""

    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, list[str]] = field(default_factory=dict)
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process that takes this for the Hub, with empty caches in `home`."""
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets")}
        return {**os.environ, **own, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def create(self, name: str) -> None:
        """An empty repository."""
        if name not in self.repos:
            self.repos[name] = {}
            self.commit(name, {})

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Adds files; returns the commit's name, which looks like a SHA-1."""
        self.repos[name].update(files)
        sha = hashlib.sha1(f"{name}{len(self.commits.get(name, []))}".encode()).hexdigest()
        self.commits.setdefault(name, []).append(sha)
        self.history[sha] = dict(self.repos[name])
        return sha


def children(entries: list[dict], folder: str) -> list[dict]:
    """The files directly in a folder and its subfolders."""
    parents = {str(Path(entry["path"]).parent) for entry in entries} - {folder or "."}
    folders = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(parents)]
    return [entry for entry in entries if str(Path(entry["path"]).parent) == (folder or ".")] + folders


@contextmanager
def running_hub() -> Iterator[HubStandIn]:
    """The stand-in on a free port of this machine."""
    hub = HubStandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.hub.requests.append(format % args)

    def answer(self, status: int, content: bytes | dict | list = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.hub.create(name)
            kind = "datasets/" if asked.get("type") == "dataset" else ""
            self.answer(200, {"url": f"{self.hub.endpoint}/{kind}{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/(models|datasets)/(.+)/preupload/(.+)", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > 20_000 or file["path"].endswith(".parquet") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**x, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{x['oid']}"}}}
                for x in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+)/paths-info/(.+)", path):
            wanted = parse_qs(body.decode())["paths"] if b"paths=" in body else json.loads(body)["paths"]
            self.answer(200, [entry for entry in self.tree(match[1], match[2]) if entry["path"] in wanted])
        elif match := re.fullmatch(r"/api/(models|datasets)/(.+)/commit/(.+)", path):
            self.commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def commit(self, kind: str, name: str, lines: list[dict]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.commit(name, files)
        page = f"{self.hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"
        self.answer(200, {"commitUrl": f"{page}/commit/{sha}", "commitOid": sha, "success": True})

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.answer(200)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.info(match[1], match[2])
        elif match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(/.+)?", path):
            below = (match[3] or "").lstrip("/")
            found = [x for x in self.tree(match[1], match[2]) if x["path"].startswith(below and f"{below}/")]
            if found or not below:
                self.answer(200, found if "recursive=true" in self.path.lower() else children(found, below))
            else:
                self.answer(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound")
        elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[2], match[3])
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def tree(self, name: str, revision: str) -> list[dict]:
        files = self.hub.history[self.commit_of(name, revision)] if name in self.hub.repos else {}
        return [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()]

    def info(self, name: str, revision: str | None) -> None:
        if name not in self.hub.repos:
            self.answer(404, X_Error_Code="RepoNotFound")
        else:
            sha = self.commit_of(name, revision)
            siblings = [{"rfilename": path} for path in self.hub.history[sha]]
            self.answer(200, {"id": name, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def commit_of(self, name: str, revision: str | None) -> str:
        return revision if revision in self.hub.commits[name] else self.hub.commits[name][-1]

    def file(self, name: str, revision: str, path: str) -> None:
        if name not in self.hub.repos:
            self.answer(404, X_Error_Code="RepoNotFound")
            return
        sha = self.commit_of(name, revision)
        content = self.hub.history[sha].get(path)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            part = content[first : last + 1]
            self.answer(206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(content)}", **headers)
        else:
            self.answer(200, content, **headers)
