"""The driver: plans, Optuna, launchers, workers and the MLflow mirror."""
