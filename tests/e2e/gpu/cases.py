"""The trainings of these tests, as benchmarks/gpu/run_cases.py takes them: small, one GPU, each flag that a CPU refuses."""

from __future__ import annotations

from typing import Any

STEPS = 12
LONGER = {"fp16": 60}  # its first steps are skipped while the loss scale comes down from 2**32

FULL = ["--recompute-granularity", "full"]
FLAGS = {
    "fp8": ["--fp8"],
    "fp8_tensorwise": ["--fp8", "--fp8-recipe", "tensorwise"],
    "optimizer_bf16": ["--optimizer-precision", "bf16"],
    "gradients_bf16": ["--grad-reduce-in-bf16"],
    "optimizer_offload": ["--optim-cpu-offloading"],
    "half_optimizer_offload": ["--optim-cpu-offloading", "--optim-cpu-offloading-frac", "0.5"],
    "activations_offload": ["--cpu-offloading", "--cpu-offloading-layers", "2", "--cpu-offloading-activations"],
    "full_uniform": [*FULL, "--recompute-method", "uniform", "--recompute-num-layers", "1"],
    "full_block": [*FULL, "--recompute-method", "block", "--recompute-num-layers", "2"],
    "selective": ["--recompute-granularity", "selective"],
    "fp32": ["--precision", "32"],
    "fp16": ["--precision", "16-mixed"],
}
EXACT = ["--fp8", "--deterministic"]
SAME_BITS = {"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # as the launcher sets
# some 200 GiB of llama32_1b's; the plan would refuse them on the machine's own GPU
TOO_MUCH = ["-mbs", "16", "--gpu-memory", "1000", "--profile", "3"]


def training(name: str, flags: list[str], model: str = "llama_tiny", **case: Any) -> dict[str, Any]:
    """A run, of the built-in tiny model where nothing is said, that saves half way and at its end."""
    steps, saved = length(name)
    base = ["--model-name", model, "--hf-model-id", "{tokenizer}", "--dataset-dir", "{data}", "-E", "run"]
    base += ["--max-steps", str(steps), "-gbs", "16", "--save-every", str(saved), "--val-check-interval", str(saved)]
    # one micro batch a step: activations are the most of the memory then
    micro = [] if "-mbs" in flags else ["-mbs", "16"]
    return {"name": name, "flags": [*base, *micro, *flags], "save": True, "small": True, "timeout": 120, **case}


def length(name: str) -> tuple[int, int]:
    """Steps of a case, and its step half way that is saved."""
    steps = LONGER.get(name.removesuffix("_again"), STEPS)
    return steps, steps // 2


def all_cases() -> list[dict[str, Any]]:
    """Each flag trained, then its run gone on with from the checkpoint half way."""
    found = [training("plain", [], first=True), training("plain_again", [], again="plain", forget=STEPS)]
    for name, flags in FLAGS.items():
        found.append(training(name, flags))
        found.append(training(f"{name}_again", flags, again=name, forget=length(name)[0]))
    found.append(training("fp8_deterministic", EXACT, env=SAME_BITS))
    found.append(training("fp8_deterministic_plain_casts", EXACT, plain_casts=True, env=SAME_BITS))
    found.append(training("profile", ["--profile", "3-4"]))
    found.append(training("out_of_memory", TOO_MUCH, "llama32_1b", small=False))
    found.append(training("stock", [], stock=True))
    found.append({**training("clock", []), "save": False, "small": False})  # nothing beside it, and no save
    return [*found, {"name": "kernels", "kind": "check"}]
