import itertools

import pytest

from components.openclip.tokenizer import cut, fit_vocabulary, load_tokenizer, longest, tidy
from components.world import vocabulary
from components.world.vocabulary import caption_of


def all_captions(preset: str) -> list[str]:
    world = vocabulary.get_preset(preset)
    fields = itertools.product(world.colours, world.shapes, world.motions, world.backgrounds, world.cameras)
    return [caption_of(dict(zip(vocabulary.FIELDS, values, strict=True))) for values in fields]


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_world_captions_survive_the_trimmed_vocabulary(preset):
    captions = all_captions(preset)
    tokenizer = load_tokenizer(fit_vocabulary(captions, 1024), 32)
    assert tokenizer.vocab_size == 1024
    for caption in captions[::7]:
        row = tokenizer([caption])[0].tolist()
        assert row[0] == tokenizer.sot_token_id
        words = row[1 : row.index(tokenizer.eot_token_id)]
        assert tidy(tokenizer.decode(words)) == caption


def test_captions_keep_the_tokens_of_the_whole_vocabulary():
    captions = [*all_captions("demo"), "hands shuffling three red cups (shell game)"]
    whole, trimmed = load_tokenizer(None, 77), load_tokenizer(fit_vocabulary(captions, 1024), 77)
    for caption in captions[::11] + captions[-1:]:
        assert [trimmed.decoder[token] for token in trimmed.encode(caption)] == [whole.decoder[token] for token in whole.encode(caption)]


def test_words_the_captions_never_said_are_spelt_in_pieces():
    tokenizer = load_tokenizer(fit_vocabulary(all_captions("demo"), 1024), 77)
    tokens = tokenizer.encode("un caf\u00e9 \U0001f600 zyzzyva")
    assert tidy(tokenizer.decode(tokens)) == "un caf\u00e9 \U0001f600 zyzzyva"


def test_the_same_captions_make_the_same_file():
    captions = all_captions("demo")
    assert fit_vocabulary(captions, 768) == fit_vocabulary(captions[::-1], 768)


def test_a_vocabulary_that_is_too_small_for_all_words_keeps_the_frequent_ones():
    captions = ["a red square"] * 5 + ["hippopotamus"]
    tokenizer = load_tokenizer(fit_vocabulary(captions, 524), 77)
    assert longest(tokenizer, captions[:1]) == 5
    with pytest.raises(ValueError, match="at least 514"):
        fit_vocabulary(captions, 100)


def test_blanks_around_marks_go_away():
    assert tidy("a red square , the camera ( still ) pans - slowly . ") == "a red square, the camera (still) pans-slowly."


def test_a_text_is_cut_where_the_context_ends():
    tokenizer = load_tokenizer(None, 8)
    assert cut(tokenizer, "A red  square, moves left") == ("A red  square, moves left", "")
    heard, left_out = cut(tokenizer, "a red square, moves left and up over sand")
    assert (heard, left_out) == ("a red square, moves left", "and up over sand")
    assert tokenizer([heard]).tolist() == tokenizer(["a red square, moves left and up over sand"]).tolist()


@pytest.mark.parametrize("context", range(4, 16))
def test_no_text_is_cut_within_a_character(context: int):
    text = "\u732b\u304c \U0001f408 caf\u00e9 \u8d70\u308b"
    heard, left_out = cut(load_tokenizer(fit_vocabulary(["a red square"], 524), context), text)
    assert f"{heard}{left_out}".replace(" ", "") == text.replace(" ", "")
