#include "skeleton_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "number.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace ikem::native {
namespace {

constexpr int kBodyFields = 10;
constexpr int kJointFields = 12;
// The fewest bytes that a frame and a body can take, one character per field and a separator after each: what
// counts are checked against before anything is allocated for them.
constexpr std::int64_t kFrameBytes = 2;
constexpr std::int64_t kBodyBytes = 2 * kBodyFields + 3 + kSkeletonJoints * 2 * kJointFields;
// Frames and bodies are padded to a common number, so a hostile file could ask for the product of the two.
constexpr std::int64_t kMaxPaddedBodies = 1'000'000;

bool is_space(char c) { return c == ' ' || c == '\t'; }

// The token as it may be shown in a message: short, and free of bytes that are not printable ASCII.
std::string quoted(std::string_view token) {
  constexpr std::size_t kShown = 24;
  std::string shown = "'";
  for (char c : token.substr(0, kShown)) {
    shown += (c >= ' ' && c <= '~') ? c : '?';
  }
  return shown + (token.size() > kShown ? "...'" : "'");
}

// Almost every byte of a file belongs to the lines of joints, and almost all of these hold plain decimals such as
// -0.2059419 with one space between them. They are recognized 64 characters at a time, with one bit for each
// character, and only the position is converted. Any other line, right or wrong, is left to the parser below.
namespace plain_line {

constexpr int kBlocks = 2;
constexpr std::ptrdiff_t kReadAhead = 64 * kBlocks;  // the bytes that reading a line may touch

struct Characters {
  std::uint64_t digits, points, minuses, spaces, breaks;
};

Characters classify(const char* text) {
  Characters found{};
#ifdef __SSE2__
  for (int part = 0; part < 64; part += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + part));
    const auto bits = [part](__m128i equal) {
      return static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(equal))) << part;
    };
    const auto equal = [&](char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
    const __m128i value = _mm_sub_epi8(bytes, _mm_set1_epi8('0'));
    found.digits |= bits(_mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value));
    found.points |= bits(equal('.'));
    found.minuses |= bits(equal('-'));
    found.spaces |= bits(equal(' '));
    found.breaks |= bits(_mm_or_si128(equal('\n'), equal('\r')));
  }
#else
  for (int i = 0; i < 64; ++i) {
    const char c = text[i];
    const auto bit = [i](bool is) { return static_cast<std::uint64_t>(is) << i; };
    found.digits |= bit(c >= '0' && c <= '9');
    found.points |= bit(c == '.');
    found.minuses |= bit(c == '-');
    found.spaces |= bit(c == ' ');
    found.breaks |= bit(c == '\n' || c == '\r');
  }
#endif
  return found;
}

// The bits of a block moved on by one character; `carry` takes the last bit from block to block.
std::uint64_t following(std::uint64_t bits, std::uint64_t& carry) {
  const std::uint64_t moved = (bits << 1) | carry;
  carry = bits >> 63;
  return moved;
}

struct Line {
  std::ptrdiff_t length = 0;  // without the line's end
  std::uint64_t ends = 0;     // where fields end, in the first block
  std::uint64_t points = 0;   // and where they have a point
};

