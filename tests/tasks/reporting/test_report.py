import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from tasks.contracts import CleanDataset, FinetuneResult, Ledger, Objective, Recovery, SearchResult, SmokeCheck, Trial
from tasks.reporting import facts, wording
from tasks.reporting.report import console_table, headline, markdown, render

VOID = {"meta", "br", "img", "link", "input", "hr"}
RESULTS = ("released", "rejected", "cached", "hostile")
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0"}


class Page(HTMLParser):
    """Every tag and visible text of a page; a tag closed out of order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("style", "script"):
            self.text += data + (" " if self.stack and self.stack[-1] in ("td", "th", "dt", "dd", "span", "code") else "")


@pytest.fixture(params=RESULTS)
def any_result(request: pytest.FixtureRequest) -> FinetuneResult:
    return request.getfixturevalue(request.param)


@pytest.fixture
def make(request_dict: dict[str, Any], history: list[dict[str, float]], quarantine: list[dict[str, Any]]) -> Callable[..., str]:
    def render_page(result: FinetuneResult, **options: Any) -> str:
        options = {"environment": ENVIRONMENT, "generated_at": "2026-11-22 18:00 UTC"} | options
        return render(result, options.pop("request", request_dict), options.pop("history", history), quarantine, **options)

    return render_page


def test_a_page_is_well_formed_and_its_ids_are_unique(any_result: FinetuneResult, make: Callable[..., str]) -> None:
    page = Page(make(any_result))
    assert page.stack == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"] for _, attrs in page.tags if (attrs.get("href") or "").startswith("#")}
    assert {target[1:] for target in targets if target} <= set(ids)


def test_a_page_loads_nothing(any_result: FinetuneResult, make: Callable[..., str]) -> None:
    text = make(any_result)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "img", "object", "embed", "base", "form")]
    addresses = [
        value
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert all(address is not None and address.startswith("#") for address in addresses)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)'\"]*)", text))
    assert "@import" not in text
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_hostile_text_is_shown_and_never_markup(hostile: FinetuneResult, make: Callable[..., str]) -> None:
    attack = hostile.name
    text = make(hostile)
    assert "<script" not in text and "<img" not in text
    page = Page(text)
    assert page.text.count(attack) >= 15
    assert "今天天气怎么样？🦊" in page.text
    assert "{{ 7*7 }}" in page.text
    for short in (markdown(hostile), headline(hostile)):
        assert "\n# " not in short
    assert "<script" not in markdown(hostile)


def test_the_same_input_is_the_same_page(any_result: FinetuneResult, make: Callable[..., str]) -> None:
    assert make(any_result) == make(any_result)
    assert markdown(any_result) == markdown(any_result)
    assert "Made 2026-11-22 18:00 UTC" in make(any_result)
    assert "Made 20" not in make(any_result, generated_at="")


def test_every_number_in_the_tiles_is_the_contracts(released: FinetuneResult) -> None:
    verdict, score, rows, tokens, minutes, cost = facts.tiles(released)
    assert (verdict.value, verdict.tone) == ("Pass", "good")
    assert verdict.note == "gain +2.3178, 95% interval +2.2214 to +2.4107, p < 0.0001, 274 items"
    assert (score.label, score.value) == ("Loss, base → tuned", "3.2101 → 0.8923")
    assert score.note == "95% intervals 3.1001–3.3201 → 0.8323–0.9523; lower is better"
    assert (rows.value, rows.note) == ("2,740 of 3,000", "260 dropped, quality 0.93")
    assert tokens.value == "174,342"  # 148,221 + 8,712 + 17,409
    assert tokens.note == "37,497 learned from; 296,442 seen in training"  # 31,870 + 1,866 + 3,761
    assert minutes.value == "2.5"  # 151.3 s
    assert minutes.note == "training 1.4, evaluation 0.6; 4 of 9 steps came from the cache"
    assert (cost.value, cost.note) == ("$0.0045", "forecast $0.0042")


def test_the_headline_says_verdict_and_numbers(released: FinetuneResult, rejected: FinetuneResult) -> None:
    assert headline(released) == (
        "Released: support-bot beats models/quickstart-base: loss 3.2101 → 0.8923 on held-out rows "
        "(gain +2.3178, 95% interval +2.2214 to +2.4107, p < 0.0001, 274 items)."
    )
    assert headline(rejected) == (
        "Rejected: support-bot is not shown to beat models/quickstart-base: loss 3.2101 → 3.1890 on held-out rows "
        "(gain +0.0211, 95% interval -0.0140 to +0.0563, p = 0.24, 274 items). About 812 items would settle it."
    )


def test_the_headline_is_about_the_metric_that_was_asked_for(released: FinetuneResult) -> None:
    step = next(step for step in released.steps if step.step == "evaluate")
    steps = (step.model_copy(update={"inputs": {"spec.metric": "exact_match"}}),)
    assert "exact match 3.5% → 61.5%" in headline(released.model_copy(update={"steps": steps}))


def test_a_headline_without_a_comparison_gives_the_reason(rejected: FinetuneResult) -> None:
    bare = rejected.evaluation.model_copy(update={"comparisons": (), "scores": ()})
    result = rejected.model_copy(update={"evaluation": bare, "rejected_reasons": ("Nothing can be said.",)})
    assert headline(result) == "Rejected: support-bot. Nothing can be said."


def test_a_better_model_rejected_says_what_else_was_wrong(released: FinetuneResult) -> None:
    changed = released.model_copy(update={"status": "rejected", "release": None, "rejected_reasons": ("The export differs.",)})
    assert headline(changed).endswith("274 items). But: The export differs.")


def test_a_page_tells_the_whole_story(released: FinetuneResult, make: Callable[..., str]) -> None:
    text = " ".join(Page(make(released)).text.split())
    for fact in (
        "✓ Released", "support-bot beats models/quickstart-base", "− dropped: Exact duplicate 118 3.9%", "= kept 2,740 91.3%",
        "of these repaired: Repair encoding 41", "69 rows without an answer", "Checks and quality: 0.93 of 1", "well encoded",
        "Lowest validation loss 0.8713", "checkpoint at step 120", "Training time 1 min 16 s 1 min 21 s 1.08×",
        "fp32: AMD EPYC 9R14 has bf16 units", "models:/support-bot/3, alias champion", "Version before 2",
        "20 golden prompts", "changed: spec.max_length 128 -> 256", "✓ Splits", "MLflow run 9c2e7a", "torch 2.13.0",
    ):  # fmt: skip
        assert fact.lower() in text.lower(), fact
    assert "not in this chain" not in text


def test_a_rejected_page_says_that_nothing_was_released(rejected: FinetuneResult, make: Callable[..., str]) -> None:
    text = Page(make(rejected)).text
    assert "Nothing was released." in text
    assert "274 items do not settle whether it is better." in text
    assert "about 812 items would settle it" in text


def test_a_broken_chain_shows(released: FinetuneResult, make: Callable[..., str]) -> None:
    splits = released.data.splits.model_copy(update={"parent_sha256": "0" * 64})
    data = released.data.model_copy(update={"splits": splits})
    assert "not in this chain" in make(released.model_copy(update={"data": data}))


def test_set_values_stand_before_defaults(request_dict: dict[str, Any], defaults: dict[str, Any]) -> None:
    asked, rest = facts.asked(request_dict, defaults)
    assert dict(asked) == {
        "name": "support-bot", "base_model.uri": "models/quickstart-base", "data.source": "data/tickets/*.jsonl",
        "data.cleaning.near_duplicates": "0.8", "training.max_length": "256", "seed": "7",
    }  # fmt: skip
    assert dict(rest)["training.epochs"] == "2"
    assert not {path for path, _ in asked} & {path for path, _ in rest}


def test_each_recovery_is_a_row_and_the_plan_is_the_one_that_was_trained_with(
    released: FinetuneResult, make: Callable[..., str]
) -> None:
    rows = dict(facts.decisions(released))["Training"]
    found = Recovery(failure="out_of_memory", step=40, action="micro-batch 4 instead of 8", reason="rank 0: no memory <left>")
    plan = released.plan.model_copy(update={"micro_batch": 4, "accumulation": 2})
    model = released.model.model_copy(update={"recoveries": (found,), "plan": plan, "resumed_from": 0})
    result = released.model_copy(update={"model": model})
    more = [each for each in dict(facts.decisions(result))["Training"] if each not in rows]
    assert more == [facts.Reason("Out of memory, step 40", "micro-batch 4 instead of 8; rank 0: no memory <left>")]
    assert dict(facts.settings(result))["plan.micro_batch"] == "4"
    page = make(result)
    assert "rank 0: no memory &lt;left&gt;" in page
    assert "the start, once more" in page


def test_a_history_may_be_empty(released: FinetuneResult, make: Callable[..., str]) -> None:
    assert "No history was recorded." in Page(make(released, history=[])).text


def test_the_console_table_fits_and_says_all(any_result: FinetuneResult) -> None:
    lines = console_table(any_result).splitlines()
    assert max(len(line) for line in lines) <= 100


def test_the_console_table_of_a_release(released: FinetuneResult, cached: FinetuneResult) -> None:
    lines = console_table(released).splitlines()
    assert "rows in             3,000" in lines
    assert "  exact duplicate   118" in lines
    assert "tuned loss          0.8923 (95% interval 0.8323 to 0.9523, n = 274)" in lines
    assert "verdict             pass, released" in lines
    assert "model               /srv/ws/models/support-bot" in lines
    assert lines[-1] == "4 of 9 steps came from the cache"
    assert console_table(cached).splitlines()[-1] == "all 9 steps came from the cache"


def test_markdown_has_headline_tables_and_an_image(released: FinetuneResult) -> None:
    text = markdown(released)
    assert text.startswith("**Released: support-bot beats models/quickstart-base")
    assert "| Held-out rows | Loss | tuned | 0.8923 | 0.8323 to 0.9523 | 274 |" in text
    assert "](data:image/svg+xml;base64," in text
    assert "<svg" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 1024**3, "3.0 GiB")])
def test_sizes(number: int, text: str) -> None:
    assert wording.size(number) == text


def test_a_small_share_is_not_none_and_a_large_one_not_all() -> None:
    assert [wording.percent(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == ["0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%"]


def test_optional_stages_show(released: FinetuneResult, make: Callable[..., str]) -> None:
    assert released.release is not None and released.release.deployment is not None
    trial = Trial(
        number=4,
        settings={"training.learning_rate": 0.0003},
        objectives=(Objective(name="loss", value=0.91),),
        status="done",
        seconds=61.0,
        reason="lowest loss",
    )
    search = SearchResult(
        strategy="evolutionary", best=trial, trials=(trial,), front=(4,), control=(), reasons=("trial 4: best of 1",)
    )
    ledger = Ledger(rows_in=2990, kept=2740, synthetic=10, dropped=released.data.clean.ledger.dropped)
    clean = CleanDataset(**(dict(released.data.clean) | {"ledger": ledger}))
    deployment = released.release.deployment.model_copy(
        update={"status": "rolled_back", "smoke": (SmokeCheck(name="first_answer", passed=False, detail="timed out"),)}
    )
    incumbent = released.evaluation.comparisons[0].model_copy(update={"against": "incumbent", "verdict": "worse"})
    result = released.model_copy(
        update={
            "search": search,
            "data": released.data.model_copy(update={"clean": clean}),
            "release": released.release.model_copy(update={"deployment": deployment}),
            "evaluation": released.evaluation.model_copy(update={"retention": (incumbent,)}),
        }
    )
    text = " ".join(Page(make(result)).text.split())
    for fact in (
        "! Rolled back",
        "Search: evolutionary",
        "training.learning_rate 0.0003",
        "+ synthetic 10 0.3%",
        "First answer ✗ failed timed out",
        "retention, Held-out rows against the incumbent",
    ):
        assert fact in text, fact
    assert headline(result).startswith("Rolled back: support-bot beats")


def test_a_pipe_in_a_path_does_not_break_a_markdown_table(released: FinetuneResult) -> None:
    text = markdown(released.model_copy(update={"report_uri": "/a|b/report.html", "run_id": "x\ny"}))
    assert "| Report | /a\\|b/report.html |" in text
    assert "| MLflow run | x y |" in text
