"""Objective measures of enhanced speech against its clean reference. Needs no torch."""

from .pool import MetricPool, MetricProcessError
from .registry import METRICS
from .scores import Scored, score, score_with_errors

__all__ = ["METRICS", "MetricPool", "MetricProcessError", "Scored", "score", "score_with_errors"]
