"""Locations: local paths, URLs of a real S3-compatible server with faults, and of fsspec."""

import pickle
import time
import uuid
from pathlib import Path

import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import StorageUnavailable
from neural_hamilton.physics.files import write_file, write_json
from neural_hamilton.platform import storage
from neural_hamilton.platform.storage import Url, fetched, list_files, locate, staged


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(storage, "_PATIENT_PAUSES_S", (0.02, 0.02))


@pytest.fixture
def folder(store, bucket):
    return locate(store.url(f"{bucket}/some/folder"))


def is_object(name):
    return lambda method, path: method in ("PUT", "POST") and name in path


def test_a_path_stays_a_path(tmp_path):
    assert locate("runs/data") == Path("runs/data") and locate(tmp_path) == tmp_path
    assert locate(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert locate("C:/data") == Path("C:/data")


def test_a_url_is_taken_apart_and_put_together():
    url = locate("S3://bucket//a/b/?region=eu")
    assert str(url) == "s3://bucket/a/b?region=eu" and str(url / "c/d.txt") == "s3://bucket/a/b/c/d.txt?region=eu"
    assert (url.name, str(url.parent), str(url.parent.parent)) == ("b", "s3://bucket/a?region=eu", "s3://bucket?region=eu")
    assert locate(str(url)) == url == pickle.loads(pickle.dumps(url)) and url.absolute() == url


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://", "names no bucket"),
        ("s3:///folder", "names no bucket"),
        ("s3://key:secret@bucket/folder", "carries a password"),
        ("file://host/folder", "file:///FOLDER"),
        (Path("s3://bucket/folder"), "give it as text"),
    ],
)
def test_what_is_no_place_is_refused(given, words):
    with pytest.raises(InputError, match=words) as refusal:
        locate(given)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["s3", "memory", "local"])
def test_files_appear_are_listed_read_and_deleted(kind, store, bucket, tmp_path):
    folder = {"s3": locate(store.url(f"{bucket}/a b")), "memory": locate(f"memory://{bucket}/a b"), "local": tmp_path / "a b"}[kind]
    assert not folder.exists() and list_files(folder) == {}
    with staged(folder / "split/large.bin") as path:
        path.write_bytes(bytes(11 << 20))  # more than one part of an upload
    write_file(folder / "split" / "small.txt", b"first")
    write_file(folder / "split" / "small.txt", b"second")
    write_json(folder / "x.json", {"a": 1})
    assert list_files(folder) == {"split/large.bin": 11 << 20, "split/small.txt": 6, "x.json": 13}
    assert folder.is_dir() and (folder / "x.json").is_file() and not (folder / "x.json").is_dir()
    assert (folder / "x.json").read_text() == '{\n  "a": 1\n}\n'
    with fetched(folder / "split/large.bin") as path:
        assert path.read_bytes() == bytes(11 << 20)
    (folder / "x.json").unlink()
    assert not (folder / "x.json").exists()
    (folder / "x.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "x.json").read_bytes()


def test_a_block_that_fails_uploads_nothing(folder):
    def write():
        with staged(folder / "half.bin") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list_files(folder) == {}


@pytest.mark.parametrize("fault", ["503", "half upload"])
def test_an_upload_that_fails_is_repeated_and_never_seen_by_half(store, bucket, folder, fault):
    content = bytes(range(256)) * 4096
    with store.failing(fault, is_object("file.bin"), times=5) as met:
        write_file(folder / "file.bin", content)
    assert len(met) == 5  # more than pyarrow's own attempts
    assert store.objects(bucket) == {"some/folder/file.bin": content}


def test_a_slow_store_is_asked_again(store, folder):
    write_file(folder / "file.bin", b"content")
    with store.failing("stall", lambda method, path: method == "GET" and "file.bin" in path, times=1) as met:
        assert (folder / "file.bin").read_bytes() == b"content"
    assert len(met) == 1


def test_a_download_that_breaks_off_is_repeated(store, folder):
    content = bytes(range(256)) * 64
    write_file(folder / "file.bin", content)
    with store.failing("half download", lambda method, path: method == "GET" and "file.bin" in path, times=2):
        assert (folder / "file.bin").read_bytes() == content


def test_a_store_that_stays_down_is_one_sentence_and_keeps_what_was_there(store, bucket, folder, monkeypatch):
    monkeypatch.setattr(storage, "_PATIENT_PAUSES_S", ())
    write_file(folder / "file.bin", b"before")
    with (
        store.failing("503", is_object("file.bin")),
        pytest.raises(StorageUnavailable, match="in 1 attempts: .*; check the network.*AWS_ENDPOINT_URL"),
    ):
        write_file(folder / "file.bin", b"after")
    assert store.objects(bucket) == {"some/folder/file.bin": b"before"}


class OfALibrary(Exception):
    """As gcsfs and botocore have them: no OSError."""


@pytest.mark.parametrize(
    ("reason", "refusal", "words"),
    [("429 SlowDown", StorageUnavailable, "in 2 attempts: 429 SlowDown; check the network"), ("bad key", InputError, "bad key; correct")],
)
def test_errors_of_fsspec_file_systems_need_be_no_oserror(monkeypatch, reason, refusal, words):
    place = locate(f"memory://{uuid.uuid4().hex}/file")
    write_file(place, b"content")
    monkeypatch.setattr(storage, "_PATIENT_PAUSES_S", (0.01,))
    left = [OfALibrary("503 SlowDown")]

    def fail(*_, **__):
        raise left.pop() if left else OfALibrary(reason)

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.memory.MemoryFileSystem._open", lambda *_, **__: fail())
        with pytest.raises(refusal, match=words):
            place.read_bytes()
    assert place.read_bytes() == b"content"


@pytest.mark.parametrize(
    "use", [lambda url: url.exists(), list_files, lambda url: write_file(url / "a", b"1")], ids=["exists", "list", "write"]
)
def test_a_missing_bucket_is_named(store, use):
    with pytest.raises(InputError, match=r"bucket s3://no-such-bucket does not exist; create it"):
        use(locate(store.url("no-such-bucket/folder")))


def test_credentials_that_are_refused_are_named_with_a_remedy(store, folder):
    with store.failing("403"), pytest.raises(StorageUnavailable, match=r"^s3://.*refuses the credentials.*AWS_ACCESS_KEY_ID"):
        folder.exists()


def test_an_endpoint_where_nothing_listens_is_named(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", ())
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"^s3://bucket/x\?.* cannot be read, in 1 attempts: .*check the network") as refusal:
        Url.parse("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:1").read_bytes()
    assert "\n" not in str(refusal.value) and time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo://bucket/folder", "foo:// is no file system that is installed here"),
        ("s3://bucket/folder?nonsense=3", "nonsense"),
        ("memory://bucket/folder?region=3", "options after '\\?'"),
    ],
)
def test_what_no_file_system_takes_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        locate(text).exists()


def test_the_endpoint_may_come_from_the_environment(store, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store.endpoint}")
    write_file(locate(f"s3://{bucket}/file"), b"content")
    assert store.objects(bucket) == {"file": b"content"}
