"""The quickstart's steps: data and an unlearned base model of our own making."""

import shutil
from pathlib import Path

from tasks.contracts import ModelRef, RunContext, TrainedModel, Value
from tasks.models import describe
from tasks.quickstart.instructions import write_instructions
from tasks.quickstart.seedling import plant
from tasks.quickstart.spec import QuickstartSpec
from tasks.quickstart.text import write_corpus
from tasks.steps import StepContext, step, store_of
from tasks.storage import link_tree


class WrittenFile(Value):
    """A data file of our own making."""

    uri: str
    rows: int


@step("quickstart-instructions", version=1)
def write_quickstart_instructions(context: StepContext, spec: QuickstartSpec, seed: int) -> WrittenFile:
    """Write the dirty instruction set."""
    write_instructions(context.folder / "instructions.json", spec.rows, seed)
    return WrittenFile(uri=f"{context.uri}/instructions.json", rows=spec.rows)


@step("quickstart-corpus", version=1)
def write_quickstart_corpus(context: StepContext, spec: QuickstartSpec, seed: int) -> WrittenFile:
    """Write the text that the base model reads."""
    write_corpus(context.folder / "corpus.jsonl", spec.documents, seed)
    return WrittenFile(uri=f"{context.uri}/corpus.jsonl", rows=spec.documents)


@step("quickstart-seedling", version=1)
def plant_seedling(context: StepContext, corpus: WrittenFile, spec: QuickstartSpec, seed: int) -> ModelRef:
    """Make a tokenizer from the corpus and a model that knows nothing yet."""
    plant(context.folder / "model", context.local(corpus.uri), seed, spec.vocabulary, spec.hidden_size, spec.layers)
    found = describe(f"{context.uri}/model", context.folder / "model")
    return found.model_copy(update={"location": f"{context.uri}/model"})


def publish_base(run: RunContext, model: TrainedModel) -> ModelRef:
    """Keep the pretrained model, with its tokenizer, as the workspace's models/quickstart-base."""
    store = store_of(run)
    folder = Path(run.workspace) / "models" / run.name
    with store.workbench("quickstart-base") as bench:
        shutil.copytree(store.local(model.uri), bench, dirs_exist_ok=True)
        shutil.copytree(store.local(model.tokenizer_uri), bench, dirs_exist_ok=True)
        link_tree(bench, folder)
    return describe(f"models/{run.name}", folder)


def at_hand(run: RunContext, uri: str) -> str:
    """A local path with the content of an address of the store."""
    return str(store_of(run).local(uri))
