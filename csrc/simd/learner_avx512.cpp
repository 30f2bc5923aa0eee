#define LSP_NAME "avx512"
#define LSP_LEARNER learner_avx512
#define LSP_WIDTH 16
#include "simd/learner_kernels.inl"
