#include "backend/timed_backend.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "tensor/tensor.h"

namespace m3 {
namespace {

using std::int64_t;

// Writes down each op that it is asked for: its name, the addresses of what it got by reference,
// and the numbers.
class Noting final : public Backend {
 public:
  explicit Noting(std::vector<std::string>& notes) : notes_(notes) {}

  std::string_view name() const override { return "noting"; }
  std::string_view isa() const override { return "pencil"; }
  Space space() const override { return Space::kDevice; }
  CacheFormat cache_format() const override { return {.kv = DType::kF16}; }
  void synchronize() override { ++waits; }
  std::string_view packed_layout() const override { return "scroll"; }
  int64_t packed_bytes(const Matrix& w) const override { return w.rows; }
  void pack(const Matrix& w, std::byte* out) override { note("pack", w, out); }

  void embed(const Matrix& a, const Tensor& b, const Tensor& c) override { note("embed", a, b, c); }
  void rms_norm(const Tensor& a, const Tensor& b, float c, const Tensor& d) override {
    note("rms_norm", a, b, c, d);
  }
  void layer_norm(const Tensor& a, const LayerNorm& b, const Tensor& c) override {
    note("layer_norm", a, b, c);
  }
  void add(const Tensor& a, const Tensor& b) override { note("add", a, b); }
  void copy(const Tensor& a, const Tensor& b) override { note("copy", a, b); }
  void gather_rows(const Tensor& a, const Tensor& b, const Tensor& c) override {
    note("gather_rows", a, b, c);
  }
  void concat(const Tensor& a, const Tensor& b, const Tensor& c) override {
    note("concat", a, b, c);
  }
  void linear(const Tensor& a, std::span<const LinearOutput> b, const Tensor& c) override {
    note("linear", a, *b.data(), b.size(), c);
  }
  void swiglu(const Tensor& a, const Tensor& b, const SwiGlu& c, const Tensor& d) override {
    note("swiglu", a, b, c, d);
  }
  void gelu(const Tensor& a, const Tensor& b, const Tensor& c) override { note("gelu", a, b, c); }
  void rope_table(const Tensor& a, const Rope& b, const Tensor& c) override {
    note("rope_table", a, b, c);
  }
  void norm_rope(const Tensor& a, const HeadNorm& b, const Tensor& c) override {
    note("norm_rope", a, b, c);
  }
  void rotate(const Tensor& a, int64_t b, const Tensor& c) override { note("rotate", a, b, c); }
  void store_kv(const Tensor& a, const Tensor& b, const HeadNorm& c, const Rows& d,
                const KvView& e) override {
    note("store_kv", a, b, c, d, e);
  }
  void store_index(const Tensor& a, const HeadNorm& b, const Rows& c, const IndexView& d) override {
    note("store_index", a, b, c, d);
  }
  void select_blocks(const Tensor& a, const Rows& b, const IndexView& c, const Selection& d,
                     const Tensor& e) override {
    note("select_blocks", a, b, c, d, e);
  }
  void attention(const Tensor& a, const Rows& b, const KvView& c, float d, const Tensor* e,
                 const Tensor& f, const Tensor& g) override {
    note("attention", a, b, c, d, e, f, g);
  }
  void segment_attention(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d,
                         int64_t e, float f, const Tensor& g) override {
    note("segment_attention", a, b, c, d, e, f, g);
  }
  void route(const Tensor& a, const Router& b, bool c, const Tensor& d, const Tensor& e) override {
    note("route", a, b, c, d, e);
  }
  void dispatch(const Tensor& a, const Dispatch& b) override { note("dispatch", a, b); }
  void grouped_linear(const Tensor& a, const Dispatch& b, bool c, std::span<const GroupedOutput> d,
                      const Beside& e, const Tensor& f) override {
    note("grouped_linear", a, b, c, *d.data(), d.size(), e.x, e.outputs.size(), f);
  }
  void combine(const Tensor& a, const Dispatch& b, const Tensor& c, float d, const Tensor& e,
               const Tensor& f) override {
    note("combine", a, b, c, d, e, f);
  }

  int waits = 0;

 private:
  template <typename... Args>
  void note(const char* name, const Args&... args) {
    std::string line = name;
    (..., (line += fmt::format(" {}", told(args))));
    notes_.push_back(line);
  }
  template <typename T>
  static std::string told(const T& x) {
    if constexpr (std::is_arithmetic_v<T>) return std::to_string(x);
    if constexpr (std::is_pointer_v<T>) return fmt::format("{}", static_cast<const void*>(x));
    return fmt::format("{}", static_cast<const void*>(&x));
  }

