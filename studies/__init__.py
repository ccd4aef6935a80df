"""Plans and runs studies: plans, the driver, Optuna, launchers, workers and the MLflow mirror."""
