"""Files appear whole and reach the disk; versioned JSON is migrated step by step, or refused in one sentence."""

import json
import os
from pathlib import Path

import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.physics.files import atomic_file, read_json, write_file, write_json


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    events, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, other: (events.append("rename"), replace(path, other)))
    write_file(tmp_path / "file", b"content")
    assert events[0].endswith(".partial") and events[1:] == ["rename", str(tmp_path)]
    assert (tmp_path / "file").read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1


def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    write_file(tmp_path / "file", b"before")

    def write_half():
        with atomic_file(tmp_path / "file") as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "file").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def _from_1(value):
    return {"name": value["title"]}


def _from_2(value):
    if value["name"] == "impossible":
        raise InputError("name is 'impossible', which is not")
    return value | {"size": 1}


def read(path):
    return read_json(path, f"thing {str(path.parent)!r}", 3, {1: _from_1, 2: _from_2})


@pytest.mark.parametrize(
    "value",
    [{"schema_version": 1, "title": "a"}, {"schema_version": 2, "name": "a"}, {"schema_version": 3, "name": "a", "size": 1}],
)
def test_older_schemas_are_migrated_one_step_after_another(tmp_path, value):
    write_json(tmp_path / "file.json", value)
    assert read(tmp_path / "file.json") == {"schema_version": 3, "name": "a", "size": 1}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "file.json is not JSON"),
        ("[]", r"file.json has schema_version None; this version reads 1 and 2 and 3"),
        ('{"schema_version": 4}', "file.json has schema_version 4"),
        ('{"schema_version": true}', "file.json has schema_version True"),
        ('{"schema_version": 1}', "file.json is of schema 1 and cannot be read: it has no title"),
        ('{"schema_version": 1, "title": "impossible"}', "of schema 1 and cannot be read: name is 'impossible'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path / "file.json")


def test_a_missing_file_names_what_it_belongs_to(tmp_path):
    with pytest.raises(InputError, match=r"^thing '.*' has no readable file\.json$"):
        read(tmp_path / "file.json")


def test_without_a_version_any_object_is_read(tmp_path):
    (tmp_path / "file.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "file.json", "thing") == {"a": 1}
    (tmp_path / "file.json").write_text("[1]")
    with pytest.raises(InputError, match="holds list; it must hold a JSON object"):
        read_json(tmp_path / "file.json", "thing")
