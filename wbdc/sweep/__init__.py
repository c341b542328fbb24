"""Search for settings of a kit: trials by Optuna, and a confirmation on other folds."""
