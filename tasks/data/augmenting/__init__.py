"""Training rows made from others by small edits of what is asked; `tasks.data.augmenting.augment` puts the parts in order."""
