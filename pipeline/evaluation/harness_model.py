"""Our models as a model class of lm-evaluation-harness. Importing this needs `lm_eval`.

results = lm_eval.evaluator.evaluate(HarnessModel(Scorer(model), tokenizer), task_dict)
"""

from lm_eval.api.model import LM

from pipeline.evaluation.harness_requests import HarnessRequests


class HarnessModel(HarnessRequests, LM):  # type: ignore[misc]  # lm_eval is optional, so mypy may not find it
    """Answers every kind of request; see `HarnessRequests`."""
