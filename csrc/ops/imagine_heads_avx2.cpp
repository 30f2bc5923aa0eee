#define LSP_NAME "avx2"
#define LSP_KERNELS kernels_avx2
#define LSP_WIDTH 8
#define LSP_OUTPUTS 4
#define LSP_OUTPUTS_1 4
#include "ops/imagine_heads_kernels.inl"
