// Times every kernel of OneFlow 0.9 in graphs, by its operator's type. Eager mode is not observed.
//
// OneFlow tells one observer, a global object, when a kernel starts and ends. The wheel lacks the
// headers of kernels, so what is needed of them is declared here: the observer's virtual functions
// in their order, and that a Kernel holds its KernelConf, a protobuf message, 16 bytes from its
// start. The text of that message names the operator.
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

namespace google {
namespace protobuf {
class Message {
 public:
  std::string DebugString() const;  // in OneFlow's libprotobuf
};
}  // namespace protobuf
}  // namespace google

// As oneflow::KernelObserver. In an unnamed namespace the compiler would conclude that every
// observer is one of this file's, and call them directly.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void WillForward(void* context, const void* kernel) {}
  virtual void DidForward(void* context, const void* kernel) {}
  virtual void WillForwardHeader(void* context, const void* kernel) {}
  virtual void DidForwardHeader(void* context, const void* kernel) {}
  virtual void WillForwardDataContent(void* context, const void* kernel) {}
  virtual void DidForwardDataContent(void* context, const void* kernel) {}
};

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kConfOffset = 16;

// "matmul" of a user operator, else the name of its message, such as "output_conf".
std::string OperatorOf(const void* kernel) {
  const void* conf = static_cast<const char*>(kernel) + kConfOffset;
  const std::string text = static_cast<const google::protobuf::Message*>(conf)->DebugString();
  const std::string key = "op_type_name: \"", conf_key = "op_conf {";
  const size_t start = text.find(key);
  if (start != std::string::npos) {
    const size_t from = start + key.size();
    return text.substr(from, text.find('"', from) - from);
  }
  const size_t end = text.find("_conf {", text.find(conf_key) + conf_key.size());
  if (end == std::string::npos) { return "other"; }
  return text.substr(text.rfind(' ', end) + 1, end - text.rfind(' ', end) - 1);
}

struct Total {
  double seconds = 0;
  long calls = 0;
};

class TimingObserver final : public Observer {
 public:
  explicit TimingObserver(Observer* inner) : inner_(inner) {}

  void WillForward(void* c, const void* k) override { inner_->WillForward(c, k); }
  void DidForward(void* c, const void* k) override { inner_->DidForward(c, k); }
  void WillForwardHeader(void* c, const void* k) override { inner_->WillForwardHeader(c, k); }
  void DidForwardHeader(void* c, const void* k) override { inner_->DidForwardHeader(c, k); }

  void WillForwardDataContent(void* context, const void* kernel) override {
    inner_->WillForwardDataContent(context, kernel);
    started_ = Clock::now();
  }

  void DidForwardDataContent(void* context, const void* kernel) override {
    const std::chrono::duration<double> elapsed = Clock::now() - started_;
    // A kernel that waits for the next step was running when this observer came.
    if (started_ != Clock::time_point()) {
      std::lock_guard<std::mutex> lock(mutex_);
      Total& total = totals_[kernel];
      total.seconds += elapsed.count();
      total.calls += 1;
    }
    inner_->DidForwardDataContent(context, kernel);
  }

  void Reset() {
    std::lock_guard<std::mutex> lock(mutex_);
    totals_.clear();
  }

  // Lines "operator seconds calls". A graph's kernels live as long as the graph.
  std::string Report() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::map<std::string, Total> operators;
    for (const auto& entry : totals_) {
      Total& total = operators[OperatorOf(entry.first)];
      total.seconds += entry.second.seconds;
      total.calls += entry.second.calls;
    }
    std::string lines;
    for (const auto& entry : operators) {
      lines += entry.first + " " + std::to_string(entry.second.seconds) + " "
               + std::to_string(entry.second.calls) + "\n";
    }
    return lines;
  }

 private:
  Observer* const inner_;
  static thread_local Clock::time_point started_;  // kernels of one thread don't nest
  std::mutex mutex_;
  std::unordered_map<const void*, Total> totals_;
};

thread_local Clock::time_point TimingObserver::started_;
TimingObserver* installed = nullptr;
std::string report;

}  // namespace

extern "C" {

// Starts to time; `global_observer` is the address of OneFlow's pointer to its observer.
void kernel_times_start(void** global_observer) {
  if (installed == nullptr) {
    installed = new TimingObserver(static_cast<Observer*>(*global_observer));
    *global_observer = installed;
  }
  installed->Reset();
}

// The times since the start, valid until the next call.
const char* kernel_times_report() {
  report = installed->Report();
  return report.c_str();
}
}