// Whether the text starts with a line of `fields` plain decimals, -?[0-9]+(.[0-9]+)?, with a space between each.
bool recognize(const char* text, int fields, Line& line) {
  std::uint64_t after_digit = 0, after_sign = 0, after_end = 1, after_point = 0, fraction = 0, wrong = 0;
  for (int block = 0; block < kBlocks; ++block) {
    const Characters found = classify(text + 64 * block);
    const std::uint64_t last = found.breaks & (~found.breaks + 1);  // the lowest bit, none if there is no break
    const std::uint64_t inside = last - 1;                          // all bits if there is no break
    const std::uint64_t digits = found.digits & inside, points = found.points & inside;
    const std::uint64_t minuses = found.minuses & inside, ends = (found.spaces & inside) | last;
    wrong |= inside & ~(digits | points | minuses | ends);
    wrong |= minuses & ~following(ends, after_end);
    wrong |= (points | ends) & ~following(digits, after_digit);
    const std::uint64_t first_decimals = following(points, after_point);
    wrong |= (first_decimals | following(minuses, after_sign)) & ~digits;
    // Adding its first digit to a run of digits leaves one bit, behind the run: no second point may follow there.
    const std::uint64_t sum = digits + first_decimals;
    const std::uint64_t behind = sum + fraction;
    fraction = (sum < digits) | (behind < sum);
    wrong |= behind & ~digits & points;
    if (block == 0) {
      line.ends = ends;
      line.points = points;
    }
    fields -= std::popcount(ends);
    if (last != 0) {
      line.length = 64 * block + std::countr_zero(last);
      return wrong == 0 && fields == 0;
    }
  }
  return false;
}

// The value of the first `count` digits, at most 8, of the eight bytes at `text`.
std::uint64_t digits_to_number(const char* text, int count) {
  if (count == 0) {
    return 0;
  }
  std::uint64_t word = 0;  // the first digit in the lowest byte, one load on machines that store it so
  for (int i = 0; i < 8; ++i) {
    word |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i);
  }
  word = (word ^ 0x3030303030303030) << (64 - 8 * count);  // zeros before the first digit
  word = word * 10 + (word >> 8);                          // pairs of digits, in every other byte
  word = ((word & 0x00FF00FF00FF00FF) * 100 + ((word >> 16) & 0x000000FF000000FF)) & 0x0000FFFF0000FFFF;
  return (word & 0xFFFF) * 10000 + (word >> 32);
}

