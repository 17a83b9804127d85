"""Files of torch.export (.pt2): the graph as JSON, weights as plain bytes, in a zip.

`torch.export.load` trusts its file ("never load data from an untrusted source"): it unpickles sample inputs and some
weights, evaluates shape expressions as Python, calls whatever a node names below `torch`, makes Python source of names,
and loads compiled code. So the graph is read here without torch, and torch is given a copy of the file with nothing in
it but plain weights and a graph in which every text was looked at: a name, a simple expression, or an operator of ATen.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_ray.errors import DamagedError, NotAllowedError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: of the graph's JSON; one of 10,000 nodes takes less
MAX_GRAPH_BYTES = 32 << 20
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_CURE = "export the model anew with torch.export, or push its weights as safetensors"

#: entries that are copied, without the folder that all of them are in
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|data/(weights/weight|constants/tensor)_\d+"
)
#: that are not copied, and that torch neither unpickles nor runs; names of folders take no bytes
_HARMLESS = re.compile(r"models/[\w.]+\.json|\.data/serialization_id|extra/.*|.*/|", re.ASCII)
_PICKLED = (".pkl", ".pickle")
_CONFIG = re.compile(r"data/(weights|constants)/\w+_\1_config\.json", re.ASCII)
_NAME = re.compile(r"[\w.]{0,300}", re.ASCII)
#: as torch writes sizes: sympy's words for sums and whole divisions; no powers, which may grow without end
_EXPRESSION = re.compile(
    r"(?=.{1,1000}$)(?:Symbol\('[a-z]\w*'(?:, (?:positive|integer)=True)*\)|-?\d{1,18}|[(), ]"
    r"|(?:Add|Mul|Integer|FloorDiv|CleanDiv|CeilDiv|Mod|PythonMod|Max|Min)(?=\())+",
    re.ASCII,
)
#: ATen's operators that reach for files, and those that believe what they are told about memory
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file\.|save\.)"
    r"(?:[a-z]\w*|__(?:and|or|xor|lshift|rshift)__|_softmax|_log_softmax|_int_mm|_to_copy|_assert_tensor_metadata)\.[A-Za-z]\w*"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(?:max|min|not|float|int|ite)",
    re.ASCII,
)
#: what each text in the JSON must look like, by its key
_TEXTS = {
    "target": _OPERATOR,
    "expr_str": _EXPRESSION,
    "as_string": re.compile(r"[\w.,\-> ]{0,100}", re.ASCII),
    "torch_version": re.compile(r"[\w.+]{0,100}", re.ASCII),
    "path_name": re.compile(r"(?:weight|tensor)_\d+", re.ASCII),
}
#: notes for people and conditions as Python: not needed to run
_DROPPED: Mapping[str, Callable[[], object]] = {"metadata": dict, "guards_code": list}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def read_graph(path: Path) -> dict[str, Any]:
    """The only program of a .pt2 file, as JSON. Raises DamagedError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _graph_of(archive, path)[1]
    except (*_BROKEN, RecursionError) as error:
        raise _no_pt2(path, error) from None


def pickled_in(path: Path, *, whole: bool) -> str:
    """What in a zip archive is a pickle, or else may run when torch loads it; empty: nothing.

    `whole`: of a .pt2 file, where all but plain weights and a graph is such a thing. Raises DamagedError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                inner = _inner(entry)
                if entry.filename.endswith(_PICKLED):
                    return f"holds {entry.filename[:80]!r}, a pickle"
                if whole and inner.startswith("data/sample_inputs/"):
                    if entry.file_size:
                        return "holds sample inputs, which are pickled; set program.example_inputs = None before saving"
                elif whole and _CONFIG.fullmatch(inner):
                    if any(one["use_pickle"] is not False for one in _json_of(archive, entry)["config"].values()):
                        return f"holds {inner!r}, which speaks of pickled weights"
                elif whole and not (_PLAIN.fullmatch(inner) or _HARMLESS.fullmatch(inner)):
                    return f"holds {entry.filename[:80]!r}, which torch may unpickle or run"
    except (*_BROKEN, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _no_pt2(path, error) from None
    return ""


def load_program(path: Path) -> ExportedProgram:
    """The program of a .pt2 file, of which nothing was run; `.module()` makes a torch module of it.

    Raises NotAllowedError for a file that could do more than arithmetic, DamagedError for one that is none.
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="eco_ray-pt2-") as folder:
        copy = Path(folder) / "model.pt2"
        try:
            _write_checked(path, copy)
        except (*_BROKEN, RecursionError) as error:
            raise _no_pt2(path, error) from None
        try:
            return torch.export.load(copy)
        except Exception as error:  # whatever torch meets in a graph that is not as it should be
            short = " ".join(str(error).split())[:200]
            raise DamagedError(f"torch cannot load {path.name}: {type(error).__name__}: {short}; {_CURE}") from None


