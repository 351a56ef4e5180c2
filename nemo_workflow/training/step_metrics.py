"""What a step event of metrics.jsonl holds: the one place that computes the rows of run_dir/metric_table."""

from __future__ import annotations

import resource
from typing import Any

import torch

from nemo_workflow.config.plan import Plan
from nemo_workflow.models import catalog, flops, parameters
from nemo_workflow.training.step_clock import Finished


class StepMetrics:
    """Computes the numbers of each finished step of one run."""

    def __init__(self, plan: Plan, on_gpu: bool):
        self.plan = plan
        self.on_gpu = on_gpu
        vocabulary = parameters.padded_vocabulary(plan.sizes, plan.vocab_size, plan.layout.tensor)
        self._work = flops.flops_a_token(catalog.find(plan.model_name).family, plan.sizes, vocabulary, plan.seq_length)

    def of(self, finished: Finished) -> dict[str, Any]:
        """The step event's numbers by name; waits for the step's end."""
        seconds = finished.seconds()
        samples = self.plan.settings.global_batch_size / seconds
        tokens = samples * self.plan.seq_length
        return {
            "step": finished.values["step"],
            **finished.numbers_now(),
            "consumed_samples": finished.values["consumed_samples"],
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens, 1),
            "samples_per_second": round(samples, 3),
            **self._work_done(tokens),
            "memory_bytes": finished.values["memory_bytes"],
        }

    def _work_done(self, tokens: float) -> dict[str, float]:
        """TFLOP/s per GPU, and MFU: the share of the GPU's bf16 peak (also with fp8, so that runs can be compared)."""
        if self._work is None or not self.on_gpu:
            return {}
        done = tokens * self._work / self.plan.layout.ranks
        peak = flops.peak_of(torch.cuda.get_device_name())
        return {"tflops_per_gpu": round(done / 1e12, 1)} | ({"mfu": round(done / peak, 4)} if peak else {})


def peak_memory() -> int:
    """Bytes: the GPU allocator's peak, or on a CPU the process's largest resident size."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
