"""Several processes that train one network, each on its GPU: Accelerate moves the gradients, this says who writes and who waits."""

from __future__ import annotations

import atexit
import gc
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object

from milvus_coop.errors import TrainingError

LONGEST_WAIT = timedelta(hours=12)
"""The others wait while one process runs a frozen backbone over all images, or scores the dev split."""

Value = TypeVar("Value")


def open_accelerator(precision: str) -> Accelerator:
    """The device of this process.

    Raises:
        TrainingError: the device does not compute in this precision.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # of an earlier run in this process: it would refuse another precision
    # A task does not use every parameter: the bi-encoder has no use for the head of the cross-encoder.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=LONGEST_WAIT)]
    try:
        # Without this, processes on a machine without a GPU would not find each other, and each would think itself the main one.
        cpu = not torch.accelerator.is_available()
        accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)
        if precision == "fp16" and accelerator.device.type == "cpu":  # newer versions of accelerate would try
            raise ValueError("float16 needs a GPU")
        if accelerator.num_processes > 1:
            atexit.register(_leave)
        return accelerator
    except (ValueError, ImportError) as exc:
        AcceleratorState._reset_state()
        raise TrainingError(f"precision {precision} is not possible here: {exc}", run="--precision no, or bf16") from exc


def _leave() -> None:
    """Leave the group in good order: a process that just ends takes its threads down in their work, and now and then aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()  # the wrapped network holds the group, and with it threads, through cycles


def agree(value: Value) -> Value:
    """The main process's value, in every process; all must call this."""
    shared: Value = broadcast_object_list([value])[0]
    return shared


def gather(values: list[Value]) -> list[Value]:
    """The values of all processes, in every process; all must call this."""
    gathered: list[Value] = gather_object(values)
    return gathered


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    main: bool = PartialState().is_main_process
    return main
