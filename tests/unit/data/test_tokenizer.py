import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from avion_core.data import gpt2_tokens
from avion_core.data.tokenizer import check_tokenizer, decode, longest, tokenize

START, END = 49406, 49407


def test_known_numbers():
    """`a photo of a cat`, as CLIP's published vocabulary has it."""
    tokens = tokenize(["a photo of a cat"], 10)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[START, 320, 1125, 539, 320, 2368, END, 0, 0, 0]]


def test_end_of_text_is_the_largest_number_and_survives_a_cut():
    tokens = tokenize(["take cup", "the person washes the big red pot in the sink " * 3], 8)
    assert tokens.shape == (2, 8)
    assert tokens.argmax(dim=1).tolist() == [3, 7] and (tokens.max(dim=1).values == END).all()
    assert tokens[0, 4:].tolist() == [0] * 4


def test_case_and_spaces_do_not_matter():
    assert torch.equal(tokenize(["Take  the CUP"], 77), tokenize(["take the cup"], 77))


def test_the_longest_text_counts_with_its_start_and_end():
    assert longest(tokenize(["take cup", "take the red cup"], 77)) == 6
    assert longest(tokenize(["take the red cup"], 4)) == 4
    assert longest(torch.zeros(2, 5, dtype=torch.long)) == 1


def test_tokens_are_text_again():
    tokens = tokenize(["take the red cup!"], 77)[0]
    assert (
        decode([token for token in tokens.tolist() if token not in (0, START, END)]) == "take the red cup !"
    )


@pytest.fixture
def letters(monkeypatch):
    """A package `tiktoken` whose vocabulary is letters, with 99 as its end of text."""
    encoding = SimpleNamespace(
        eot_token=99,
        encode_ordinary=lambda text: [ord(letter) - ord("a") + 1 for letter in text],
        decode=lambda tokens: "".join(chr(token + ord("a") - 1) for token in tokens),
    )
    package = ModuleType("tiktoken")
    package.get_encoding = {"gpt2": encoding}.__getitem__
    package.__spec__ = ModuleSpec("tiktoken", None)
    monkeypatch.setitem(sys.modules, "tiktoken", package)
    gpt2_tokens._gpt2_encoding.cache_clear()
    yield
    gpt2_tokens._gpt2_encoding.cache_clear()


def test_gpt2_has_its_end_of_text_on_both_sides(letters):
    assert tokenize(["abc", "abcdefgh"], 6, tokenizer="gpt2").tolist() == [
        [99, 1, 2, 3, 99, 0],
        [99, 1, 2, 3, 4, 99],
    ]
    assert decode([1, 2, 3], tokenizer="gpt2") == "abc"


def test_gpt2_without_its_package_is_one_error(monkeypatch):
    gpt2_tokens._gpt2_encoding.cache_clear()
    monkeypatch.setattr(gpt2_tokens.importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: check_tokenizer("gpt2", vocabulary=50257),
        lambda: tokenize(["a"], 5, tokenizer="gpt2"),
    ):
        with pytest.raises(ValueError, match="needs the package tiktoken; install it: pip install tiktoken"):
            call()
    check_tokenizer("clip", vocabulary=49408, writes=True)


def test_a_tokenizer_that_cannot_write_is_refused_for_a_narrator():
    with pytest.raises(ValueError, match="'bert' cannot turn tokens into text; a narrator needs: clip, gpt2"):
        check_tokenizer("bert", vocabulary=30522, writes=True)


def test_gpt2_without_its_vocabulary_is_one_error(letters, monkeypatch):
    def away(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(sys.modules["tiktoken"], "get_encoding", away)
    with pytest.raises(ValueError, match=r"TIKTOKEN_CACHE_DIR to the folder it is in \(no route"):
        tokenize(["a"], 5, tokenizer="gpt2")
