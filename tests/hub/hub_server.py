"""A Hugging Face Hub on this machine: the part of its protocol that fetching and pushing use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories, each a list of commits, oldest first: (id, path -> content)."""

    commits: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        history = self.commits.setdefault(repository, [])
        number = hashlib.sha1(f"{repository} {len(history)}".encode()).hexdigest()
        history.append((number, files))
        return number

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        history = self.commits.get(repository, [])
        if revision == "main":
            return history[-1] if history else None
        return next((each for each in history if each[0] == revision), None)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, value: object, status: int = 200) -> None:
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def missing(self, code: str) -> None:
            self.answer(404, b'{"error": "not found"}', X_Error_Code=code)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if match := re.fullmatch(
                r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
            ):
                repository, kind, revision = match.groups()
                found = hub.find(repository, revision or "main")
                if repository not in hub.commits:
                    self.missing("RepoNotFound")
                elif found is None:
                    self.missing("RevisionNotFound")
                elif kind == "tree":
                    self.json([self.entry(name, data) for name, data in found[1].items()])
                else:
                    siblings = [{"rfilename": name} for name in found[1]]
                    self.json({"id": repository, "sha": found[0], "siblings": siblings, "tags": []})
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                found = hub.find(match[1], match[2])
                if found is None or match[3] not in found[1]:
                    self.missing("EntryNotFound")
                    return
                data = found[1][match[3]]
                etag = hashlib.sha1(data).hexdigest()
                self.answer(
                    200,
                    data,
                    ETag=f'"{etag}"',
                    X_Repo_Commit=found[0],
                    Content_Length=str(len(data)),
                )
            else:
                self.missing("EntryNotFound")

        @staticmethod
        def entry(name: str, data: bytes) -> dict[str, object]:
            oid = hashlib.sha1(data).hexdigest()
            return {"type": "file", "path": name, "size": len(data), "oid": oid}

        def do_POST(self):
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"POST {path}")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
                if name in hub.commits:
                    self.json({"error": "exists", "url": f"{hub.address}/{name}"}, 409)
                else:
                    hub.commit(name, {})
                    self.json({"url": f"{hub.address}/{name}"})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                files = json.loads(body)["files"]
                self.json(
                    {
                        "files": [
                            {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                            for each in files
                        ]
                    }
                )
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                number = hub.commit(match[1], files)
                url = f"{hub.address}/{match[1]}/commit/{number}"
                self.json(
                    {"success": True, "commitOid": number, "commitUrl": url, "hookOutput": ""}
                )
            elif path == "/api/validate-yaml":
                self.json({"errors": [], "warnings": []})
            else:
                self.missing("EntryNotFound")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
