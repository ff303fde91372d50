"""What can be asked of the quickstart."""

from pydantic import Field

from tasks.contracts import Spec


class QuickstartSpec(Spec):
    """Sizes of the quickstart's texts, instruction set and base model, and how long the base model is pretrained."""

    documents: int = Field(default=12_000, ge=100, le=1_000_000, title="Documents", description="Texts for the base model.")
    rows: int = Field(
        default=3_000, ge=100, le=1_000_000, title="Rows", description="Instruction rows, the dirty ones included."
    )
    steps: int = Field(default=700, ge=1, le=100_000, title="Steps", description="Optimizer steps of pretraining.")
    batch_size: int = Field(default=16, ge=1, le=1024, title="Batch size", description="Texts per optimizer step.")
    learning_rate: float = Field(default=3e-3, gt=0, le=1, title="Learning rate", description="Peak rate, above 0 to 1.")
    max_length: int = Field(default=256, ge=32, le=512, title="Longest text", description="Tokens, 32 to 512.")
    vocabulary: int = Field(default=2_048, ge=300, le=32_768, title="Vocabulary", description="Entries of the tokenizer.")
    hidden_size: int = Field(default=192, ge=32, le=1024, multiple_of=32, title="Width", description="A multiple of 32.")
    layers: int = Field(default=2, ge=1, le=32, title="Layers", description="1 to 32.")
