// Reads the text files in which NTU RGB+D stores skeletons (Shahroudy et al., CVPR 2016).
//
// A file holds a line with the number of frames; each frame a line with the number of bodies; each body a line
// of ten fields (the tracking id first, the tracking state last), a line with the number of joints, always 25,
// and a line of twelve numbers per joint: x y z in meters, the positions in the depth and color images, the
// orientation as a quaternion, and the tracking state. Lines end with LF or CRLF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace ikem::native {

constexpr std::int64_t kSkeletonJoints = 25;

// One entry per body and frame in `joints`, `joint_tracking_states`, `body_ids` and `tracking_states`: the
// bodies of the first frame in the order of the file, then those of the second, and so on.
struct SkeletonRecording {
  std::int64_t max_bodies = 0;                      // the most bodies that one frame holds
  std::vector<std::int64_t> body_counts;            // (frames)
  std::vector<std::uint64_t> body_ids;              // (entries)
  std::vector<std::uint8_t> tracking_states;        // (entries)
  std::vector<double> joints;                       // (entries, 25, 3)
  std::vector<std::uint8_t> joint_tracking_states;  // (entries, 25)
};

struct SkeletonError {
  std::int64_t line = 0;  // counted from 1
  std::string message;
};

// Never throws but std::bad_alloc, and allocates no more than a small multiple of the text's length.
std::variant<SkeletonRecording, SkeletonError> parse_skeleton(std::string_view text);

}  // namespace ikem::native
