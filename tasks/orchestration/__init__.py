"""Flow runs: their states, those started on work pools, the slots they hold, and what is announced of them."""
