"""Communication between processes that train one model. With a single process, everything here is a no-op."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from utils.devices import World, current_world

T = TypeVar("T")


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Connect the processes started by torchrun while the block runs: NCCL for GPUs, gloo for CPUs."""
    world = current_world()
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        yield world
    finally:
        dist.destroy_process_group()


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, wrapped to average gradients if there are several processes."""
    if not is_active():
        return model
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def gradients_stay_local(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Disable the gradient exchange of a `data_parallel` model inside the block."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def is_active() -> bool:
    return dist.is_available() and dist.is_initialized()


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place."""
    if is_active():
        dist.all_reduce(values)
    return values


def all_max(number: int, device: torch.device) -> int:
    """The largest `number` of any process, used to agree on stopping."""
    if not is_active():
        return number
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def barrier() -> None:
    """Wait until every process gets here."""
    if is_active():
        dist.barrier()


def gather(value: T) -> list[T]:
    """The `value` of every process, in rank order."""
    if not is_active():
        return [value]
    result: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(result, value)
    return result


def from_main(value: T) -> T:
    """The `value` of the main process, in every process."""
    if not is_active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
