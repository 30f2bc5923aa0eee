#pragma once

#include <cstdint>  // and with it __GLIBC__, where there is one

// Before a function: compile it for AVX2 too, chosen when the module is loaded. Without fused multiply-add the numbers are
// the same to the bit. Not under ThreadSanitizer: the choice is made before it has begun, by functions that GCC makes and
// has call it.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute) && !defined(__SANITIZE_THREAD__)
#if __has_attribute(target_clones)
#define LSP_CLONES __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef LSP_CLONES
#define LSP_CLONES
#endif
