"""What a forward and a backward pass of a model hold, by method, rows and length: traced once a process, then known."""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from tasks.contracts import ModelRef

log = logging.getLogger("tuneflow")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_KEPT_MODELS = 4
_LOGITS = {"cpu": 2**23, "cuda": 2**26}  # numbers that the training loss has in memory at once


@runtime_checkable
class Method(Protocol):
    """What is asked of a training method."""

    adapter: ClassVar[bool]

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def trainable_parameters(self, base: ModelRef) -> int:
        """How many weights learn."""
        ...

    def load(self, base: ModelRef, dtype: Any) -> Any:
        """The base model, as the method wants it."""
        ...

    def wrap(self, model: Any) -> Any:
        """The model that learns."""
        ...

    def most_divided(self) -> tuple[Literal[0, 1, 2, 3], str]:
        """The highest ZeRO stage that works, and why not more."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """All settings."""
        ...

    def model_dump_json(self) -> str:
        """All settings."""
        ...


@dataclass(frozen=True)
class Shape:
    """A micro-batch.

    Attributes:
        rows: sequences, or packs.
        length: tokens of each.
        masked: whether rows differ, so that attention is given a mask of all pairs of tokens.
        supervised: share of the positions that are learned.
        from_hidden: whether the loss is computed from hidden states, without the logits of all rows at once.
        logits: numbers that those of some rows may have.
    """

    rows: int
    length: int
    masked: bool = False
    supervised: float = 1.0
    from_hidden: bool = True
    logits: int = 2**23


@dataclass(frozen=True)
class Moment:
    """Bytes at the fullest moment of a pass over a micro-batch.

    Attributes:
        transient: activations, and whatever lives for a moment, without the gradients of weights.
        whole: the same with the gradients of weights, none of which was there before.
    """

    transient: int
    whole: int


@dataclass(frozen=True)
class Weights:
    """Numbers of weights of the model that learns.

    Attributes:
        trainable: those that learn.
        frozen: those that do not.
        linear: frozen ones of linear layers but the last, which a method may store in 4 bits.
        largest_linear: of the largest of these layers.
        block: of the largest of the repeated layers.
        multiplied: those that each token is multiplied with: of linear layers, the last and the adapters among them.
        divided: those of linear layers that tensor parallelism divides.
        whole_head: whether it leaves the last of them whole.
    """

    trainable: int
    frozen: int
    linear: int
    largest_linear: int
    block: int
    multiplied: int
    divided: int = 0
    whole_head: bool = False


@dataclass
class Footprint:
    """What passes of one model and method hold.

    Args:
        base: the model.
        method: the method.
        precision: fp32, bf16 or fp16.
        masked: whether micro-batches of several rows need a mask.
        supervised: share of the positions that are learned.

    Attributes:
        doubt: why the figures are arithmetic instead of traced; "" where they are traced.
    """

    base: ModelRef
    method: Method
    precision: str
    masked: bool = True
    supervised: float = 1.0
    doubt: str = ""
    weights: Weights = field(init=False)
    _known: dict[tuple[Shape, bool], Moment] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            self.weights = weights_of(self.base, self.method, self.precision)
        except Exception as error:
            self._give_up(error)
            self.weights = estimated_weights(self.base, self.method.trainable_parameters(self.base), self.method.adapter)

    def at(self, rows: int, length: int, checkpointing: bool, from_hidden: bool, accelerator: str) -> Moment:
        """The fullest moment of a pass over `rows` of `length` tokens."""
        shape = Shape(rows, length, self.masked and rows > 1, self.supervised, from_hidden, _LOGITS[accelerator])
        key = shape, checkpointing
        if key not in self._known:
            self._known[key] = self._find(shape, checkpointing)
        return self._known[key]

    def _find(self, shape: Shape, checkpointing: bool) -> Moment:
        if not self.doubt:
            try:
                return traced(self.base, self.method, self.precision, shape, checkpointing)
            except Exception as error:
                self._give_up(error)
        return estimated(self.base, self.weights.trainable, shape, self.precision, checkpointing)

    def _give_up(self, error: Exception) -> None:
        said = (str(error).strip().splitlines() or [""])[0][:120]
        self.doubt = f"{self.method.kind} on {self.base.architecture} cannot be traced ({type(error).__name__}: {said})"
        if self.doubt not in _told:
            _told.add(self.doubt)
            log.warning("the memory forecast is arithmetic: %s", self.doubt)


_told: set[str] = set()
_models: dict[tuple[str, ...], Any] = {}
_moments: dict[tuple[object, ...], Moment] = {}
_lock = threading.RLock()  # tracing replaces functions of libraries for a moment, and a model is traced by one at a time


def weights_of(base: ModelRef, method: Method, precision: str) -> Weights:
    """The weights that `method` makes of `base`, counted without one."""
    from tasks.resources import tracing

    with _lock:
        return tracing.count_weights(_model(base, method, precision, False))


def traced(base: ModelRef, method: Method, precision: str, shape: Shape, checkpointing: bool) -> Moment:
    """A pass made on the meta device, without memory or data. Seconds for the largest models, and known from then on."""
    from tasks.resources import tracing

    with _lock:
        key = (base.sha256, method.model_dump_json(), precision, shape, checkpointing)
        if key not in _moments:
            _moments[key] = tracing.trace(_model(base, method, precision, checkpointing), shape)
        return _moments[key]


def _model(base: ModelRef, method: Method, precision: str, checkpointing: bool) -> Any:
    from tasks.resources import tracing

    key = (base.sha256, base.location, method.model_dump_json(), precision, str(checkpointing))
    if key not in _models:
        while len(_models) >= _KEPT_MODELS:
            _models.pop(next(iter(_models)))
        _models[key] = tracing.build(base, method.wrap, precision, checkpointing)
    return _models[key]


def estimated_weights(base: ModelRef, trainable: int, adapter: bool) -> Weights:
    """About the numbers of weights, where they cannot be counted."""
    frozen = base.parameters if adapter else max(0, base.parameters - trainable)
    embeddings = base.vocabulary * base.hidden_size
    layers = max(0, base.parameters - 2 * embeddings)
    block = layers // base.layers
    multiplied = max(1, base.parameters - embeddings) + (trainable if adapter else 0)
    return Weights(trainable, frozen, min(frozen, layers), block // 3, block, multiplied, 0 if adapter else layers)


def estimated(base: ModelRef, trainable: int, shape: Shape, precision: str, checkpointing: bool) -> Moment:
    """About the bytes of a pass, where it cannot be made.

    Activations after Korthikanti et al. 2022 (section 4.1: 34 values of 2 bytes a token, layer and hidden unit; 2 where they
    are computed twice, and one layer whole), and the logits that are learned, in fp32 with their gradient.
    """
    size = BYTES[precision]
    positions = shape.rows * shape.length
    unit = positions * base.hidden_size * size // 2
    activations = unit * (2 * base.layers + 34) if checkpointing else unit * 34 * base.layers
    learned = round(positions * shape.supervised)
    if shape.from_hidden:
        logits = min(learned * base.vocabulary, shape.logits) * (4 + size)
    else:
        logits = positions * base.vocabulary * size + learned * base.vocabulary * 8
    return Moment(activations + logits, activations + logits + trainable * size // 2)
