"""A Hugging Face hub on loopback that accepts uploads: repositories, commits and LFS objects, kept in memory."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


class FakeHub:
    """The repositories and every request.

    `refuse` answers all requests with that status; `fail_commits` is the number of commits still to be refused.
    """

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.num_commits = 0
        self.refuse: int | None = None
        self.fail_commits = 0
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        self.requests.append((method, path))
        if self.refuse:
            return self.refuse, {"error": "not\nallowed"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me", "orgs": []}
        if path.startswith("/objects/"):
            self.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": list(map(self._lfs_object, json.loads(body)["objects"]))}
        repository = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            return 200, {"files": [self._mode(repository, file) for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            return self._commit(repository, [json.loads(line) for line in body.splitlines() if line])
        sha = f"{self.num_commits:040}"
        return 200, {"id": repository, "sha": sha, "siblings": [], "private": self.private.get(repository)}

    def _create(self, asked: dict) -> tuple[int, object]:
        repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
        found = {"url": f"{self.url}/{repository}", "id": repository}
        if repository in self.files:
            return 409, {"error": "You already created this model repo", **found}
        self.files[repository] = {}
        self.private[repository] = asked.get("private") or asked.get("visibility") == "private"
        return 200, found

    def _mode(self, repository: str, file: dict) -> dict:
        is_lfs = file["path"].endswith(".safetensors")
        content = self.files[repository].get(file["path"])
        oid = None
        if content is not None:
            oid = hashlib.sha256(content).hexdigest() if is_lfs else git_hash(content)
        mode = "lfs" if is_lfs else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _lfs_object(self, asked: dict) -> dict:
        if asked["oid"] in self.objects:
            return {"oid": asked["oid"], "size": asked["size"]}
        return {**asked, "actions": {"upload": {"href": f"{self.url}/objects/{asked['oid']}"}}}

    def _commit(self, repository: str, lines: list[dict]) -> tuple[int, object]:
        if self.fail_commits:
            self.fail_commits -= 1
            return 409, {"error": "try later"}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[repository][value["path"]] = self.objects[value["oid"]]
        self.num_commits += 1
        oid = f"{self.num_commits:040}"
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running_hub():
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = hub.answer(self.command, urlsplit(self.path).path, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
