"""English nouns in captions: article, plural, and the word that names the thing."""

from __future__ import annotations

import re

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")

_AFTER = re.compile(r" (?:of|with|without|in|on|for) ")
_ARTICLE = re.compile(r"^(?:a|an|the|some|another|one)\s+", re.IGNORECASE)
_VOWEL = re.compile(r"(?!uni(?!m|nt|d)|us[aeu]|eu|ut[ei]|one\b|once|ufo)[aeiou]|hono|hour|heir|x-ray", re.IGNORECASE)
_SINGULAR = re.compile(r"(ss|us|is|as)$|^(lens|cosmos|chaos|mars)$", re.IGNORECASE)
_MANY = frozenset(["people", "mice", "geese", "men", "women", "children", "teeth", "feet", "leaves"])
_NO_PLURAL = frozenset(
    [
        *("bacon", "bread", "butter", "cheese", "clothing", "corn", "fog", "fruit", "garlic"),
        *("ginger", "grass", "hair", "hay", "honey", "ice", "jewelry", "lettuce", "luggage"),
        *("milk", "money", "music", "parsley", "pasta", "rice", "seaweed", "silverware"),
        *("snow", "spaghetti", "thyme", "toast", "water", "weather", "wheat", "wind", "wood"),
    ]
)
_IRREGULAR = {  # also of compounds: mailman, reindeer
    **{"human": "humans", "talisman": "talismans", "ottoman": "ottomans", "caiman": "caimans", "mongoose": "mongooses"},
    **{
        "man": "men",
        "woman": "women",
        "child": "children",
        "person": "people",
        "mouse": "mice",
        "goose": "geese",
        "tooth": "teeth",
    },
    **{"foot": "feet", "ox": "oxen", "die": "dice", "leaf": "leaves", "loaf": "loaves", "knife": "knives", "wolf": "wolves"},
    **{"calf": "calves", "half": "halves", "scarf": "scarves", "shelf": "shelves", "elf": "elves", "potato": "potatoes"},
    **{"tomato": "tomatoes", "mango": "mangoes", "mosquito": "mosquitoes", "cactus": "cacti", "fish": "fish", "sheep": "sheep"},
    **{"deer": "deer", "shrimp": "shrimp", "squid": "squid", "bison": "bison", "aircraft": "aircraft", "spacecraft": "spacecraft"},
}


def label_of(caption: str) -> str:
    """A caption as the name of a thing: `An Apple.` is an `apple`."""
    return _ARTICLE.sub("", " ".join(caption.replace("/", " ").split()).rstrip(" .!").lower())


def head_of(label: str) -> str:
    """The word that says what it is: of `polar bear` bear, of `slice of pizza` slice."""
    return _taken_apart(label)[0].split()[-1]


def can_be_counted(label: str) -> bool:
    """Whether `three` can stand before its plural."""
    head = head_of(label)
    return head not in _MANY | _NO_PLURAL and (not head.endswith("s") or bool(_SINGULAR.search(head)))


def with_article(label: str) -> str:
    """`an apple`, `a unicorn`, `some grapes`."""
    if not can_be_counted(label):
        return f"some {label}"
    return f"{'an' if _VOWEL.match(label) else 'a'} {label}"


def plural_of(label: str) -> str:
    """`polar bears`, `slices of pizza`, `wolves`."""
    thing, rest = _taken_apart(label)
    before, _, head = thing.rpartition(" ")
    return f"{before} {_plural(head)}{rest}".strip()


def _taken_apart(label: str) -> tuple[str, str]:
    found = _AFTER.search(label)
    return (label[: found.start()], label[found.start() :]) if found else (label, "")


def _plural(noun: str) -> str:
    irregular = next((end for end in _IRREGULAR if noun.endswith(end) and (noun == end or end == "man" or len(end) > 3)), None)
    if irregular:
        return noun.removesuffix(irregular) + _IRREGULAR[irregular]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", noun) else noun + "s"
