"""Benchmarks, one file each; this union is the list of them.

A benchmark is a spec with a literal `kind`, `max_new_tokens` and three methods: `choose(test_file, seed)` returns the
items to ask, the same for every model; `asked(items)` those that are answered by generation; `score(subject, role,
items, progress)` one result an item. The first benchmark of a request decides, so it also has `items` and
`generated_items`: how many it asks at most, 0 for all and for none.
"""

from tasks.evaluation.benchmarks.held_out import HeldOut

Benchmark = HeldOut
