#define LSP_NAME "bf16"
#define LSP_LEARNER learner_avx512bf16
#define LSP_WIDTH 16
#define LSP_BF16
#include "simd/learner_kernels.inl"