def _graph_of(archive: zipfile.ZipFile, path: Path) -> tuple[str, dict[str, Any]]:
    """Name and JSON of the only program of an archive."""
    found = [one for one in archive.infolist() if _inner(one).startswith("models/")]
    if len(found) != 1:
        raise DamagedError(f"{path.name} holds {len(found)} programs; give a .pt2 file of one")
    graph = _json_of(archive, found[0])
    return _inner(found[0]).removeprefix("models/").removesuffix(".json"), graph


def _json_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> dict[str, Any]:
    if entry.file_size > MAX_GRAPH_BYTES:
        raise DamagedError(f"{_inner(entry)} has {entry.file_size} bytes, limit {MAX_GRAPH_BYTES}")
    values = json.loads(archive.read(entry))
    if not isinstance(values, dict):
        raise DamagedError(f"{_inner(entry)} is no JSON object")
    return values


def _write_checked(path: Path, copy: Path) -> None:
    """A copy with plain weights and a graph whose texts were looked at, and nothing else."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        name, graph = _graph_of(old, path)
        _look_at("the name of the program", name, _NAME)
        new.writestr(f"model/models/{name}.json", json.dumps(_clean(graph)))
        new.writestr(f"model/data/sample_inputs/{name}.pt", b"")
        for inner, entry in {_inner(one): one for one in old.infolist()}.items():
            if _CONFIG.fullmatch(inner):
                new.writestr(f"model/{inner}", json.dumps(_clean(_json_of(old, entry))))
            elif _PLAIN.fullmatch(inner):
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise DamagedError(f"{inner} in {path.name} is compressed, which torch never does; {_CURE}")
                with old.open(entry) as source, new.open(f"model/{inner}", "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)


def _clean(value: Any, key: str = "") -> Any:
    """A part of the JSON without what is not needed. Raises NotAllowedError for a text that could be run."""
    if isinstance(value, dict):
        for one in value:
            _look_at("a key", one, _NAME)
        return {one: _DROPPED[one]() if one in _DROPPED else _clean(inner, one) for one, inner in value.items()}
    if isinstance(value, list):
        return [_clean(one, key) for one in value]
    if key == "use_pickle" and value is not False:
        raise NotAllowedError(f"use_pickle: {value!r}: weights that are pickled run code when they are loaded; {_CURE}")
    if isinstance(value, str):
        if key in ("in_spec", "out_spec"):
            if not _is_plain_tree(value):
                raise NotAllowedError(f"{key}: {value[:200]!r} is no tuple, list or dict of tensors; {_CURE}")
        else:
            _look_at(key, value, _TEXTS.get(key, _NAME))
    return value


def _look_at(what: str, text: str, allowed: re.Pattern[str]) -> None:
    if allowed.fullmatch(text):
        return
    if allowed is _OPERATOR:
        raise NotAllowedError(f"the program calls {text[:80]!r}, which is not arithmetic of torch.ops.aten; {_CURE}")
    raise NotAllowedError(f"{what}: {text[:80]!r} is no plain name or size, and torch might run it; {_CURE}")


def _is_plain_tree(text: str) -> bool:
    """How arguments are nested, in torch's JSON; types that are no plain container would be imported by name."""
    try:
        version, tree = json.loads(text)
        return type(version) is int and _is_plain(tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _is_plain(tree: Any) -> bool:
    if tree["type"] not in _CONTAINERS or tree.keys() != {"type", "context", "children_spec"}:
        return False
    keys = None if tree["context"] is None else json.loads(tree["context"])
    named = keys is None or (isinstance(keys, list) and all(isinstance(k, str) and _NAME.fullmatch(k) for k in keys))
    return named and all(_is_plain(child) for child in tree["children_spec"])


def _inner(entry: zipfile.ZipInfo) -> str:
    """The name of an entry without the folder that all of them are in."""
    return entry.filename.partition("/")[2]


def _no_pt2(path: Path, error: BaseException) -> DamagedError:
    return DamagedError(f"{path.name} is no .pt2 file: {' '.join(str(error).split())[:100]}")
