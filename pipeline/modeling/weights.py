"""Load a state dict that must match the model exactly."""

from collections.abc import Mapping

from torch import Tensor, nn

from utils.errors import PipelineError


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, origin: str, assign: bool = False) -> None:
    """Copy `state` into `model`, or assign the tensors themselves with `assign`.

    Raises:
        PipelineError: a name or shape differs; the message starts with `origin`.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise PipelineError(
                f"{origin} does not match the model: {name} is {found.get(name, 'missing')} in the file, but "
                f"{expected.get(name, 'unknown')} in the model; use the configuration it was trained with"
            )
    model.load_state_dict(state, assign=assign)
