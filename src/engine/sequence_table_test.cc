// The scheduler with everything but a model: a simulation in which a seed decides who comes, what
// is drawn, which drafts are right, who hangs up and how small the cache is. What must hold in
// every step is checked in every step.
#include "engine/sequence_table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "base/check.h"
#include "base/random.h"

namespace m3 {
namespace {

using std::ssize;

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(mix64(seed + 1)) {}
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(mix64(state_ += kGolden) % static_cast<std::uint64_t>(limit));
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

// The token behind a text is a function of the text, as a model's is: so texts that begin alike go
// on alike, also after they had to give way.
std::int32_t next_token(const std::vector<std::int32_t>& tokens) {
  std::uint64_t hash = 0;
  for (const std::int32_t token : tokens)
    hash = mix64(hash * 3 + static_cast<std::uint64_t>(token));
  return static_cast<std::int32_t>(hash % 5);
}

class Simulation {
 public:
  explicit Simulation(std::uint64_t seed)
      : dice_(seed),
        options_{.pages = 4 + dice_.below(12),
                 .page_tokens = 1 + dice_.below(5),
                 .step_rows = 1 + dice_.below(30),
                 .sequences = 1 + dice_.below(6)},
        table_(options_),
        stored_(static_cast<std::size_t>(options_.pages)) {
    options_.sequences = std::min(options_.sequences, options_.step_rows);
    table_ = SequenceTable(options_);
  }

  // Until all that came have ended; the number of steps.
  void run() {
    const std::int64_t requests = 1 + dice_.below(20);
    for (std::int64_t steps = 0; came_ < requests || !alive_.empty(); ++steps) {
      M3_CHECK(steps < 4000, "{} sequences have not ended after {} steps", alive_.size(), steps);
      while (came_ < requests && (alive_.empty() || dice_.one_in(3))) arrive();
      if (!alive_.empty() && dice_.one_in(15)) hang_up();
      if (dice_.one_in(40)) table_.drop_unused_pages();
      step();
    }
    M3_CHECK(table_.pages().available() == options_.pages, "{} of {} pages are lost",
             options_.pages - table_.pages().available(), options_.pages);
  }

 private:
  struct Expected {
    std::int64_t max_tokens;
    std::int64_t drafts = 0;
  };

  void arrive() {
    const std::int64_t room = options_.pages * options_.page_tokens;
    const std::int64_t length = 1 + dice_.below(room);
    Request request;
    for (std::int64_t i = 0; i < length; ++i)  // many begin alike
      request.prompt.push_back(dice_.one_in(20) ? 9 : static_cast<std::int32_t>(i % 3));
    request.max_tokens = 1 + dice_.below(room - length + 1);
    request.client = dice_.below(3);
    if (dice_.one_in(3)) request.adapter = static_cast<std::int32_t>(dice_.below(2));
    const std::int64_t most = request.max_tokens;
    alive_[table_.add(std::move(request))] = {most};
    ++came_;
  }

  void hang_up() {
    auto victim = alive_.begin();
    std::advance(victim, dice_.below(ssize(alive_)));
    table_.erase(victim->first);
    alive_.erase(victim);
  }

  void step() {
    const bool work = !alive_.empty();
    const auto rows = table_.begin_step([&](SequenceId id) { return alive_.at(id).drafts; },
                                        1 + dice_.below(options_.step_rows));
    check_pages();
    check_rows(rows);
    M3_CHECK(!work || !rows.empty() || preempted(), "a step with work computes nothing");
    for (const StepRows& r : rows) compute(r);
  }

  // Somebody gave way in the last step, with nobody else there: the next step admits again.
  bool preempted() {
    const std::int64_t now = table_.counts().preemptions;
    return std::exchange(preemptions_, now) != now;
  }

  // No page has two owners, unless they share it in the tree; and sharers have the same text.
  void check_pages() {
    std::map<std::int32_t, std::vector<std::int32_t>> texts;
    std::set<std::int32_t> own;
    for (const auto& [id, s] : table_.sequences())
      for (std::int64_t i = 0; i < ssize(s.lease.pages); ++i) {
        const std::int32_t page = s.lease.pages[static_cast<std::size_t>(i)];
        if (i >= s.lease.shared) {
          M3_CHECK(own.insert(page).second, "page {} has two owners", page);
          continue;
        }
        const auto end = s.tokens.begin() + (i + 1) * options_.page_tokens;
        std::vector<std::int32_t> text(s.tokens.begin(), end);
        text.push_back(s.request.adapter);
        const auto [found, fresh] = texts.try_emplace(page, text);
        M3_CHECK(found->second == text, "page {} is shared by different texts", page);
        M3_CHECK(stored_[static_cast<std::size_t>(page)] == text, "page {} holds another text",
                 page);
      }
    for (const std::int32_t page : own)
      M3_CHECK(texts.count(page) == 0, "page {} is owned and shared", page);
  }

