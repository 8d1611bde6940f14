// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/simd.h"

namespace ikem::modalities {

enum Modality { JOINT, MOTION, BONE, ACCELERATION, ROTATION_AXIS, ANGULAR_VELOCITY, NUM_MODALITIES };

constexpr int MAX_JOINTS = 256;

// Joints count from 0. The root is its own parent. A joint that is its own partner has no angle.
struct Skeleton {
  int32_t num_joints;
  int32_t root;
  int32_t spine, left, right;
  int16_t parents[MAX_JOINTS];
  int16_t partners[MAX_JOINTS];
};

// A tensor (N, 3, T, V, M) of any strides, in elements.
template <class S>
struct Clips {
  S* data;
  int64_t strides[5];
};

// The gradient of the output, (number of modalities, N, 3, T, V, M).
template <class S>
struct DerivedClips {
  S* data;
  int64_t modality_stride;
  int64_t strides[5];
};

struct Problem {
  int64_t clips;
  int64_t frames;
  int32_t bodies;
  Skeleton skeleton;
  int32_t slots[NUM_MODALITIES];  // where in the output each modality stands; -1: not asked for
  double reference_frames;
  int64_t source_clips;       // how many clips the input holds
  const int64_t* clip_index;  // (N,), contiguous: which of them each clip is; or null: clip n is the n-th
  const int64_t* num_frames;  // (source clips,), contiguous
  const void* shear;          // (N, 3, 3), contiguous, in the type computed in; or null
  const int64_t* crop_start;  // (N,), contiguous; or null
  int64_t crop_padding;

  IKEM_INLINE bool wants(Modality modality) const { return slots[modality] >= 0; }
  IKEM_INLINE int64_t lanes() const { return static_cast<int64_t>(skeleton.num_joints) * bodies; }

  // Which clip of the input it is. (An index out of range, which is refused where it can be seen, is clamped: no read
  // leaves the input.)
  IKEM_INLINE int64_t source(int64_t clip) const {
    if (clip_index == nullptr) {
      return clip;
    }
    const int64_t index = clip_index[clip];
    return index < 0 ? 0 : index >= source_clips ? source_clips - 1 : index;
  }

  // By how many frames the clip is shifted before it is mirrored at both ends. (A start out of range, which is
  // refused where it can be seen, is clamped: no read leaves the clip.)
  IKEM_INLINE int64_t shift(int64_t clip) const {
    if (crop_start == nullptr) {
      return 0;
    }
    const int64_t start = crop_start[clip];
    return (start < 0 ? 0 : start > 2 * crop_padding ? 2 * crop_padding : start) - crop_padding;
  }

  // The frame of the input that stands at `index`, -frames <= index < 2 * frames, of the mirrored clip.
  IKEM_INLINE int64_t mirrored(int64_t index) const {
    return index < 0 ? -1 - index : index >= frames ? 2 * frames - 1 - index : index;
  }
};

// CPU. A task is a tile of frames of one clip; any split of the tasks over threads gives the same bits.
// `out` and `grad_joints` are contiguous.
inline int64_t cpu_tile_frames(const Problem& problem) {
  const int64_t frames = 1024 / (problem.lanes() > 0 ? problem.lanes() : 1);
  return frames < 1 ? 1 : frames > problem.frames ? problem.frames : frames;
}

inline int64_t cpu_tiles_per_clip(const Problem& problem) {
  const int64_t tile = cpu_tile_frames(problem);
  return (problem.frames + tile - 1) / tile;
}

#define IKEM_DECLARE_MODALITIES(level)                                                                         \
  namespace level {                                                                                            \
  template <class S>                                                                                           \
  void forward(const Problem& problem, Clips<const S> joints, S* out, int64_t first_task, int64_t last_task);  \
  template <class S>                                                                                           \
  void backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints, \
                int64_t first_task, int64_t last_task);                                                        \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_MODALITIES)
#undef IKEM_DECLARE_MODALITIES

// CUDA. `stream` is a cudaStream_t of the current device. Returns null, or what went wrong.
namespace cuda {
template <class S>
const char* forward(const Problem& problem, Clips<const S> joints, S* out, void* stream);
template <class S>
const char* backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints,
                     void* stream);
}  // namespace cuda

}  // namespace ikem::modalities
