"""The boto3 adapter keeps the contract of an object store on real servers, and on a way there that fails."""

from __future__ import annotations

import http.client
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    RecordMissingError,
    StoreRefusedError,
    StoreUnavailableError,
)
from replkit.testing import s3_servers

_numbers = itertools.count()


class FaultyProxy:
    """Passes requests on to ``endpoint``; ``faults`` are used up one a request."""

    def __init__(self, endpoint):
        proxy = self
        target = urlsplit(endpoint)
        self.faults: list[str] = []
        self.seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.faults.pop(0) if proxy.faults else ""
                proxy.seen.append(f"{self.command} {fault}".strip())
                if fault.isdigit():
                    self.answer(int(fault), b"<Error><Code>SlowDown</Code></Error>", {})
                    return
                connection = http.client.HTTPConnection(target.hostname, target.port)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                data = response.read()
                connection.close()
                if fault == "lost answer":
                    self.close_connection = True
                elif fault == "short body":
                    self.answer(response.status, data[: len(data) // 2], response.headers, len(data))
                    self.close_connection = True
                else:
                    self.answer(response.status, data, response.headers)

            def answer(self, status, data, headers, length=None):
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_DELETE = do_POST = serve  # noqa: N815 - names of http.server

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def store_at(endpoint, bucket, options=""):
    return S3ObjectStore(parse_url(f"s3://{bucket}/store{next(_numbers)}?endpoint={endpoint}{options}"))


@pytest.fixture(params=["moto", "seaweed"])
def store(request, s3_credentials):
    store = store_at(*request.getfixturevalue(f"{request.param}_bucket"))
    yield store
    store.close()


@pytest.fixture
def proxy(moto_bucket, s3_credentials):
    proxy = FaultyProxy(moto_bucket[0])
    yield proxy
    proxy.close()


@pytest.fixture
def shaky(proxy, moto_bucket):
    """A store behind the proxy."""
    store = store_at(proxy.endpoint, moto_bucket[1])
    yield store
    store.close()


@pytest.mark.requirement("U2", "U3")
def test_an_object_comes_back_whole_and_in_ranges(store):
    store.put("a/b", [b"0123", bytearray(b"45"), memoryview(b"6789")])
    assert store.get("a/b") == b"0123456789"
    assert (store.get("a/b", 3, 5), store.get("a/b", 8, 100), store.get("a/b", 4)) == (b"34", b"89", b"456789")
    assert (store.get("a/b", 20), store.get("a/b", 20, 30), store.get("a/b", 4, 4)) == (b"", b"", b"")
    assert store.counts["bytes put"] == 10
    assert store.counts["get requests"] == 7


def test_create_only_list_and_delete(store):
    store.put_new("a", b"first")
    with pytest.raises(AlreadyExistsError):
        store.put_new("a", b"second")
    assert store.get("a") == b"first"
    store.put("b/c", [b"xyz"])
    assert sorted(store.list("")) == [("a", 5), ("b/c", 3)]
    assert list(store.list("b/")) == [("b/c", 3)]
    store.delete(["a"])
    store.delete(["b/c", "absent"])
    assert list(store.list("")) == []
    with pytest.raises(RecordMissingError):
        store.get("a")
    for call in (lambda: store.put("e", [b""]), lambda: store.put_new("e", b""), lambda: store.put("E", [b"x"])):
        with pytest.raises(InvalidArgumentError):
            call()


@pytest.mark.slow
def test_more_than_a_thousand_objects_are_listed_and_deleted(s3_credentials, moto_bucket):
    store = store_at(*moto_bucket)
    keys = [f"n/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, [b"x"]), keys))
    assert sorted(info.key for info in store.list("n/")) == keys
    assert store.counts["list requests"] == 2
    store.delete(keys)
    assert store.counts["delete requests"] == 2
    assert list(store.list("")) == []
    store.close()


def test_what_passes_is_tried_again(shaky, proxy):
    for faults in (["503"], ["500", "429"], ["lost answer"], ["409"]):
        proxy.faults = list(faults)
        shaky.put("a", [b"data"])
        proxy.faults = list(faults)
        assert shaky.get("a") == b"data"
    proxy.faults = ["short body", "short body"]
    assert shaky.get("a") == b"data"
    assert shaky.counts["repetitions"] == 12


def test_a_create_whose_answer_was_lost_is_known_as_ours(shaky, proxy):
    proxy.faults = ["lost answer"]
    shaky.put_new("a", b"mine")
    assert shaky.get("a") == b"mine"
    assert proxy.seen[:2] == ["PUT lost answer", "PUT"]


def test_a_create_that_another_won_while_ours_was_in_doubt_is_refused(shaky, proxy):
    shaky.put_new("a", b"another's")
    proxy.faults = ["503"]
    with pytest.raises(AlreadyExistsError):
        shaky.put_new("a", b"mine")
    proxy.faults = ["lost answer"]
    with pytest.raises(AlreadyExistsError):
        shaky.put_new("a", b"mine")


def test_a_store_that_stays_away_is_unavailable_after_the_time(proxy, moto_bucket):
    store = store_at(proxy.endpoint, moto_bucket[1], "&retry_s=0.3")
    proxy.faults = ["503"] * 50
    with pytest.raises(StoreUnavailableError, match="put a"):
        store.put("a", [b"x"])
    proxy.faults = ["lost answer"] + ["503"] * 10  # done, and never confirmed
    with pytest.raises(StoreUnavailableError):
        store.put_new("b", b"x")
    proxy.faults = []
    assert store.get("b") == b"x"
    store.close()
    gone = store_at("http://127.0.0.1:9", moto_bucket[1], "&retry_s=0.2")
    with pytest.raises(StoreUnavailableError):
        gone.get("a")
    gone.close()


def test_an_absent_bucket_is_not_found(s3_credentials, moto_endpoint):
    store = store_at(moto_endpoint, "no-such-bucket")
    for call in (lambda: store.put("a", [b"x"]), lambda: store.get("a"), lambda: list(store.list(""))):
        with pytest.raises(NotFoundError, match="no such bucket"):
            call()
    store.close()


def test_wrong_credentials_are_refused_and_never_shown(monkeypatch, s3_credentials, seaweed_bucket):
    for name, value in (("AWS_SECRET_ACCESS_KEY", "canary-secret"), ("AWS_ACCESS_KEY_ID", "unknown-key")):
        monkeypatch.setenv(name, value)
        store = store_at(*seaweed_bucket)
        with pytest.raises(StoreRefusedError) as raised:
            store.put("a", [b"x"])
        assert "canary-secret" not in str(raised.value)
        store.close()


def test_no_credentials_at_all_are_told(monkeypatch, tmp_path, moto_endpoint):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = store_at(moto_endpoint, "bucket")
    with pytest.raises(StoreRefusedError, match="redentials"):
        store.get("a")
    store.close()


def test_storage_class_and_encryption_reach_the_store(s3_credentials, moto_bucket):
    endpoint, bucket = moto_bucket
    store = store_at(endpoint, bucket, "&storage_class=STANDARD_IA&sse=AES256")
    store.put_new("a", b"x")
    client = s3_servers.s3_client(endpoint)
    head = client.head_object(Bucket=bucket, Key=parse_url(f"{store.url}").prefix + "/a")
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
    client.close()
    store.close()


@pytest.mark.parametrize(
    "url",
    ["s3:", "s3:///x", "s3://B/x", "s3://bucket/A", "s3://bucket/a//b", "s3://bucket/a?colour=red", "s3://bucket/../x",
     "s3://bucket/a?endpoint=ftp://x", "s3://bucket/a?fencing=maybe", "s3://bucket/a?retry_s=x", "s3://bucket/a#b",
     "s3://bucket/" + "x/" * 300 + "x"],
)  # fmt: skip
def test_what_is_no_s3_url_is_refused(url):
    with pytest.raises(InvalidArgumentError):
        parse_url(url)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(InvalidArgumentError) as raised:
        parse_url("s3://key:secret@bucket/x")
    assert "secret" not in str(raised.value)
