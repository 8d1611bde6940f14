#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "skeleton_file.h"

namespace py = pybind11;

namespace ikem::native {
namespace {

// Spreads the entries of the recording, `width` values each, over a zeroed array (frames, bodies, ...).
template <typename Value>
py::array_t<Value> padded(const SkeletonRecording& recording, const std::vector<Value>& entries,
                          std::vector<py::ssize_t> entry_shape) {
  py::ssize_t width = 1;
  for (py::ssize_t size : entry_shape) {
    width *= size;
  }
  const auto num_frames = static_cast<py::ssize_t>(recording.body_counts.size());
  std::vector<py::ssize_t> shape = {num_frames, static_cast<py::ssize_t>(recording.max_bodies)};
  shape.insert(shape.end(), entry_shape.begin(), entry_shape.end());
  py::array_t<Value> array(shape);
  Value* frame = array.mutable_data();
  const Value* source = entries.data();
  for (const std::int64_t bodies : recording.body_counts) {
    Value* const filled = std::copy_n(source, bodies * width, frame);
    source += bodies * width;
    frame += recording.max_bodies * width;
    std::fill(filled, frame, Value{0});
  }
  return array;
}

py::tuple parse_skeleton_bytes(const py::bytes& text, const std::string& name) {
  const std::string_view view = text;
  std::variant<SkeletonRecording, SkeletonError> result;
  {
    py::gil_scoped_release released;
    result = parse_skeleton(view);
  }
  if (const auto* error = std::get_if<SkeletonError>(&result)) {
    throw py::value_error(name + ":" + std::to_string(error->line) + ": " + error->message);
  }
  const auto& recording = std::get<SkeletonRecording>(result);
  const auto num_frames = static_cast<py::ssize_t>(recording.body_counts.size());
  return py::make_tuple(padded(recording, recording.joints, {kSkeletonJoints, 3}),
                        padded(recording, recording.body_ids, {}), padded(recording, recording.tracking_states, {}),
                        padded(recording, recording.joint_tracking_states, {kSkeletonJoints}),
                        py::array_t<std::int64_t>(num_frames, recording.body_counts.data()));
}

}  // namespace
}  // namespace ikem::native

void bind_skeleton_file(py::module_& module) {
  module.def("parse_skeleton", &ikem::native::parse_skeleton_bytes, py::arg("text"), py::arg("name"),
             R"doc(Parses the text of an NTU RGB+D ``.skeleton`` file; other threads run meanwhile.

Args:
    text: what the file holds.
    name: what error messages call the file.

Returns:
    joints float64 (frames, bodies, 25, 3), body_ids uint64 (frames, bodies), tracking_states uint8
    (frames, bodies), joint_tracking_states uint8 (frames, bodies, 25) and body_counts int64 (frames,).

Raises:
    ValueError: the text is not such a file; the message starts with ``name:line:``.)doc");
}
