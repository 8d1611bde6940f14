namespace ikem::modalities { namespace IKEM_SIMD_LEVEL {} }
