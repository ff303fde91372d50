"""Numbers drawn from the content of a row, so that the same row always gets the same edits (SplitMix64)."""

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


class Draw:
    """Numbers that follow from a first one."""

    def __init__(self, state: int) -> None:
        self._state = state

    def below(self, count: int) -> int:
        """A number from 0 up to `count`, not itself."""
        self._state = (self._state + _STEP) & _MASK
        found = self._state
        found = ((found ^ (found >> 30)) * _FIRST) & _MASK
        found = ((found ^ (found >> 27)) * _SECOND) & _MASK
        return (found ^ (found >> 31)) % count

    def some(self, count: int, wanted: int) -> list[int]:
        """So many different numbers below `count`, in ascending order; fewer where it drew one twice."""
        return sorted({self.below(count) for _ in range(wanted)})
