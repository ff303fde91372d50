"""Signs of poor rows, as one Boolean for each row, and of poor sets, as one number.

`prompts` and `answers` are columns with one text a row. `rows`, `roles` and `contents` describe turns: for each turn the
position of its row, ascending, and who says what.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.data.rows import normalized

_CONTAINED = 30  # characters: a shorter answer that stands in its prompt is a label, a span or a choice
_REPEATED = 20  # characters: shorter turns ("Yes.", "Thank you!") are said twice in good conversations
_BEGINS = 250  # characters in which a refusal stands
WIDEST_IMBALANCE = 10.0  # rows of the largest label for one of the smallest

# How models decline, where an answer begins. Several small patterns are read faster than one large one.
_REFUSALS = (
    r"\b(?:i[’']?m|i am|we are) (?:really |very |so |truly )?(?:sorry|afraid|unable|not able)\b[^.!?\n]{0,80}?"
    r"\b(?:can(?:not|[’']t)|unable|not able|don[’']t have|do not have|won[’']t|not (?:appropriate|possible|capable))",
    r"\bi (?:can(?:not|[’']t)|am unable to|am not able to|won[’']t|must decline to) (?:assist|help|answer|provide|fulfil|comply"
    r"|create|generate|write|do that|browse|access|open|see|view|give|offer|engage|support)",
    r"\bi (?:apologi[sz]e|regret)\b[^.!?\n]{0,40}\b(?:can(?:not|[’']t)|unable|not able)",
    r"\bi (?:don[’']t|do not) have (?:the ability|the capability|access to|personal|enough information|real-time)",
    r"\blo siento\b[^.!?\n]{0,40}\bno puedo\b|\bno puedo (?:ayudar|proporcionar|responder|acceder)",
    r"\bje (?:suis )?(?:désolée?|regrette)\b[^.!?\n]{0,60}\bje ne peux pas\b",
    r"\bje ne peux pas (?:vous )?(?:aider|fournir|répondre)",
    r"\bes tut mir leid\b[^.!?\n]{0,60}\bkann (?:ich )?(?:nicht|kein|ihnen)|\bich kann (?:ihnen |dir )?(?:dabei |das )?nicht ",
    r"\bmi dispiace\b[^.!?\n]{0,40}\bnon posso\b|\b(?:desculpe|sinto muito)\b[^.!?\n]{0,40}\bnão posso\b",
    r"(?:抱歉|对不起|對不起)[^。！？\n]{0,30}(?:无法|無法|不能|没有|沒有)",
    r"我(?:无法|無法|不能)(?:提供|回答|协助|帮助|访问|查看|看到|获取|完成)",
    r"申し訳(?:ありません|ございません)[^。\n]{0,40}(?:できません|できかねます)|죄송하지만[^.\n]{0,40}(?:없습니다|어렵습니다)",
    r"(?:к сожалению|извините)[^.!?\n]{0,40}не могу",
)
# What models say of themselves, anywhere in an answer.
_BOILERPLATE = (
    r"\bas an? (?:large )?(?:ai|artificial intelligence|language model|llm)\b",
    r"\bi(?:[’']m| am) (?:just |only )?(?:an? (?:ai|artificial intelligence|(?:large )?language model)|chatgpt)\b",
    r"\bmy (?:knowledge|training data) (?:cut-?off|only goes)|\bas of my last (?:knowledge )?update",
    r"\bi do(?:n[’']t| not) have personal|\bi (?:was|am|have been) (?:trained|developed|created) by\b",
    r"\bcomo (?:un )?modelo de lenguaje|\bcome modello linguistico|\bcomo modelo de linguagem",
    r"\ben tant qu(?:e mod[eè]le de langage|[’'](?:ia|intelligence artificielle))",
    r"\bals (?:ki|ki-sprachmodell|sprachmodell|künstliche intelligenz)\b",
    r"作为(?:一个|一種|一种|一名)?(?:人工智能|AI|语言模型|大型语言模型|聊天机器人|文字型 ?AI)",
    r"我(?:只)?是(?:一个|一名)?(?:人工智能|AI|语言模型)|(?:AI|人工知能)(?:言語モデル|アシスタント)?として",
    r"인공지능 (?:언어 )?모델로서|как (?:языковая модель|искусственный интеллект)",
)
_URL_ONLY = r"\A\s*(?:[<(\[]?(?:https?://|www\.)[^\s<>]+[>)\]]?[\s,;]*)+\z"


class Lengths(NamedTuple):
    """What the spread of lengths follows from. Those of shards are added number by number.

    Args:
        texts: how many.
        total: the sum of their lengths in characters.
        squares: the sum of the lengths' squares.
    """

    texts: int
    total: int
    squares: int


def answer_is_prompt(prompts: pl.Series, answers: pl.Series) -> pl.Series:
    """Answers that only say the prompt again, whatever the case and the spaces; an empty one says nothing."""
    sides = [texts.str.strip_chars() for texts in (prompts, answers)]
    ends = [(side.str.head(2).str.to_lowercase().str.head(1), side.str.tail(1).str.to_lowercase()) for side in sides]
    (head, tail), (other_head, other_tail) = [(first, last.str.replace("ς", "σ", literal=True)) for first, last in ends]
    near = ((head == other_head) & (tail == other_tail) & (head != "")).arg_true()
    pairs = zip(prompts.gather(near), answers.gather(near), strict=True)
    return _nowhere(len(answers)).scatter(near, [normalized(prompt) == normalized(answer) for prompt, answer in pairs])


def answer_in_prompt(prompts: pl.Series, answers: pl.Series) -> pl.Series:
    """Answers of 30 characters or more that stand word for word in a longer prompt."""
    bare = answers.str.strip_chars()
    long = ((bare.str.len_chars() >= _CONTAINED) & (bare.str.len_bytes() < prompts.str.len_bytes())).arg_true()
    pairs = zip(prompts.gather(long), bare.gather(long), strict=True)
    return _nowhere(len(answers)).scatter(long, [answer in prompt for prompt, answer in pairs])


def is_refusal(answers: pl.Series) -> pl.Series:
    """Answers that begin by declining to answer."""
    return _any(answers.str.head(_BEGINS), _REFUSALS)


def is_boilerplate(answers: pl.Series) -> pl.Series:
    """Answers in which a model speaks of being one."""
    return _any(answers, _BOILERPLATE)


def is_url_only(answers: pl.Series) -> pl.Series:
    """Answers of nothing but addresses."""
    near = answers.str.contains("://|www\\.").arg_true()
    return _nowhere(len(answers)).scatter(near, answers.gather(near).str.contains(_URL_ONLY))


def one_sided(rows: NDArray[np.int64], roles: pl.Series, count: int) -> pl.Series:
    """Conversations in which only the user speaks, or only the assistant.

    Args:
        rows: of each turn.
        roles: of each turn; plain text has no sides.
        count: rows in all.
    """
    speaks = {}
    for role in ("user", "assistant", "text"):
        speaks[role] = np.zeros(count, dtype=np.bool_)
        speaks[role][rows[(roles == role).to_numpy()]] = True
    return pl.Series((speaks["user"] != speaks["assistant"]) & ~speaks["text"])


def repeats_turns(rows: NDArray[np.int64], roles: pl.Series, contents: pl.Series, count: int) -> pl.Series:
    """Conversations in which one speaker says the same twice, in 20 characters or more.

    Args:
        rows: of each turn.
        roles: of each turn.
        contents: of each turn.
        count: rows in all.
    """
    found = np.zeros(count, dtype=np.bool_)
    several = (np.bincount(rows, minlength=count) > 2)[rows] & (contents.str.len_chars() >= _REPEATED).to_numpy()
    turns = pl.DataFrame({"row": rows[several], "role": roles.filter(several), "content": contents.filter(several)})
    found[turns.filter(turns.is_duplicated())["row"].to_numpy()] = True
    return pl.Series(found)


def lengths_of(texts: pl.Series) -> Lengths:
    """The sums from which `spread` follows."""
    lengths = texts.str.len_chars().cast(pl.Int64)
    return Lengths(len(texts), int(lengths.sum()), int((lengths * lengths).sum()))


def add_lengths(parts: Sequence[Lengths]) -> Lengths:
    """The sums of several shards together."""
    return Lengths(*(sum(values) for values in zip(*parts, strict=True))) if parts else Lengths(0, 0, 0)


def spread(lengths: Lengths) -> float:
    """The coefficient of variation of the lengths: standard deviation over mean; 0 for no text."""
    if not lengths.total:
        return 0.0
    variance = lengths.texts * lengths.squares - lengths.total**2  # whole numbers: nothing cancels
    return sqrt(variance) / lengths.total


def imbalance(labels: Mapping[str, int]) -> float:
    """How many rows the most frequent label has for each row of the rarest; compare with WIDEST_IMBALANCE."""
    counts = [count for count in labels.values() if count]
    return max(counts) / min(counts) if counts else 1.0


def _any(texts: pl.Series, patterns: Sequence[str]) -> pl.Series:
    """Which texts match one of the patterns, in any case."""
    found = _nowhere(len(texts))
    for pattern in patterns:
        found |= texts.str.contains(f"(?i){pattern}")
    return found


def _nowhere(count: int) -> pl.Series:
    return pl.repeat(False, count, eager=True)
