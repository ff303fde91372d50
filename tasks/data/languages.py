"""Scripts and languages of texts, without a model: scripts by Unicode for every text, languages by common words in a sample.

A guess: enough to see that a set is German with a tenth of English, not to sort rows by.
"""

import re
from collections import Counter

import polars as pl

from tasks.data.repairs import beyond_ascii

SCRIPTS = (
    "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil",
    "Telugu", "Thai", "Georgian", "Armenian",
)  # fmt: skip
UNKNOWN = "unknown"
_READ = 500  # characters: enough to know a language by
# The words that each language uses most.
_WORDS = {
    "en": "the and of to is that it was for with you are this have not be from they what which would there their how will "
    "can a i in on at by as an or if my me do does we he she his her your when where who why get set so up out all "
    "more about than into",
    "es": "el la los las que una un por con para del se como más pero este está son muy también cuando hay fue qué cómo "
    "puede sus y de en es lo su no si al le ha era ser sobre entre",
    "fr": "le la les des et est une un dans que qui pour pas vous nous sur avec plus ce sont cette je il elle être par au "
    "aux du de où comment quelle quel en se son sa ses ne y",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für dem auch wie ich sie es im wird werden oder sind "
    "was an in des er wir als bei aus um nach kann hat war dort",
    "it": "il la di che è per non una un sono della con gli come più anche del questo nel ma si alla delle ha essere cosa "
    "quale le e i in da lo ci al dei qual",
    "pt": "o os a as um uma que não do da em para com por mais como você se na no dos das são ao foi também é mas seu isso "
    "pode e de qual quantas ele ela sua à",
    "nl": "de het een van en is dat niet te zijn op met voor ook aan er wordt naar worden bij deze hoe wat je kan uit heeft "
    "in ik of als maar om dan nog we hij",
    "sv": "och att det som är en på av för inte med den till har jag ett om så du kan var eller från hur vad sig men de i där",
    "da": "og at det er en til af på som ikke med der for den jeg har et kan du om hvordan hvad hvor eller være bliver også "
    "fra i de",
    "pl": "i w nie na się że jest z do to jak co po tak ale jego przez są oraz od czy dla która który może tym być ile o za",
    "cs": "a je se na že v to z do jako by jsem ale pro které jsou co nebo po tak byl jeho podle může při být kolik jaké s",
    "tr": "bir ve bu için ile çok daha olarak ne gibi da de olan değil var mi en kadar nasıl sonra ama ben her nedir kaç",
    "ro": "și de la în cu nu este că pe un o care din pentru mai sunt sau ce fi dar prin cum acest lui această ai câți",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada saya ke bisa ada adalah atau juga apa oleh karena "
    "berapa",
    "fi": "ja on ei että se hän oli mutta kun niin myös ovat joka tai mitä kuin ole minä olla voi sen jos vain tämä mikä "
    "kuinka",
    "vi": "và của là có không được cho một những các người trong với này để khi đã tôi bạn như từ đó về nhiều bao",
}
# Languages that seldom write a sentence without one of these letters.
_MARKED = {
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňřšťůýž",
    "tr": "çğışü",
    "ro": "ăâîșțşţ",
    "vi": "ăâđêôơưáàảạấầậếềệọốộớờợ",
    "fi": "äö",
}
_UNMARKED = 0.3  # what their words are worth in a text that has none
_PROFILES = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SHARED = Counter(word for words in _PROFILES.values() for word in words)
# Of scripts that several languages write: letters that only one of them has, tried in this order, then the usual language.
_LETTERS: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "Cyrillic": ((("іїєґ", "uk"), ("ыэё", "ru"), ("ђћљњџј", "sr")), "ru"),
    "Arabic": ((("ٹڈڑےں", "ur"), ("پچژگیک", "fa")), "ar"),
    "Devanagari": ((("ळ", "mr"),), "hi"),
}
_ONE_LANGUAGE = {
    "Han": "zh", "Hiragana": "ja", "Katakana": "ja", "Hangul": "ko", "Greek": "el", "Hebrew": "he", "Bengali": "bn",
    "Tamil": "ta", "Telugu": "te", "Thai": "th", "Georgian": "ka", "Armenian": "hy",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")


def script_shares(texts: pl.Series) -> pl.DataFrame:
    """Of each text the share of its letters in each of SCRIPTS, a column each; all 0 where it has no such letter.

    The first 500 characters of a text are read.
    """
    beyond = beyond_ascii(texts)
    begins = texts.gather(beyond).str.head(_READ)
    counts = {script: begins.str.count_matches(rf"\p{{{script}}}") for script in SCRIPTS}
    total = sum(counts.values(), pl.repeat(0, len(beyond), dtype=pl.UInt32, eager=True))
    lettered = texts.str.contains("[A-Za-z]").cast(pl.Float64)
    columns = {}
    for script, count in counts.items():
        base = lettered if script == "Latin" else pl.repeat(0.0, len(texts), eager=True)
        columns[script] = base.clone().scatter(beyond, (count / total).fill_nan(0.0))
    return pl.DataFrame(columns)


def main_scripts(texts: pl.Series) -> pl.Series:
    """Of each text the script of most of its letters; "" where it has none of SCRIPTS."""
    shares = script_shares(texts)
    largest = shares.max_horizontal()
    names = pl.Series(SCRIPTS).gather(shares.select(pl.concat_list(SCRIPTS).list.arg_max()).to_series())
    return names.zip_with(largest > 0, pl.Series([""])).alias("script")


def language_of(text: str, script: str) -> str:
    """The ISO 639-1 code of a text's likely language, given its main script; UNKNOWN where nothing tells."""
    begin = text[:_READ].lower()
    if script == "Latin":
        return _by_words(begin)
    if script == "Han" and re.search("[\u3040-\u30ff]", begin):
        return "ja"
    if script in _LETTERS:
        own, usual = _LETTERS[script]
        return next((language for letters, language in own if any(letter in begin for letter in letters)), usual)
    return _ONE_LANGUAGE.get(script, UNKNOWN)


def count(texts: pl.Series, sample: int = 1000) -> dict[str, int]:
    """How many texts of an evenly spaced sample are in each language; counts of shards add up.

    Args:
        texts: contents; those without letters do not count.
        sample: texts to look at, at most.
    """
    step = max(1, -(-len(texts) // sample)) | 1  # odd: questions and answers alternate
    taken = texts.gather_every(step)
    pairs = zip(taken.to_list(), main_scripts(taken).to_list(), strict=True)
    return dict(Counter(language_of(text, script) for text, script in pairs if script))


def mix(texts: pl.Series, sample: int = 1000) -> dict[str, float]:
    """The share of each language in a sample of the texts, the largest first."""
    counts = count(texts, sample)
    total = sum(counts.values())
    return {language: found / total for language, found in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))}


def _by_words(text: str) -> str:
    """The language whose common words stand in the text most often; a word of several languages counts for less."""
    words = Counter(_WORD.findall(text))
    scores = {}
    for language, profile in _PROFILES.items():
        marked = any(letter in text for letter in _MARKED[language]) if language in _MARKED else True
        scores[language] = sum(words[word] / _SHARED[word] for word in profile & words.keys()) * (1 if marked else _UNMARKED)
    (best, score), (_, second) = sorted(scores.items(), key=lambda entry: -entry[1])[:2]
    return best if score >= 1 and score >= 1.2 * second else UNKNOWN
