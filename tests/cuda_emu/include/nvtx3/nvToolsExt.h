/* NVTX does nothing without a profiler; here it does nothing at all. */
#ifndef IMF_EMU_NVTX_H
#define IMF_EMU_NVTX_H

static inline int nvtxRangePushA(const char *name)
{
    (void)name;
    return 0;
}

static inline int nvtxRangePop(void)
{
    return 0;
}

static inline void nvtxMarkA(const char *name)
{
    (void)name;
}

#define nvtxRangePush nvtxRangePushA
#define nvtxMark nvtxMarkA
#endif
