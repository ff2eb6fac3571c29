"""A server on this machine that answers the requests of Google Cloud Storage's JSON API which
gcsfs, google-cloud-storage and TensorStore make, so that runs in a bucket can be tried without one.

Objects are kept in memory, as in the real service: whole or not at all, and seen by everybody at
once. What a client asks that is not known here is an error 501, which names the request.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c


class Object(NamedTuple):
    """Content, and a number that grows with each version."""

    content: bytes
    generation: int
    time: str


class FakeBucket(ThreadingHTTPServer):
    """Serves one bucket.

    Args:
      name: of the bucket. Others are not found.
      writable: whether writing is allowed.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, name: str = "bucket", *, writable: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.writable = writable
        self.objects: dict[str, Object] = {}
        self.lock = threading.Lock()
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.numbers = itertools.count(1)
        self.unknown: list[str] = []

    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle, as one that is killed does, is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            # Both would ask Google itself, over gRPC or on a virtual machine, and wait.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "GCE_METADATA_ROOT": self.url.removeprefix("http://"),
            "NO_GCE_CHECK": "true",
        }

    def described(self, name: str) -> dict[str, Any]:
        """An object's metadata."""
        found = self.objects[name]
        checksum = google_crc32c.Checksum(found.content).digest()
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.name,
            "generation": str(found.generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "size": str(len(found.content)),
            "crc32c": base64.b64encode(checksum).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(found.content).digest()).decode(),
            "etag": str(found.generation),
            "timeCreated": found.time,
            "updated": found.time,
            "mediaLink": f"{self.url}/download/storage/v1/b/{self.name}/o/{name}?alt=media",
        }

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.objects[name] = Object(content, next(self.numbers), now)
        return self.described(name)


@contextmanager
def serve(name: str = "bucket", *, writable: bool = True) -> Iterator[FakeBucket]:
    """Serves a bucket in a thread."""
    bucket = FakeBucket(name, writable=writable)
    threading.Thread(target=bucket.serve_forever, daemon=True).start()
    try:
        yield bucket
    finally:
        bucket.shutdown()
        bucket.server_close()


