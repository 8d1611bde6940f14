// Feeds the skeleton parser with mutated files, for use under the sanitizers:
//
//   g++ -std=c++20 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I csrc/native -o /tmp/fuzz
//       tests/data/fuzz_skeleton_file.cpp csrc/native/skeleton_file.cpp
//   /tmp/fuzz SECONDS SEED FILE...
//
// Apart from crashes it looks for differences between the two ways in which a line can be read: doubling its
// spaces sends every line down the slow one, and must not change a value.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "skeleton_file.h"

using ikem::native::SkeletonError;
using ikem::native::SkeletonRecording;

namespace {

std::mt19937_64 generator;

std::size_t below(std::size_t bound) { return generator() % std::max<std::size_t>(bound, 1); }

// The parser must not read beyond its text, and a copy of just that size lets AddressSanitizer see it.
auto parse(const std::string& text) {
  const auto copy = std::make_unique<char[]>(text.size());
  std::copy(text.begin(), text.end(), copy.get());
  return ikem::native::parse_skeleton({copy.get(), text.size()});
}

std::string mutated(std::string text, const std::vector<std::string>& seeds) {
  static const std::vector<std::string> words = {"-1",
                                                 "0",
                                                 "25",
                                                 "26",
                                                 "99999999999999999999",
                                                 "9223372036854775807",
                                                 "18446744073709551615",
                                                 "nan",
                                                 "-inf",
                                                 "1e5",
                                                 "1e999",
                                                 "1e-999",
                                                 "0x10",
                                                 "+1",
                                                 "--1",
                                                 "1.2.3",
                                                 ".5",
                                                 "5.",
                                                 "-",
                                                 "-.",
                                                 "1,5",
                                                 " ",
                                                 "\t",
                                                 "\n",
                                                 "\r\n",
                                                 "\r",
                                                 "0.12345678901234567890",
                                                 "123456789012345678",
                                                 "9007199254740993",
                                                 "\xef\xbb\xbf",
                                                 "1-2"};
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    const std::size_t at = below(text.size());
    const std::size_t length = std::min(text.size() - at, below(1 + below(200)));
    switch (below(7)) {
      case 0:
        text.resize(at);
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, words[below(words.size())]);
        break;
      case 3:
        text.replace(at, std::min<std::size_t>(length, 12), words[below(words.size())]);
        break;
      case 4:
        if (!text.empty()) text[at] = static_cast<char>(generator());
        break;
      case 5:
        if (!text.empty()) text[at] = "0123456789.- \n"[below(14)];
        break;
      default: {
        const std::string& other = seeds[below(seeds.size())];
        text.insert(at, other, below(other.size()), below(2000));
      }
    }
  }
  return text;
}

bool same(const SkeletonRecording& a, const SkeletonRecording& b) {
  return a.max_bodies == b.max_bodies && a.body_counts == b.body_counts && a.body_ids == b.body_ids &&
         a.tracking_states == b.tracking_states && a.joints == b.joints &&
         a.joint_tracking_states == b.joint_tracking_states;
}

void check(const std::string& text, long& accepted) {
  std::string doubled;
  for (char c : text) {
    doubled.append(c == ' ' ? 2 : 1, c);
  }
  const auto result = parse(text), slow = parse(doubled);
  const auto* recording = std::get_if<SkeletonRecording>(&result);
  const auto* slow_recording = std::get_if<SkeletonRecording>(&slow);
  accepted += recording != nullptr;
  // More bytes may let a count through that was too large for the text, nothing else may change.
  const bool too_large = !recording && std::get<SkeletonError>(result).message.find("can hold") != std::string::npos;
  const bool equal = recording && slow_recording ? same(*recording, *slow_recording)
                                                 : too_large || (recording == nullptr) == (slow_recording == nullptr);
  if (!equal) {
    std::ofstream("fuzz_failure.skeleton", std::ios::binary) << text;
    std::puts("the two ways of reading differ; see fuzz_failure.skeleton");
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::puts("usage: fuzz SECONDS SEED FILE...");
    return 2;
  }
  generator.seed(std::strtoull(argv[2], nullptr, 10));
  std::vector<std::string> seeds, beginnings;
  for (int i = 3; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    // Two frames of a long recording hold all that there is to mutate, and are read far more often a second.
    std::string text(std::istreambuf_iterator<char>(file), {});
    seeds.push_back(text);
    const std::size_t body = text.find('\n');
    std::size_t end = body;
    for (int line = 0; line < 2 * 28 && end != std::string::npos; ++line) {
      end = text.find('\n', end + 1);
    }
    if (end != std::string::npos) {
      beginnings.push_back("2" + text.substr(body, end + 1 - body));
    }
  }
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(std::atol(argv[1]));
  long tried = 0, accepted = 0;
  for (; std::chrono::steady_clock::now() < stop; ++tried) {
    const bool whole = below(50) == 0;
    const std::vector<std::string>& from = whole || beginnings.empty() ? seeds : beginnings;
    check(tried < static_cast<long>(seeds.size()) ? seeds[tried] : mutated(from[below(from.size())], seeds), accepted);
  }
  std::printf("%ld texts, %ld of them accepted, no fault\n", tried, accepted);
}
