"""The linear layer of the model: weights stay in their own type, products run in the activations'."""

from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A product without bias. Float32 master weights are cast to the input's type here, inside the compiled forward,
    where the cast is one pass fused with the transposition that the product needs; autocast would keep a copy."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class FusedLinear(Linear):
    """Several products of one input as one: their weights lie below one another, in `sizes` rows each."""

    def __init__(self, in_features: int, sizes: tuple[int, ...]) -> None:
        super().__init__(in_features, sum(sizes))
        self.sizes = sizes
