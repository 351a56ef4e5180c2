"""Which fields of a NeMo model's configuration say what the model is, and which say how it is trained.

A run that starts from a checkpoint takes the first from it (the model must stay what it was) and the second from its
recipe and flags. Every field of NeMo's configurations is in exactly one of the lists below; a test holds them against
the dataclasses, so a new NeMo's field can't be forgotten.
"""

from __future__ import annotations

from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# what the model computes: sizes, norms, positions, windows, experts
ARCHITECTURE = _names("""
    num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels vocab_size
    make_vocab_size_divisible_by share_embeddings_and_output_weights init_method_std embedding_init_method_std
    normalization layernorm_epsilon layernorm_zero_centered_gamma qk_layernorm qk_l2_norm
    apply_residual_connection_post_layernorm apply_query_key_layer_scaling fp32_residual_connection
    add_bias_linear add_qkv_bias gated_linear_unit glu_linear_offset activation_func_clamp_value
    softmax_scale softmax_type query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping
    window_size window_attn_skip_freq interleaved_attn_pattern attention_chunk_size
    position_embedding_type rotary_base rotary_percent rotary_interleaved seq_len_interpolation_factor
    max_position_embeddings no_rope_freq nope_layer_interval mrope_section
    scale_factor low_freq_factor high_freq_factor old_context_len rope_scaling rope_scaling_factor
    yarn_rotary_scaling_factor yarn_original_max_position_embeddings yarn_beta_fast yarn_beta_slow yarn_mscale
    yarn_mscale_all_dim yarn_correction_range_round_to_int
    multi_latent_attention q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim
    rope_type rotary_scaling_factor original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim
    num_moe_experts moe_router_topk moe_ffn_hidden_size moe_shared_expert_intermediate_size moe_layer_freq
    moe_router_pre_softmax moe_router_score_function moe_router_topk_scaling_factor moe_router_num_groups
    moe_router_group_topk moe_router_enable_expert_bias moe_apply_probs_on_input mtp_num_layers
    is_hybrid_model mamba_state_dim mamba_head_dim mamba_num_groups mamba_num_heads hybrid_attention_ratio
    hybrid_mlp_ratio hybrid_override_pattern
    num_groups_hyena num_groups_hyena_medium num_groups_hyena_short add_attn_proj_bias add_bias_output
    use_short_conv_bias
    heterogeneous_block_specs heterogeneous_layers_config_encoded_json per_block_parameters
    is_vision_language pool_type
""")

# functions and objects, which model.yaml names and the configuration's class brings along
OF_THE_CLASS = _names("""
    _cpu_offloading_context activation_func data_step_fn forward_step_fn embedding_init_method exporter_cls
    finalize_model_grads_func generation_config grad_scale_func grad_sync_func hyena_init_method
    hyena_output_layer_init_method importer_cls init_method mamba_stack_spec no_sync_func output_layer_init_method
    param_sync_func quant_recipe timers transformer_layer_spec
""")

