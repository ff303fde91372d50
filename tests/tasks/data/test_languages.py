"""Scripts are counted exactly, languages are guessed from common words and letters."""

import polars as pl
import pytest

from tasks.data.languages import SCRIPTS, count, language_of, main_scripts, mix, script_shares

SENTENCES = {
    "en": "What is the capital of the country, and how many people live there?",
    "es": "¿Cuál es la capital del país y cuántas personas viven en ella?",
    "fr": "Quelle est la capitale du pays et combien de personnes y vivent ?",
    "de": "Was ist die Hauptstadt des Landes und wie viele Menschen leben dort?",
    "it": "Qual è la capitale del paese e quante persone ci vivono?",
    "pt": "Qual é a capital do país e quantas pessoas vivem nela?",
    "nl": "Wat is de hoofdstad van het land en hoeveel mensen wonen er?",
    "sv": "Vad är huvudstaden i landet och hur många människor bor där?",
    "da": "Hvad er hovedstaden i landet, og hvor mange mennesker bor der?",
    "pl": "Jaka jest stolica kraju i ile osób w nim mieszka?",
    "cs": "Jaké je hlavní město země a kolik lidí v ní žije?",
    "tr": "Ülkenin başkenti neresi ve orada kaç kişi yaşıyor?",
    "ro": "Care este capitala țării și câți oameni locuiesc acolo?",
    "id": "Apa ibu kota negara itu dan berapa banyak orang yang tinggal di sana?",
    "fi": "Mikä on maan pääkaupunki ja kuinka monta ihmistä siellä asuu?",
    "vi": "Thủ đô của đất nước là gì và có bao nhiêu người sống ở đó?",
    "ru": "Какая столица этой страны и сколько людей там живёт?",
    "uk": "Яка столиця цієї країни і скільки людей там живе?",
    "zh": "这个国家的首都是哪里，那里住着多少人？",
    "ja": "この国の首都はどこで、何人が住んでいますか？",
    "ko": "그 나라의 수도는 어디이며 몇 명이 살고 있습니까?",
    "ar": "ما هي عاصمة البلاد وكم عدد الناس الذين يعيشون هناك؟",
    "fa": "پایتخت کشور کجاست و چند نفر در آن زندگی می‌کنند؟",
    "hi": "देश की राजधानी क्या है और वहाँ कितने लोग रहते हैं?",
    "el": "Ποια είναι η πρωτεύουσα της χώρας;",
    "unknown": "Lorem ipsum dolor sit amet 123",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_languages(language: str) -> None:
    text = SENTENCES[language]
    assert language_of(text, main_scripts(pl.Series([text]))[0]) == language


def test_shares_of_scripts() -> None:
    shares = script_shares(pl.Series(["abc", "ab 日本", "Ωмир", "123 !", ""]))
    assert shares.columns == list(SCRIPTS)
    assert shares["Latin"].to_list() == [1, 0.5, 0, 0, 0]
    assert shares["Han"].to_list() == [0, 0.5, 0, 0, 0]
    assert (shares["Greek"][2], shares["Cyrillic"][2]) == (0.25, 0.75)
    assert main_scripts(pl.Series(["abc", "a日本", "Ωмир", "123", ""])).to_list() == ["Latin", "Han", "Cyrillic", "", ""]


def test_a_mix_has_the_largest_share_first() -> None:
    texts = pl.Series([SENTENCES["en"]] * 30 + [SENTENCES["zh"]] * 10 + ["42"] * 7)
    assert mix(texts) == {"en": 0.75, "zh": 0.25}
    assert count(texts) == {"en": 30, "zh": 10}
    assert mix(texts.head(0)) == {}
    assert mix(pl.Series(["1", "2"])) == {}


def test_a_sample_sees_questions_and_answers() -> None:
    texts = pl.Series([SENTENCES["en"], SENTENCES["de"]] * 5_000)
    found = count(texts, sample=100)
    assert 80 <= sum(found.values()) <= 100
    assert abs(found["en"] - found["de"]) <= 1
    assert count(texts, sample=100) == found
