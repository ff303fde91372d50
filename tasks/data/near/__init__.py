"""The passes of the search for near-duplicates; `tasks.data.dedup` puts them in order."""
