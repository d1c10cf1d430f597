"""BERT's tokenizer, on words and a vocabulary small enough to do by hand."""

import pytest

from avion_core.data import wordpiece
from avion_core.data.tokenizer import check_tokenizer, tokenize
from avion_core.data.wordpiece import words

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "#", "c", "wash", "##es", "##e", "##s", "the", "cup", "cafe"]


@pytest.fixture(autouse=True)
def vocabulary(tmp_path, monkeypatch):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    monkeypatch.setattr(wordpiece, "VOCABULARY", path)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#C C washes the cup.", ["#", "c", "c", "washes", "the", "cup", "."]),
        ("Caf\u00e9\u00a0au\u200blait", ["cafe", "aulait"]),
        ("don't  stop-it", ["don", "'", "t", "stop", "-", "it"]),
        ("a\u676f\u5b50b", ["a", "\u676f", "\u5b50", "b"]),
        ("", []),
    ],
)
def test_words_are_lower_case_without_accents_and_marks_stand_alone(text, found):
    assert words(text) == found


def test_words_are_cut_into_their_longest_pieces():
    """`washes` is wash + ##es, not wash + ##e + ##s; a word with a rest outside the vocabulary is unknown."""
    tokens = tokenize(["#C washes the cup", "cups washing", "CUP"], 9, tokenizer="bert")
    assert tokens.tolist() == [
        [2, 4, 5, 6, 7, 10, 11, 3, 0],
        [2, 11, 9, 1, 3, 0, 0, 0, 0],
        [2, 11, 3, 0, 0, 0, 0, 0, 0],
    ]


def test_a_text_that_is_too_long_keeps_its_end_token():
    assert tokenize(["the cup the cup the cup"], 5, tokenizer="bert").tolist() == [[2, 10, 11, 10, 3]]


def test_a_missing_vocabulary_is_one_error_that_says_where_to_put_it(vocabulary):
    vocabulary.unlink()
    with pytest.raises(ValueError, match=r"put the file vocab\.txt of that model at .*/vocab\.txt"):
        tokenize(["cup"], 5, tokenizer="bert")


def test_another_file_is_refused(vocabulary):
    vocabulary.write_text("<s>\n</s>\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a vocabulary of BERT's"):
        tokenize(["cup"], 5, tokenizer="bert")


@pytest.mark.parametrize("content", ["caf\xe9".encode("latin-1"), b"[PAD]\n\xff\n"])
def test_a_file_that_is_no_text_is_refused_by_name(vocabulary, content):
    vocabulary.write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab\.txt: cannot be read as text"):
        tokenize(["cup"], 5, tokenizer="bert")


def test_only_line_breaks_separate_tokens(vocabulary):
    vocabulary.write_bytes("\r\n".join(["[PAD]", "\u2028", *TOKENS[1:]]).encode())
    assert tokenize(["cup"], 4, tokenizer="bert").tolist() == [[3, 12, 4, 0]]


def test_a_vocabulary_of_another_size_is_another_model_s():
    check_tokenizer("bert", vocabulary=len(TOKENS))
    with pytest.raises(ValueError, match=r"has 13 tokens, the model 30522: it is another model's"):
        check_tokenizer("bert", vocabulary=30522)
