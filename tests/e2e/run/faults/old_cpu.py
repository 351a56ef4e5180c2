"""What makes torch, oneDNN and MKL take a CPU for one with AVX2 alone; bf16 products are slow then."""

AVX2_ONLY = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