// Converts a plain decimal of a recognized line, false if it has too many digits for this way.
bool to_double(const char* begin, const char* point, const char* end, double& value) {
  static constexpr std::array<double, 16> kPowers = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                     1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
  const bool negative = *begin == '-';
  const auto whole = static_cast<int>(point - begin) - negative;
  const int decimals = std::max(static_cast<int>(end - point) - 1, 0);
  if (whole > 8 || decimals > 15) {
    return false;
  }
  const int first = std::min(decimals, 8), second = decimals - first;
  const std::uint64_t decimals_first = digits_to_number(point + 1, first);
  const std::uint64_t decimals_second = digits_to_number(point + 1 + first, second);
  constexpr std::array<std::uint64_t, 9> kWhole = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
  const std::uint64_t number =
      (digits_to_number(begin + negative, whole) * kWhole[first] + decimals_first) * kWhole[second] + decimals_second;
  // Below 2^53 both sides of the division are exact, so its result is the double closest to the decimal.
  value = static_cast<double>(number) / kPowers[decimals];
  value = negative ? -value : value;
  return number < (std::uint64_t{1} << 53);
}

}  // namespace plain_line

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  std::variant<SkeletonRecording, SkeletonError> parse() {
    if (parse_recording()) {
      return std::move(recording_);
    }
    return std::move(error_);
  }

 private:
  bool fail(std::string message) {
    error_ = {line_, std::move(message)};
    return false;
  }

  std::string place() const { return " of frame " + std::to_string(frame_ + 1) + " of " + std::to_string(num_frames_); }

  std::string body_place() const { return " of body " + std::to_string(body_ + 1) + place(); }

  // Steps to the next line; `what` it should hold is for the message only, and so is made only when needed.
  template <typename Describe>
  bool next_line(const Describe& what) {
    ++line_;
    if (rest_.empty()) {
      return fail("the file ends where " + what() + " was expected");
    }
    const std::size_t end = std::min(rest_.find('\n'), rest_.size());
    fields_ = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (!fields_.empty() && fields_.back() == '\r') {
      fields_.remove_suffix(1);
    }
    return true;
  }

  // The next field of the line, empty at its end.
  std::string_view next_field() {
    std::size_t begin = 0;
    while (begin < fields_.size() && is_space(fields_[begin])) {
      ++begin;
    }
    std::size_t end = begin;
    while (end < fields_.size() && !is_space(fields_[end])) {
      ++end;
    }
    const std::string_view field = fields_.substr(begin, end - begin);
    fields_.remove_prefix(end);
    return field;
  }

  // Reads a line that holds `count` fields into `values`. Not a number, infinities and the like are numbers
  // here: the sensor's software writes them for positions that fall outside its images.
  template <std::size_t count, typename Describe>
  bool numbers(std::array<double, count>& values, std::size_t first, const Describe& what) {
    for (std::size_t i = first; i < count; ++i) {
      const std::string_view field = next_field();
      if (field.empty()) {
        return fail("expected " + std::to_string(count) + " fields for " + what() + ", got " + std::to_string(i));
      }
      if (!to_number(field, values[i])) {
        return fail("field " + std::to_string(i + 1) + " for " + what() + " is not a number: " + quoted(field));
      }
    }
    return end_of_line("more than " + std::to_string(count) + " fields", what);
  }

  template <typename Describe>
  bool end_of_line(const std::string& found, const Describe& what) {
    const std::string_view field = next_field();
    return field.empty() || fail(found + " for " + what() + ": " + quoted(field));
  }

  template <typename Describe>
  bool count_line(std::int64_t& count, const Describe& what) {
    if (!next_line(what)) {
      return false;
    }
    const std::string_view field = next_field();
    if (!to_number(field, count)) {
      return fail(what() + " must be a whole number below 2^63, got " + quoted(field));
    }
    if (count < 0) {
      return fail(what() + " must not be negative, got " + std::to_string(count));
    }
    return end_of_line("more than one field", what);
  }

  template <typename Describe>
  bool fits(std::int64_t count, std::int64_t bytes, const Describe& what) {
    // The last line need not end, hence one byte more than there is.
    const std::int64_t room = static_cast<std::int64_t>(rest_.size()) + 1;
    return count <= room / bytes || fail(what() + " is " + std::to_string(count) + ", more than the other " +
                                         std::to_string(rest_.size()) + " bytes of the file can hold");
  }

  template <typename Describe>
  bool tracking_state(double value, std::vector<std::uint8_t>& states, const Describe& what) {
    if (!(value >= 0 && value <= 255 && value == std::floor(value))) {
      return fail("the tracking state of " + what() + " must be a whole number from 0 to 255");
    }
    states.push_back(static_cast<std::uint8_t>(value));
    return true;
  }

  bool parse_recording() {
    const auto what = [] { return std::string("the number of frames"); };
    if (!count_line(num_frames_, what) || !fits(num_frames_, kFrameBytes, what)) {
      return false;
    }
    recording_.body_counts.reserve(static_cast<std::size_t>(num_frames_));
    for (frame_ = 0; frame_ < num_frames_; ++frame_) {
      if (!parse_frame()) {
        return false;
      }
    }
    while (!rest_.empty()) {
      if (!next_line([] { return std::string(); })) {
        return false;
      }
      if (const std::string_view field = next_field(); !field.empty()) {
        return fail("the file goes on after its " + std::to_string(num_frames_) + " frames: " + quoted(field));
      }
    }
    return true;
  }

  bool parse_frame() {
    const auto what = [this] { return "the number of bodies" + place(); };
    std::int64_t bodies = 0;
    if (!count_line(bodies, what) || !fits(bodies, kBodyBytes, what)) {
      return false;
    }
    recording_.body_counts.push_back(bodies);
    recording_.max_bodies = std::max(recording_.max_bodies, bodies);
    if (recording_.max_bodies > kMaxPaddedBodies / num_frames_) {
      return fail("a file of " + std::to_string(num_frames_) + " frames with up to " +
                  std::to_string(recording_.max_bodies) + " bodies is refused as too large");
    }
    for (body_ = 0; body_ < bodies; ++body_) {
      if (!parse_body()) {
        return false;
      }
    }
    return true;
  }

  bool parse_body() {
    const auto line_of_body = [this] { return "the line" + body_place(); };
    if (!next_line(line_of_body)) {
      return false;
    }
    std::uint64_t id = 0;
    if (const std::string_view field = next_field(); !to_number(field, id)) {
      return fail("the id" + body_place() + " must be a whole number from 0 to 2^64 - 1, got " + quoted(field));
    }
    recording_.body_ids.push_back(id);
    std::array<double, kBodyFields> fields;
    if (!numbers(fields, 1, line_of_body) || !tracking_state(fields.back(), recording_.tracking_states, line_of_body)) {
      return false;
    }
    const auto joint_count = [this] { return "the number of joints" + body_place(); };
    std::int64_t joints = 0;
    if (!count_line(joints, joint_count)) {
      return false;
    }
    if (joints != kSkeletonJoints) {
      return fail(joint_count() + " must be " + std::to_string(kSkeletonJoints) + ", got " + std::to_string(joints));
    }
    for (std::int64_t joint = 0; joint < kSkeletonJoints; ++joint) {
      if (!parse_joint(joint)) {
        return false;
      }
    }
    return true;
  }

  bool parse_joint(std::int64_t joint) {
    if (parse_plain_joint()) {
      return true;
    }
    const auto what = [&] { return "joint " + std::to_string(joint + 1) + body_place(); };
    std::array<double, kJointFields> fields;
    if (!next_line(what) || !numbers(fields, 0, what)) {
      return false;
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (!std::isfinite(fields[axis])) {
        return fail(std::string("the ") + "xyz"[axis] + " coordinate of " + what() + " is not finite");
      }
    }
    recording_.joints.insert(recording_.joints.end(), fields.begin(), fields.begin() + 3);
    return tracking_state(fields.back(), recording_.joint_tracking_states, what);
  }

  // Reads the line of a joint if it is a plain one; otherwise changes nothing.
  bool parse_plain_joint() {
    const char* const text = rest_.data();
    plain_line::Line line;
    if (static_cast<std::ptrdiff_t>(rest_.size()) < plain_line::kReadAhead ||
        !plain_line::recognize(text, kJointFields, line)) {
      return false;
    }
    std::array<double, 3> position;
    const char* begin = text;
    for (double& coordinate : position) {
      const char* const end = text + std::countr_zero(line.ends);
      const char* const point = std::min(text + std::countr_zero(line.points), end);
      if (line.ends == 0 || !plain_line::to_double(begin, point, end, coordinate)) {
        return false;
      }
      line.points &= point < end ? line.points - 1 : line.points;
      line.ends &= line.ends - 1;
      begin = end + 1;
    }
    const char* end = text + line.length;
    const char state = end[-1];
    if (end[-2] != ' ') {
      return false;
    }
    end += *end == '\r';
    if (*end != '\n') {
      return false;
    }
    ++line_;
    rest_.remove_prefix(static_cast<std::size_t>(end + 1 - text));
    recording_.joints.insert(recording_.joints.end(), position.begin(), position.end());
    recording_.joint_tracking_states.push_back(static_cast<std::uint8_t>(state - '0'));
    return true;
  }

  std::string_view rest_;    // what follows the current line
  std::string_view fields_;  // what is left of the current line
  std::int64_t line_ = 0;
  std::int64_t num_frames_ = 0;
  std::int64_t frame_ = 0;
  std::int64_t body_ = 0;
  SkeletonRecording recording_;
  SkeletonError error_;
};

}  // namespace

std::variant<SkeletonRecording, SkeletonError> parse_skeleton(std::string_view text) { return Parser(text).parse(); }

}  // namespace ikem::native
