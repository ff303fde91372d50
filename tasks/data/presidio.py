"""Personal data as Presidio finds it: with a spaCy model that is installed it knows names and places too. An optional extra.

It reads some hundred times fewer texts a second than `tasks.data.pii`, so it is for sets where names matter.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from tasks.data.pii import Span, counted, covered, spans_of
from tasks.errors import RequestError, unknown_name

# Our kinds and Presidio's entities; () where our own forms serve: it knows no keys, and for addresses of mail it would ask
# the network for the list of top-level domains.
ENTITIES: dict[str, tuple[str, ...]] = {
    "api_key": (),
    "email": (),
    "ip": ("IP_ADDRESS",),
    "card": ("CREDIT_CARD",),
    "national_id": ("US_SSN",),
    "phone": ("PHONE_NUMBER",),
    "person": ("PERSON",),
    "location": ("LOCATION",),
}
OF_MODEL = ("person", "location")
_LEAST_SCORE = 0.4  # what Presidio gives a phone number that no word announces


def presidio_find(texts: pl.Series, kinds: Sequence[str], language: str = "en", model: str = "") -> dict[str, pl.Series]:
    """For each kind, how many each text holds.

    Args:
        texts: contents of turns.
        kinds: of ENTITIES; `person` and `location` need a model.
        language: of the texts, as spaCy names it.
        model: an installed spaCy model, by name or folder. Empty: none.

    Raises:
        RequestError: Presidio or the model is not installed, or a kind is unknown.
    """
    return counted(texts, kinds, _hits(texts, kinds, language, model))


def presidio_redact(
    texts: pl.Series, kinds: Sequence[str], language: str = "en", model: str = ""
) -> tuple[pl.Series, dict[str, pl.Series]]:
    """The texts with [EMAIL], [PERSON], ... in place of what was found, and for each kind which texts changed.

    Arguments and errors are those of `presidio_find`.
    """
    return covered(texts, kinds, _hits(texts, kinds, language, model))


def _hits(texts: pl.Series, kinds: Sequence[str], language: str, model: str) -> dict[int, list[Span]]:
    for kind in kinds:
        if kind not in ENTITIES:
            raise RequestError(unknown_name("kind of personal data", kind, ENTITIES))
        if kind in OF_MODEL and not model:
            raise RequestError(f"Presidio finds {kind} by a spaCy model, and none is named. Name one that is installed, "
                               f"e.g. en_core_web_lg, or leave {kind} out.")  # fmt: skip
    analyzer = _analyzer(language, model)
    return {place: _spans(text, kinds, analyzer, language) for place, text in enumerate(texts)}


def _spans(text: str, kinds: Sequence[str], analyzer: Any, language: str) -> list[Span]:
    """What one text holds, in its order; of two that overlap the surer one, then the longer one."""
    kind_of = {entity: kind for kind in kinds for entity in ENTITIES[kind]}
    found = spans_of(text, [kind for kind in kinds if not ENTITIES[kind]])
    if not kind_of or not text.strip():
        return found
    results = analyzer.analyze(text=text, language=language, entities=sorted(kind_of), score_threshold=_LEAST_SCORE)
    for result in sorted(results, key=lambda one: (-one.score, one.start - one.end, one.start, one.entity_type)):
        if all(result.end <= other.start or result.start >= other.end for other in found):
            found.append(Span(result.start, result.end, kind_of[result.entity_type]))
    return sorted(found)


@lru_cache(maxsize=2)
def _analyzer(language: str, model: str) -> Any:
    """Presidio's engine, on a model that is installed or on none: it never downloads one."""
    try:
        spacy, analyzer = import_module("spacy"), import_module("presidio_analyzer")
        engines = import_module("presidio_analyzer.nlp_engine")
    except ImportError as error:
        raise RequestError(
            "Presidio is not installed here. Install it with `pip install 'tuneflow[presidio]'`, or use the built-in forms, "
            "which find every kind but person and location."
        ) from error
    if model and not (spacy.util.is_package(model) or Path(model).exists()):
        raise RequestError(
            f"The spaCy model {model!r} is not installed here. Install it with `python -m spacy download {model}`."
        )
    engine = engines.SpacyNlpEngine(models=[{"lang_code": language, "model_name": model or language}])
    engine.nlp = {language: spacy.load(model) if model else spacy.blank(language)}
    return analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
