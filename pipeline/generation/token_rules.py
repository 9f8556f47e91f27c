"""What one row adds to its logits: a bias for chosen tokens, penalties for tokens it has generated, and minus infinity
for tokens that its constraint does not allow.

    rules = TokenRules(bias=((17, -100.0),), constraint=None, …)
    logits = logits + rules.offsets()       # (V,)
    rules.add(token)
"""

from typing import Protocol

import torch
from torch import Tensor

from utils.errors import PipelineError


class ConstraintState(Protocol):
    """How far one answer has come in a constraint."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow."""

    def allowed(self) -> Tensor:
        """The tokens that may follow, bool (V,) on the CPU; includes the EOS if the answer may end here.

        Raises:
            PipelineError: the constraint is too complex to continue.
        """

    def accept(self, token: int) -> None:
        """Continue after `token`, which is allowed."""


class Constraint(Protocol):
    """A rule for a whole answer, such as a JSON schema; any number of answers can use it."""

    def start(self) -> ConstraintState: ...


class TokenRules:
    """The changes to the logits of one row.

    Args:
        bias: (token id, number to add) for any number of tokens.
        frequency_penalty: subtracted once for every time that the row has generated the token.
        presence_penalty: subtracted if the row has generated the token at all.
    """

    def __init__(
        self,
        *,
        bias: tuple[tuple[int, float], ...],
        frequency_penalty: float,
        presence_penalty: float,
        constraint: Constraint | None,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._offsets = torch.zeros(vocab_size, device=device)
        for token, value in bias:
            self._offsets[token] = value
        self._frequency_penalty = frequency_penalty
        self._presence_penalty = presence_penalty
        self._generated: set[int] = set()
        self._constraint = constraint.start() if constraint else None
        self.error: PipelineError | None = None  # why the constraint cannot continue

    @property
    def is_finished(self) -> bool:
        """Whether the constraint allows nothing more."""
        return self._constraint is not None and self._constraint.is_finished

    def offsets(self) -> Tensor:
        """What to add to the logits of the next token, float32 (V,). Sets `error` if the constraint fails."""
        if self._constraint is None:
            return self._offsets
        try:
            allowed = self._constraint.allowed()
        except PipelineError as error:
            self.error = error
            return self._offsets
        return self._offsets.masked_fill(~allowed.to(self._offsets.device), -torch.inf)

    def add(self, token: int) -> None:
        """Take the generated `token` into account."""
        penalty = self._frequency_penalty
        if token not in self._generated:
            self._generated.add(token)
            penalty += self._presence_penalty
        if penalty:
            self._offsets[token] -= penalty
        if self._constraint is not None and self.error is None:
            self._constraint.accept(token)
