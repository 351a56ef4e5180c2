"""One of the ranks of test_optimizer_gather.py: rank, ranks and a folder that they share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

rank, ranks, shared = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

from nemo_workflow.backends import cpu, optimizer_gather  # noqa: E402

cpu.install()

import torch  # noqa: E402
from megatron.core import dist_checkpointing, parallel_state  # noqa: E402
from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy  # noqa: E402
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.transformer import TransformerConfig  # noqa: E402

from nemo_workflow.run_dir.checkpoints import describe_files, describe_written, files_of  # noqa: E402
from nemo_workflow.training import shard_writer  # noqa: E402

META = {"distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False}


def trained(padded: bool) -> tuple[Any, Any]:
    """A model of some buckets in fp32, whose weights are the optimizer's own, and the optimizer, two steps on."""
    sizes = ((40, 7), (33, 5), (9,), (64, 3)) if padded else ((64, 8), (128, 2), (256,), (64, 4))
    torch.manual_seed(1)
    model = torch.nn.Module()
    for number, size in enumerate(sizes):
        model.register_parameter(f"weight{number}", torch.nn.Parameter(torch.randn(size)))
    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, overlap_grad_reduce=True, bucket_size=150)
    wrapped = DistributedDataParallel(config, ddp, model)
    asked = OptimizerConfig(optimizer="adam", lr=0.1, bf16=False, fp16=False, use_distributed_optimizer=True)
    optimizer = get_megatron_optimizer(asked, [wrapped])
    assert len(wrapped.buffers[0].buckets) > 2
    assert (wrapped.buffers[0].numel != wrapped.buffers[0].numel_unpadded) == padded
    for _ in range(2):
        wrapped.zero_grad_buffer()
        sum(parameter.square().sum() for parameter in model.parameters()).backward()
        wrapped.finish_grad_sync()
        optimizer.step()
    return model, optimizer


def saved(model: Any, optimizer: Any, name: str) -> dict[str, Any]:
    """What a checkpoint holds of the optimizer."""
    place = shared / name
    place.mkdir(exist_ok=True)
    torch.distributed.barrier()
    weights = {
        key: ShardedTensor.from_rank_offsets(key, value, replica_id=(0, 0, rank))
        for key, value in model.state_dict(keep_vars=True).items()
    }
    for _ in range(2):  # the first as a save leaves it that failed before anything was written
        state = {"optimizer": optimizer.sharded_state_dict(weights, metadata=META)}
    strategy = FullyParallelSaveStrategyWrapper(TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=3))
    dist_checkpointing.save(state, str(place), strategy)
    return dist_checkpointing.load_plain_tensors(str(place))


torch.distributed.init_process_group("gloo", init_method=f"file://{shared}/meeting", rank=rank, world_size=ranks)
parallel_state.initialize_model_parallel()
models = {"even": trained(padded=False), "padded": trained(padded=True)}
theirs = saved(*models["even"], "theirs")
optimizer_gather.PIECE = 48  # in many pieces
optimizer_gather.install()
shard_writer.install()
for name, (model, optimizer) in models.items():
    ours = saved(model, optimizer, name)
    assert not optimizer_gather._waiting
    shards = [file for file in files_of(shared / name) if file.startswith(f"__{rank}_")]
    assert len(shards) == 3 and all((shared / name / f"{file}.hash").is_file() for file in shards)
    assert describe_written(shared / name, shards) == describe_files(shared / name, shards)
    assert not list((shared / name).glob(f"__{rank}_*.hash"))
    states = {key: value for key, value in ours.items() if key.startswith("optimizer.state.")}
    assert len(states) == 12
    for key, parameter in model.named_parameters():
        assert torch.equal(states[f"optimizer.state.param.{key}"], parameter.detach()), key
        assert states[f"optimizer.state.exp_avg.{key}"].count_nonzero() == parameter.numel(), key
    # with padding megatron-core's own has three of the four in the wrong place
    assert name == "padded" or all(torch.equal(value, theirs[key]) for key, value in states.items())

copied = ShardedTensor.from_rank_offsets("copied", torch.empty(3, device="meta"), replica_id=(0, 0, 0))
try:
    optimizer_gather.fill([copied])
except RuntimeError as error:
    assert "copied is no view of it" in str(error)
else:
    raise AssertionError("a shard without numbers would be written")
print("the same")
