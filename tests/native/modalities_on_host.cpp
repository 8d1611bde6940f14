// The CUDA kernels of the modalities on the host, with plain C functions around them for tests to call.
#include "modalities/cuda.cu"
#include "scalars.h"

using namespace ikem::modalities;

namespace {

struct Arguments {
  int64_t clips, source_clips, frames, bodies, num_joints;
  const int64_t* clip_index;
  const int64_t *parents, *partners, *torso, *slots;
  double reference_frames;
  const int64_t* num_frames;
  const void* shear;
  const int64_t* crop_start;
  int64_t crop_padding;
  const void* joints;
  const int64_t* joint_strides;
};

Problem make_problem(const Arguments& a) {
  Problem problem{};
  problem.clips = a.clips;
  problem.source_clips = a.source_clips;
  problem.clip_index = a.clip_index;
  problem.frames = a.frames;
  problem.bodies = static_cast<int32_t>(a.bodies);
  Skeleton& skeleton = problem.skeleton;
  skeleton.num_joints = static_cast<int32_t>(a.num_joints);
  for (int joint = 0; joint < a.num_joints; ++joint) {
    skeleton.parents[joint] = static_cast<int16_t>(a.parents[joint]);
    skeleton.partners[joint] = static_cast<int16_t>(a.partners[joint]);
    skeleton.root = a.parents[joint] == joint ? joint : skeleton.root;
  }
  skeleton.spine = static_cast<int32_t>(a.torso[0]);
  skeleton.left = static_cast<int32_t>(a.torso[1]);
  skeleton.right = static_cast<int32_t>(a.torso[2]);
  for (int modality = 0; modality < NUM_MODALITIES; ++modality) {
    problem.slots[modality] = static_cast<int32_t>(a.slots[modality]);
  }
  problem.reference_frames = a.reference_frames;
  problem.num_frames = a.num_frames;
  problem.shear = a.shear;
  problem.crop_start = a.crop_start;
  problem.crop_padding = a.crop_padding;
  return problem;
}

template <class S>
Clips<const S> make_clips(const Arguments& a) {
  Clips<const S> clips{static_cast<const S*>(a.joints), {}};
  std::memcpy(clips.strides, a.joint_strides, sizeof(clips.strides));
  return clips;
}

}  // namespace

extern "C" {

const char* modalities_forward(int dtype, const Arguments* a, void* out) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    return cuda::forward<S>(make_problem(*a), make_clips<S>(*a), static_cast<S*>(out), nullptr);
  });
}

// grad_strides: of all six axes
const char* modalities_backward(int dtype, const Arguments* a, const void* grad_out, const int64_t* grad_strides,
                                void* grad_joints) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    DerivedClips<const S> grads{static_cast<const S*>(grad_out), grad_strides[0], {}};
    std::memcpy(grads.strides, grad_strides + 1, sizeof(grads.strides));
    return cuda::backward<S>(make_problem(*a), make_clips<S>(*a), grads, static_cast<S*>(grad_joints), nullptr);
  });
}

}  // extern "C"
