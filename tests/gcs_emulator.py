"""As much of Google Cloud Storage's JSON API, on a local port, as gcsfs, google-cloud-storage and TensorStore ask of it.

Objects are in memory. A parameter or request that is not known here is refused, never guessed at. Not here: gRPC (so no
hierarchical namespaces and no zonal buckets), authentication, quotas, the limit of one write a second an object, soft delete.
"""

from __future__ import annotations

import base64
import bisect
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import email.parser
import email.policy
import hashlib
import http.server
import json
import re
import threading
from typing import Any
import urllib.parse

# What clients add and no answer depends on; `alt` is looked at where it does.
_CLIENTS = {"alt", "prettyPrint", "projection", "project", "userProject", "tensorstore"}


@dataclasses.dataclass
class Object:
    """Bytes with their generation, which grows with every write to the store."""

    data: bytes
    generation: int


@dataclasses.dataclass
class Fault:
    """What happens to some requests.

    Attributes:
      kind: bucket, list, stat, read, write (each request of an upload) or delete. name: regex that finds the object (or prefix).
      status: the answer, None to answer as if nothing were. action: done first, with the object's name.
      skip: requests that still go well. times: how many are hit then, None for all.
    """

    kind: str
    name: str = ""
    status: int | None = 503
    action: Callable[[str], None] | None = None
    skip: int = 0
    times: int | None = 1
    hits: int = 0


class Refused(Exception):
    """An HTTP status other than success."""

    def __init__(self, status: int, message: str = ""):
        super().__init__(message or http.HTTPStatus(status).phrase)
        self.status = status


class Store:
    """The buckets. Tests look into `objects` and change them as they like; names are `BUCKET/PATH`.

    Attributes:
      page: items of one answer to a list. log: `(kind, name)` of every request.
    """

    def __init__(self):
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.page = 1000
        self.lock = threading.RLock()
        self._clock = 1_700_000_000_000_000  # generations look like microseconds

    def fail(self, kind: str, name: str = "", **how: Any) -> Fault:
        """Adds a `Fault`."""
        self.faults.append(Fault(kind, name, **how))
        return self.faults[-1]

    def names(self, prefix: str = "") -> list[str]:
        """Objects that begin with `prefix`, in order."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def meet(self, kind: str, name: str) -> None:
        """Notes a request, and lets faults have their way. Raises `Refused`."""
        with self.lock:
            self.log.append((kind, name))
            struck = []
            for fault in self.faults:
                if fault.kind == kind and re.search(fault.name, name):
                    fault.hits += 1
                    if fault.skip < fault.hits and (fault.times is None or fault.hits <= fault.skip + fault.times):
                        struck.append(fault)
        for fault in struck:
            if fault.action:
                fault.action(name)
            if fault.status:
                raise Refused(fault.status)

    def put(self, name: str, data: bytes, query: dict[str, str] | None = None) -> dict[str, Any]:
        """Writes an object if the preconditions of `query` hold; its metadata."""
        with self.lock:
            self.check(name, query or {})
            self._clock += 1
            self.objects[name] = Object(bytes(data), self._clock)
            return self.describe(name)

    def delete(self, name: str, query: dict[str, str] | None = None) -> None:
        """Deletes an object if it is there and the preconditions hold."""
        with self.lock:
            self.check(name, query or {})
            self.get(name)
            del self.objects[name]

    def get(self, name: str) -> Object:
        """An object. Raises `Refused` (404)."""
        if name not in self.objects:
            raise Refused(404, f"No such object: {name}")
        return self.objects[name]

    def check(self, name: str, query: dict[str, str]) -> None:
        """The preconditions of a request; generation 0 stands for no object. Raises `Refused` (304 for reads, 412 for writes)."""
        found = self.objects[name].generation if name in self.objects else 0
        if "generation" in query and int(query["generation"]) != found:
            raise Refused(404)
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != found:
            raise Refused(412)
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == found:
            raise Refused(304 if found else 412)

    def describe(self, name: str) -> dict[str, Any]:
        """The metadata of an object, as JSON."""
        found, (bucket, _, path) = self.get(name), name.partition("/")
        at = "2026-01-01T00:00:00.000000Z"
        return {"kind": "storage#object", "id": f"{name}/{found.generation}", "name": path, "bucket": bucket,
                "generation": str(found.generation), "metageneration": "1", "size": str(len(found.data)),
                "storageClass": "STANDARD", "contentType": "application/octet-stream", "timeCreated": at, "updated": at,
                "etag": f"e{found.generation}", "md5Hash": _md5(found.data)}

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        """One page of the objects of a bucket, in the order of their UTF-8 names; what shares a folder is told once."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with self.lock:
            names = [name.partition("/")[2] for name in self.objects if name.startswith(f"{bucket}/{prefix}")]
        entries: dict[str, bool] = {}
        for name in sorted(names, key=str.encode):
            if query.get("startOffset", "") <= name and (not query.get("endOffset") or name < query["endOffset"]):
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                entries.setdefault(name if cut < 0 else name[: cut + len(delimiter)], cut >= 0)
        rows = list(entries.items())
        if token := query.get("pageToken"):
            rows = rows[bisect.bisect_right([name.encode() for name, _ in rows], base64.urlsafe_b64decode(token)):]
        size = min(self.page, int(query.get("maxResults", self.page)))
        items = [f"{bucket}/{name}" for name, folder in rows[:size] if not folder]
        with self.lock:  # what was deleted meanwhile is left out
            items = [self.describe(name) for name in items if name in self.objects]
        page = {"kind": "storage#objects", "items": items, "prefixes": [name for name, folder in rows[:size] if folder]}
        if len(rows) > size:
            page["nextPageToken"] = base64.urlsafe_b64encode(rows[size - 1][0].encode()).decode()
        return page


