import torch

from avion_core.data.tokenizer import longest, tokenize

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
