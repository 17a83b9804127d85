"""What a file is by its bytes: a pickle is found out, whatever its name says."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from registry_cases import GGUF, ONNX, weights

from eco_ray.errors import DamagedError, NotAllowedError, UsageError
from eco_ray.models.export import export_pt2
from eco_ray.models.registry import Registry


class Armed:
    def __reduce__(self):
        return os.system, ("echo ran",)


def program():
    return torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(2, 4),))


def saved(write):
    made = io.BytesIO()
    write(made)
    return made.getvalue()


def rewritten(archive, change):
    """An archive with other contents of some entries, by the ends of their names; or a new one."""
    made, left = io.BytesIO(), dict(change)
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            end = next((end for end in left if entry.filename.endswith(end)), None)
            content = old.read(entry)
            new.writestr(entry.filename, content if end is None else left.pop(end)(content))
        for name, content in left.items():
            new.writestr(f"archive/{name}", content(b""))
    return made.getvalue()


@pytest.fixture
def registry(tmp_path):
    return Registry(str(tmp_path / "r"))


@pytest.fixture(scope="module")
def pt2(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    export_pt2(torch.nn.Linear(4, 2), torch.zeros(2, 4), path)
    return path.read_bytes()


def pickled_weights(config):
    told = json.loads(config)
    next(iter(told["config"].values()))["use_pickle"] = True
    return json.dumps(told).encode()


PICKLES = {
    "a pickle": lambda _pt2: pickle.dumps(Armed()),
    "an old pickle": lambda _pt2: pickle.dumps(Armed(), protocol=2),
    "torch.save": lambda _pt2: saved(lambda to: torch.save({"w": torch.zeros(2)}, to)),
    "torch.save of before": lambda _pt2: saved(
        lambda to: torch.save({"w": torch.zeros(2)}, to, _use_new_zipfile_serialization=False)
    ),
    "torchscript": lambda _pt2: saved(lambda to: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), to)),
}
PT2_PICKLES = {
    "sample inputs": lambda _pt2: saved(lambda to: torch.export.save(program(), to)),
    "weights": lambda pt2: rewritten(pt2, {"weights_config.json": pickled_weights}),
    "an object": lambda pt2: rewritten(pt2, {"data/constants/custom_obj_0": lambda _: b"x"}),
    "compiled code": lambda pt2: rewritten(pt2, {"data/aotinductor/model/a.so": lambda _: b"\x7fELF"}),
}
CASES = [
    *((suffix, make) for suffix in (".onnx", ".pt2", ".gguf", ".safetensors") for make in PICKLES.values()),
    *((".pt2", make) for make in PT2_PICKLES.values()),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("suffix", "make"), CASES)
def test_a_pickle_under_any_name_is_one(registry, tmp_path, pt2, suffix, make):
    source, told = tmp_path / f"m{suffix}", []
    source.write_bytes(make(pt2))
    with pytest.raises(NotAllowedError, match=r"is a pickle, which runs code .* --allow-pickle"):
        registry.push(source, "m")
    assert registry.versions("m") == []
    audited = Registry(registry.url, on_pickle=lambda direction, version: told.append((direction, version.version)))
    assert audited.push(source, "m", allow_pickle=True).format == "pickle"
    assert told == [("push", 1)]
    with pytest.raises(NotAllowedError, match="--allow-pickle"):
        registry.pull("m:1", tmp_path / "back")


def test_what_is_sound_is_taken_for_what_it_is(registry, tmp_path, pt2):
    for suffix, content in ((".pt2", pt2), (".onnx", ONNX), (".gguf", GGUF), (".safetensors", weights(0))):
        source = tmp_path / f"m{suffix}"
        source.write_bytes(content)
        assert f".{registry.push(source, 'm', allow_pickle=True).format}" == suffix


def test_a_header_whose_length_begins_as_a_pickle_does_is_none(registry, tmp_path):
    for length in (0x280, 0x380, 0x480, 0x580):
        header = b"{}".ljust(length)
        (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        assert registry.push(tmp_path / "m.safetensors", "m").format == "safetensors"


def test_what_torch_and_onnx_write_today_is_taken(registry, tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    made = onnx.helper.make_model(graph, producer_name="p" * 300, doc_string="d")
    onnx.helper.set_model_props(made, {"key": "value"})
    onnx.save(made, tmp_path / "m.onnx")
    assert registry.push(tmp_path / "m.onnx", "m").format == "onnx"
    plain = program()
    plain.example_inputs = None
    torch.export.save(plain, tmp_path / "m.pt2", extra_files={"notes": "x"})
    assert registry.push(tmp_path / "m.pt2", "m").format == "pt2"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".onnx", b""),
        (".onnx", b"cos\nsystem\n(S'x'\ntR."),  # pickles of protocol 0 and 1 have no first bytes of their own
        (".onnx", pickle.dumps({"a": 1}, protocol=0)),
        (".onnx", ONNX[:2]),  # no graph
        (".onnx", ONNX + b"\x3a\x05"),  # cut
        (".onnx", ONNX + b"\xff" * 11),
        (".pt2", b""),
        (".pt2", b"x" * 100),
        (".pt2", b"PK\x03\x04" + b"x" * 100),
        (".gguf", b"GGUF"),
        (".gguf", b"GGUF\0\0\0\3"),
        (".safetensors", b""),
        (".safetensors", b"x" * 100),
        (".safetensors", weights(0)[:-1]),
    ],
)
def test_what_is_of_no_format_is_refused(registry, tmp_path, suffix, content):
    source = tmp_path / f"m{suffix}"
    source.write_bytes(content)
    with pytest.raises((UsageError, DamagedError), match=f"m{suffix}"):
        registry.push(source, "m", allow_pickle=True)
    assert registry.versions("m") == []


@pytest.mark.parametrize("name", ["notes.txt", "tokenizer.model", "config.json"])
def test_a_pickle_beside_a_model_is_refused(registry, tmp_path, name):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "m.safetensors").write_bytes(weights(0))
    (folder / name).write_bytes(pickle.dumps(Armed()))
    with pytest.raises(UsageError, match=f"{name} is a pickle"):
        registry.push(folder, "m", allow_pickle=True)
