"""The method `custom`: any of PEFT's methods by its configuration, or an adapter class of one's own."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.contracts import HardwarePlan, ModelRef, Spec
from tasks.errors import RequestError, did_you_mean
from tasks.plugins import adapter_class, as_mapping
from tasks.training.methods.adapting import adapted
from tasks.training.methods.driver import Driver, NoDriver

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_OWN = ("wrap", "save", "load", "merge")


class Custom(Spec):
    """Train with a method that is not listed here: one of PEFT's by its configuration, or an adapter class of your own.

    The configuration is text, not a table of fields: PEFT has some forty methods with fields of their own that change with its
    version, and the form has no field for a free mapping. PEFT's classes say what is right. A request file may hold a mapping.
    """

    model_config = ConfigDict(title="Custom adapter")

    kind: Literal["custom"] = "custom"
    adapter: ClassVar[bool] = True
    config: str = Field(
        default="", title="Configuration",
        description="YAML or JSON. Of PEFT's method: {peft_type: IA3, target_modules: [k_proj, v_proj, down_proj], "
        "feedforward_modules: [down_proj]}. With a class of your own: the arguments of its constructor.",
    )  # fmt: skip
    adapter_class: str = Field(
        default="", title="Own class",
        description="package.module:Class with wrap, save, load and merge, or a name that an installed package announces in "
        "the group tuneflow.methods. Empty: a method of PEFT.",
    )  # fmt: skip

    @field_validator("config", mode="before")
    @classmethod
    def _as_text(cls, content: object) -> object:
        import yaml

        if not isinstance(content, dict):
            return content
        return yaml.safe_dump(content, sort_keys=True)

    @field_validator("config")
    @classmethod
    def _is_a_mapping(cls, text: str) -> str:
        as_mapping(text)
        return text

    @model_validator(mode="after")
    def _names_a_method(self) -> Self:
        if not self.adapter_class and "peft_type" not in as_mapping(self.config):
            raise ValueError("names no method; give config a peft_type, e.g. {peft_type: IA3}, or give adapter_class")
        return self

    def check(self, base: ModelRef | None) -> str:
        """Why this cannot train `base`, or without one why it can train nothing; "" where it can."""
        try:
            own = self._own() if self.adapter_class else self._peft_config()
            if base is not None and hasattr(own, "check") and (problem := own.check(base)):
                return str(problem).rstrip(".")
            if base is not None:
                self._rehearse(base)
        except RequestError as error:
            return str(error).rstrip(".")
        return ""

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """The highest ZeRO stage that works, and why not more."""
        return 2, "an adapter that is not known may read whole weights, which ZeRO 3 divides"

    def trainable_parameters(self, base: ModelRef) -> int:
        """How many weights learn; all of them, as an upper bound, where the method must read weights to know.

        Raises:
            RequestError: the adapter does not fit the model.
        """
        from tasks.training.methods.skeleton import fresh_skeleton

        try:
            wrapped = self.wrap(fresh_skeleton(base))
        except NotImplementedError:  # of torch, asked for the values of weights that have none
            return base.parameters
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unfit(self._name, "be put around", base, error) from error
        return sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)

    def load(self, base: ModelRef, dtype: "torch.dtype") -> "PreTrainedModel":
        """The base model as it is."""
        from tasks.models import load_model

        return load_model(base.location, dtype, base.trust_remote_code)

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        if self.adapter_class:
            return self._own().wrap(model)
        return adapted(model, self._peft_config())

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter alone."""
        if self.adapter_class:
            folder.mkdir(parents=True, exist_ok=True)
            self._own().save(model, folder)
        else:
            model.save_pretrained(str(folder), safe_serialization=True)

    def driver(self, engine: Any, total_steps: int, plan: HardwarePlan) -> Driver:
        """That of the own class, where it has one."""
        own = self._own() if self.adapter_class else None
        driver: Driver = own.driver(engine, total_steps, plan) if own is not None and hasattr(own, "driver") else NoDriver()
        return driver

    def _rehearse(self, base: ModelRef) -> None:
        """Do without weights what a run will do with them: wrap, compute, load again, merge.

        Raises:
            RequestError: one of these does not work.
        """
        from tasks.training.methods.skeleton import fresh_skeleton

        if not self.adapter_class:
            demand_tokens(as_mapping(self.config), base)
        wrapped = self._attempt("be put around", base, lambda: self.wrap(fresh_skeleton(base)))
        if wrapped is None:
            return
        self._attempt("compute with", base, lambda: _compute(wrapped))
        if self.adapter_class:
            self._attempt("be merged into", base, lambda: self._own().merge(wrapped))
        else:
            self._attempt("be loaded again beside", base, lambda: _configured_again(wrapped))
            self._attempt("be merged into", base, wrapped.merge_and_unload)

    def _attempt(self, act: str, base: ModelRef, do: Callable[[], Any]) -> Any:
        """What `do` gives; None where it asked for the values of weights that have none, and so shows nothing.

        Raises:
            RequestError: it does not work.
        """
        try:
            return do()
        except RuntimeError as error:
            if "meta" in str(error):  # torch's message
                return None
            raise _unfit(self._name, act, base, error) from error
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise _unfit(self._name, act, base, error) from error

    @property
    def _name(self) -> str:
        return self.adapter_class or str(as_mapping(self.config)["peft_type"]).upper()

    def _own(self) -> Any:
        """The user's adapter.

        Raises:
            RequestError: it is not there, lacks a method, or does not take its configuration.
        """
        found = adapter_class(self.adapter_class)
        missing = [name for name in _OWN if not callable(getattr(found, name, None))]
        if missing:
            raise RequestError(
                f"The adapter {self.adapter_class!r} has no {', '.join(missing)}. It needs wrap(model), save(model, folder), "
                f"load(model, folder) and merge(model)."
            )
        try:
            return found(**as_mapping(self.config))
        except Exception as error:
            raise RequestError(f"method.config does not suit {self.adapter_class!r}: {_first_line(error)}.") from error

    def _peft_config(self) -> Any:
        """PEFT's own configuration object.

        Raises:
            RequestError: PEFT has no such method or field, or refuses a value.
        """
        return peft_config(as_mapping(self.config))


