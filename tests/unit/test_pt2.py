"""A .pt2 file is loaded without anything of it being run before its graph is, and the graph calls arithmetic only."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from compress_cases import armed, rewritten

from eco_ray.errors import DamagedError, NotAllowedError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.export import export_model
from eco_ray.models.pt2 import load_program
from eco_ray.models.quantize import SCHEMES, quantize_model

EXAMPLE = torch.rand(2, 1, 28, 28)


@pytest.fixture
def pt2(tmp_path):
    torch.manual_seed(0)
    export_model(SmallCNN(), EXAMPLE, tmp_path / "m.pt2")
    return tmp_path / "m.pt2"


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_what_we_export_answers_as_it_did(scheme, tmp_path):
    model = SmallCNN().eval()
    model = quantize_model(model, scheme) if scheme else model
    export_model(model, EXAMPLE, tmp_path / "m.pt2")
    pixels = torch.rand(5, 1, 28, 28)
    assert torch.allclose(load_program(tmp_path / "m.pt2").module()(pixels), model(pixels), atol=1e-6)


class Halves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 3.0))

    def forward(self, x, more):
        halves = torch.nn.functional.avg_pool1d(x, 2)
        return torch.einsum("bl->b", halves) * self.scale + torch.nn.functional.gelu(more["a"], approximate="tanh")


def test_other_programs_with_shapes_that_are_worked_out(tmp_path):
    length = torch.export.Dim("length", min=4, max=64)
    args = (torch.rand(3, 8), {"a": torch.rand(3)})
    program = torch.export.export(Halves(), args, dynamic_shapes=({1: length}, {"a": None}))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "m.pt2")
    x = torch.rand(3, 11)
    assert torch.allclose(load_program(tmp_path / "m.pt2").module()(x, args[1]), Halves()(x, args[1]))


def node(graph):
    return graph["graph_module"]["graph"]["nodes"][0]


def operator(target):
    return lambda graph: node(graph).update(target=target)


def expression(text):
    def change(graph):
        sizes = graph["graph_module"]["graph"]["tensor_values"]["pixels"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text

    return change


def renamed(graph):
    evil = "x, y=__import__('os').abort()"
    changed = json.dumps(graph).replace('"pixels"', json.dumps(evil))
    graph.clear()
    graph.update(json.loads(changed))


def tree(kind, context):
    def change(graph):
        spec = [1, {"type": kind, "context": context, "children_spec": []}]
        graph["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (operator("torch.os.system"), "'torch.os.system', which is not arithmetic"),
        (operator("torch.load"), "is not arithmetic"),
        (operator("torch.ops.aten.from_file.default"), "is not arithmetic"),
        (operator("torch.ops.aten.save.default"), "is not arithmetic"),
        (operator("torch.ops.aten._sparse_coo_tensor_unsafe.default"), "is not arithmetic"),
        (operator("torch.ops.profiler._record_function_enter.default"), "is not arithmetic"),
        (operator("torch.ops.aten.__class__.__init__"), "is not arithmetic"),
        (operator("torch.ops.aten.add.__class__"), "is not arithmetic"),
        (operator("_operator.attrgetter"), "is not arithmetic"),
        (operator("math.sqrt\nimport os"), "is not arithmetic"),
        (expression("__import__('os').system('true')"), "expr_str: .*__import__"),
        (expression("Symbol('s0', integer=True).func"), "expr_str"),
        (expression("Pow(Integer(9), Integer(999999999))"), "expr_str"),
        (expression("Integer(1)" + "0" * 2000), "expr_str"),
        (renamed, "name: "),
        (tree("collections.defaultdict", '{"default_factory_module": "os"}'), "out_spec"),
        (tree("builtins.dict", '{"__enum__": true, "fqn": "os:path"}'), "out_spec"),
        (tree("builtins.dict", "nothing"), "out_spec"),
        (tree(["builtins.dict"], 3), "out_spec"),
        (lambda graph: graph["graph_module"].update(surprise={"a": "b c"}), "surprise|a: 'b c'"),
    ],
)
def test_a_graph_that_could_do_more_than_arithmetic_is_refused(change, error, pt2):
    with pytest.raises(NotAllowedError, match=error):
        load_program(rewritten(pt2, graph=change))


def test_pickles_in_the_file_are_never_read(pt2, tmp_path):
    trap = armed(tmp_path / "ran")
    path = rewritten(pt2, contents={"data/sample_inputs/model.pt": pickle.dumps(trap), "data/constants/x.pt": b"x"})
    assert load_program(path).module()(EXAMPLE).shape == (2, 10)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["weights", "constants"])
def test_pickled_weights_are_refused(part, pt2, tmp_path):
    name = f"data/{part}/model_{part}_config.json"

    def pickled(path_name, use_pickle):
        return {name: json.dumps({"config": {"w": {"path_name": path_name, "use_pickle": use_pickle}}}).encode()}

    with pytest.raises(NotAllowedError, match="use_pickle: True"):
        load_program(rewritten(pt2, contents=pickled("weight_0", True)))
    for path_name in ("custom_obj_0", "opaque_obj_0", "../weight_0"):
        with pytest.raises(NotAllowedError, match="path_name"):
            load_program(rewritten(pt2, contents=pickled(path_name, False)))


def test_guards_and_notes_of_the_file_are_left_out(pt2):
    def change(graph):
        graph["guards_code"] = ["__import__('os').abort()"]
        node(graph)["metadata"]["stack_trace"] = "\nimport os; os.abort()\n"

    assert load_program(rewritten(pt2, graph=change)).module()(EXAMPLE).shape == (2, 10)


def test_damage_is_told(pt2, tmp_path):
    with pytest.raises(DamagedError, match=r"no .pt2 file"):
        load_program(tmp_path / "none.pt2")
    with pytest.raises(DamagedError, match="2 programs"):
        load_program(rewritten(pt2, contents={"models/more.json": b"{}"}))
    with pytest.raises(DamagedError, match="torch cannot load"):
        load_program(rewritten(pt2, graph=lambda graph: graph.update(schema_version={"major": 99, "minor": 0})))
    with pytest.raises(DamagedError, match="torch cannot load"):
        load_program(rewritten(pt2, contents={"data/weights/weight_0": b"x"}))
    with zipfile.ZipFile(tmp_path / "c.pt2", "w", zipfile.ZIP_DEFLATED) as new, zipfile.ZipFile(pt2) as old:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DamagedError, match="is compressed"):
        load_program(tmp_path / "c.pt2")


def texts(value, key=""):
    """(where, kind) of every text in a document: the path to it, and the key that it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (name, None), f"{key} key"
            for path, kind in texts(inner, name):
                yield (name, *path), kind
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            for path, kind in texts(inner, key):
                yield (number, *path), kind
    elif isinstance(value, str):
        yield (), key


def test_no_text_anywhere_can_be_code(pt2):
    with zipfile.ZipFile(pt2) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("models/model.json"))
        document = json.loads(archive.read(name))
    places = {kind: path for path, kind in texts(document) if not {"metadata", "guards_code"} & set(path[:-1])}
    assert len(places) > 30
    evil = "x=__import__('os').abort()"
    for kind, path in places.items():

        def change(graph, path=path):
            *above, last = path[:-1] if path[-1] is None else path
            for step in above:
                graph = graph[step]
            if path[-1] is None:
                graph[evil] = graph.pop(last)
            else:
                graph[last] = evil

        tampered = rewritten(pt2, graph=change)
        try:
            load_program(tampered)
        except NotAllowedError:
            continue
        pytest.fail(f"{kind} at {path}")