class _Answer(Exception):  # noqa: N818 (an answer that is none of success)
    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeBucket

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        with self.server.lock:
            try:
                self._route(self.command, self.path, body)
            except _Answer as answer:
                message = {"code": answer.code, "message": answer.reason}
                self._send(answer.code, json.dumps({"error": message}).encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any  # noqa: N815

    def _send(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        headers = {"Content_Type": "application/json", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if code not in (204, 304):
            self.wfile.write(content)

    def _json(self, value: dict[str, Any]) -> None:
        self._send(200, json.dumps(value).encode())

    def _route(self, method: str, address: str, body: bytes) -> None:
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if method == "POST" and parts.path == "/batch/storage/v1":
            return self._batch(body)
        match = re.fullmatch(
            r"/(upload/|download/)?storage/v1/b/([^/]+)(?:/(o|storageLayout)(?:/(.*))?)?",
            parts.path,
        )
        if match is None:
            self.server.unknown.append(f"{method} {address}")
            raise _Answer(501, f"{method} {address} is not known here")
        kind, bucket, part, name = match.groups()
        if bucket != self.server.name:
            raise _Answer(404, "The specified bucket does not exist.")
        if method not in ("GET",) and not self.server.writable:
            raise _Answer(403, "The caller does not have storage.objects.create access.")
        if part != "o":
            return self._json({"kind": "storage#bucket", "name": bucket, "location": "HERE"})
        if kind == "upload/":
            return self._upload(method, query, body)
        if not name:
            return self._list(query)
        copy = re.fullmatch(rf"(.*)/(?:rewriteTo/b/{bucket}|moveTo)/o/(.*)", name)
        if method == "POST" and copy:
            return self._copy(unquote(copy[1]), unquote(copy[2]), moves="/moveTo/" in name)
        return self._object(method, unquote(name), query, whole=kind == "download/")

    def _object(self, method: str, name: str, query: dict[str, str], *, whole: bool) -> None:
        self._check(name, query)
        if name not in self.server.objects:
            raise _Answer(404, f"No such object: {self.server.name}/{name}")
        found = self.server.objects[name]
        if method == "DELETE":
            del self.server.objects[name]
            return self._send(204)
        if not whole and query.get("alt") != "media":
            return self._json(self.server.described(name))
        content, code, headers = found.content, 200, {}
        if given := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
            size = len(content)
            first = int(given[1]) if given[1] else max(size - int(given[2]), 0)
            last = min(int(given[2]), size - 1) if given[1] and given[2] else size - 1
            if first >= size:
                raise _Answer(416, "The requested range cannot be satisfied.")
            content, code = content[first : last + 1], 206
            headers["Content_Range"] = f"bytes {first}-{last}/{size}"
        self._send(
            code,
            content,
            Content_Type="application/octet-stream",
            x_goog_generation=str(found.generation),
            ETag=str(found.generation),
            **headers,
        )
        return None

    def _check(self, name: str, query: dict[str, str]) -> None:
        """The conditions on an object's version; 0 is that of one that is not there."""
        now = self.server.objects[name].generation if name in self.server.objects else 0
        if int(query.get("ifGenerationMatch", now)) != now:
            raise _Answer(412, "At least one of the pre-conditions you specified did not hold.")
        if query.get("ifGenerationNotMatch") == str(now) and now:
            raise _Answer(304, "Not modified")

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        prefixes, items = set(), []
        for name in sorted(self.server.objects):
            inside = name.startswith(prefix)
            below = query.get("startOffset", "") <= name
            if not inside or not below or ("endOffset" in query and name >= query["endOffset"]):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.server.described(name))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _copy(self, source: str, target: str, *, moves: bool) -> None:
        if source not in self.server.objects:
            raise _Answer(404, f"No such object: {source}")
        described = self.server.put(target, self.server.objects[source].content)
        if moves:
            del self.server.objects[source]
            return self._json(described)
        return self._json({"done": True, "resource": described})

    def _upload(self, method: str, query: dict[str, str], body: bytes) -> None:
        kind = query.get("uploadType")
        if kind == "media":
            self._check(query["name"], query)
            return self._json(self.server.put(query["name"], body))
        if kind == "multipart":
            message = Message()
            message["Content-Type"] = self.headers["Content-Type"]
            boundary = f"--{message.get_param('boundary')}".encode()
            _, described, content, _ = body.split(boundary, 3)
            name = json.loads(re.split(rb"\r?\n\r?\n", described, maxsplit=1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            self._check(name, query)
            return self._json(self.server.put(name, re.sub(rb"\r?\n\Z", b"", content)))
        if "upload_id" not in query:
            name = query.get("name") or json.loads(body)["name"]
            self._check(name, query)
            number = str(next(self.server.numbers))
            self.server.uploads[number] = name, bytearray()
            place = f"{self.server.url}/upload/storage/v1/b/{self.server.name}/o"
            return self._send(200, Location=f"{place}?uploadType=resumable&upload_id={number}")
        name, received = self.server.uploads[query["upload_id"]]
        if method == "DELETE":
            del self.server.uploads[query["upload_id"]]
            return self._send(499)
        received += body
        if self.headers["Content-Range"].endswith("/*"):
            return self._send(308, Range=f"bytes=0-{len(received) - 1}")
        return self._json(self.server.put(name, bytes(received)))

    def _batch(self, body: bytes) -> None:
        answers = []
        for address in re.findall(r"DELETE (/storage/v1/b/\S+)", body.decode()):
            name = unquote(urlsplit(address).path.split("/o/", 1)[1])
            code = "204 No Content" if self.server.objects.pop(name, None) else "404 Not Found"
            answers.append(f"Content-Type: application/http\n\nHTTP/1.1 {code}\n\n")
        text = "".join(f"--batch\n{answer}" for answer in answers) + "--batch--"
        self._send(200, text.encode(), Content_Type="multipart/mixed; boundary=batch")
