"""Every rule that a run must meet before anything is launched. Each problem names flag, value and remedy.

The rules are what megatron-core, NeMo and Transformer Engine assert deep in a run, or, worse, ignore. A rule is a
function that yields its problems; it yields nothing where what it needs couldn't be found out.
"""

from __future__ import annotations

from nemo_workflow.config.checks.activations import cpu_offloading, recompute
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.data import (
    checkpoint_of_this_tokenizer,
    documents_end_as_this_tokenizers,
    enough_data,
    made_with_this_tokenizer,
    open_files_allowed,
    sound_pairs,
    tokenizer_fits,
    validation_sets,
)
from nemo_workflow.config.checks.hardware import (
    cpu_libraries_of_a_run,
    cpu_limits,
    cpu_speed,
    fp8_output_layer,
    machine_size,
    precision_flags,
)
from nemo_workflow.config.checks.outputs import hugging_face, output_folder, profiled_steps, sample_text, wandb_flags
from nemo_workflow.config.checks.parallelism import (
    pipeline_split,
    rank_split,
    sequence_length,
    stage_ends,
    tensor_split,
)
from nemo_workflow.config.checks.training import (
    checkpoint_fits,
    gradients_precision,
    lacking_fields,
    optimizer_flags,
    optimizer_offloading,
    optimizer_precision,
    schedule_flags,
)
from nemo_workflow.config.checks.values import experiment_name, paths_are_text, planning_flags, smallest_values

RULES = (
    experiment_name,
    paths_are_text,
    planning_flags,
    output_folder,
    machine_size,
    checkpoint_fits,
    lacking_fields,
    cpu_limits,
    cpu_speed,
    fp8_output_layer,
    cpu_libraries_of_a_run,
    precision_flags,
    optimizer_flags,
    schedule_flags,
    rank_split,
    tensor_split,
    pipeline_split,
    stage_ends,
    sequence_length,
    recompute,
    cpu_offloading,
    optimizer_offloading,
    optimizer_precision,
    gradients_precision,
    enough_data,
    open_files_allowed,
    sound_pairs,
    tokenizer_fits,
    made_with_this_tokenizer,
    documents_end_as_this_tokenizers,
    checkpoint_of_this_tokenizer,
    validation_sets,
    wandb_flags,
    sample_text,
    hugging_face,
    profiled_steps,
)

LAYOUT_RULES = (
    rank_split,
    tensor_split,
    pipeline_split,
    stage_ends,
    sequence_length,
    recompute,
    precision_flags,
    fp8_output_layer,
    lacking_fields,
)
# what --suggest refuses too: no layout makes flags go together that don't
LAYOUTLESS_RULES = (
    fp8_output_layer,
    precision_flags,
    lacking_fields,
    optimizer_offloading,
    optimizer_precision,
    gradients_precision,
)

MOST = 10  # problems of one rule that are printed


def find_problems(run: Run) -> list[str]:
    """Every broken rule. A value out of range is reported alone: the other rules would only repeat it."""
    out_of_range = [*smallest_values(run)]
    return out_of_range or [problem for rule in RULES for problem in _first(list(rule(run)))]


def _first(problems: list[str]) -> list[str]:
    """Of one rule's problems, one per file, as many as a person reads."""
    if len(problems) <= MOST:
        return problems
    return [*problems[:MOST], f"and {len(problems) - MOST:,} more problems of this kind"]
