// Work of C++ without the interpreter's lock (the GIL).
//
// A daemon thread may still compute when the process ends. Once Python finalises, it ends such a thread where it asks for
// the lock. Up to Python 3.13 and with glibc that unwinds the thread's stack: through destructors, which may not throw, so
// that the whole process aborts; and through objects of Python, which would be let go without the lock. Such a thread
// sleeps here instead, touches nothing of Python any more, and ends with the process.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

namespace lsp_fast::bindings {

inline bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

[[noreturn]] inline void sleep_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Calls what may ask for the lock: its own return, or Python's code. It may throw std::exceptions only, and hold nothing
// that needs the lock while it asks.
template <typename Function>
auto stay_if_ended(const Function& function) {
  try {
    return function();
  } catch (const std::exception&) {
    throw;
  } catch (...) {  // an unwinding that ends the thread, which therefore never leaves this handler
    sleep_for_ever();
  }
}

class ReleasedGil {
 public:
  // Whoever holds the lock while the interpreter finalises is the thread that finalises it: it may come back.
  ReleasedGil() : finalizes_(finalizing()), state_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

  // No destructor does this: it may not return.
  void take_back() {
    // The question is for platforms where a thread ends without unwinding. Python may still begin to finalise after it.
    if (!finalizes_ && finalizing()) sleep_for_ever();
    stay_if_ended([this] { PyEval_RestoreThread(state_); });
  }

  // Calls function(), which may not throw, with the lock.
  template <typename Function>
  auto with_gil(const Function& function) {
    take_back();
    const auto result = stay_if_ended(function);
    state_ = PyEval_SaveThread();
    return result;
  }

 private:
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
