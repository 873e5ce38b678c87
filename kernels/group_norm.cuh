/* What the strips of a picture leave for GroupNorm: mean, M2 (the sum of squared deviations) and
 * the number of elements of every group; group_norm.cu merges them, conv3x3.cu writes them as well.
 */
#ifndef K_GROUP_NORM_CUH
#define K_GROUP_NORM_CUH

#include "common.cuh"

IMF_DEVICE float4 strip_statistics(float sum, float squares, int count)
{
    const float n = static_cast<float>(count);
    return make_float4(sum / n, squares - sum * (sum / n), n, 0.0f);
}

#endif
