"""The exceptions that tuneflow raises on purpose.

    TuneflowError                     exit code 1
    ├── InputError                    exit code 2: the user can mend it
    │   ├── RequestError              the request: a key, a value, a combination
    │   ├── DatasetError              the data: an address, a file, a line, a column
    │   ├── ModelError                the base model or its tokenizer
    │   ├── WorkspaceError            the workspace cannot be written, the disk is too small
    │   └── ServiceError              a store, tracking server or hub does not answer as it must
    └── StageError                    a stage could not go on
        ├── LedgerError               rows were lost or counted twice: a defect, never the user's
        ├── LeakageError              the same content in two splits
        ├── ChildError                a child process ended badly; holds its last lines
        │   └── StoppedError          it was stopped on purpose: its flow run was cancelled or is over
        ├── TrainingError             training cannot go on; holds the class of the failure
        │   └── AttemptError          one attempt at a training ended badly; holds what was found and the last lines
        ├── SearchError               no trial of a search gave a measurement
        ├── EvaluationError           evaluation cannot go on
        └── ParityError               an export does not say what the trained model says

A message says what was found, where, what was expected and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

FailureClass = Literal["out_of_memory", "preempted", "loss_not_finite", "infrastructure", "hung", "other"]


class TuneflowError(Exception):
    """Anything that tuneflow itself reports."""

    exit_code = 1


class InputError(TuneflowError):
    """The user's input is at fault, and the message says how to mend it."""

    exit_code = 2


class RequestError(InputError):
    """The request has an unknown key, a bad value or a combination that cannot work."""


class DatasetError(InputError):
    """The data cannot be read, mapped or learned from."""


class ModelError(InputError):
    """The base model or its tokenizer cannot be found, read or used."""


class WorkspaceError(InputError):
    """The workspace cannot be written, or its disk is too small."""


class ServiceError(InputError):
    """A store, a tracking server or a hub does not answer as it must."""


class StageError(TuneflowError):
    """A stage cannot go on."""


class LedgerError(StageError):
    """Rows were lost or counted twice."""


class LeakageError(StageError):
    """The same content stands in two splits."""


class ChildError(StageError):
    """A child process ended badly.

    Args:
        message: what ended and how.
        returncode: exit status; negative is the signal that ended it.
        tail: the last lines it printed.
    """

    def __init__(self, message: str, returncode: int = 1, tail: Iterable[str] = ()) -> None:
        self.returncode = returncode
        self.tail = tuple(tail)
        super().__init__("\n".join([message, *(f"  | {line}" for line in self.tail)]))


class StoppedError(ChildError):
    """Work was stopped on purpose, since its flow run was cancelled or is over."""


class TrainingError(StageError):
    """Training cannot go on.

    Args:
        message: what was found, what was done already and what to do.
        failure: the class; `other` is the fault of data, code or settings, which no second attempt mends.
    """

    def __init__(self, message: str, failure: FailureClass = "other") -> None:
        self.failure: FailureClass = failure
        super().__init__(message)


class AttemptError(TrainingError):
    """One attempt at a training ended badly.

    Args:
        found: what ended and how, in one line.
        failure: the class.
        tail: the last lines that the ranks printed; none where `found` says all.
    """

    def __init__(self, found: str, failure: FailureClass, tail: Iterable[str] = ()) -> None:
        self.found = found
        self.tail = tuple(tail)
        super().__init__("\n".join([found, *(f"  | {line}" for line in self.tail)]), failure)


class SearchError(StageError):
    """No trial of a search gave a measurement."""


class EvaluationError(StageError):
    """Evaluation cannot go on."""


class ParityError(StageError):
    """An export does not say what the trained model says."""


def unknown_name(what: str, found: str, known: Iterable[str]) -> str:
    """Say that `found` is unknown, which names are known, and the nearest one."""
    names = sorted(known)
    near = get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {found!r}.{hint} Known: {', '.join(names)}."


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """A question after the nearest name, with a blank before it; "" where none is near."""
    near = get_close_matches(found, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def without_login(address: str) -> str:
    """An address as messages may show it: without user and password."""
    scheme, found, rest = address.partition("://")
    return address if scheme.startswith(("sqlite", "file")) else scheme + found + rest.rpartition("@")[2]
