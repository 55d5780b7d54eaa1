"""The words of the synthetic world: what a scene is, how a caption says it, which triples stay unseen."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

FIELDS = ("colour", "shape", "motion", "background", "camera")

Triple = tuple[str, str, str]  # (colour, shape, motion)

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 185, 60),
    "blue": (50, 90, 240),
    "yellow": (240, 215, 45),
    "purple": (185, 60, 215),
    "white": (240, 240, 240),
    "cyan": (60, 215, 225),
    "orange": (240, 130, 30),
}

MOTION_PHRASES = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "up-left": "moves up and left",
    "up-right": "moves up and right",
    "down-left": "moves down and left",
    "down-right": "moves down and right",
    "bounce": "bounces",
    "grow": "grows",
    "spin": "spins",
    "still": "stays still",
}

CAMERA_PHRASES = {
    "still": "the camera is still",
    "pan-left": "the camera pans left",
    "pan-right": "the camera pans right",
    "tilt-up": "the camera tilts up",
    "tilt-down": "the camera tilts down",
    "zoom-in": "the camera zooms in",
    "zoom-out": "the camera zooms out",
}

DIRECTIONS: dict[str, tuple[int, int]] = {  # (x to the right, y downwards)
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
}


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Lengths are in short sides of the frame, times in seconds.

    (x, y) is where its centre stands on screen in the middle of the scene, from the frame's centre, y downwards;
    (vx, vy) is its velocity in the world; `growth` is the rate of log radius; `spin` is in radians a second.
    """

    colour: str
    shape: str
    motion: str
    radius: float
    x: float = 0.0
    y: float = 0.0
    vx: float = 0.0
    vy: float = 0.0
    angle: float = 0.0
    spin: float = 0.0
    growth: float = 0.0
    hop_height: float = 0.0
    hop_seconds: float = 1.0
    size: str | None = None

    @property
    def triple(self) -> Triple:
        return self.colour, self.shape, self.motion


@dataclass(frozen=True)
class Scene:
    """The whole truth of one scene: enough to draw it, and to say what is in it. The first thing is the main one."""

    things: tuple[Thing, ...]
    background: str
    camera: str
    camera_rate: float = 0.0  # short sides a second for pan and tilt, log scale a second for zoom
    base: tuple[float, float, float] = (52.0, 52.0, 52.0)
    contrast: float = 16.0
    wavelength: float = 0.3
    phase_x: float = 0.0
    phase_y: float = 0.0
    texture_seed: int = 0
    occluder: bool = False
    parallax: bool = False

    @property
    def fields(self) -> dict[str, str]:
        """What a caption of the scene is judged by."""
        colour, shape, motion = self.things[0].triple
        return {"colour": colour, "shape": shape, "motion": motion, "background": self.background, "camera": self.camera}


@dataclass(frozen=True)
class Preset:
    """What may appear in a world, and the ranges its numbers are drawn from (lengths in short sides, seconds)."""

    name: str
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    motions: tuple[str, ...]
    backgrounds: tuple[str, ...]
    cameras: tuple[str, ...]
    max_things: int = 1
    radius: tuple[float, float] = (13 / 64, 17 / 64)
    speed: tuple[float, float] = (2.0 * 8 / 64, 3.0 * 8 / 64)
    jitter: float = 4 / 64
    pan_rate: tuple[float, float] = (0.8 * 8 / 64, 1.0 * 8 / 64)
    zoom_rate: tuple[float, float] = (0.12, 0.2)
    base_grey: tuple[float, float] = (46.0, 58.0)
    slate: tuple[float, float, float] = (-5.0, 0.0, 7.0)  # added to grey: pure grey has no hue, and codecs make it flicker
    tint: float = 0.0
    contrast: tuple[float, float] = (26.0, 26.0)
    wavelength: tuple[float, float] = (20 / 64, 20 / 64)
    occluder_share: float = 0.0
    parallax_share: float = 0.0
    frames_per_scene: tuple[int, int] = (9, 14)
    gradual_share: float = 1 / 8  # of the boundaries between scenes: dissolves and fades to black
    unseen_share: float = 1 / 12
    says_size: bool = False


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        name="demo",
        shapes=("square", "triangle", "ring", "cross"),
        colours=("red", "green", "blue", "yellow", "purple", "white"),
        motions=("left", "right", "up", "down"),
        backgrounds=("striped", "dotted"),
        cameras=("still", "pan-left", "pan-right"),
    ),
    "rich": Preset(
        name="rich",
        shapes=("square", "triangle", "ring", "cross", "circle", "star", "diamond"),
        colours=tuple(PALETTE),
        motions=tuple(MOTION_PHRASES),
        backgrounds=("striped", "dotted", "checkered", "cloudy", "speckled"),
        cameras=tuple(CAMERA_PHRASES),
        max_things=2,
        radius=(9 / 64, 16 / 64),
        speed=(1.6 * 8 / 64, 3.0 * 8 / 64),
        jitter=8 / 64,
        pan_rate=(0.8 * 8 / 64, 1.2 * 8 / 64),
        base_grey=(44.0, 84.0),
        tint=14.0,
        contrast=(16.0, 28.0),
        wavelength=(14 / 64, 26 / 64),
        occluder_share=0.25,
        parallax_share=0.5,
        frames_per_scene=(12, 24),
        gradual_share=1 / 3,
        says_size=True,
    ),
}


