// The kernels of the modalities, for the CPU and (on the host) for CUDA, over many shapes and against each other. Meant
// to be built with -fsanitize=address,undefined; ends with 0 if all agree.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "modalities/cuda.cu"

using namespace ikem::modalities;

namespace {

std::mt19937 generator(0);

std::vector<double> random_values(int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) {
    value = normal(generator);
  }
  return values;
}

bool agree(const std::vector<double>& a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= 1e-6 * (1 + std::fabs(a[i])))) {
      std::fprintf(stderr, "element %zu: %.17g and %.17g\n", i, a[i], b[i]);
      return false;
    }
  }
  return true;
}

// A chain of joints from the root in its middle; one is its own partner, the rest are partners at random.
Skeleton make_skeleton(int joints) {
  Skeleton skeleton{};
  skeleton.num_joints = joints;
  skeleton.root = joints / 2;
  for (int joint = 0; joint < joints; ++joint) {
    const int step = joint < skeleton.root ? 1 : joint > skeleton.root ? -1 : 0;
    skeleton.parents[joint] = static_cast<int16_t>(joint + step);
    skeleton.partners[joint] = static_cast<int16_t>(generator() % static_cast<unsigned>(joints));
  }
  skeleton.partners[joints - 1] = static_cast<int16_t>(joints - 1);
  skeleton.spine = 0;
  skeleton.left = joints - 1;
  skeleton.right = joints / 3;
  return skeleton;
}

bool check(int64_t clips, int64_t frames, int joints, int bodies, int64_t padding, unsigned wanted) {
  const int64_t elements = clips * 3 * frames * joints * bodies;
  const std::vector<double> x = random_values(elements);
  const std::vector<double> shear = random_values(9 * clips);
  std::vector<int64_t> num_frames, start;
  for (int64_t clip = 0; clip < clips; ++clip) {
    num_frames.push_back(1 + static_cast<int64_t>(generator() % 100));
    start.push_back(static_cast<int64_t>(generator() % static_cast<unsigned>(2 * padding + 1)));
  }
  Problem problem{};
  problem.clips = clips;
  problem.frames = frames;
  problem.bodies = bodies;
  problem.skeleton = make_skeleton(joints);
  int slots = 0;
  for (int modality = 0; modality < NUM_MODALITIES; ++modality) {
    problem.slots[modality] = (wanted >> modality & 1u) != 0 ? slots++ : -1;
  }
  problem.reference_frames = 50;
  problem.num_frames = num_frames.data();
  problem.shear = padding > 0 ? shear.data() : nullptr;
  problem.crop_start = padding > 0 ? start.data() : nullptr;
  problem.crop_padding = padding;

  const int64_t lanes = problem.lanes();
  const Clips<const double> clip_view{x.data(), {3 * frames * lanes, frames * lanes, lanes, bodies, 1}};
  const std::vector<double> grad = random_values(slots * elements);
  const DerivedClips<const double> grad_view{
      grad.data(), elements, {3 * frames * lanes, frames * lanes, lanes, bodies, 1}};
  std::vector<double> out(grad.size()), cuda_out(grad.size()), grad_x(x.size()), cuda_grad_x(x.size());

  const int64_t tasks = clips * cpu_tiles_per_clip(problem);
  plain::forward<double>(problem, clip_view, out.data(), 0, tasks);
  plain::backward<double>(problem, clip_view, grad_view, grad_x.data(), 0, tasks);
  const char* error = ikem::modalities::cuda::forward<double>(problem, clip_view, cuda_out.data(), nullptr);
  if (error == nullptr) {
    error = ikem::modalities::cuda::backward<double>(problem, clip_view, grad_view, cuda_grad_x.data(), nullptr);
  }
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
  }
  return error == nullptr && agree(out, cuda_out) && agree(grad_x, cuda_grad_x);
}

}  // namespace

int main() {
  const unsigned all = (1u << NUM_MODALITIES) - 1;
  bool good = true;
  for (const int64_t frames : {1, 2, 3, 7, 22}) {
    for (const int joints : {3, 25}) {
      for (const int bodies : {1, 2, 3}) {
        for (const int64_t padding : {int64_t{0}, (frames + 1) / 2, frames}) {
          good = good && check(2, frames, joints, bodies, padding, all);
        }
      }
    }
  }
  for (unsigned wanted = 1; wanted < all; ++wanted) {
    good = good && check(1, 5, 4, 2, wanted % 3, wanted);
  }
  good = good && check(1, 3, MAX_JOINTS, 1, 1, all);
  return good ? 0 : 1;
}
