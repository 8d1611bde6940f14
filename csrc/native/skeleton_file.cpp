#include "skeleton_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <system_error>

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

  std::string place() const {
    return " of frame " + std::to_string(frame_ + 1) + " of " + std::to_string(num_frames_);
  }

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

  template <typename Number>
  static bool to_number(std::string_view field, Number& value) {
    if (field.size() > 1 && field.front() == '+' && field[1] != '-') {
      field.remove_prefix(1);  // which from_chars does not take
    }
    const char* const end = field.data() + field.size();
    const auto [stop, status] = std::from_chars(field.data(), end, value);
    return status == std::errc() && stop == end;
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
      return fail(what() + " must be a whole number, got " + quoted(field));
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
    if (!numbers(fields, 1, line_of_body) ||
        !tracking_state(fields.back(), recording_.tracking_states, line_of_body)) {
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
