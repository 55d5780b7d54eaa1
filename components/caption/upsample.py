"""A person's prompt said as the training captions say things: the model has only ever read those. Stdlib alone.

`build_style` looks at captions once, after training; its answer is JSON and travels with the model. `rewrite` never adds
anything that the captions could not have said, and `explain` tells what it had to choose.
"""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from components.world import vocabulary
from components.world.vocabulary import FIELDS, MOTION_PHRASES, PALETTE, Scene, Thing

logger = logging.getLogger("kinora")

GRAMMAR_SHARE = 0.9  # of the captions that must follow the world's grammar for prompts to be put into it
NEUTRAL = {"colour": "white", "motion": "still", "camera": "still"}  # taken for what a prompt does not say, where it is known
SIZES = {"large": r"large|big|huge|giant|enormous", "small": r"small|little|tiny|mini"}
LIKE = {  # what an unknown word comes nearest to, first choice first
    "circle": ("ring", "diamond", "square"),
    "ring": ("circle", "square"),
    "star": ("cross", "triangle", "diamond"),
    "cross": ("star", "square"),
    "diamond": ("square", "triangle"),
    "square": ("diamond", "circle"),
    "triangle": ("diamond", "square"),
    "up-left": ("up", "left"),
    "up-right": ("up", "right"),
    "down-left": ("down", "left"),
    "down-right": ("down", "right"),
    "bounce": ("up", "down"),
    "checkered": ("dotted", "striped"),
    "cloudy": ("speckled", "dotted"),
    "speckled": ("dotted", "cloudy"),
    "tilt-up": ("still",),
    "tilt-down": ("still",),
    "zoom-in": ("still",),
    "zoom-out": ("still",),
}
REQUEST = re.compile(
    r"^\W*(?:(?:please|kindly|hey|hi|ok|okay)\W+)*(?:(?:can|could|would|will) you\W+)?(?:please\W+)?"
    r"(?:(?:i|we)(?:'d like| would like| want| need)\W+(?:to see\W+)?"
    r"|(?:generate|make|create|produce|render|show|draw|give)\W+(?:(?:me|us)\W+)?)",
    re.IGNORECASE,
)
VIDEO_OF = re.compile(
    r"^\W*(?:(?:an?|the|some|this|short|brief|new|nice|realistic|high[- ]quality|hd|4k)\W+)*"
    r"(?:videos?|clips?|movies?|films?|footage|animations?|shots?)(?:\s+(?:of|with|showing|that shows|in which|where|about)\b|\s*:)\W*",
    re.IGNORECASE,
)
SAID = [re.compile("|".join(rf"\b(?:{said})\b" for said in words.values())) for words in vocabulary.SYNONYMS.values()]
SAID += [
    re.compile(pattern)
    for pattern in (*vocabulary.CAMERA_PATTERNS, vocabulary.IN_PASSING, *(rf"\b(?:{said})\b" for said in SIZES.values()))
]
FILLING = """
the and but for with while over under onto into from its his her this that there here some one two are was has have being which
where when then also very slowly quickly fast slow gently smoothly steadily across along toward towards away move moves moving
moved slide slides sliding drift drifts drifting glide glides gliding float floats floating fly flies flying go goes going travel
travels travelling traveling shape shaped object thing figure sign mark colour color coloured colored colours colors background
backdrop front scene frame view shot screen direction side please
"""  # says nothing by itself


def build_style(captions: Sequence[str]) -> dict[str, Any]:
    """Describes how captions are worded, as JSON.

    Returns:
        kind "world": each field's values by how often they are said, and the size that is said most, if sizes are;
        kind "plain": whether captions are lower-case and end in a full stop, and their median length in words.
    """
    captions = [caption for caption in captions if caption and caption.strip()]
    parsed = [vocabulary.parse(caption) for caption in captions]
    followed = sum(_follows_grammar(caption, fields) for caption, fields in zip(captions, parsed, strict=True))
    if captions and followed >= GRAMMAR_SHARE * len(captions):
        values = {field: Counter(value for fields in parsed if (value := fields[field])) for field in FIELDS}
        sizes = Counter(size for caption in captions if (size := _size(caption)))
        says_size = sum(sizes.values()) > len(captions) / 2
        return {
            "kind": "world",
            "values": {field: dict(_ranked(values[field])) for field in FIELDS},
            "size": _ranked(sizes)[0][0] if says_size else None,
        }
    return {
        "kind": "plain",
        "lowercase": sum(caption == caption.lower() for caption in captions) >= len(captions) / 2,
        "capital": sum(caption[:1].isupper() for caption in captions) > len(captions) / 2,
        "full_stop": sum(caption.rstrip().endswith(".") for caption in captions) > len(captions) / 2,
        "median_words": int(median(len(caption.split()) for caption in captions)) if captions else 0,
    }


def rewrite(prompt: str, style: Mapping[str, Any]) -> str:
    """Says a prompt in the captions' style; what had to be chosen or changed is logged.

    Raises:
        ValueError: the prompt says nothing.
    """
    return rewrite_all([prompt], style)[0]


