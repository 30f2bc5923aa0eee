#define LSP_NAME "avx2"
#define LSP_LEARNER learner_avx2
#define LSP_WIDTH 8
#include "simd/learner_kernels.inl"
