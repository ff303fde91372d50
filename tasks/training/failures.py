"""Which class a failed attempt at a training belongs to, from what its processes said and how they ended."""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import FailureClass, TrainingError, TuneflowError
from tasks.process import Event

_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED", re.I
)
# What an exception of a transport or of torchrun's rendezvous says where the other side was not to be reached.
_MAY_PASS = re.compile(
    r"connection (closed|reset|refused|timed out)|connectFullMesh|socket timeout|timed out waiting|broken pipe"
    r"|nccl(Remote|System|Internal)Error|NCCL communicator was aborted|collective operation timeout"
    r"|input/output error|stale file handle",
    re.I,
)
_PASSING_CLASSES = {
    "ConnectionError", "TimeoutError", "DistNetworkError", "DistStoreError", "RendezvousConnectionError",
    "RendezvousTimeoutError", "RendezvousStateError",
}  # fmt: skip
# Where no rank could say anything: the exceptions of torchrun, and the last words of NCCL's watchdog.
_LAST_WORDS = re.compile(r"Rendezvous(Connection|Timeout|State)Error|Dist(Network|Store)Error|collective operation timeout")
# Not ENOSPC, EDQUOT or EACCES: those wait for a person.
_PASSING_NUMBERS = {
    errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH,
    errno.ENOTCONN, errno.EAGAIN,
}  # fmt: skip
_RANK_ENDED = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\n\s*exitcode\s*: (-?\d+)")
_KILLED, _ENDED = (-9, 137), (-15, 143)


@dataclass(frozen=True)
class Evidence:
    """What is known of an attempt that ended badly.

    Attributes:
        returncode: of the command; negative is a signal.
        tail: the last lines it printed; the last of them torchrun's summary.
        failed: the ranks' `failed` events.
        stopped: whether the ranks wrote a checkpoint and ended because of a SIGTERM.
        memory_kills: whether the kernel killed a process for want of memory meanwhile.
        hung: what was found where the ranks were ended because one did nothing any more.
    """

    returncode: int
    tail: tuple[str, ...] = ()
    failed: tuple[Event, ...] = ()
    stopped: bool = False
    memory_kills: bool = False
    hung: str = ""


def class_of(error: BaseException) -> FailureClass:
    """The class of an exception in a rank. By names and numbers: torch is not imported for it."""
    if isinstance(error, TuneflowError):
        return error.failure if isinstance(error, TrainingError) else "other"
    names, text = {base.__name__ for base in type(error).__mro__}, str(error)
    number = error.errno if isinstance(error, OSError) else None
    speaks = not (names & {"ValueError", "TypeError", "LookupError", "AttributeError", "ImportError", "NameError"})
    if names & {"OutOfMemoryError", "MemoryError"} or number == errno.ENOMEM or (speaks and _NO_MEMORY.search(text)):
        return "out_of_memory"
    if names & _PASSING_CLASSES or number in _PASSING_NUMBERS:
        return "infrastructure"
    return "infrastructure" if speaks and number is None and _MAY_PASS.search(text) else "other"


def judge(evidence: Evidence) -> tuple[FailureClass, str]:
    """The class of a failed attempt, and what was found.

    When one rank fails, the others lose their connection to it: what they say of that counts least.
    """
    ended = {int(rank): int(code) for rank, code in _RANK_ENDED.findall("\n".join(evidence.tail))}
    *_, root = ended.values() if ended else [evidence.returncode]  # torchrun names the first failure last
    killed = next((f"rank {rank} was killed by SIGKILL" for rank, code in ended.items() if code in _KILLED), "")
    if not killed and evidence.returncode in _KILLED:
        killed = "the training processes were killed by SIGKILL"
    own = next((event for event in evidence.failed if event["failure"] != "infrastructure"), None)
    asked = root in _ENDED or evidence.returncode in _ENDED or any("got signal: 15" in line for line in evidence.tail)
    words = next((line.strip()[:300] for line in reversed(evidence.tail) if _LAST_WORDS.search(line)), "")
    ranked: tuple[tuple[object, FailureClass, str], ...] = (
        (evidence.hung, "hung", evidence.hung),
        (own, own["failure"] if own else "other", said(own) if own else ""),
        (
            killed and evidence.memory_kills,
            "out_of_memory",
            f"{killed}, and the kernel counts a kill for want of memory",
        ),
        (evidence.stopped, "preempted", "the training processes got SIGTERM from outside, and wrote a checkpoint"),
        (asked, "preempted", "the training processes got SIGTERM from outside, before they could write a checkpoint"),
        (evidence.failed, "infrastructure", said(evidence.failed[0]) if evidence.failed else ""),
        (killed, "infrastructure", f"{killed}, and not for want of memory"),
        (words, "infrastructure", words),
        (True, "other", f"the training processes ended with status {root}"),
    )
    return next((failure, found) for applies, failure, found in ranked if applies)


def said(event: Event) -> str:
    """A `failed` event as a sentence."""
    if event.get("ours"):
        return str(event["text"])
    text = " ".join(str(event["text"]).split())
    return f"rank {event['rank']} ended with {event['error']}" + (f": {text[:300]}" if text else "")


def memory_kills(process: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> Mapping[str, int]:
    """How many processes the kernel has killed for want of memory, by the file that counts them.

    This process's own control group is asked, and the whole machine only where that cannot be read.
    """
    try:
        own = (process / "self" / "cgroup").read_text().rsplit("::", 1)[-1].strip().lstrip("/")
    except OSError:
        own = ""
    for path in (groups / own / "memory.events", groups / "memory.events", process / "vmstat"):
        try:
            counts = dict(line.split()[:2] for line in path.read_text().splitlines())
            return {str(path): int(counts["oom_kill"])}
        except (OSError, KeyError, ValueError):
            continue
    return {}
