"""The quickstart's own base model and data, for requests that name them and workspaces that lack them."""

from flows.chains import prepared, trained
from flows.request import BaseModelSpec
from tasks.contracts import ModelRef, RunContext
from tasks.data.spec import CleaningSpec, DataSpec, SplittingSpec
from tasks.quickstart.spec import QuickstartSpec
from tasks.quickstart.steps import (
    at_hand,
    plant_seedling,
    publish_base,
    write_quickstart_corpus,
    write_quickstart_instructions,
)
from tasks.resources.spec import ResourceSpec
from tasks.training.methods.full import Full
from tasks.training.spec import AdvancedTraining, TrainingSpec
from tasks.training.steps import has_model, resolve_model

DATA = "quickstart:"
BASE = "models/quickstart-base"


def build_quickstart_base(run: RunContext, spec: QuickstartSpec) -> ModelRef:
    """Pretrain a small language model on text of our own making and keep it as models/quickstart-base."""
    work = run.model_copy(update={"name": "quickstart-base", "encryption": ""})  # of texts that are nobody's
    corpus = write_quickstart_corpus(work, spec, seed=0)
    seedling = plant_seedling(work, corpus, spec, seed=0)
    seedling = seedling.model_copy(update={"location": at_hand(work, seedling.location)})
    data = prepared(work, reading_of(at_hand(work, corpus.uri)), seedling, spec.max_length, seed=0)
    _, model = trained(work, Full(), pretraining_of(spec), ResourceSpec(), seedling, data.tokenized, seed=0)
    return publish_base(work, model)


def find_base_model(run: RunContext, spec: BaseModelSpec) -> ModelRef:
    """The base model of a request; the quickstart's own is built where the workspace lacks it."""
    if spec.uri == BASE and not has_model(run, BASE):
        build_quickstart_base(run, QuickstartSpec())
    return resolve_model(run, spec.uri, spec.revision, spec.trust_remote_code)


def own_data(run: RunContext, spec: DataSpec) -> DataSpec:
    """The same spec, with the quickstart's address replaced by the file that it stands for."""
    if spec.source != DATA:
        return spec
    return spec.model_copy(update={"source": at_hand(run, write_quickstart_instructions(run, QuickstartSpec(), seed=0).uri)})


def reading_of(corpus: str) -> DataSpec:
    """Plain text of which nothing is dropped for being alike: the texts share their patterns on purpose."""
    return DataSpec(
        source=corpus, task="text", cleaning=CleaningSpec(near_duplicates=0),
        splitting=SplittingSpec(validation=0.01, test=0.01, leakage="off"),
    )  # fmt: skip


def pretraining_of(spec: QuickstartSpec) -> TrainingSpec:
    """How the base model is pretrained; it is validated at the end alone, where nothing is chosen by it."""
    return TrainingSpec(
        max_steps=spec.steps, batch_size=spec.batch_size, learning_rate=spec.learning_rate, max_length=spec.max_length,
        advanced=AdvancedTraining(validate_steps=spec.steps, weight_decay=0.0),
    )  # fmt: skip