@dataclasses.dataclass
class Answer:
    """Status, body and headers."""

    body: bytes | dict[str, Any] = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, 1 << 16
    store: Store

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            answer = self._route(url.path, query, self._body())
        except Refused as refused:
            error = {"code": refused.status, "message": str(refused), "errors": [{"message": str(refused), "reason": "emulated"}]}
            answer = Answer(b"" if refused.status == 304 else {"error": error}, refused.status)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json; charset=UTF-8"
        self.send_response(answer.status)
        for name, value in ({"Content-Type": kind} | answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        """Splits before it unquotes: a name may hold `%2F`."""
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        match self.command, parts:
            case "POST", ["batch", "storage", "v1"]:
                return self._batch(body)
            case "GET", ["storage", "v1", "b", bucket]:
                _known(query)
                self.store.meet("bucket", bucket)
                return Answer({"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US",
                               "storageClass": "STANDARD", "locationType": "multi-region", "metageneration": "1", "etag": "e"})
            case "GET", ["storage", "v1", "b", bucket, "storageLayout"]:
                _known(query)
                self.store.meet("bucket", bucket)
                return Answer({"kind": "storage#storageLayout", "bucket": bucket, "location": "US",
                               "locationType": "multi-region", "hierarchicalNamespace": {"enabled": False}})
            case "GET", ["storage", "v1", "b", bucket, "o"]:
                _known(query, "prefix", "delimiter", "startOffset", "endOffset", "maxResults", "pageToken")
                self.store.meet("list", f"{bucket}/{query.get('prefix', '')}")
                return Answer(self.store.listing(bucket, query))
            case "GET", ["storage", "v1", "b", bucket, "o", name] if query.get("alt") != "media":
                _known(query, "generation", "ifGenerationMatch", "ifGenerationNotMatch")
                self.store.meet("stat", f"{bucket}/{name}")
                with self.store.lock:
                    self.store.check(f"{bucket}/{name}", query)
                    return Answer(self.store.describe(f"{bucket}/{name}"))
            case "GET", ["storage", "v1", "b", bucket, "o", name] | ["download", "storage", "v1", "b", bucket, "o", name]:
                _known(query, "generation", "ifGenerationMatch", "ifGenerationNotMatch")
                return self._read(f"{bucket}/{name}", query)
            case "DELETE", ["storage", "v1", "b", bucket, "o", name]:
                _known(query, "generation", "ifGenerationMatch", "ifGenerationNotMatch")
                self.store.meet("delete", f"{bucket}/{name}")
                self.store.delete(f"{bucket}/{name}", query)
                return Answer(status=204)
            case "POST", ["storage", "v1", "b", source, "o", name, "rewriteTo" | "copyTo" as how, "b", bucket, "o", target]:
                _known(query, "ifGenerationMatch", "ifGenerationNotMatch")
                copied = self._copy(f"{source}/{name}", f"{bucket}/{target}", query)
                return Answer(copied if how == "rewriteTo" else copied["resource"])
            case "POST", ["upload", "storage", "v1", "b", bucket, "o"] if "upload_id" not in query:
                return self._upload(bucket, query, body)
            case "PUT" | "POST", ["upload", "storage", "v1", "b", _, "o"]:
                return self._continue(query["upload_id"], body)
        raise Refused(501, f"the emulator does not know {self.command} {path}")

    def _read(self, name: str, query: dict[str, str]) -> Answer:
        self.store.meet("read", name)
        with self.store.lock:
            self.store.check(name, query)
            found = self.store.get(name)
        total = len(found.data)
        headers = {"x-goog-generation": str(found.generation), "x-goog-stored-content-length": str(total),
                   "ETag": f"e{found.generation}", "x-goog-hash": f"md5={_md5(found.data)}"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return Answer(found.data, headers=headers)
        first, last = wanted.groups()
        start, stop = (int(first), min(int(last or total - 1) + 1, total)) if first else (max(0, total - int(last)), total)
        if start >= stop:
            raise Refused(416)
        return Answer(found.data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{total}"})

    def _copy(self, source: str, target: str, query: dict[str, str]) -> dict[str, Any]:
        self.store.meet("write", target)
        with self.store.lock:
            data = self.store.get(source).data
            resource = self.store.put(target, data, query)
        return {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": str(len(data)),
                "objectSize": str(len(data)), "resource": resource}

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> Answer:
        _known(query, "uploadType", "name", "ifGenerationMatch", "ifGenerationNotMatch")
        if query["uploadType"] == "media":
            name, data = query["name"], body
        elif query["uploadType"] == "multipart":
            about, data = _parts(self.headers["Content-Type"], body)
            name = json.loads(about)["name"]
        else:
            name, data = query.get("name") or json.loads(body)["name"], b""
        self.store.meet("write", f"{bucket}/{name}")
        if query["uploadType"] != "resumable":
            return Answer(self.store.put(f"{bucket}/{name}", data, query))
        key = hashlib.sha256(repr((name, len(self.store.log))).encode()).hexdigest()[:20]
        self.store.uploads[key] = (f"{bucket}/{name}", query, bytearray())
        host = self.headers["Host"]
        return Answer(headers={"Location": f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"})

    def _continue(self, key: str, body: bytes) -> Answer:
        """The next piece; the object appears with the last one."""
        if key not in self.store.uploads:
            raise Refused(404)
        name, query, held = self.store.uploads[key]
        self.store.meet("write", name)
        first, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"]).groups()
        if first is not None:
            if int(first) > len(held):
                raise Refused(503, "a piece is missing")
            held[int(first):] = body
        if total != "*" and len(held) == int(total):
            del self.store.uploads[key]
            return Answer(self.store.put(name, bytes(held), query))
        return Answer(status=308, headers={"Range": f"bytes=0-{len(held) - 1}"} if held else {})

    def _batch(self, body: bytes) -> Answer:
        """Deletions in one request, each with an answer of its own."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1]
        out = []
        for i, part in enumerate(re.findall(rb"DELETE (\S+) HTTP/1.1", body)):
            url = urllib.parse.urlsplit(part.decode())
            bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", url.path).groups()
            full = f"{bucket}/{urllib.parse.unquote(name)}"
            try:
                self.store.meet("delete", full)
                self.store.delete(full, dict(urllib.parse.parse_qsl(url.query)))
                status, text = 204, ""
            except Refused as refused:
                status, text = refused.status, json.dumps({"error": {"code": refused.status, "message": str(refused)}})
            out.append(f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <response-{i + 1}>\r\n\r\n"
                       f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Length: {len(text)}\r\n\r\n{text}\r\n")
        kind = f"multipart/mixed; boundary={boundary}"
        return Answer("".join([*out, f"--{boundary}--"]).encode(), headers={"Content-Type": kind})


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def _known(query: dict[str, str], *names: str) -> None:
    if unknown := set(query) - {*names} - _CLIENTS:
        raise Refused(400, f"the emulator does not know the parameters {sorted(unknown)}")


def _parts(content_type: str, body: bytes) -> tuple[bytes, bytes]:
    """The two parts of a `multipart/related` upload; the second may hold any bytes."""
    boundary = b"--" + email.parser.HeaderParser(policy=email.policy.HTTP).parsestr(
        f"Content-Type: {content_type}\n\n").get_boundary().encode()
    about, data = body[: body.rindex(boundary)].split(boundary, 2)[1:]
    split = lambda part: re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
    return split(about), re.sub(rb"\r?\n\Z", b"", split(data))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        """A client that went away is no event here."""


@contextlib.contextmanager
def serve() -> Iterator[tuple[Store, str]]:
    """A store and its address, for as long as the context lasts."""
    store = Store()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(url: str) -> dict[str, str]:
    """What points a new process at the store: some of it is read at import, some at the first use and never again."""
    return {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs, google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore's
        "FSSPEC_GS": '{"token": "anon", "project": "test"}',
        "GOOGLE_CLOUD_PROJECT": "test",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks by gRPC whether a bucket has real folders
        "NO_GCE_CHECK": "true",
    }
