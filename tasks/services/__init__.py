"""The services of `tuneflow up`: a Prefect server, the MLflow UI and the workers. Pure modules, without Prefect."""
