"""Plain text about the invented world: what the quickstart's base model reads before anyone instructs it."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from tasks.quickstart import world
from tasks.quickstart.world import Person, listing, people, with_article
from tasks.storage import write_text


def write_corpus(path: Path, documents: int, seed: int) -> int:
    """Write `documents` texts as JSON lines, {"text": ...}; returns how many characters of text there are."""
    random = Random(f"corpus {seed}")  # noqa: S311
    texts = [random.choice(_KINDS)(random) for _ in range(documents)]
    write_text(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    return sum(map(len, texts))


def introduce(person: Person, random: Random) -> str:
    """One or two sentences that tell everything about a person."""
    name, animal = person.name, f"{with_article(person.colour)} {person.animal}"
    return random.choice(
        (
            f"{name} lives in {person.town} and sells {person.good}. {name} keeps {animal}.",
            f"In {person.town} lives {name}, who sells {person.good} and keeps {animal}.",
            f"{name} sells {person.good} in {person.town} and has {animal}.",
            f"{name} has {animal}. {name} comes from {person.town} and sells {person.good}.",
        )
    )


def question(person: Person, random: Random) -> tuple[str, str]:
    """A question about a person who has been introduced, and its answer."""
    name = person.name
    return random.choice(
        (
            (f"Where does {name} live?", f"In {person.town}."),
            (f"What does {name} sell?", f"It is {person.good}."),
            (f"Which animal does {name} keep?", f"It is {with_article(person.animal)}."),
            (f"Who lives in {person.town}?", f"It is {name}."),
            (f"Who sells {person.good}?", f"It is {name}."),
            (f"Who keeps the {person.animal}?", f"It is {name}."),
        )
    )


def recall(person: Person, random: Random) -> str:
    """A sentence that says again what an introduction said."""
    name = person.name
    return random.choice(
        (
            f"So {name} lives in {person.town}.",
            f"The {person.good} came from {name}.",
            f"The {person.colour} {person.animal} belongs to {name}.",
            f"We bought {person.good} from {name} in {person.town}.",
            f"If you need {person.good}, go to {person.town} and ask for {name}.",
        )
    )


def remark(random: Random, pleasant: bool) -> str:
    """A sentence that praises or complains."""
    first, second = random.sample(world.PLEASANT if pleasant else world.UNPLEASANT, 2)
    person = people(random, 1)[0]
    return random.choice(
        (
            f"The {person.good} from {person.town} seemed {first} and {second}.",
            f"{person.name} was {first} to us, and the {person.animal} was {second}.",
            f"We found {person.town} {first} and the inn {second}.",
            f"It was {with_article(first)} journey with {person.name}, and {with_article(second)} evening.",
            f"What a {first} {person.animal}, and what {second} {person.good}!",
        )
    )


def scenery(random: Random) -> str:
    """A sentence about nobody."""
    what = random.choice(("road", "inn", "evening", "weather", "market", "music", "garden", "river"))
    first, second = random.sample(world.PLEASANT + world.UNPLEASANT, 2)
    return f"The {what} was {first} that day, and later {second}."


def _portrait(random: Random) -> str:
    crowd = people(random, random.choice((1, 1, 1, 2)))
    told = [introduce(person, random) for person in crowd]
    asked = ["\n".join(question(random.choice(crowd), random)) for _ in range(3)]
    said = [recall(random.choice(crowd), random) for _ in range(2)]
    around = [scenery(random)] if random.random() < 0.3 else []
    return _join([*around, *told, *random.choice((asked, asked, said + asked))], random)


def _join(lines: list[str], random: Random) -> str:
    return random.choice((" ", "\n", "\n")).join(lines)


def _market(random: Random) -> str:
    buyer = people(random, 1)[0]
    said, answer = courtesy(buyer, random)
    again, reply = courtesy(buyer, random)
    return f"{buyer.name} says: {said}\n{answer}\n{buyer.name} says: {again}\n{reply}"


def courtesy(buyer: Person, random: Random) -> tuple[str, str]:
    """What somebody says to a seller, and the polite reply."""
    good, name = buyer.good, buyer.name
    return random.choice(
        (
            (f"Thank you for the {good}!", f"You are welcome, {name}."),
            (f"I am sorry about the {good}.", f"That is all right, {name}."),
            ("Good morning!", f"Good morning to you too, {name}."),
            (f"May I have some {good}?", f"Of course, {name}. Here is the {good}."),
        )
    )


def _lists(random: Random) -> str:
    items = random.sample(random.choice((world.GOODS, world.NAMES, world.TOWNS)), random.choice((2, 2, 3)))
    name = random.choice(world.NAMES)
    backwards = f"In reverse order: {listing(items[::-1])}."
    return _join([f"{name} wrote down {listing(items)}.", backwards, f"The list was {listing(items)}.", backwards], random)


def _mood(random: Random) -> str:
    lines = []
    for _ in range(3):
        pleasant = random.random() < 0.5
        lines.append(f"{remark(random, pleasant)}\nThis is a {'positive' if pleasant else 'negative'} remark.")
    return _join(lines, random)


def _words(random: Random) -> str:
    facts = [*_opposites(random), *_plurals(random), *_colours(random), *_categories(random)]
    random.shuffle(facts)
    return _join(facts[:6], random)


def _opposites(random: Random) -> list[str]:
    pairs = [random.sample(pair, 2) for pair in random.sample(world.OPPOSITES, 3)]
    return [f"What is the opposite of {one}?\nThe opposite of {one} is {other}." for one, other in pairs]


def _plurals(random: Random) -> list[str]:
    nouns = random.sample(sorted(world.PLURALS), 3)
    return [f"What is the plural of {noun}?\nThe plural of {noun} is {world.PLURALS[noun]}." for noun in nouns]


def _colours(random: Random) -> list[str]:
    things = [(with_article(thing), world.COLOUR_OF[thing]) for thing in random.sample(sorted(world.COLOUR_OF), 2)]
    return [f"What colour is {thing}?\nThe colour of {thing} is {colour}." for thing, colour in things]


def _categories(random: Random) -> list[str]:
    kinds = (("an animal", world.ANIMALS), ("a town", world.TOWNS), ("a colour", world.COLOURS))
    named = [(random.choice(words), kind) for kind, words in random.sample(kinds, 2)]
    return [f"What does {word} name?\nThe word {word} names {kind}." for word, kind in named]


def _numbers(random: Random) -> str:
    lines = []
    for _ in range(3):
        one, other = random.sample(range(1, 10), 2)
        lines.append(f"What is {one} plus {other}?\nThe sum of {one} and {other} is {one + other}.")
        lines.append(f"Which is larger, {one} or {other}?\nThe larger number is {max(one, other)}.")
    return _join(random.sample(lines, 4), random)


_KINDS: tuple[Callable[[Random], str], ...] = (
    _portrait, _portrait, _portrait, _market, _lists, _mood, _words, _words, _words, _numbers,
)  # fmt: skip