def get_preset(preset: str | Preset) -> Preset:
    """Answers the preset of that name.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"`{preset}` is not a preset of the synthetic world; there are `{'`, `'.join(PRESETS)}`")
    return PRESETS[preset]


def all_triples(preset: str | Preset) -> tuple[Triple, ...]:
    """Lists every (colour, shape, motion) of a preset, always in the same order; none whose motion no eye could see."""
    preset = get_preset(preset)
    triples = itertools.product(preset.colours, preset.shapes, preset.motions)
    return tuple(t for t in triples if not (t[2] == "spin" and t[1] in ("circle", "ring", "diamond")))  # a diamond is a square


@cache
def held_out(preset: str | Preset, seed: int = 0) -> frozenset[Triple]:
    """Chooses the triples that no training film shows: at most a tenth, every value equally often (+-1), every pair still seen."""
    preset = get_preset(preset)
    values = (preset.colours, preset.shapes, preset.motions)
    triples = set(all_triples(preset))
    count = int(len(triples) * preset.unseen_share)
    rng = random.Random(f"held out {preset.name} {seed}")
    for attempt in itertools.count():
        columns = [_balanced(rng, column, count) for column in values]
        chosen = list(zip(*columns, strict=True))
        if len(set(chosen) & triples) == count and _pairs_stay_seen(chosen, values, most=1 + attempt // 500):
            return frozenset(chosen)
    raise AssertionError("unreachable")


def _balanced(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    order = rng.sample(values, len(values))
    column = [order[i % len(order)] for i in range(count)]
    rng.shuffle(column)
    return column


def _pairs_stay_seen(chosen: list[Triple], values: tuple[tuple[str, ...], ...], most: int) -> bool:
    for a, b, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        most_held = max(Counter((triple[a], triple[b]) for triple in chosen).values(), default=0)
        if most_held > min(most, len(values[other]) - 1):
            return False
    return True


def caption(scene: Scene) -> str:
    """Says a scene in the world's one grammar: "a red square moves left over a striped background, the camera pans right"."""
    said = " and ".join(f"{_noun(thing)} {MOTION_PHRASES[thing.motion]}" for thing in scene.things)
    occluder = " behind a bar" if scene.occluder else ""
    return f"{said}{occluder} over {_article(scene.background)} {scene.background} background, {CAMERA_PHRASES[scene.camera]}"


def _noun(thing: Thing) -> str:
    words = " ".join(word for word in (thing.size, thing.colour, thing.shape) if word)
    return f"{_article(words)} {words}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption_of(fields: dict[str, str]) -> str:
    """Says fields in the same grammar, for prompts that are not drawn from a scene."""
    thing = Thing(fields["colour"], fields["shape"], fields["motion"], radius=0.2)
    return caption(Scene((thing,), fields["background"], fields["camera"]))


SYNONYMS: dict[str, dict[str, str]] = {  # word -> how it may be said; plurals and endings are in the patterns
    "colour": {
        "red": "red|crimson|scarlet|ruby|vermilion|maroon",
        "green": "green|emerald|lime|olive",
        "blue": "blue|navy|azure|cobalt|indigo",
        "yellow": "yellow|golden|gold|lemon",
        "purple": "purple|violet|magenta|mauve|lilac",
        "white": "white|ivory|snowy",
        "cyan": "cyan|turquoise|teal|aqua",
        "orange": "orange|amber|tangerine",
    },
    "shape": {
        "square": r"squares?|box(?:es)?|cubes?|blocks?|tiles?",
        "triangle": r"triang\w*|pyramids?|wedges?",
        "ring": r"rings?|donuts?|doughnuts?|hoops?|torus|annulus",
        "cross": r"cross|plus",
        "circle": r"circles?|balls?|dis[ck]s?|spheres?|orbs?|round",
        "star": r"stars?",
        "diamond": r"diamonds?|rhomb\w*|lozenges?|kites?",
    },
    "motion": {
        "left": r"left(?:wards?)?",
        "right": r"right(?:wards?)?",
        "up": r"up(?:wards?)?|top|ris(?:es?|ing)|ascend\w*|climb\w*",
        "down": r"down(?:wards?)?|bottom|fall(?:s|ing)?|drop(?:s|ping)?|sink(?:s|ing)?|descend\w*",
        "bounce": r"bounc\w*|hop(?:s|ping)?",
        "grow": r"grow(?:s|ing)?|expand\w*|swell\w*|enlarg\w*|bigger",
        "spin": r"spin(?:s|ning)?|rotat\w*|twirl\w*|turn(?:s|ing)?",
        "still": r"still|static|stationary|motionless|unmoving|frozen|rest(?:s|ing)|(?:not|\w+n't) move",
    },
    "background": {
        "striped": r"strip(?:e|es|ed|y)|lined",
        "dotted": r"dots?|dotted|polka\w*|spot(?:s|ted|ty)",
        "checkered": r"check\w*|chequer\w*",
        "cloudy": r"cloud\w*|mist\w*",
        "speckled": r"speckl\w*|grain\w*|gravel\w*|nois[ey]\w*",
    },
}

