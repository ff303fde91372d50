import threading
from typing import Any

from benchmarks.recovery import Stopwatch


def test_harm_is_done_after_a_checkpoint_and_measured_until_the_next_step_of_a_new_attempt() -> None:
    done = threading.Event()
    watch = Stopwatch(done.set)

    def say(kind: str, **more: Any) -> None:
        watch({"kind": kind, **more})

    say("started")
    say("metrics", step=1)
    assert not done.is_set()
    say("checkpoint", step=10)
    say("metrics", step=10)
    assert done.wait(10)
    say("metrics", step=20)  # a step of the attempt that is about to end
    assert not watch.seconds
    assert watch.over() == ""
    say("started")
    say("metrics", step=20)
    assert watch.seconds > 0
    assert watch.over() == "measured"
