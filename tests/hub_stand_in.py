"""A stand-in of the Hub's API on this machine: repositories in memory, as far as uploading and downloading needs them.

Commits are numbered; files above a few bytes are uploaded as LFS objects, as the Hub asks for weights.
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
from urllib.parse import unquote, urlsplit


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
        """The environment of a process that takes this for the Hub, with an empty cache in `home`."""
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
        return {**os.environ, **own, "HF_HUB_DISABLE_TELEMETRY": "1"}

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

    def answer(self, status: int, content: bytes | dict = b"", **headers: str) -> None:
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        if isinstance(content, dict):
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
            self.answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > 20_000 else "regular",
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
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def commit(self, name: str, lines: list[dict]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.commit(name, files)
        self.answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.answer(200)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.model_info(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            files = self.hub.history.get(match[2], self.hub.repos.get(match[1], {})).items()
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files]
            self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[2], match[3])
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def model_info(self, name: str, revision: str | None) -> None:
        if name not in self.hub.repos:
            self.answer(404, X_Error_Code="RepoNotFound")
        else:
            sha = self.commit_of(name, revision)
            siblings = [{"rfilename": path} for path in self.hub.history[sha]]
            self.answer(200, {"id": name, "sha": sha, "siblings": siblings, "tags": []})

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
        else:
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=sha)
