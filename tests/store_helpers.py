"""A real S3-compatible server in this process, and a proxy before it that fails on demand."""

import http.client
import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import boto3
from moto.server import ThreadedMotoServer


class Store:
    """Buckets of a server, over HTTP through a proxy that records every request and injects faults."""

    def __init__(self, address="127.0.0.1"):
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()
        self.requests, self.old_replies, self._faults, self._lock = [], {}, [], Lock()
        self._proxy = ThreadingHTTPServer((address, 0), type("Handler", (_Handler,), {"store": self}))
        self._proxy.daemon_threads = True
        Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.endpoint = f"{address}:{self._proxy.server_port}"
        self.client = boto3.client("s3", endpoint_url=f"http://{self.host}:{self.port}", region_name="us-east-1")

    def close(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._server.stop()

    def url(self, path):
        """The URL of bucket and key, with the endpoint as its option."""
        return f"s3://{path}?scheme=http&endpoint_override={self.endpoint}"

    def objects(self, bucket, prefix=""):
        """The bytes of every object below a prefix, by the rest of its key."""
        listed = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        keys = [item["Key"] for item in listed if not item["Key"].endswith("/")]
        return {key.removeprefix(prefix).lstrip("/"): self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    @contextmanager
    def failing(self, fault, when: Callable[[str, str], bool] = lambda method, path: True, times=10**9):
        """Within the block, the next `times` requests for which `when(method, path)` holds meet `fault`; yields those that did."""
        entry = {"fault": fault, "when": when, "left": times, "met": []}
        self._faults.append(entry)
        try:
            yield entry["met"]
        finally:
            self._faults.remove(entry)
            self.old_replies.clear()

    def take_fault(self, method, path):
        with self._lock:
            self.requests.append((method, path))
            for entry in self._faults:
                if entry["left"] > 0 and entry["when"](method, path):
                    entry["left"] -= 1
                    entry["met"].append((method, path))
                    return entry["fault"]
        return None


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on; a fault is "503", "403", "stall", "half upload", "half download" or "old reply", the first to that request."""

    protocol_version = "HTTP/1.1"
    store: Store

    def _handle(self):
        fault = self.store.take_fault(self.command, self.path)
        parts = self._read_body()
        if fault == "half upload":
            next(parts, None)
            return self._hang_up()
        body = b"".join(parts)
        if fault == "stall":
            time.sleep(4)  # more than pyarrow waits
            return self._hang_up()
        if fault in ("503", "403"):
            return self._reply(int(fault), [], b"")
        if fault == "old reply" and self.path in self.store.old_replies:
            return self._reply(*self.store.old_replies[self.path])
        connection = http.client.HTTPConnection(self.store.host, self.store.port, timeout=30)
        try:
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("transfer-encoding", "content-length")}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding", "date", "server")]
        if fault == "old reply":
            self.store.old_replies[self.path] = response.status, headers, content
        if fault == "half download":
            self._reply(response.status, headers, content, content[: len(content) // 2])
            return self._hang_up()
        return self._reply(response.status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _read_body(self):
        """The body in two halves, or in the chunks that it comes in."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            yield self.rfile.read(length // 2)
            yield self.rfile.read(length - length // 2)
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _reply(self, status, headers, content, sent=None):
        self.send_response(status)
        for key, value in headers:
            if key.lower() != "content-length" or self.command == "HEAD":
                self.send_header(key, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if sent is None else sent)

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_):
        pass
