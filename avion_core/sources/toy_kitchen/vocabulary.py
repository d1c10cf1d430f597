"""The words of the toy kitchen: verbs, nouns and colours, their class numbers, and what goes with what."""

from __future__ import annotations

VERBS: dict[str, tuple[str, ...]] = {
    "take": ("take", "pick-up", "grab"),
    "put": ("put", "put-down", "place"),
    "open": ("open", "uncover"),
    "close": ("close", "cover"),
    "wash": ("wash", "rinse"),
    "cut": ("cut", "slice", "chop"),
    "pour": ("pour", "pour-into"),
    "stir": ("stir", "mix"),
    "shake": ("shake", "jiggle"),
    "move": ("move", "push", "slide"),
}
"""Verb classes in the order of their numbers, each with the words that mean it."""

VERB_CATEGORIES = dict(
    zip(
        VERBS,
        (
            "retrieve",
            "leave",
            "access",
            "block",
            "clean",
            "split",
            "transition",
            "merge",
            "manipulate",
            "transition",
        ),
        strict=True,
    )
)
"""Category column of the verb classes."""

NOUNS: dict[str, tuple[str, ...]] = {
    "mug": ("mug", "cup"),
    "bowl": ("bowl", "dish"),
    "plate": ("plate", "saucer"),
    "pan": ("pan", "skillet"),
    "pot": ("pot", "saucepan"),
    "bottle": ("bottle", "flask"),
    "jar": ("jar", "canister"),
    "box": ("box", "carton"),
    "carrot": ("carrot",),
    "tomato": ("tomato",),
    "bread": ("bread", "loaf"),
    "cheese": ("cheese",),
    "water": ("water",),
    "milk": ("milk",),
    "knife": ("knife", "blade"),
    "spoon": ("spoon", "ladle"),
    "lid": ("lid", "top"),
    "counter": ("counter", "worktop"),
}
"""Noun classes in the order of their numbers, each with the words that mean it."""

NOUN_CATEGORIES = dict(
    zip(
        NOUNS,
        (
            "crockery",
            "crockery",
            "crockery",
            "cookware",
            "cookware",
            "containers",
            "containers",
            "containers",
            "vegetables",
            "vegetables",
            "baked_goods",
            "dairy",
            "drinks",
            "dairy",
            "cutlery",
            "cutlery",
            "cookware",
            "furniture",
        ),
        strict=True,
    )
)
"""Category column of the noun classes."""

OBJECTS = tuple(NOUNS)[:12]
"""Nouns that stand on the counter and are acted on."""

LIQUIDS = ("water", "milk")
"""What is poured."""

GOES_WITH: dict[str, tuple[str, ...]] = {
    "take": OBJECTS,
    "put": OBJECTS,
    "move": OBJECTS,
    "open": ("pan", "pot", "bottle", "jar", "box"),
    "close": ("pan", "pot", "bottle", "jar", "box"),
    "wash": ("mug", "bowl", "plate", "pan", "carrot", "tomato"),
    "cut": ("carrot", "tomato", "bread", "cheese"),
    "pour": ("mug", "bowl", "pan", "pot"),
    "stir": ("mug", "bowl", "pan", "pot"),
    "shake": ("bottle", "jar", "box", "pan", "mug"),
}
"""Objects that a verb is done to. No verb has one object only, and no object one verb only."""

LIDDED = frozenset(("pan", "pot", "bottle", "jar", "box"))
"""Objects that open."""

COLOURS: dict[str, tuple[str, ...]] = {
    "mug": ("red", "blue", "white"),
    "bowl": ("green", "yellow", "white"),
    "plate": ("white", "blue", "yellow"),
    "pan": ("red", "purple", "green"),
    "pot": ("blue", "red", "orange"),
    "bottle": ("green", "purple", "brown"),
    "jar": ("purple", "orange", "red"),
    "box": ("blue", "green", "brown"),
    "carrot": ("orange", "purple"),
    "tomato": ("red", "green", "yellow"),
    "bread": ("brown", "white"),
    "cheese": ("yellow", "white"),
}
"""Colours that an object comes in."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 42),
    "green": (52, 160, 70),
    "blue": (42, 92, 205),
    "yellow": (242, 204, 48),
    "purple": (140, 62, 168),
    "white": (240, 238, 228),
    "orange": (240, 130, 30),
    "brown": (176, 112, 56),
}
"""Paint of each colour word."""


def verb_class(verb: str) -> int:
    """Number of a verb class."""
    return list(VERBS).index(verb)


def noun_class(noun: str) -> int:
    """Number of a noun class."""
    return list(NOUNS).index(noun)
