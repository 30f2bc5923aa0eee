// Work of C++ without the interpreter's lock (the GIL).
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>
#if defined(__GLIBCXX__) || defined(__GLIBCPP__)
#include <cxxabi.h>
#define LSP_FAST_FORCED_UNWIND abi::__forced_unwind
#endif

namespace lsp_fast::bindings {

inline bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// A daemon thread may still compute when the process ends. Python up to 3.13 ends such a thread where it asks for the
// lock, by unwinding it: through destructors, which may not throw, so that the whole process aborts. Such a thread
// sleeps here instead, touches nothing of Python any more, and ends with the process.
class ReleasedGil {
 public:
  // Whoever holds the lock while the interpreter finalises is the thread that finalises it: it may come back.
  ReleasedGil() : finalizes_(finalizing()), state_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

  // No destructor does this: it may not return.
  void take_back() {
    if (!finalizes_ && finalizing()) sleep_for_ever();
    try {
      PyEval_RestoreThread(state_);
#ifdef LSP_FAST_FORCED_UNWIND
    } catch (LSP_FAST_FORCED_UNWIND&) {  // it began to finalise between the question and here
      sleep_for_ever();
#else
    } catch (...) {
      sleep_for_ever();
#endif
    }
  }

  // Calls function(), which may not throw, with the lock.
  template <typename Function>
  auto with_gil(const Function& function) {
    take_back();
    const auto result = function();
    state_ = PyEval_SaveThread();
    return result;
  }

 private:
  [[noreturn]] static void sleep_for_ever() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  const bool finalizes_;
  PyThreadState* state_;
};

// Calls work(released) without the lock, which is held again afterwards; what it throws is thrown again then.
template <typename Work>
void without_gil(const Work& work) {
  ReleasedGil released;
  std::exception_ptr error;
  try {
    work(released);
  } catch (...) {
    error = std::current_exception();
  }
  released.take_back();
  if (error) std::rethrow_exception(error);
}

}  // namespace lsp_fast::bindings
