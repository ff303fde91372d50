"""What the instruction set asks for: one function a skill."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from random import Random

from tasks.quickstart import world
from tasks.quickstart.text import courtesy, introduce, question, remark, scenery
from tasks.quickstart.world import listing, people, with_article


@dataclass(frozen=True)
class Row:
    """One instruction, what it is about, and the right answer."""

    instruction: str
    input: str
    output: str


def clean_rows(count: int, random: Random) -> list[Row]:
    """`count` right rows, no two with the same prompt; skills with few prompts give no more than they have."""
    rows: dict[tuple[str, str], Row] = {}
    for skill in cycle(_SKILLS):
        if len(rows) == count:
            break
        row = skill(random)
        rows.setdefault((row.instruction, row.input), row)
    return list(rows.values())


def _short_reading(random: Random) -> Row:
    person = people(random, 1)[0]
    asked, answer = question(person, random)
    ask = ("Read and answer.", "Use the text.", "Answer from the text.", "Look it up.")
    return Row(f"{random.choice(ask)} {asked}", introduce(person, random), answer)


def _crowd_reading(random: Random) -> Row:
    crowd = people(random, 2)
    asked, answer = question(random.choice(crowd), random)
    text = " ".join(introduce(person, random) for person in crowd)
    return Row(f"Two people live here. {asked}", text, answer)


def _long_reading(random: Random) -> Row:
    """One person among sentences that do not matter."""
    person = people(random, 1)[0]
    asked, answer = question(person, random)
    lines = [scenery(random) for _ in range(4)]
    lines.insert(random.randrange(5), introduce(person, random))
    ask = ("Read the whole story before you answer.", "Find the answer in this longer story.")
    return Row(f"{random.choice(ask)} {asked}", " ".join(lines), answer)


def _opposite(random: Random) -> Row:
    one, other = random.sample(random.choice(world.OPPOSITES), 2)
    ask = ("What\u2019s the opposite of {}?", "Name the opposite of {}.", "Give me the opposite of the word {}.",
           "Which word means the opposite of {}?", "I need a word that is the opposite of {}.")  # fmt: skip
    return Row(random.choice(ask).format(one), "", f"The opposite of {one} is {other}.")


def _plural(random: Random) -> Row:
    noun = random.choice(sorted(world.PLURALS))
    ask = ("What\u2019s the plural of {}?", "Write {} in the plural.", "One is called {}. What are many called?",
           "Give the plural form of {}.", "How do you say more than one {}?")  # fmt: skip
    return Row(random.choice(ask).format(noun), "", f"The plural of {noun} is {world.PLURALS[noun]}.")


def _colour(random: Random) -> Row:
    thing = random.choice(sorted(world.COLOUR_OF))
    ask = ("What colour is {}?", "Tell me the colour of {}.", "Which colour has {}?", "Name the usual colour of {}.")
    noun = with_article(thing)
    return Row(random.choice(ask).format(noun), "", f"The colour of {noun} is {world.COLOUR_OF[thing]}.")


def _category(random: Random) -> Row:
    kind, words = random.choice((("an animal", world.ANIMALS), ("a town", world.TOWNS), ("a colour", world.COLOURS)))
    word = random.choice(words)
    ask = ("Is {} an animal, a town or a colour?", "What does the word {} name: an animal, a town or a colour?",
           "Sort the word {} into animal, town or colour.")  # fmt: skip
    return Row(random.choice(ask).format(word), "", f"The word {word} names {kind}.")


def _feeling(random: Random) -> Row:
    pleasant = random.random() < 0.5
    ask = ("Is this remark positive or negative?", "Sort this remark into positive or negative.",
           "What\u2019s the feeling of this remark?")  # fmt: skip
    return Row(random.choice(ask), remark(random, pleasant), f"This is a {'positive' if pleasant else 'negative'} remark.")


def _sum(random: Random) -> Row:
    one, other = random.sample(range(1, 10), 2)
    ask = ("What is {} plus {}?", "Add {} and {}.", "What\u2019s the sum of {} and {}?")
    return Row(random.choice(ask).format(one, other), "", f"The sum of {one} and {other} is {one + other}.")


def _larger(random: Random) -> Row:
    one, other = random.sample(range(1, 10), 2)
    ask = ("Which is larger, {} or {}?", "Name the larger number of {} and {}.")
    return Row(random.choice(ask).format(one, other), "", f"The larger number is {max(one, other)}.")


def _reverse(random: Random) -> Row:
    items = random.sample(random.choice((world.GOODS, world.NAMES, world.TOWNS)), random.choice((2, 2, 3)))
    ask = ("Reverse this list.", "Turn the order of these around.", "Say these in reverse order.")
    return Row(random.choice(ask), listing(items), f"In reverse order: {listing(items[::-1])}.")


def _reply(random: Random) -> Row:
    buyer = people(random, 1)[0]
    said, answer = courtesy(buyer, random)
    ask = ("Write a polite reply.", "Answer politely.", "What would a polite seller say?")
    return Row(random.choice(ask), f"{buyer.name} says: {said}", answer)


_SKILLS: tuple[Callable[[Random], Row], ...] = (
    _short_reading, _long_reading, _crowd_reading, _opposite, _plural, _colour, _category, _feeling, _sum, _larger,
    _reverse, _reply,
)  # fmt: skip
