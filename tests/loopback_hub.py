"""A Hugging Face Hub in one process and in memory, as much of it as `push_to_hub` and `from_pretrained` speak to.

Repositories are dictionaries of files, and every commit is a new revision of `main`. The real client runs against it
when the variables of `LoopbackHub.environment` are set before `huggingface_hub` is imported, that is, in a subprocess:

    with LoopbackHub() as hub:
        subprocess.run([sys.executable, script], env={**os.environ, **hub.environment(tmp_path)}, check=True)
        assert "config.json" in hub.files("model", "user/name")
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "tester"


class LoopbackHub:
    """To be entered with `with`. `unknown_requests` lists what the client asked for in vain."""

    def __init__(self):
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: dict[tuple[str, str], int] = {}
        self.sdks: dict[str, str | None] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.large_files: dict[str, bytes] = {}
        self.unknown_requests: list[str] = []
        self.uploaded: list[str] = []  # digests of the large files, in the order in which they came
        self.commits_left: int | None = None  # after so many, the next one is refused
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache_folder) -> dict[str, str]:
        """Variables that make the real client use this Hub and a cache of its own."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": "hf_loopback",
            "HF_HOME": str(cache_folder),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    @contextmanager
    def in_this_process(self, monkeypatch):
        """Make `contextcir.data.hub` of this process use this Hub within a context."""
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        huggingface_hub.close_session()  # which remembers that it is offline
        api = huggingface_hub.HfApi(endpoint=self.endpoint, token="hf_loopback")
        monkeypatch.setattr("contextcir.data.hub.HfApi", lambda token=None: api)
        try:
            yield
        finally:
            huggingface_hub.close_session()

    def files(self, kind: str, repo_id: str) -> dict[str, bytes]:
        """Content of a repository by path; `kind` is `"model"`, `"dataset"` or `"space"`."""
        return self.repos[kind, repo_id]

    def revision(self, repo) -> str:
        return hashlib.sha1(f"{repo} {self.commits[repo]}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, body=b"", status=200, **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code):
        self._answer({"error": code}, 404, X_Error_Code=code)

    def _dispatch(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or USER}/{request['name']}"
            repo = (request.get("type") or "model", name)
            status = 409 if repo in hub.repos else 200
            if status == 200:
                hub.repos[repo], hub.commits[repo] = {}, 0
                # huggingface_hub says it by one name or the other
                hub.private[repo] = request.get("private") is True or request.get("visibility") == "private"
            prefix = {"dataset": "datasets/", "space": "spaces/"}.get(repo[0], "")
            hub.sdks[name] = request.get("sdk")
            return self._answer({"id": name, "name": name, "url": f"{hub.endpoint}/{prefix}{name}"}, status)
        if path.startswith("/large-files/"):
            hub.large_files[path.rsplit("/", 1)[1]] = body
            hub.uploaded.append(path.rsplit("/", 1)[1])
            return self._answer()
        if path.startswith("/api/") or path.endswith("/info/lfs/objects/batch") or "/resolve/" in path:
            parts = path.removeprefix("/api").strip("/").split("/")
            kind = "model"
            if parts[0] in ("models", "datasets", "spaces"):
                kind = parts.pop(0)[:-1]
            repo = (kind, "/".join(parts[:2]).removesuffix(".git"))
            if repo not in hub.repos:
                return self._missing("RepoNotFound")
            action, rest = (parts[2] if len(parts) > 2 else "revision"), parts[3:]
            method = getattr(self, f"_{action.replace('-', '_')}", None)
            if method is not None:
                return method(repo, rest, body)
        hub.unknown_requests.append(f"{self.command} {path}")
        return self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815

    def _preupload(self, repo, rest, body):
        files = []
        for name in (file["path"] for file in json.loads(body)["files"]):
            large, there = name.endswith((".safetensors", ".parquet", ".bin")), self.hub.repos[repo].get(name)
            found = {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if there is not None:  # by which the client knows what has not changed
                blob = hashlib.sha1(b"blob %d\0" % len(there) + there)
                found["oid"] = (hashlib.sha256(there) if large else blob).hexdigest()
            files.append(found)
        self._answer({"files": files})

    def _info(self, repo, rest, body):  # LFS batch: where to put the large files
        objects = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.large_files:
                one["actions"] = {"upload": {"href": f"{self.hub.endpoint}/large-files/{one['oid']}"}}
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo, rest, body):
        if self.hub.commits_left == 0:
            return self._answer({"error": "broken off"}, 403)
        self.hub.commits_left = None if self.hub.commits_left is None else self.hub.commits_left - 1
        files = dict(self.hub.repos[repo])
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repos[repo] = files
        self.hub.commits[repo] += 1
        url = f"{self.hub.endpoint}/{repo[1]}/commit/{self.hub.revision(repo)}"
        self._answer({"success": True, "commitOid": self.hub.revision(repo), "commitUrl": url})

    def _revision(self, repo, rest, body):
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.hub.repos[repo].items()]
        self._answer(
            {
                "_id": "0",
                "id": repo[1],
                "sha": self.hub.revision(repo),
                "siblings": siblings,
                "private": False,
                "tags": [],
            }
        )

    def _entries(self, repo, wanted):
        files = self.hub.repos[repo]
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
            if wanted(name)
        ]

    def _tree(self, repo, rest, body):
        folder = "".join(f"{name}/" for name in rest[1:])
        entries = self._entries(repo, lambda name: name.startswith(folder))
        if "recursive=true" not in urlsplit(self.path).query.lower():
            names = {entry["path"].removeprefix(folder).split("/")[0] for entry in entries}
            files = [entry for entry in entries if entry["path"].removeprefix(folder) in names]
            found = {entry["path"] for entry in files}
            folders = sorted(folder + name for name in names if folder + name not in found)
            entries = files + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        self._answer(entries) if entries or not folder else self._missing("EntryNotFound")

    def _paths_info(self, repo, rest, body):
        fields = json.loads(body) if body.startswith(b"{") else {}
        self._answer(self._entries(repo, lambda name: name in fields.get("paths", ())))

    def _resolve(self, repo, rest, body):
        data = self.hub.repos[repo].get("/".join(rest[1:]))
        if data is None:
            return self._missing("EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": self.hub.revision(repo)}
        bounds = self.headers.get("Range", "").removeprefix("bytes=").split("-")
        if bounds != [""]:
            first, last = int(bounds[0]), int(bounds[1] or len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._answer(data[first : last + 1], 206, **headers)
        self._answer(data, **headers)
