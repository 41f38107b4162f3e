"""A hub on the loopback, as the clients of Hugging Face and of ModelScope know theirs.

It speaks what those clients ask, no more: listings, files with redirects and ranges, log-ins,
refusals. Faults are put in by rule: what a request contains, how often, and what happens then.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"
#: Above this a file is in LFS, which is where its SHA-256 is published and a redirect leads away.
LFS_NBYTES = 10_000
_SEND_NBYTES = 64 << 10


@dataclass(slots=True)
class File:
    """A file of a repository, and what the hub publishes of it."""

    path: Path
    nbytes: int
    sha256: str
    git_sha1: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Sum a file up."""
        nbytes = path.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % nbytes)
        with path.open("rb") as stream:
            while data := stream.read(1 << 20):
                sha256.update(data)
                git.update(data)
        return cls(path, nbytes, sha256.hexdigest(), git.hexdigest())

    @property
    def is_lfs(self) -> bool:
        return self.nbytes > LFS_NBYTES


#: What is listed of files that are not there.
NOWHERE = File(Path(), 5, "0" * 64, "0" * 40)


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose line contains `where`, `times` times.

    Attributes
    ----------
    where : str
        Part of ``METHOD /path?query``, unquoted.
    status : int
        Answer with it and nothing else; 0 answers, and spoils the body.
    headers : dict
        Beside the status.
    keep : int
        Bytes of the body that are sent before the connection is cut; -1 sends all.
    flip : int
        Position in the file of a byte that is changed; -1 changes none.
    range : str
        Answer as if this were the range asked for; ``ignored``: as if there were none.
    times : int
        How often.
    """

    where: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    keep: int = -1
    flip: int = -1
    range: str = ""
    times: int = 1


class Hub:
    """The server; use as a context manager.

    Parameters
    ----------
    folders : dict of str to Path
        What is in each repository, by its name.
    token : str or None
        What has to be shown; None lets everybody in.
    rate : float
        Bytes of files in a second, all requests together; 0 does not pace.
    """

    def __init__(
        self, folders: dict[str, Path], *, token: str | None = None, rate: float = 0.0
    ) -> None:
        self.repositories = {
            name: {
                str(path.relative_to(folder)): File.of(path)
                for path in sorted(folder.rglob("*")) if path.is_file()
            }
            for name, folder in folders.items()
        }  # fmt: skip
        self.token = token
        self.rate = rate
        self.faults: list[Fault] = []
        #: Lines of all requests, and those to the storage that carried a token.
        self.requests: list[str] = []
        self.leaked: list[str] = []
        self.sent_nbytes = 0
        #: Names that are listed and are not there.
        self.listed_too: list[str] = []
        self._lock = threading.Lock()
        self._free_at = 0.0
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        #: Where large files are: another host, to which no token may be taken.
        self.storage = f"http://localhost:{self.port}/storage"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def count(self, part: str) -> int:
        """How many requests had this in their line."""
        return sum(part in line for line in self.requests)

    def fault(self, line: str) -> Fault | None:
        """The rule that meets a request, used up by one."""
        with self._lock:
            for rule in self.faults:
                if rule.times > 0 and rule.where in line:
                    rule.times -= 1
                    return rule
        return None

    def pace(self, nbytes: int) -> None:
        """Wait until this many bytes may be sent."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.01) + nbytes / self.rate
            wait_s = self._free_at - now
        if wait_s > 0:
            time.sleep(wait_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no failure of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = unquote(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        with self.hub._lock:
            self.hub.requests.append(line)
        self.rule = self.hub.fault(line)
        with suppress(ConnectionError):
            if self.rule is not None and self.rule.status:
                self._send(self.rule.status, b"", self.rule.headers)
            elif url.path.startswith("/storage/"):
                self._storage(unquote(url.path))
            elif not self._is_logged_in():
                self._refuse_login()
            else:
                self._route(unquote(url.path))

    def _is_logged_in(self) -> bool:
        token = self.hub.token
        shown = self.headers.get("Authorization", ""), self.headers.get("Cookie", "")
        return token is None or shown[0] == f"Bearer {token}" or f"m_session_id={token}" in shown[1]

    def _refuse_login(self) -> None:
        cookie = self.headers.get("Cookie", "")
        shown = self.headers.get("Authorization") or "m_session_id" in cookie
        message = "this needs another token" if shown else "this needs a token"
        if self.path.startswith(("/api/v1/", "/openapi/")):
            body = json.dumps({"Code": 10010205001, "Message": message, "Success": False})
            self._send(403 if shown else 401, body.encode(), {"Content-Type": "application/json"})
            return
        headers = {"X-Error-Message": message}
        if shown:
            headers["X-Error-Code"] = "GatedRepo"
        self._send(403 if shown else 401, b"", headers)

    def _route(self, path: str) -> None:
        for pattern, answer in ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            name = match["name"]
            if name not in self.hub.repositories:
                self._missing("RepoNotFound", f"no repository {name}")
            elif match.groupdict().get("revision") not in (None, "main", "v1", COMMIT):
                self._missing("RevisionNotFound", f"no revision {match['revision']}")
            else:
                answer(self, self.hub.repositories[name], match)
            return
        self._missing("EntryNotFound", f"nothing at {path}")

    def _missing(self, code: str, message: str) -> None:
        if self.path.startswith(("/api/v1/", "/openapi/")):
            body = json.dumps({"Code": 10010205001, "Message": message, "Success": False})
            self._send(404, body.encode(), {"Content-Type": "application/json"})
            return
        self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": message})

    # ---- Hugging Face ----

    def info(self, files: dict[str, File], match: re.Match[str]) -> None:
        siblings = [{"rfilename": name} for name in [*files, *self.hub.listed_too]]
        self._json({"id": match["name"], "sha": COMMIT, "siblings": siblings, "tags": [],
                    "private": False, "downloads": 0, "likes": 0})  # fmt: skip

    def tree(self, files: dict[str, File], match: re.Match[str]) -> None:
        """In pages of 100, as a hub's are of some 1000."""
        entries = [self._entry(name, file) for name, file in files.items()]
        entries += [self._entry(name, NOWHERE) for name in self.hub.listed_too]
        start = int(self.query.get("cursor", "0"))
        page = entries[start : start + 100]
        headers = {}
        if start + 100 < len(entries):
            path = urlsplit(self.path).path
            following = f"{self.hub.endpoint}{path}?recursive=true&cursor={start + 100}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json(page, headers)

    def paths_info(self, files: dict[str, File], match: re.Match[str]) -> None:
        text = self.body.decode()
        asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        self._json([self._entry(name, files[name]) for name in asked if name in files])

    @staticmethod
    def _entry(name: str, file: File) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file", "path": name, "size": file.nbytes, "oid": file.git_sha1,
        }  # fmt: skip
        if file.is_lfs:
            entry["oid"] = hashlib.sha1(file.sha256.encode()).hexdigest()  # of the pointer
            entry["lfs"] = {"oid": file.sha256, "size": file.nbytes, "pointerSize": 134}
        return entry

    def resolve(self, files: dict[str, File], match: re.Match[str]) -> None:
        file = files.get(match["file"])
        if file is None:
            self._missing("EntryNotFound", f"no file {match['file']}")
            return
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            self._file(file, {**headers, "ETag": f'"{file.git_sha1}"'})
            return
        headers |= {
            "X-Linked-Size": str(file.nbytes), "X-Linked-ETag": f'"{file.sha256}"',
            "Location": f"{self.hub.storage}/{quote(match['name'])}/{quote(match['file'])}",
        }  # fmt: skip
        self._send(302, b"", headers)

    def _storage(self, path: str) -> None:
        if self.headers.get("Authorization") or self.headers.get("Cookie"):
            self.hub.leaked.append(path)
        org, name, file = path.removeprefix("/storage/").split("/", 2)
        found = self.hub.repositories[f"{org}/{name}"][file]
        self._file(found, {"ETag": f'"{found.sha256[:32]}"', "Accept-Ranges": "bytes"})

    # ---- ModelScope ----

    def ms_info(self, files: dict[str, File], match: re.Match[str]) -> None:
        org, name = match["name"].split("/")
        self._data({"Id": 1, "Path": org, "Name": name, "Revision": "master", "Visibility": 5})

    def ms_files(self, files: dict[str, File], match: re.Match[str]) -> None:
        if self.query.get("Revision", "master") not in ("master", "v1", COMMIT):
            self._missing("", f"no revision {self.query['Revision']}")
            return
        listed = {**files, **dict.fromkeys(self.hub.listed_too, NOWHERE)}
        folders = {name.rpartition("/")[0] for name in files} - {""}
        entries = [
            {"Name": folder, "Path": folder, "Type": "tree", "Size": 0, "Sha256": "",
             "Revision": COMMIT}
            for folder in sorted(folders)
        ]  # fmt: skip
        entries += [
            {"Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "Size": file.nbytes,
             "Sha256": file.sha256, "Revision": COMMIT, "CommittedDate": 1_700_000_000,
             "IsLFS": file.is_lfs, "Mode": "33188"}
            for name, file in listed.items()
        ]  # fmt: skip
        self._data({"Files": entries, "LatestCommitter": {"Revision": COMMIT}})

    def ms_revisions(self, files: dict[str, File], match: re.Match[str]) -> None:
        branch = {"Revision": "master", "CommitId": COMMIT, "CreatedAt": 1}
        tag = {"Revision": "v1", "CommitId": COMMIT, "CreatedAt": 1}
        self._data({"RevisionMap": {"Branches": [branch], "Tags": [tag]}})

    def ms_commits(self, files: dict[str, File], match: re.Match[str]) -> None:
        commit = {"Id": COMMIT, "ShortId": COMMIT[:8], "Title": "all", "Message": "all",
                  "AuthorName": "a", "CommittedDate": 1, "CreatedAt": 1}  # fmt: skip
        self._data({"Commits": [commit], "TotalCount": 1})

    def ms_file(self, files: dict[str, File], match: re.Match[str]) -> None:
        file = files.get(self.query["FilePath"])
        if file is None:
            self._missing("", f"no file {self.query['FilePath']}")
        elif file.is_lfs:
            name = quote(self.query["FilePath"])
            location = f"{self.hub.storage}/{quote(match['name'])}/{name}"
            self._send(302, b"", {"Location": location})
        else:
            self._file(file, {})

    def _data(self, data: object) -> None:
        self._json({"Code": 200, "Data": data, "Message": "success", "Success": True})

    # ---- answers ----

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(),
                   {"Content-Type": "application/json", **(headers or {})})  # fmt: skip

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, file: File, headers: dict[str, str]) -> None:
        """All of a file or a range of it, at the rate, spoiled if a rule says so."""
        start, end, status = 0, file.nbytes, 200
        rule = self.rule or Fault("")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", rule.range or self.headers.get("Range", ""))
        if asked and file.nbytes:
            start = int(asked[1])
            end = min(end, int(asked[2]) + 1) if asked[2] else end
            if start >= file.nbytes:
                self._send(416, b"", {"Content-Range": f"bytes */{file.nbytes}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.nbytes}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = end if rule.keep < 0 else min(end, start + rule.keep)
        with file.path.open("rb") as stream:
            stream.seek(start)
            while start < stop:
                data = stream.read(min(_SEND_NBYTES, stop - start))
                if start <= rule.flip < start + len(data):
                    spoiled = bytearray(data)
                    spoiled[rule.flip - start] ^= 1
                    data = bytes(spoiled)
                self.hub.pace(len(data))
                self.wfile.write(data)
                start += len(data)
                with self.hub._lock:
                    self.hub.sent_nbytes += len(data)
        if stop < end:
            self.close_connection = True


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = [
    (re.compile(rf"/api/v1/models/{_NAME}"), _Handler.ms_info),
    (re.compile(rf"/api/v1/models/{_NAME}/repo/files"), _Handler.ms_files),
    (re.compile(rf"/api/v1/models/{_NAME}/revisions"), _Handler.ms_revisions),
    (re.compile(rf"/api/v1/models/{_NAME}/commits"), _Handler.ms_commits),
    (re.compile(rf"/api/v1/models/{_NAME}/repo"), _Handler.ms_file),
    (re.compile(rf"/api/models/{_NAME}(/revision/(?P<revision>[^/]+))?"), _Handler.info),
    (re.compile(rf"/api/models/{_NAME}/tree/(?P<revision>[^/]+)(/)?"), _Handler.tree),
    (re.compile(rf"/api/models/{_NAME}/paths-info/(?P<revision>[^/]+)"), _Handler.paths_info),
    (re.compile(rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)"), _Handler.resolve),
]


def main() -> None:
    """Serve one folder as ``org/model``, for benchmarks: FOLDER, bytes in a second."""
    with Hub({"org/model": Path(sys.argv[1])}, rate=float(sys.argv[2])) as hub:
        print(hub.endpoint, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
