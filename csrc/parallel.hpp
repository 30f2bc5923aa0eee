#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace lsp_fast {

// Calls work(first, last) for consecutive parts of [0, count), one part a thread, this one included. An exception of any part is thrown again once all parts have ended.
template <typename Work>
void parallel(std::int64_t threads, std::int64_t count, const Work& work) {
  const auto workers = std::max<std::int64_t>(1, std::min(threads, count));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(workers));
  const auto part = [&](std::int64_t i) {
    try {
      work(count * i / workers, count * (i + 1) / workers);
    } catch (...) {
      errors[static_cast<std::size_t>(i)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(workers));
  for (std::int64_t i = 1; i < workers; ++i) {
    try {
      others.emplace_back(part, i);
    } catch (const std::exception&) {  // no thread or no memory for one to be had: the work is done all the same
      part(i);
    }
  }
  part(0);
  for (auto& thread : others) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace lsp_fast
