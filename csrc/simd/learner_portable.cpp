#define LSP_NAME "portable"
#define LSP_LEARNER learner_portable
#define LSP_WIDTH 4
#include "simd/learner_kernels.inl"
