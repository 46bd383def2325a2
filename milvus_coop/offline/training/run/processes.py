"""Several processes that train one network, each on its GPU. Accelerate moves the gradients; this module makes processes wait."""

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
"""Maximum time that processes wait while one runs a frozen backbone over all images, or scores the dev split."""

Value = TypeVar("Value")


def open_accelerator(precision: str) -> Accelerator:
    """The accelerator object with the device of this process.

    Raises:
        TrainingError: the device does not compute in this precision.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # the state of an earlier run in this process would refuse another precision
    # A task does not use every parameter: the bi-encoder does not use the head of the cross-encoder.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=LONGEST_WAIT)]
    try:
        # Without this, processes on a machine without a GPU would not find each other, and each would act as the main one.
        cpu = not torch.accelerator.is_available()
        accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)
        if precision == "fp16" and accelerator.device.type == "cpu":  # newer versions of accelerate would try it
            raise ValueError("float16 needs a GPU")
        if accelerator.num_processes > 1:
            atexit.register(_leave)
        return accelerator
    except (ValueError, ImportError) as exc:
        AcceleratorState._reset_state()
        raise TrainingError(f"precision {precision} is not possible here: {exc}", run="--precision no, or bf16") from exc


def _leave() -> None:
    """Leave the process group in good order. A process that just ends stops its threads at work, and sometimes aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()  # reference cycles keep the wrapped network, and with it the group and its threads


def agree(value: Value) -> Value:
    """The main process's value, in every process. All processes must call this."""
    shared: Value = broadcast_object_list([value])[0]
    return shared


def gather(values: list[Value]) -> list[Value]:
    """The values of all processes, in every process. All processes must call this."""
    gathered: list[Value] = gather_object(values)
    return gathered


def is_main_process() -> bool:
    """True if this process is the one that writes and prints."""
    main: bool = PartialState().is_main_process
    return main
