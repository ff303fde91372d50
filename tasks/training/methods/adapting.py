"""How a model of PEFT is put around a base."""

import warnings
from typing import Any


def adapted(model: Any, config: Any) -> Any:
    """The model with the adapters of PEFT's `config`; only they require gradients."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        # PEFT asks transformers by a name that it gave up, whatever the model.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)