def peft_config(content: dict[str, Any]) -> Any:
    """PEFT's configuration object of `content`.

    Raises:
        RequestError: PEFT has no such method or field, refuses a value, or the method cannot be used here.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): found for kind, found in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    name = str(content["peft_type"]).upper()
    if name not in known:
        raise RequestError(
            f"method.config: peft_type {name!r} is none of PEFT's.{did_you_mean(name, known)} It has {_list(known)}."
        )
    if name == "ADALORA":
        raise RequestError("method.config: ADALORA needs its ranks led from step to step. Use method.kind: adalora.")
    usable = _settable(known[name]) - {"peft_type", "task_type", "inference_mode"}
    for field in content:
        if field not in usable | {"peft_type"}:
            raise RequestError(
                f"method.config: {name} has no field {field!r}.{did_you_mean(field, usable)} It has {_list(usable)}."
            )
    try:
        config = known[name](task_type="CAUSAL_LM", **{key: value for key, value in content.items() if key != "peft_type"})
    except (ValueError, TypeError) as error:
        raise RequestError(f"method.config: {name} refuses it: {_first_line(error)}.") from error
    if name == "TRAINABLE_TOKENS" and not content.get("token_indices"):
        raise RequestError("method.config: TRAINABLE_TOKENS learns single tokens, and token_indices names none, e.g. [5, 17].")
    if config.is_prompt_learning:
        raise RequestError(
            f"method.config: {name} learns tokens that are put before each text, not weights. They cannot be merged into the "
            f"model, so that nothing could be exported. Use a method that changes weights, such as LORA, IA3 or VERA."
        )
    return config


def demand_tokens(content: dict[str, Any], base: ModelRef) -> None:
    """Refuse tokens that are to learn and that `base` does not have.

    Raises:
        RequestError: there is one.
    """
    for field in ("token_indices", "trainable_token_indices"):
        named = content.get(field) or []
        parts = list(named.values()) if isinstance(named, dict) else [named]
        numbers = [number for part in parts for number in (part if isinstance(part, list) else [part])]
        strange = [number for number in numbers if not (isinstance(number, int) and 0 <= number < base.vocabulary)]
        if strange:
            raise RequestError(
                f"method.config: {field} names {strange[0]!r}, but the tokens of {base.uri} are the numbers 0 to "
                f"{base.vocabulary - 1}."
            )


def _compute(wrapped: Any) -> None:
    """A pass over a few tokens without weights."""
    import torch

    ids, mask = torch.zeros(1, 4, dtype=torch.long, device="meta"), torch.zeros(1, 1, 4, 4, device="meta")
    wrapped(input_ids=ids, attention_mask=mask, use_cache=False)


def _configured_again(wrapped: Any) -> None:
    """PEFT's configuration once more, from what it became: it is checked when an adapter is loaded."""
    config = wrapped.peft_config["default"]
    type(config)(**{key: value for key, value in vars(config).items() if key in _settable(type(config))})


def _settable(kind: type) -> set[str]:
    """The fields of one of PEFT's configuration classes."""
    from dataclasses import fields

    return {field.name for field in fields(kind) if field.init}


def _unfit(name: str, act: str, base: ModelRef, error: Exception) -> RequestError:
    return RequestError(f"method.config: with it {name} cannot {act} {base.uri}: {_first_line(error)}.")


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