# how it is trained or run: the recipe's and the flags'
TRAINING = _names("""
    account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split activation_func_fp8_input_store add_bos
    add_eos apply_rope_fusion async_tensor_model_parallel_allreduce attention_backend attention_dropout
    attention_softmax_in_fp32 autocast_dtype barrier_with_L1_time batch_p2p_comm batch_p2p_sync bf16
    bias_activation_fusion bias_dropout_add_fusion bias_dropout_fusion cache_mla_latents calculate_per_token_loss
    ce_loss_scale clone_scatter_output_in_embedding config_logger_dir context_parallel_size cp_comm_type
    cpu_offloading cpu_offloading_activations cpu_offloading_double_buffering cpu_offloading_num_layers
    cpu_offloading_weights cross_entropy_fusion_impl cross_entropy_loss_fusion cuda_graph_impl
    cuda_graph_retain_backward_graph cuda_graph_scope cuda_graph_use_single_mempool cuda_graph_warmup_steps
    deallocate_pipeline_outputs defer_embedding_wgrad_compute delay_wgrad_compute deterministic_mode
    disable_bf16_reduced_precision_matmul disable_parameter_transpose_cache distribute_saved_activations
    enable_autocast enable_cuda_graph expert_model_parallel_size expert_tensor_parallel_size external_cuda_graph
    first_last_layers_bf16 flash_decode fp16 fp16_lm_cross_entropy fp4 fp4_param fp4_recipe fp8 fp8_amax_compute_algo
    fp8_amax_history_len fp8_dot_product_attention fp8_interval fp8_margin fp8_multi_head_attention fp8_param
    fp8_recipe fp8_wgrad fused_single_qkv_rope get_attention_mask_from_fusion gradient_accumulation_fusion
    hetereogenous_dist_checkpoint heterogeneous_layers_config_path hidden_dropout hierarchical_context_parallel_sizes
    hyena_filter_no_wd in_batch_negatives inference_rng_tracker inference_sampling_seed init_model_with_meta_device
    label_smoothing mapping_type masked_softmax_fusion memory_efficient_layer_norm microbatch_group_size_per_vp_stage
    mlp_chunks_for_prefill moe_aux_loss_coeff moe_deepep_num_sms moe_enable_deepep moe_expert_capacity_factor
    moe_extended_tp moe_grouped_gemm moe_input_jitter_eps moe_layer_recompute moe_pad_expert_input_to_capacity
    moe_per_layer_logging moe_permute_fusion moe_router_bias_update_rate moe_router_dtype
    moe_router_force_load_balancing moe_router_fusion moe_router_load_balancing_type moe_router_padding_for_fp8
    moe_router_topk_limited_devices moe_shared_expert_overlap moe_token_dispatcher_type moe_token_drop_policy
    moe_token_dropping moe_use_legacy_grouped_gemm moe_z_loss_coeff mtp_loss_scaling_factor
    negative_sample_strategy num_hard_negatives num_layers_at_end_in_bf16 num_layers_at_start_in_bf16
    num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage
    num_microbatches_with_partial_activation_checkpoints overlap_moe_expert_parallel_comm overlap_p2p_comm
    overlap_p2p_comm_warmup_flush parallel_output params_dtype perform_initialization persist_layer_norm pipeline_dtype
    pipeline_model_parallel_comm_backend pipeline_model_parallel_layout pipeline_model_parallel_size plain_row_linear
    post_process pre_process recompute_granularity recompute_method recompute_modules recompute_num_layers
    remove_activation_post_first_layer scatter_embedding_sequence_parallel seq_length sequence_parallel
    symmetric_ar_type temperature tensor_model_parallel_size test_mode to_upper tokenizer_library tokenizer_model_path
    tokenizer_name tp_comm_atomic_ag tp_comm_atomic_rs tp_comm_bootstrap_backend tp_comm_bulk_dgrad tp_comm_bulk_wgrad
    tp_comm_overlap tp_comm_overlap_ag tp_comm_overlap_cfg tp_comm_overlap_disable_fc1 tp_comm_overlap_disable_qkv
    tp_comm_overlap_rs tp_comm_overlap_rs_dgrad tp_comm_split_ag tp_comm_split_rs tp_only_amax_red transformer_impl
    truncation_method unfused_rmsnorm use_cpu_initialization use_fused_weighted_squared_relu use_kitchen
    use_mamba_mem_eff_path use_ring_exchange_p2p use_subquadratic_ops use_te use_te_activation_func use_te_rng_tracker
    use_transformer_engine_full_layer_spec use_transformer_engine_op_fuser variable_seq_lengths
    virtual_pipeline_model_parallel_size vocab_file vortex_style_fp8 wgrad_deferral_limit
""")


def as_nemo(name: str, value: Any) -> Any:
    """A value of model.yaml as NeMo's configuration wants it: YAML makes lists of tuples. A pattern of layers is a list."""
    return tuple(value) if isinstance(value, list) and name not in LISTS else value


LISTS = frozenset(("moe_layer_freq", "no_rope_freq", "window_attn_skip_freq"))
