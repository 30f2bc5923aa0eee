#define LSP_NAME "avx512bf16"
#define LSP_KERNELS kernels_avx512bf16
#define LSP_WIDTH 16
#define LSP_OUTPUTS 8
#define LSP_OUTPUTS_1 16
#include "ops/imagine_heads_kernels.inl"