STILL_CAMERA = r"(?:static|still|fixed|steady|locked(?:-off)?|stationary|motionless|unmoving)"
MOVING_CAMERA = r"(?P<verb>pan|tilt|zoom|move|slide|track|dolly|dollie)(?:s|n?ing|m?ing|p?ing|n?ed|m?ed|d)?"
CAMERA_PATTERNS = (
    rf"\b(?:camera|shot|view)\W+(?:\w+\W+){{0,3}}?{MOVING_CAMERA}\W+(?:(?:to|towards?|the)\W+)*(?P<way>left|right|up|down|in|out)(?:wards?)?\b",
    r"\b(?P<verb>pan|tilt|zoom)(?:s|n?ing|m?ing|n?ed|m?ed)?\W+(?:(?:to|towards?|the)\W+)*(?P<way>left|right|up|down|in|out)(?:wards?)?\b",
    r"\b(?P<way>left|right|up|down)(?:wards?)?\W+(?P<verb>pan|tilt)\b",
    rf"\b(?P<still>{STILL_CAMERA})\W+(?:camera|shot|view|frame)\b",
    rf"\b(?:camera|shot|view)\W+(?:\w+\W+){{0,3}}?(?P<still>{STILL_CAMERA}|(?:not|\w+n't|never) move)\b",
)
SIDE = "(?:left|right|top|bottom)"
IN_PASSING = rf"from (?:the )?{SIDE}\b|\b{SIDE}(?:most)? (?:side|corner|half|edge|part)\b|close[ -]up|right (?:now|away)"


def parse(text: str) -> dict[str, str | None]:
    """Reads colour, shape, motion, background and camera out of a caption or of a person's own words; None where it does not say.

    Where a text speaks of two objects, the first is meant.
    """
    text = " ".join(text.lower().split())
    camera, text = _take_camera(text)
    shapes = _mentions("shape", text)
    first, second = (shapes + [(None, len(text))] * 2)[:2]
    motion = _motion(text[: second[1]]) or _motion(text)
    background = next((word for word, _ in _mentions("background", text)), None)
    return {"colour": _colour(text, first[1]), "shape": first[0], "motion": motion, "background": background, "camera": camera}


def _take_camera(text: str) -> tuple[str | None, str]:
    """Answers what the camera does, and the text without the words that say so."""
    for pattern in CAMERA_PATTERNS:
        if found := re.search(pattern, text):
            said = found.groupdict()
            rest = text[: found.start()] + " , " + text[found.end() :]
            if said.get("still"):
                return "still", rest
            kind = "zoom" if said["way"] in ("in", "out") else "pan" if said["way"] in ("left", "right") else "tilt"
            return f"{kind}-{said['way']}", rest
    return None, text


@cache
def _pattern(field: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?P<{word}>{said})\b" for word, said in SYNONYMS[field].items()))


def _mentions(field: str, text: str) -> list[tuple[str, int]]:
    return [(found.lastgroup or "", found.start()) for found in _pattern(field).finditer(text)]


def _colour(text: str, shape_at: int) -> str | None:
    """The colour said right before the shape, else the first that is not the background's."""
    background = r"\b\w+(?=(?: \w+)? (?:background|backdrop))|\b\w+(?= (?:strip|dot|check|spot))"
    text = re.sub(background, lambda found: "-" * len(found[0]), text)
    colours = _mentions("colour", text)
    before = [word for word, at in colours if at < shape_at]
    return before[-1] if before else next((word for word, _ in colours), None)


def _motion(text: str) -> str | None:
    """The first motion said; two directions across each other make a diagonal."""
    said = [word for word, _ in _mentions("motion", re.sub(IN_PASSING, " ", text))]
    across = next((word for word in said if word in ("left", "right")), None)
    along = next((word for word in said if word in ("up", "down")), None)
    if said and said[0] not in DIRECTIONS:
        return said[0]
    return f"{along}-{across}" if along and across else along or across
