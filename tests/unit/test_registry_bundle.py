"""Versions of several files: a model with its tokenizer and configuration, kept and given back as a whole."""

from __future__ import annotations

import json
import os
import random
import threading

import pytest
from registry_cases import Deadly, Killed, document, empty_place, objects, weights

from eco_ray.errors import DamagedError, EcoRayError, UsageError
from eco_ray.models import bundle
from eco_ray.models import parts as parts_module
from eco_ray.models.object_store import open_store
from eco_ray.models.registry import Registry


@pytest.fixture(params=["local", "s3"])
def where(request, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "PART_BYTES", 2048)
    return empty_place(request, tmp_path)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(weights(0))
    (made / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 384}))
    (made / "tokenizer.json").write_text("{}")
    (made / "vocab.txt").write_bytes(random.Random(1).randbytes(5000))
    (made / "1_Pooling" / "config.json").write_text("{}")
    (made / ".gitattributes").write_text("left out")
    return made


def files(folder):
    found = (one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))
    return {str(one.relative_to(folder)): one.read_bytes() for one in found}


def test_a_folder_is_one_version_and_comes_back_whole(where, folder, tmp_path):
    registry = Registry(where)
    made = registry.push(folder, "minilm")
    assert (made.format, made.main) == ("safetensors", "model.safetensors")
    assert [one.path for one in made.extras] == ["1_Pooling/config.json", "config.json", "tokenizer.json", "vocab.txt"]
    registry.pull("minilm:1", tmp_path / "back")
    assert files(tmp_path / "back") == files(folder)
    registry.verify("minilm:1")
    assert (made.signature.kind, made.signature.outputs[0].shape) == ("embedding", (-1, 384))
    assert (made.signature.inputs[0].name, made.signature.inputs[0].datatype) == ("text", "BYTES")


def test_what_did_not_change_is_kept_once_and_gc_keeps_it(where, folder, tmp_path):
    registry = Registry(where)
    registry.push(folder, "m")
    (folder / "model.safetensors").write_bytes(weights(0, changed=3))
    second = registry.push(folder, "m")
    assert second.blob.base is not None
    registry.delete("m:1")
    registry.gc()
    registry.pull("m:2", tmp_path / "back")
    assert files(tmp_path / "back") == files(folder)
    registry.delete("m:2")
    registry.gc()
    assert objects(open_store(where)) == []


def test_a_damaged_extra_gives_nothing(where, folder, tmp_path):
    registry, store = Registry(where), open_store(where)
    made = registry.push(folder, "m")
    extra = made.extras[-1]
    store.put(extra.blob.path(extra.blob.parts[1]), b"x")
    with pytest.raises(DamagedError, match="other bytes"):
        registry.pull("m:1", tmp_path / "back")
    with pytest.raises(DamagedError):
        registry.verify("m:1")
    assert not (tmp_path / "back").exists()
    registry.push(folder, "m")  # mends it
    registry.verify("m:1")


def test_it_takes_a_new_or_an_empty_folder(where, folder, tmp_path):
    registry = Registry(where)
    registry.push(folder, "m")
    (tmp_path / "empty").mkdir()
    registry.pull("m:1", tmp_path / "empty")
    assert files(tmp_path / "empty") == files(folder)
    with pytest.raises(EcoRayError, match="name another"):
        registry.pull("m:1", tmp_path / "empty")
    assert files(tmp_path / "empty") == files(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("second.onnx", "2 models"),
        ("pytorch_model.bin", "pickle"),
        ("modeling.py", "modeling.py"),
        ("a b.json", "not allowed"),
        ("x" * 200 + ".json", "not allowed"),
    ],
)
def test_a_folder_with_something_else_in_it_is_refused(tmp_path, folder, name, says):
    (folder / name).write_bytes(b"x")
    with pytest.raises(EcoRayError, match=says):
        Registry(str(tmp_path / "r")).push(folder, "m")


def test_what_is_no_plain_file_is_refused(tmp_path, folder, monkeypatch):
    registry = Registry(str(tmp_path / "r"))
    (folder / "link.json").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"link\.json is no plain file"):
        registry.push(folder, "m")
    (folder / "link.json").unlink()
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(UsageError, match=r"pipe\.json is no plain file"):
        registry.push(folder, "m")
    (folder / "pipe.json").unlink()
    monkeypatch.setattr(bundle, "MAX_EXTRAS", 3)
    with pytest.raises(UsageError, match="4 files beside the model, limit 3"):
        registry.push(folder, "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="0 models"):
        registry.push(folder, "m")


@pytest.mark.parametrize("path", ["../x.json", "/x.json", "a/../x.json", "a//x.json", "", ".x.json", "m.safetensors"])
def test_no_name_in_a_record_leaves_the_folder(tmp_path, folder, path):
    registry, store = Registry(str(tmp_path / "r")), open_store(str(tmp_path / "r"))
    made = registry.push(folder, "m")
    told = made.model_dump(mode="json")
    evil = {**told, "main": "m.safetensors", "extras": [{**told["extras"][0], "path": path}]}
    store.put("models/m/versions/1.json", document(evil))
    with pytest.raises(DamagedError):
        registry.pull("m:1", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_gguf_is_known_by_its_first_bytes(tmp_path):
    registry, file = Registry(str(tmp_path / "r")), tmp_path / "m.gguf"
    file.write_bytes(b"pickle?")
    with pytest.raises(UsageError, match="no GGUF"):
        registry.push(file, "m")
    file.write_bytes(b"GGUF\3\0\0\0" + bytes(100))
    made = registry.push(file, "m")
    assert (made.format, made.signature.kind) == ("gguf", "text-generation")


@pytest.mark.parametrize("after", [False, True])
def test_a_push_that_dies_leaves_a_sound_registry(tmp_path, folder, monkeypatch, after):
    monkeypatch.setattr(parts_module, "PART_BYTES", 2048)
    for at in range(40):
        root = str(tmp_path / f"r{at}")
        try:
            Registry(Deadly(open_store(root), at, after)).push(folder, "m")
        except Killed:
            registry = Registry(root)
            version = registry.push(folder, "m").version
            registry.verify(f"m:{version}")
            registry.gc()
            registry.pull(f"m:{version}", tmp_path / f"back{at}")
        else:
            assert at > 10
            return
    pytest.fail("it never came to its end")


def test_of_two_pulls_into_one_place_one_wins_whole(tmp_path, folder):
    root, told = str(tmp_path / "r"), []
    Registry(root).push(folder, "m")

    def pull():
        try:
            Registry(root).pull("m:1", tmp_path / "back")
        except EcoRayError as error:
            told.append(str(error))

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "back") == files(folder)
    assert len(told) == 3
