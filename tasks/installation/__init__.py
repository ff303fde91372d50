"""What a Prefect API must hold before runs start: pools, limits, block types, automations, deployments."""
