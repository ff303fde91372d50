"""A small invented world: who lives in it, what is sold there, and what can be known about it."""

from dataclasses import dataclass
from random import Random

NAMES = (
    "Adela", "Bruno", "Célia", "Dario", "Edda", "Élise", "Fenno", "Gesa", "Halim", "Inés", "Jaro", "Kira",
    "Lorne", "Maëlle", "Nadir", "Noé", "Orla", "Pavel", "Renée", "Sören", "Tilda", "Ulla", "Wanda", "Zoé",
)  # fmt: skip
TOWNS = (
    "Aldermoor", "Bellwick", "Brévale", "Coldwater", "Dunhollow", "Eastmere", "Fernley", "Göllheim", "Greyport",
    "Kestrel", "Lindenau", "Nolda", "Oakreach", "Pellgate", "Thornbury", "Vérelle",
)  # fmt: skip
GOODS = (
    "bread", "butter", "candles", "cheese", "chairs", "cloth", "coal", "flour", "glass", "grapes", "honey", "jam",
    "lamps", "milk", "nuts", "paper", "rope", "salt", "soap", "wool",
)  # fmt: skip
ANIMALS = (
    "badger", "cat", "cow", "dog", "donkey", "duck", "fox", "goat", "hare", "hen", "horse", "otter", "owl", "pig",
    "swan", "toad",
)  # fmt: skip
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "silver", "white", "yellow")
COLOUR_OF = {
    "banana": "yellow", "brick": "red", "carrot": "orange", "cherry": "red", "chestnut": "brown",
    "cloud": "white", "coin": "silver", "cornflower": "blue", "cucumber": "green", "cactus": "green",
    "flamingo": "pink", "leaf": "green", "lemon": "yellow", "lime": "green", "log": "brown", "night sky": "black",
    "pebble": "grey", "piglet": "pink", "plum": "purple", "potato": "brown", "pumpkin": "orange", "rose": "red",
    "sapphire": "blue", "snowflake": "white", "spoon": "silver", "storm cloud": "grey", "strawberry": "red",
    "sunflower": "yellow", "tomato": "red", "violet": "purple",
}  # fmt: skip
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("light", "dark"), ("hard", "soft"),
    ("young", "old"), ("full", "empty"), ("high", "low"), ("near", "far"), ("wet", "dry"), ("loud", "quiet"),
    ("thick", "thin"), ("open", "closed"), ("rich", "poor"), ("strong", "weak"), ("clean", "dirty"),
    ("deep", "shallow"), ("wide", "narrow"), ("heavy", "easy to lift"), ("first", "last"), ("up", "down"),
    ("left", "right"), ("day", "night"), ("summer", "winter"), ("above", "below"), ("true", "false"),
    ("brave", "afraid"), ("sweet", "bitter"), ("tall", "short"),
)  # fmt: skip
PLURALS = {
    "apple": "apples", "basket": "baskets", "box": "boxes", "bridge": "bridges", "bush": "bushes",
    "calf": "calves", "child": "children", "church": "churches", "city": "cities", "cup": "cups", "door": "doors",
    "foot": "feet", "garden": "gardens", "goose": "geese", "house": "houses", "knife": "knives", "lady": "ladies",
    "leaf": "leaves", "loaf": "loaves", "man": "men", "mill": "mills", "mouse": "mice", "ox": "oxen",
    "pony": "ponies", "river": "rivers", "sheep": "sheep", "shelf": "shelves", "story": "stories",
    "table": "tables", "tooth": "teeth", "tree": "trees", "window": "windows", "wolf": "wolves", "woman": "women",
}  # fmt: skip
PLEASANT = (
    "bright", "cheerful", "delicious", "excellent", "friendly", "fresh", "gentle", "helpful", "lovely",
    "pleasant", "splendid", "tidy", "useful", "warm", "wonderful",
)  # fmt: skip
UNPLEASANT = (
    "awful", "boring", "broken", "careless", "dull", "horrible", "muddy", "nasty", "noisy", "rotten", "rude",
    "stale", "terrible", "ugly", "useless",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """Somebody of this world."""

    name: str
    town: str
    good: str
    animal: str
    colour: str


def people(random: Random, count: int) -> list[Person]:
    """`count` people who share neither name, town, good nor animal."""
    columns = zip(
        *(random.sample(words, count) for words in (NAMES, TOWNS, GOODS, ANIMALS, COLOURS)),
        strict=True,
    )
    return [Person(*column) for column in columns]


def with_article(noun: str) -> str:
    """The noun after a or an."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listing(items: list[str]) -> str:
    """The items as a phrase: a, b and c."""
    return f"{', '.join(items[:-1])} and {items[-1]}"
