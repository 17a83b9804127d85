"""An answer token by token: whole characters, nothing of a stop text, and chances as they were asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.text import Sampling
from eco_ray.models.runtimes.answer import Choice, Text

LETTERS = st.sampled_from("ab né猫😀")


def decode(tokens):
    """Tokens are bytes."""
    return bytes(tokens).decode(errors="replace")


def play(answer: bytes, stop=(), prompt=b"Say: "):
    """What is given with each token, up to a stop text; and all at once at the end."""
    text, pieces = Text(decode, list(prompt), stop), []
    for token in answer:
        pieces.append(text.add(token))
        if text.stopped:
            break
    return pieces, text.rest(), text.stopped


@given(answer=st.text(LETTERS, max_size=20), stop=st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_all_up_to_the_first_stop_text_is_given_and_nothing_is_taken_back(answer, stop):
    pieces, rest, stopped = play(answer.encode(), stop)
    places = [answer.find(one) for one in stop if one in answer]
    # the stop text that is whole first ends the answer; one that began earlier may be whole later
    ends = [answer.find(one) + len(one) for one in stop if one in answer]
    first = min((place for place, end in zip(places, ends, strict=True) if end == min(ends)), default=len(answer))
    assert "".join(pieces) + rest == answer[:first]
    assert stopped == bool(places)


def test_what_is_sure_is_given_at_once():
    assert play(b"abc")[0] == ["a", "b", "c"]
    assert play(b"a<en", ["<end>"]) == (["a", "", "", ""], "<en", False)
    assert play(b"a<enough", ["<end>"])[0] == ["a", "", "", "", "<eno", "u", "g", "h"]
    assert play(b"a<end>b", ["<end>"]) == (["a", "", "", "", "", ""], "", True)
    assert play(b"a<end>", ["end>", "<end>"]) == (["a", "", "", "", "", ""], "", True)
    assert play(b"abc", ["", "c"]) == (["a", "b", ""], "", True)


def test_half_a_character_waits_and_is_left_out_at_the_end():
    assert play("é!".encode())[0] == ["", "é", "!"]
    assert play("é😀".encode()[:4]) == (["", "é", "", ""], "", False)
    assert play(b"\xff!")[0] == ["", "\N{REPLACEMENT CHARACTER}!"]


def test_the_prompt_decides_what_a_token_means():
    def words(tokens):  # as of SentencePiece: no space before the first
        return "".join(" " + "abc"[token] for token in tokens)[1:]

    text = Text(words, [0], ())
    assert [text.add(1), text.add(2)] == [" b", " c"]


def counts(sampling, scores, times=400):
    choice = Choice(sampling)
    found = [choice.of(torch.tensor(scores)) for _ in range(times)]
    return [found.count(token) / times for token in range(len(scores))]


def test_temperature_and_top_p():
    scores = [0.0, 2.0, 1.0]
    assert Choice(Sampling(1, temperature=0)).of(torch.tensor(scores)) == 1
    assert counts(Sampling(1, seed=1), scores) == pytest.approx(
        torch.softmax(torch.tensor(scores), 0).tolist(), abs=0.1
    )
    kept = counts(Sampling(1, seed=1, top_p=0.7), scores)  # 0.67 + 0.24
    assert kept[0] == 0 < 0.1 < kept[2]
    assert counts(Sampling(1, seed=1, top_p=0.5), scores)[1] == 1
    assert counts(Sampling(1, seed=1, temperature=1e-307), [0.0, 200.0, 100.0])[1] == 1
    assert counts(Sampling(1, seed=1, temperature=50), scores) == pytest.approx([1 / 3] * 3, abs=0.1)


@pytest.mark.parametrize("seed", [0, -1, 2**64 + 3])
def test_a_seed_gives_the_same_choices(seed):
    def drawn(seed):
        choice = Choice(Sampling(1, seed=seed))
        return [choice.of(torch.zeros(1000)) for _ in range(8)]

    assert drawn(seed) == drawn(seed)
    assert drawn(None) != drawn(None)
