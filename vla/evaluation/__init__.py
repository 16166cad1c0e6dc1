"""How well a policy does what it is told: rollouts in a simulator, success rates with intervals, a report."""

from vla.evaluation.rollout import PROMPTS, Case, Failure, Rollout, Suite, rollout
from vla.evaluation.statistics import Rate, wilson
from vla.evaluation.summary import Evaluation, evaluate

__all__ = ["PROMPTS", "Case", "Evaluation", "Failure", "Rate", "Rollout", "Suite", "evaluate", "rollout", "wilson"]