def rewrite_all(prompts: Sequence[str], style: Mapping[str, Any]) -> list[str]:
    """Says prompts as `rewrite` does each, and logs what several of them have in common once."""
    told = [explain(prompt, style) for prompt in prompts]
    for note in dict.fromkeys(note for _, notes in told for note in notes):
        logger.warning("%s", note)
    return [text for text, _ in told]


def explain(prompt: str, style: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Answers the prompt in the captions' style and, a sentence each, what the prompt asked for that the captions never show.

    The same prompt is always the same text. What a prompt leaves unsaid is not remarked upon: it is filled with the neutral
    value where there is one, else with the one said most.
    """
    words = " ".join(prompt.split())
    if not re.search(r"\w", words):
        raise ValueError('the prompt is empty; hint: say what should be seen, for example "a red square moves left"')
    return _in_grammar(words, style) if style["kind"] == "world" else (_in_plain_words(words, style), [])


def _in_grammar(prompt: str, style: Mapping[str, Any]) -> tuple[str, list[str]]:
    said = vocabulary.parse(prompt)
    notes, chosen = [], {}
    for field in FIELDS:
        known: dict[str, int] = style["values"][field]
        value = said[field] or _misspelt(prompt, known)
        if value is None:
            chosen[field] = NEUTRAL[field] if NEUTRAL.get(field) in known else _first(known)
        elif value in known:
            chosen[field] = value
        else:
            chosen[field] = _nearest(field, value, known)
            notes.append(f"no training caption says the {field} `{value}`; `{chosen[field]}` is taken (known: {', '.join(sorted(known))})")
    if missed := _not_understood(prompt, style["values"]):
        notes.append(f"`{'`, `'.join(missed)}`: not in what this model was trained on, so left out")
    size = (_size(prompt) or style["size"]) if style["size"] else None
    thing = Thing(chosen["colour"], chosen["shape"], chosen["motion"], radius=0.2, size=size)
    return vocabulary.caption(Scene((thing,), chosen["background"], chosen["camera"])), notes


def _in_plain_words(prompt: str, style: Mapping[str, Any]) -> str:
    bare = VIDEO_OF.sub("", REQUEST.sub("", prompt))
    text = bare if re.search(r"\w", bare) else prompt
    text = re.sub(r"\s+([,.;:!?])", r"\1", text).rstrip(" ,;:")
    if style["lowercase"]:
        text = text.lower()
    elif style["capital"]:
        text = text[:1].upper() + text[1:]
    if style["full_stop"]:
        return text if text[-1] in ".!?" else f"{text}."
    return text.rstrip(".!") or text


def _follows_grammar(caption: str, fields: Mapping[str, str | None]) -> bool:
    if any(fields[field] is None for field in FIELDS):
        return False
    words = set(re.findall(r"[\w-]+", caption.lower()))
    return words <= grammar_words() and caption.endswith(vocabulary.CAMERA_PHRASES[str(fields["camera"])])


def grammar_words() -> frozenset[str]:
    """Answers every word that a caption of the synthetic world can hold."""
    phrases = (*MOTION_PHRASES.values(), *vocabulary.CAMERA_PHRASES.values(), "a an and over background behind bar", *SIZES)
    named = (word for field in ("shape", "background") for word in vocabulary.SYNONYMS[field])
    return frozenset(" ".join((*phrases, *PALETTE, *named)).split())


def _size(text: str) -> str | None:
    return next((size for size, said in SIZES.items() if re.search(rf"\b(?:{said})\b", text.lower())), None)


def _misspelt(prompt: str, known: Mapping[str, int]) -> str | None:
    """Finds a known value that a word of the prompt almost spells."""
    for word in re.findall(r"[a-z]{4,}", prompt.lower()):
        if word not in grammar_words() and (close := difflib.get_close_matches(word, known, n=1, cutoff=0.8)):
            return close[0]
    return None


def _not_understood(prompt: str, values: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lists the words of a prompt that no field was read from, leaving out those that say nothing by themselves."""
    rest = VIDEO_OF.sub("", REQUEST.sub("", prompt)).lower()
    for pattern in SAID[::-1]:  # whole phrases before single words
        rest = pattern.sub(" ", rest)
    words = re.findall(r"[^\W\d_]{3,}", rest)
    known = grammar_words() | set(FILLING.split())
    return [word for word in dict.fromkeys(words) if word not in known and not any(_misspelt(word, names) for names in values.values())]


def _nearest(field: str, value: str, known: Mapping[str, int]) -> str:
    if field == "colour":
        return min(sorted(known), key=lambda name: sum((a - b) ** 2 for a, b in zip(PALETTE[name], PALETTE[value], strict=True)))
    return next((name for name in LIKE.get(value, ()) if name in known), None) or _first(known)


def _first(known: Mapping[str, int]) -> str:
    return _ranked(Counter(dict(known)))[0][0]


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
