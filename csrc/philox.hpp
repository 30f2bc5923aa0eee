#pragma once

#include <cstdint>

namespace lsp_fast {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011): a block of four words
// is a function of a key and a counter, so that each thread computes the numbers that it needs, where it needs them.
// Our counters are (column / 4, row, step, stream); the words of a block are columns 4 c .. 4 c + 3.
struct Philox {
  std::uint32_t key[2];
};

constexpr std::uint32_t kPhiloxMultipliers[2] = {0xD2511F53u, 0xCD9E8D57u};
constexpr std::uint32_t kPhiloxWeyl[2] = {0x9E3779B9u, 0xBB67AE85u};
constexpr int kPhiloxRounds = 10;

// A plan's streams; a row is a candidate (or a state, where its candidates share their noise), a step counts all of the
// iterations' steps.
constexpr std::uint32_t kCandidateStream = 0, kStochStream = 1, kActionStream = 2;

}  // namespace lsp_fast
