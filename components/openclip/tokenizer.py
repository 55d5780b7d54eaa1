"""OpenCLIP's byte pair tokenizer with a vocabulary cut down to what the captions need: most of a tiny model is else vocabulary."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from components.openclip.parts import part

BYTES_AND_MARKS = 514  # 256 bytes, 256 bytes that end a word, start and end of text
VOCABULARY = "vocabulary.txt.gz"


def fit_vocabulary(captions: Iterable[str], vocab_size: int) -> bytes:
    """Chooses merges of OpenCLIP's vocabulary: those that spell the captions' words, most frequent first, then its first ones.

    A word keeps the very tokens that the whole vocabulary gives it, since merges apply in the order of the vocabulary.

    Args:
        vocab_size: tokens in all, at least 514.

    Returns:
        a vocabulary file in the format of OpenCLIP's own, for its SimpleTokenizer; the same captions are the same bytes.
    """
    if vocab_size < BYTES_AND_MARKS:
        raise ValueError(f"a vocabulary has at least {BYTES_AND_MARKS} tokens, not {vocab_size}")
    module = part("tokenizer")
    whole = module.SimpleTokenizer()
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(whole.pat.findall(whole.clean_fn(caption)))
    kept: set[int] = set()
    room = vocab_size - BYTES_AND_MARKS
    for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        needed = _merges_of(word, whole) - kept
        if len(kept) + len(needed) <= room:
            kept |= needed
    for rank in range(len(whole.bpe_ranks)):
        if len(kept) >= room:
            break
        kept.add(rank)
    lines = gzip.decompress(Path(module.default_bpe()).read_bytes()).decode("utf-8").split("\n")
    chosen = [lines[0], *(lines[1 + rank] for rank in sorted(kept))]
    return gzip.compress("\n".join(chosen).encode("utf-8"), mtime=0)


def load_tokenizer(vocabulary: bytes | None, context_length: int) -> Any:
    """Answers OpenCLIP's SimpleTokenizer over a vocabulary file's bytes, or over its own whole vocabulary."""
    module = part("tokenizer")
    source = module.default_bpe() if vocabulary is None else BytesIO(vocabulary)
    return module.SimpleTokenizer(source, context_length=context_length)


def longest(tokenizer: Any, texts: Iterable[str]) -> int:
    """Answers how many tokens the longest of the texts has, both marks counted."""
    return max((len(tokenizer.encode(text)) + 2 for text in set(texts)), default=2)


def cut(tokenizer: Any, text: str) -> tuple[str, str]:
    """Answers what of a text fits the tokenizer's context and what it leaves out, both as it reads them; else the text as it is.

    A character that the context's end cuts in two is left out as a whole.
    """
    room, tokens = tokenizer.context_length - 2, tokenizer.encode(text)
    if len(tokens) <= room:
        return text, ""
    while room and _goes_on(tokenizer, tokens[room]):
        room -= 1
    return tidy(tokenizer.decode(tokens[:room])), tidy(tokenizer.decode(tokens[room:]))


def tidy(text: str) -> str:
    """Takes away the blanks that the tokenizer puts around marks: `a - b , c .` was `a-b, c.`."""
    text = re.sub(r"\s+([,.;:!?)\]%'])", r"\1", " ".join(text.split()))
    text = re.sub(r"([(\[])\s+", r"\1", text)
    return re.sub(r"(?<=\w) - (?=\w)", "-", text)


def _goes_on(tokenizer: Any, token: int) -> bool:
    """Answers whether a token begins within a character: with a byte that UTF-8 has for all but the first of several."""
    return bool(tokenizer.byte_decoder[tokenizer.decoder[token][0]] & 0xC0 == 0x80)


def _merges_of(word: str, whole: Any) -> set[int]:
    """Spells a word as the tokenizer does and answers the ranks of the merges it took."""
    letters = "".join(whole.byte_encoder[byte] for byte in word.encode("utf-8"))
    spelt = [*letters[:-1], letters[-1] + "</w>"]
    ranks: set[int] = set()
    while len(spelt) > 1:
        rank, at = min((whole.bpe_ranks.get(pair, len(whole.bpe_ranks)), at) for at, pair in enumerate(pairwise(spelt)))
        if rank == len(whole.bpe_ranks):
            break
        ranks.add(rank)
        spelt[at : at + 2] = [spelt[at] + spelt[at + 1]]
    return ranks