  std::vector<std::string>& notes_;
};

struct Call {
  Stage stage;
  std::function<void(Backend&)> op;
};

// Arguments that are told apart by their addresses; Noting looks at none of them.
struct Arguments {
  Tensor t[5];
  Matrix matrix;
  LayerNorm layer_norm;
  HeadNorm head_norm;
  Rope rope;
  SwiGlu swiglu;
  Selection selection;
  Router router;
  Dispatch dispatch;
  Rows rows;
  KvView kv;
  IndexView index;
  Linear head, other;
  LinearOutput heads[1] = {{&head, {}}}, others[2] = {{&other, {}}, {&head, {}}};
  GroupedOutput grouped[2];

  std::vector<Call> calls() {
    return {
        {Stage::kRest, [&](Backend& b) { b.embed(matrix, t[0], t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.rms_norm(t[0], t[1], 2, t[2]); }},
        {Stage::kRest, [&](Backend& b) { b.layer_norm(t[0], layer_norm, t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.add(t[0], t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.copy(t[0], t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.gather_rows(t[0], t[1], t[2]); }},
        {Stage::kRest, [&](Backend& b) { b.concat(t[0], t[1], t[2]); }},
        {Stage::kHead, [&](Backend& b) { b.linear(t[0], heads, t[1]); }},
        {Stage::kWeights, [&](Backend& b) { b.linear(t[0], others, t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.swiglu(t[0], t[1], swiglu, t[2]); }},
        {Stage::kRest, [&](Backend& b) { b.gelu(t[0], t[1], t[2]); }},
        {Stage::kRest, [&](Backend& b) { b.rope_table(t[0], rope, t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.norm_rope(t[0], head_norm, t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.rotate(t[0], 7, t[1]); }},
        {Stage::kRest, [&](Backend& b) { b.store_kv(t[0], t[1], head_norm, rows, kv); }},
        {Stage::kRest, [&](Backend& b) { b.store_index(t[0], head_norm, rows, index); }},
        {Stage::kIndex, [&](Backend& b) { b.select_blocks(t[0], rows, index, selection, t[1]); }},
        {Stage::kAttention, [&](Backend& b) { b.attention(t[0], rows, kv, 3, &t[1], t[2], t[3]); }},
        {Stage::kAttention,
         [&](Backend& b) { b.segment_attention(t[0], t[1], t[2], t[3], 8, 4, t[4]); }},
        {Stage::kRouter, [&](Backend& b) { b.route(t[0], router, true, t[1], t[2]); }},
        {Stage::kRest, [&](Backend& b) { b.dispatch(t[0], dispatch); }},
        {Stage::kWeights,
         [&](Backend& b) {
           b.grouped_linear(t[0], dispatch, true, grouped, {t[1], heads}, t[2]);
         }},
        {Stage::kRest, [&](Backend& b) { b.combine(t[0], dispatch, t[1], 5, t[2], t[3]); }},
    };
  }
};

TEST(TimedBackend, HandsEveryOpOnAndTimesItsStage) {
  std::vector<std::string> plain_notes, timed_notes;
  Noting plain(plain_notes);
  auto inner = std::make_unique<Noting>(timed_notes);
  Noting& noting = *inner;
  TimedBackend timed(std::move(inner));
  Arguments arguments;
  timed.set_head(&arguments.head);
  for (const Call& call : arguments.calls()) {
    call.op(plain);
    timed.start();
    const int waited = noting.waits;
    call.op(timed);
    EXPECT_EQ(noting.waits, waited + 1);
    const PerStage<double> seconds = timed.stop();
    for (std::size_t s = 0; s < kStageNames.size(); ++s)
      EXPECT_EQ(seconds.values[s] > 0, s == static_cast<std::size_t>(call.stage))
          << plain_notes.back() << ": " << kStageNames[s];
    call.op(timed);  // neither timed nor waited for
    EXPECT_EQ(noting.waits, waited + 1);
    ASSERT_EQ(timed_notes, std::vector(2, plain_notes.back()));
    timed_notes.clear();
  }
}

TEST(TimedBackend, IsWhatItTimes) {
  std::vector<std::string> notes;
  TimedBackend timed(std::make_unique<Noting>(notes));
  EXPECT_EQ(timed.name(), "noting");
  EXPECT_EQ(timed.isa(), "pencil");
  EXPECT_EQ(timed.space(), Space::kDevice);
  EXPECT_EQ(timed.cache_format().kv, DType::kF16);
  EXPECT_EQ(timed.packed_layout(), "scroll");
  Matrix w;
  w.rows = 17;
  EXPECT_EQ(timed.packed_bytes(w), 17);
  timed.pack(w, nullptr);
  EXPECT_EQ(notes.size(), 1u);
}

}  // namespace
}  // namespace m3
