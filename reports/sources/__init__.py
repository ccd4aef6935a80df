"""Reads scores and facts about a study from run directories, an MLflow server, a file, or old logs."""

from .files import scores_from_elsewhere
from .mlflow import scores_from_mlflow
from .study import StudyInfo, scores_from_study

__all__ = ["StudyInfo", "scores_from_elsewhere", "scores_from_mlflow", "scores_from_study"]
