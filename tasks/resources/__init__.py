"""Resources: what the machine has, what a training needs, and the plan with its reasons."""
