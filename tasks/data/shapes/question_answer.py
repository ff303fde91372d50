"""Questions and answers, with or without a context; of several answers the first is learned."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, exchange, is_text, joined, match, text_of

KIND = "question_answer"
TASK = "qa"
REQUIRED = {
    "question": ("question", "query", "problem"),
    "answer": ("answer", "answers", "solution", "response", "output"),
}
OPTIONAL = {"context": ("context", "passage"), "system": ("system", "system_prompt")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the columns are a question with its answer; lists of answers and SQuAD's {text: [...]} count as text."""
    flat = [{name: first_of(value) for name, value in row.items()} for row in rows]
    return match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=flat)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The context, an empty line and the question, then the answer."""
    prompt = joined(cell(row, mapping, "context"), cell(row, mapping, "question"))
    return exchange(prompt, text_of(first_of(row.get(mapping["answer"]))), cell(row, mapping, "system"))


def first_of(value: object) -> object:
    """The first answer of a list, or of the list in {text: [...]}; anything else as it is."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list) and all(map(is_text, value)):
        return value[0] if value else None
    return value
