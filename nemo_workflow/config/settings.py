"""What the user asked for: one typed field a flag. Generated from config/flags.py by `make generate`; don't edit."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_workflow.config.flag_values import FlagValues


@dataclass
class Settings(FlagValues):
    """The value of every flag. Each field's help and the recipe field that it sets stand in config/flags.py."""

    executor: str = "local"
    experiment: str = "pretraining"
    max_restarts: int = 0
    timeout_minutes: float = 30.0
    grace_seconds: float | None = None
    dry_run: str | None = None
    calibrate: str | None = None
    completion: str | None = None
    version: bool = False
    config: str | None = None
    account: str = "root"
    partition: str = "defq"
    container_image: str = "nvcr.io/nvidia/nemo:dev"
    time: str | None = None
    qos: str | None = None
    mem: str | None = None
    exclusive: bool = False
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    dependency: str | None = None
    requeue: int = 0
    chain: int = 1
    stop_before: int = 300
    container_mounts: tuple[str, ...] = ()
    container_env: tuple[str, ...] = ()
    container_runtime: str | None = None
    no_container: bool = False
    setup_file: str | None = None
    ssh: str | None = None
    slurm_arg: tuple[str, ...] = ()
    wait: bool = False
    num_nodes: int = 1
    num_gpus: int = 8
    accelerator: str = "auto"
    gpu: str | None = None
    gpu_memory: float | None = None
    node_bandwidth: float | None = None
    model_name: str | None = None
    hf_model_id: str = ""
    nemo_model: str | None = None
    hf_token: str | None = None
    list_models: str | None = None
    max_steps: int | None = None
    global_batch_size: int = 2048
    micro_batch_size: int = 1
    fp8: bool = False
    precision: str | None = None
    fp8_recipe: str | None = None
    fp8_output_layer: bool = False
    seq_length: int | None = None
    seed: int = 1234
    val_check_interval: int | None = None
    on_nan: str = "stop"
    deterministic: bool = False
    optimizer: str | None = None
    optimizer_precision: str | None = None
    grad_reduce_in_bf16: bool = False
    lr: float | None = None
    min_lr: float | None = None
    warmup_steps: int | None = None
    constant_steps: int | None = None
    lr_schedule: str | None = None
    decay_steps: int | None = None
    decay_style: str | None = None
    decay_from: str | None = None
    weight_decay: float | None = None
    adam_beta1: float | None = None
    adam_beta2: float | None = None
    clip_grad: float | None = None
    disable_dist_optim: bool = False
    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int = 1
    context_parallel_size: int = 1
    sequence_parallel: bool = False
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    expert_model_parallel_size: int | None = None
    layout: str | None = None
    suggest: int | None = None
    max_memory: float | None = None
    deadline: str | None = None
    dataset_dir: tuple[str, ...] = ()
    blend: str | None = None
    blend_temperature: float | None = None
    max_epochs_per_source: float | None = None
    validation_dir: tuple[str, ...] = ()
    split: str = "900,50,50"
    save_every: int | None = None
    keep_checkpoints: int = 2
    allow_change: tuple[str, ...] = ()
    on_save_error: str = "stop"
    wandb: bool = False
    wandb_project: str | None = None
    wandb_name: str | None = None
    wandb_token: str | None = None
    output_dir: str = "nemo_experiments"
    sample: str | None = None
    profile: str | None = None
    export_hf: str | None = None
    push_to_hub: str | None = None
    log_every: int = 10
    recompute_granularity: str | None = None
    recompute_method: str | None = None
    recompute_num_layers: int | None = None
    cpu_offloading: bool = False
    cpu_offloading_layers: int | None = None
    cpu_offloading_activations: bool = False
    cpu_offloading_weights: bool = False
    optim_cpu_offloading: bool = False
    optim_cpu_offloading_frac: float = 1.0
