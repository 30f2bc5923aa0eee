#define LSP_NAME "portable"
#define LSP_KERNELS kernels_portable
#define LSP_WIDTH 4
#define LSP_OUTPUTS 4
#define LSP_OUTPUTS_1 4
#include "ops/imagine_heads_kernels.inl"
