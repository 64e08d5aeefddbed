"""A stand-in of the Hub's API for dataset repositories, on this machine: as far as `datasets` needs it.

Files are kept in memory; all of them are uploaded as LFS objects, as the Hub asks for parquet.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "a" * 40


def children(entries: list[dict], folder: str) -> list[dict]:
    """The files directly in a folder and its subfolders."""
    parents = {str(Path(entry["path"]).parent) for entry in entries} - {folder or "."}
    folders = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(parents)]
    return [entry for entry in entries if str(Path(entry["path"]).parent) == (folder or ".")] + folders


class DatasetHub:
    """`repos` is name -> path -> content; `requests` the log."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process that takes this for the Hub, with empty caches in `home`."""
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets")}
        return {**os.environ, **own, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def running_hub() -> Iterator[DatasetHub]:
    """The stand-in on a free port of this machine."""
    hub = DatasetHub()
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
    hub: DatasetHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.hub.requests.append(format % args)

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.hub.repos.setdefault(name, {})
            self.answer(200, {"url": f"{self.hub.endpoint}/datasets/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/datasets/(.+)/preupload/(.+)", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "lfs", "shouldIgnore": False} for name in names]
            self.answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            links = [{"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}} for item in asked]
            objects = [{**item, "actions": link} for item, link in zip(asked, links, strict=True)]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/datasets/(.+)/paths-info/(.+)", path):
            wanted = parse_qs(body.decode())["paths"] if b"paths=" in body else json.loads(body)["paths"]
            self.answer(200, [entry for entry in self.tree(match[1]) if entry["path"] in wanted])
        elif match := re.fullmatch(r"/api/datasets/(.+)/commit/(.+)", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.answer(200)

    def commit(self, name: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[name][value["path"]] = self.hub.objects[value["oid"]]
        self.answer(200, {"commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{SHA}", "commitOid": SHA})

    def tree(self, name: str) -> list[dict]:
        files = self.hub.repos.get(name, {}).items()
        return [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/.+)?", path):
            self.info(match[1])
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(/.+)?", path):
            below = (match[2] or "").lstrip("/")
            found = [entry for entry in self.tree(match[1]) if entry["path"].startswith(below and f"{below}/")]
            if found or not below:
                self.answer(200, found if "recursive=true" in self.path.lower() else children(found, below))
            else:
                self.answer(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound")
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[3])
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def info(self, name: str) -> None:
        if name not in self.hub.repos:
            self.answer(404, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": path} for path in self.hub.repos[name]]
        self.answer(200, {"id": name, "sha": SHA, "siblings": siblings, "tags": [], "private": False})

    def file(self, name: str, path: str) -> None:
        content = self.hub.repos.get(name, {}).get(path)
        if content is None:
            code = "EntryNotFound" if name in self.hub.repos else "RepoNotFound"
            self.answer(404, X_Error_Code=code, X_Repo_Commit=SHA)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": SHA}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            part = content[first : last + 1]
            span = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self.answer(206, part, Content_Range=span, Accept_Ranges="bytes", **headers)
        else:
            self.answer(200, content, Accept_Ranges="bytes", **headers)
