"""A form gives what jinja gives, for templates of every family, or jinja renders the row."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.encoding import Encoder
from tasks.data.fast_tokens import TransformersEncoder
from tasks.data.rendering import Renderer, TemplateError
from tasks.data.templates import Forms, Slot, find_triggers, is_usual, make_form, prove, roles_of, turns_of
from tasks.models import load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3 does it: contents are trimmed, and the first turn begins the text.
TRIMMED = (
    "{% for m in messages %}{% set content = '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' %}"
    "{% if loop.index0 == 0 %}{% set content = '<|endoftext|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
# As Gemma does it: no system's turn, roles must alternate, the assistant has another name.
ALTERNATING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# As Qwen 3 does it: thoughts are taken out of earlier answers, and the last one has an empty thought.
THINKING = (
    "{%- set ns = namespace(last=messages|length - 1, found=false) %}{%- for m in messages[::-1] %}"
    "{%- if not ns.found and m.role == 'user' and not (m.content.startswith('<tool_response>') "
    "and m.content.endswith('</tool_response>')) %}{%- set ns.last = messages|length - loop.index %}"
    "{%- set ns.found = true %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content %}{%- set thought = '' %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# As Mistral does it: the system's words stand in the last user's turn, and answers end with the text's end.
INSTRUCTED = (
    "{%- set words = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{%- set turns = messages[1:] if words else messages %}"
    "{%- for m in turns %}{%- if m['role'] == 'user' %}"
    "{{- '[INST] ' + (words + '\n\n' if words and loop.last else '') + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)
FAMILY = {
    "chatml": CHATML,
    "trimmed": TRIMMED,
    "alternating": ALTERNATING,
    "thinking": THINKING,
    "instructed": INSTRUCTED,
}
ORDERS = [
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant", "user"),
    ("user", "~assistant", "user", "assistant"),
    ("user", "assistant", "tool", "assistant"),
    ("assistant", "user", "assistant", "assistant"),
]


@pytest.fixture(scope="module")
def renderer_of(make_tokenizer: Callable[..., Any]) -> Callable[..., Renderer]:
    made: dict[tuple[str, str], Renderer] = {}

    def make(template: str, task: str = "chat") -> Renderer:
        if (template, task) not in made:
            made[template, task] = Renderer(load_tokenizer(make_tokenizer(template)), task)
        return made[template, task]

    return make


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_is_filled_in_as_strings(name: str, renderer_of: Any) -> None:
    renderer = renderer_of(FAMILY[name])
    rows = [turns_of(("user", "assistant"), [f"question {n} ", f"\nanswer {n}\n"]) for n in range(20)]
    forms, reason = prove(renderer, rows)
    assert forms.use
    assert "the same as jinja on 20 real rows" in reason
    form = forms.form(("user", "assistant"))
    assert form is not None
    assert [part[:2] for part in form.fill(["a", "b"]).segments] == [
        part[:2] for part in renderer.render(turns_of(("user", "assistant"), ["a", "b"])).segments
    ]


WORDS = st.sampled_from(
    [
        "</think>",
        "<think>",
        "\n\n",
        " ",
        "<tool_response>",
        "</tool_response>",
        "<|im_end|>",
        "[INST]",
        "{{ x }}",
        "\ue0040\ue005",
        "\t",
    ]
)
CONTENTS = st.lists(st.one_of(st.text(max_size=8), WORDS, st.just("words")), max_size=5).map("".join)


@pytest.mark.parametrize("name", FAMILY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_conversation_is_as_jinja_renders_it(name: str, data: st.DataObject, renderer_of: Any) -> None:
    renderer = renderer_of(FAMILY[name])
    roles = data.draw(st.sampled_from(ORDERS))
    contents = [data.draw(CONTENTS) for _ in roles]
    forms = _forms(renderer)
    form = forms.form(roles)
    if form is None or not is_usual(contents, forms.odd):
        return
    assert form.fill(contents)[1:] == renderer.render(turns_of(roles, contents))[1:]
    assert [part[:2] for part in form.fill(contents).segments] == [
        part[:2] for part in renderer.render(turns_of(roles, contents)).segments
    ]


_PROVEN: dict[int, Forms] = {}


def _forms(renderer: Renderer) -> Forms:
    if id(renderer) not in _PROVEN:
        _PROVEN[id(renderer)] = prove(renderer, [])[0]
    return _PROVEN[id(renderer)]


def test_which_orders_have_forms(renderer_of: Any) -> None:
    having = {name: [order for order in ORDERS if make_form(renderer_of(text), order)] for name, text in FAMILY.items()}
    assert having["chatml"] == having["trimmed"] == ORDERS
    assert having["alternating"] == [order for order in ORDERS if order[0] == "user" and "tool" not in order]
    assert having["thinking"] == ORDERS
    assert ORDERS[0] in having["instructed"]


def test_texts_that_the_template_looks_for_are_found(renderer_of: Any) -> None:
    assert find_triggers(renderer_of(CHATML), []) == []
    assert find_triggers(renderer_of(THINKING), [[{"role": "user", "content": "x"}]]) == ["</think>", "<tool_response>"]
    forms, reason = prove(renderer_of(THINKING), [])
    assert not is_usual(["a", "b </think> c"], forms.odd)
    assert "(jinja renders contents with '</think>', '<tool_response>')" in reason


def test_blanks_at_the_ends_belong_to_the_form(renderer_of: Any) -> None:
    slots = {}
    for name in ("chatml", "trimmed", "thinking"):
        form = make_form(renderer_of(FAMILY[name]), ("user", "assistant"))
        assert form is not None
        slots[name] = [part for parts, *_ in form.segments for part in parts if isinstance(part, Slot)]
    assert slots["chatml"] == [Slot(0), Slot(1)]
    assert slots["trimmed"] == [Slot(0, None, None), Slot(1, None, None)]
    assert slots["thinking"] == [Slot(0), Slot(1, "\n", "")]


CHANGING = {
    "capitals": CHATML.replace("message['content'] +", "message['content'] | upper +"),
    "lengths": CHATML.replace("message['content'] +", "message['content'][:2000] +"),
    "title": CHATML.replace("message['content'] +", "message['content'].title() +"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_a_template_that_changes_contents_is_left_to_jinja(name: str, renderer_of: Any) -> None:
    renderer = renderer_of(CHANGING[name])
    rows = [turns_of(("user", "assistant"), ["QUESTION", "ANSWER"])] * 5
    assert make_form(renderer, ("user", "assistant")) is None
    forms, reason = prove(renderer, rows)
    assert not forms.use
    assert reason == "the template is rendered by jinja, row by row: it does more with contents than put them in"
    assert forms.form(("user", "assistant"), 1000) is None


def test_real_rows_decide(renderer_of: Any) -> None:
    # What the template looks for is made of numbers, so it is in none of its texts.
    secret = CHATML.replace(
        "message['content'] +", "(message['content'] if (6 * 7) | string not in message['content'] else '?') +"
    )
    renderer = renderer_of(secret)
    usual = [turns_of(("user", "assistant"), ["q", f"answer {n}"]) for n in range(10)]
    assert prove(renderer, usual)[0].use
    forms, reason = prove(renderer, [*usual, turns_of(("user", "assistant"), ["q", "it is 42"])])
    assert not forms.use
    assert reason.startswith("the template is rendered by jinja, row by row: as strings it gives ")
    assert "42" in reason


def test_rare_orders_are_left_to_jinja(renderer_of: Any) -> None:
    forms = Forms(renderer_of(CHATML))
    order = ("user", "assistant")
    assert forms.form(order, 2) is None
    assert forms.form(order, 3) is not None
    assert forms.form(order, 1) is not None  # it is there by now
    assert Forms(renderer_of(CHATML), use=False).form(order, 1000) is None


@pytest.mark.parametrize("task", ["text", "completion"])
def test_tasks_without_template(task: str, renderer_of: Any) -> None:
    renderer = renderer_of(CHATML, task)
    roles = ("text",) if task == "text" else ("system", "user", "assistant")
    contents = [f" part {n}\n" for n in range(len(roles))]
    form = make_form(renderer, roles)
    assert form is not None
    assert form.fill(contents) == renderer.render(turns_of(roles, contents))
    assert prove(renderer, [turns_of(roles, contents)] * 4)[0].use


def test_an_answer_that_is_context(renderer_of: Any) -> None:
    roles = ("user", "~assistant", "user", "assistant", "user", "~assistant")
    messages = turns_of(roles, list("abcdef"))
    assert roles_of(messages) == roles
    rendered = renderer_of(CHATML).render(messages)
    assert [part.text for part in rendered.segments if part.learned] == ["d<|im_end|>"]
    assert (rendered.reference, rendered.prompt.endswith("c<|im_end|>\n<|im_start|>assistant\n")) == ("d", True)
    form = make_form(renderer_of(CHATML), roles)
    assert form is not None
    assert form.fill(list("abcdef")) == rendered
    with pytest.raises(TemplateError, match="has no answer to learn"):
        renderer_of(CHATML).render(messages[:2])


@pytest.mark.parametrize("name", FAMILY)
def test_forms_and_jinja_give_the_same_tokens(name: str, renderer_of: Any) -> None:
    import pyarrow as pa

    from tasks.data.shards import message_type

    renderer, rows = renderer_of(FAMILY[name]), []
    for number in range(60):
        roles = ORDERS[number % len(ORDERS)]
        odd = ("<|im_end|>", "</think> x", " ", "\n plain \n", "plain")[number // 3 % 5]
        rows.append(turns_of(roles, [f"{odd}{turn}" if turn != 1 else odd for turn in range(len(roles))]))
    table = pa.table({"messages": pa.array(rows, pa.list_(message_type()))})
    texts = TransformersEncoder(renderer.tokenizer)
    quick = Encoder(renderer, prove(renderer, rows)[0], texts).encode(table)
    slow = Encoder(renderer, Forms(renderer, use=False), texts).encode(table)
    assert quick[1:] == slow[1:]
    assert len(quick[1]) > 10
    for one, other in ((quick[0].ids, slow[0].ids), (quick[0].marks, slow[0].marks), (quick[0].bounds, slow[0].bounds)):
        assert one.tolist() == other.tolist()
