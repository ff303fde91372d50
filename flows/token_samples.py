"""The page that shows some training rows token by token."""

from pathlib import Path

from flows.stage_requests import PrepareRequest
from tasks.contracts import PreparedData, RunContext
from tasks.data.token_page import render
from tasks.data.token_setup import TokenizeSetup
from tasks.models import load_tokenizer
from tasks.reporting.examples import rows_to_show
from tasks.reporting.steps import TOKENS_PAGE
from tasks.steps import store_of
from tasks.storage import write_text


def write_token_samples(run: RunContext, data: PreparedData, request: PrepareRequest) -> Path:
    """Write runs/NAME/tokens.html with some rows of the first training shard that has any; its address.

    Of encrypted data no page is written, and one of an earlier run goes.
    """
    page = Path(run.workspace) / "runs" / run.name / TOKENS_PAGE
    if run.encryption:
        page.unlink(missing_ok=True)
        return page
    store, tokenized = store_of(run), data.tokenized
    folder = store.local(tokenized.tokenizer_uri)
    tokenizer = load_tokenizer(folder, request.base_model.trust_remote_code)
    setup = TokenizeSetup(
        tokenizer=str(folder), trust_remote_code=request.base_model.trust_remote_code,
        template=str(tokenizer.get_chat_template()), task=tokenized.task, limit=tokenized.max_length,
        truncation=request.data.truncation, engine="transformers", forms=False,
    )  # fmt: skip
    for name in (shard.name for shard in data.splits.train.shards):
        shard = store.local(f"{tokenized.train.uri}/{name}")
        if rows := rows_to_show(shard, tokenized.train.truncated_rows):
            source = store.local(f"{data.splits.train.uri}/{name}")
            write_text(page, render(shard, tokenizer, rows, source=source, setup=setup))
            break
    return page