  void check_rows(const std::vector<StepRows>& rows) {
    std::set<SequenceId> seen;
    std::int64_t sum = 0;
    for (const StepRows& r : rows) {
      const Sequence& s = table_.at(r.id);
      sum += r.rows;
      M3_CHECK(seen.insert(r.id).second, "sequence {} is twice in a step", r.id);
      M3_CHECK(s.running() && r.rows > r.drafts, "rows of a sequence that does not run");
      M3_CHECK((r.slot + r.rows) <= ssize(s.lease.pages) * options_.page_tokens,
               "sequence {} has no room for its rows", r.id);
    }
    M3_CHECK(sum <= options_.step_rows, "{} rows in a step of {}", sum, options_.step_rows);
    std::int64_t running = 0;
    for (const auto& [id, s] : table_.sequences()) {
      running += s.running();
      if (s.running() && ssize(s.tokens) - s.cached == 1)
        M3_CHECK(seen.count(id) > 0, "sequence {} decodes and has no row", id);
    }
    M3_CHECK(running <= options_.sequences, "{} sequences run, {} may", running,
             options_.sequences);
  }

  // What a model writes into pages: here, of a page, all text up to its end, and who read it.
  void write(const Sequence& s, std::int64_t slot, std::int64_t rows,
             const std::vector<std::int32_t>& tokens) {
    for (std::int64_t i = slot; i < slot + rows; ++i) {
      const std::int32_t page = s.lease.pages[static_cast<std::size_t>(i / options_.page_tokens)];
      M3_CHECK(i / options_.page_tokens >= s.lease.shared, "a shared page is written");
      std::vector<std::int32_t>& text = stored_[static_cast<std::size_t>(page)];
      text.assign(tokens.begin(), tokens.begin() + i + 1);
      text.push_back(s.request.adapter);
    }
  }

  void compute(const StepRows& r) {
    Sequence& s = table_.at(r.id);
    std::vector<std::int32_t> tokens = s.tokens;
    const bool complete = r.slot + r.rows - r.drafts == ssize(s.tokens);
    for (std::int64_t i = 0; i < r.drafts; ++i) tokens.push_back(8);
    write(s, r.slot, r.rows, tokens);
    if (!complete) return table_.stored(r.id, r.slot + r.rows);
    // Of the drafts, that many happen to be right.
    const std::int64_t right = r.drafts == 0 ? 0 : dice_.below(r.drafts + 1);
    for (std::int64_t i = 0; i <= right && s.running(); ++i) draw(r.id, s);
    if (!s.running()) {
      table_.erase(r.id);
      alive_.erase(r.id);
    }
  }

  void draw(SequenceId id, Sequence& s) {
    // Rows of drafts that were right hold what was drawn.
    write(s, ssize(s.tokens) - 1, 1, s.tokens);
    table_.stored(id, ssize(s.tokens));
    s.tokens.push_back(next_token(s.tokens));
    Expected& e = alive_.at(id);
    e.drafts = std::min(dice_.below(4), e.max_tokens - s.answered() - 1);
    if (s.answered() == e.max_tokens || dice_.one_in(30)) table_.end(id);
  }

  Dice dice_;
  SequenceTable::Options options_;
  SequenceTable table_;
  std::vector<std::vector<std::int32_t>> stored_;  // by page
  std::map<SequenceId, Expected> alive_;
  std::int64_t came_ = 0;
  std::int64_t preemptions_ = 0;
};

// M3_SEEDS=1000000 for the long run.
TEST(SequenceTable, AllThatComeEndAndNoPageIsLost) {
  const char* asked = std::getenv("M3_SEEDS");
  const std::uint64_t seeds = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 10'000;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE(seed);
    Simulation(seed).run();
  }
}

SequenceTable::Options options() {
  return {.pages = 100, .page_tokens = 4, .step_rows = 64, .sequences = 2};
}

Request request_of(std::int64_t client, std::int64_t tokens) {
  Request request;
  request.prompt.assign(static_cast<std::size_t>(tokens), static_cast<std::int32_t>(client));
  request.max_tokens = 1;
  request.client = client;
  return request;
}

TEST(SequenceTable, AClientThatComesLateIsNotServedBeforeAllOthers) {
  SequenceTable table(options());
  std::vector<SequenceId> order;
  const auto serve = [&](int steps) {
    for (int i = 0; i < steps; ++i)
      for (const StepRows& r : table.begin_step([](SequenceId) { return 0; }, 64)) {
        order.push_back(table.at(r.id).request.client);
        table.erase(r.id);
      }
  };
  for (int i = 0; i < 20; ++i) table.add(request_of(1, 8));
  serve(5);
  for (int i = 0; i < 10; ++i) table.add(request_of(2, 8));
  order.clear();
  serve(5);
  // They take turns from there on, which makes five each.
  EXPECT_EQ(std::ranges::count(order, 1), 5);
  EXPECT_EQ(std::ranges::count(order, 2), 5);
}

TEST(SequenceTable, CountsWhatPromptsFind) {
  SequenceTable table(options());
  for (int i = 0; i < 2; ++i) {
    const SequenceId id = table.add(request_of(5, 17));
    for (const StepRows& r : table.begin_step([](SequenceId) { return 0; }, 64))
      table.stored(r.id, r.slot + r.rows);
    EXPECT_EQ(table.at(id).reused, i * 16);
    table.erase(id);
  }
  EXPECT_EQ(table.counts().prompt_tokens, 34);
  EXPECT_EQ(table.counts().reused_tokens, 16);
}

}  // namespace
}  // namespace m3
