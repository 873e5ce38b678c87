/* Streams, events, graphs by capture and replay, synchronisation with the host, errors. */
#include <thread>
#include "test_emu.h"

static __global__ void nothing(void)
{
}

static __global__ void add_one(float *x, float by)
{
    x[threadIdx.x] += by;
}

START_TEST(host_read_before_sync)
{
    fresh();
    float *x = device_copy(std::vector<float>(1024, 3.0f)), *pinned;
    cudaStream_t s;
    ck_assert_int_eq(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    ck_assert_int_eq(cudaMallocHost(&pinned, 4096), cudaSuccess);
    cudaMemcpyAsync(pinned, x, 4096, cudaMemcpyDeviceToHost, s);
    cudaStreamSynchronize(s);
    ck_assert(pinned[17] == 3.0f);
    expect(0);
    cudaMemcpyAsync(pinned, x, 4096, cudaMemcpyDeviceToHost, s);
    volatile float early = pinned[17]; /* planted */
    ck_assert(early != 3.0f);
    ck_assert_int_eq(imf_emu_report_count(), 1);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    ck_assert_uint_eq(imf_emu_report_at(0)->address, uint64_t(uintptr_t(pinned + 17)));
    cudaStreamSynchronize(s);
    ck_assert(pinned[17] == 3.0f);
    fresh();
    /* Changing the source of an upload before it has run is the same mistake; reading it is none.
     */
    cudaMemcpyAsync(x, pinned, 4096, cudaMemcpyHostToDevice, s);
    ck_assert(pinned[5] == 3.0f);
    ck_assert_int_eq(imf_emu_report_count(), 0);
    pinned[5] = 4.0f;
    ck_assert_int_eq(imf_emu_report_count(), 1);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    cudaStreamSynchronize(s);
    imf_emu_reset();
    cudaFreeHost(pinned);
    cudaStreamDestroy(s);
    cudaFree(x);
}
END_TEST

START_TEST(streams_and_events)
{
    fresh();
    float *x = device_copy(std::vector<float>(32, 1.0f)), *y = device_array<float>(32);
    cudaStream_t a, b;
    cudaEvent_t e;
    cudaDeviceSynchronize(); /* y's memset is on the legacy stream, which a and b do not wait for */
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreate(&e);
    IMF_LAUNCH(add_one, 1, 32, 0, a, x, 1.0f);
    cudaEventRecord(e, a);
    cudaStreamWaitEvent(b, e, 0);
    cudaMemcpyAsync(y, x, 128, cudaMemcpyDeviceToDevice, b);
    ck_assert_int_eq(cudaEventQuery(e), cudaErrorNotReady);
    cudaStreamSynchronize(b);
    ck_assert_int_eq(cudaEventQuery(e), cudaSuccess);
    ck_assert(host_copy(y, 32)[0] == 2.0f);
    /* The wait forgotten: the younger stream runs first and copies the old values. */
    IMF_LAUNCH(add_one, 1, 32, 0, a, x, 1.0f);
    cudaMemcpyAsync(y, x, 128, cudaMemcpyDeviceToDevice, b);
    cudaDeviceSynchronize();
    ck_assert(host_copy(y, 32)[0] == 2.0f);
    ck_assert(host_copy(x, 32)[0] == 3.0f);
    expect(0);
    /* A blocking stream and the legacy stream wait for each other. */
    cudaStream_t c;
    cudaStreamCreate(&c);
    IMF_LAUNCH(add_one, 1, 32, 0, c, x, 1.0f);
    ck_assert(host_copy(x, 32)[0] == 4.0f);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaStreamDestroy(c);
    ck_assert_int_eq(cudaStreamSynchronize(c), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    cudaEventDestroy(e);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

START_TEST(graphs)
{
    fresh();
    float *x = device_copy(std::vector<float>(32, 0.0f)), *pinned;
    cudaStream_t s, side;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join, cudaEventDisableTiming);
    cudaMallocHost(&pinned, 128);
    float by = 1.0f;
    ck_assert_int_eq(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    IMF_LAUNCH(add_one, 1, 32, 0, s, x, by);
    by = 100.0f; /* arguments were taken at capture */
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    IMF_LAUNCH(add_one, 1, 32, 0, side, x, 2.0f);
    cudaEventRecord(join, side);
    cudaStreamWaitEvent(s, join, 0);
    cudaMemcpyAsync(pinned, x, 128, cudaMemcpyDeviceToHost, s);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
    ck_assert_uint_eq(nodes, 3);
    ck_assert_uint_eq(imf_emu_launches(), 0); /* nothing has run */
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int i = 1; i <= 3; i++) {
        ck_assert_int_eq(cudaGraphLaunch(exec, s), cudaSuccess);
        cudaStreamSynchronize(s);
        ck_assert(pinned[9] == 3.0f * float(i));
    }
    ck_assert_uint_eq(imf_emu_launches(), 6);
    ck_assert_uint_eq(imf_emu_counters_find("memcpy D2H")->launches, 3);
    /* Reading before the replay is synchronised is seen as well. */
    cudaGraphLaunch(exec, s);
    volatile float early = pinned[0];
    (void)early;
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    cudaStreamSynchronize(s);
    fresh();
    cudaGraphExecDestroy(exec);

    /* What capture forbids. */
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    void *p;
    ck_assert_int_eq(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    /* A side stream that never joins. */
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    IMF_LAUNCH(add_one, 1, 32, 0, side, x, 2.0f);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnjoined);
    cudaGetLastError();
    cudaFreeHost(pinned);
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaStreamDestroy(s);
    cudaStreamDestroy(side);
    cudaFree(x);
    expect(0);
}
END_TEST

START_TEST(injected_errors)
{
    fresh();
    void *p, *q;
    imf_emu_fail_malloc(2);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&q, 100), cudaErrorMemoryAllocation);
    ck_assert_ptr_null(q);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess); /* not sticky */
    ck_assert_int_eq(cudaMalloc(&q, size_t(1) << 50), cudaErrorMemoryAllocation);
    cudaFree(p);
    fresh();
    imf_emu_fail_launch(2, cudaErrorLaunchTimeout);
    IMF_LAUNCH(nothing, 1, 1, 0, 0);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    IMF_LAUNCH(nothing, 1, 1, 0, 0);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess); /* asynchronous: found out at the wait */
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorLaunchTimeout);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaErrorLaunchTimeout); /* sticky */
    ck_assert_str_eq(cudaGetErrorName(cudaErrorLaunchTimeout), "cudaErrorLaunchTimeout");
    fresh();
    imf_emu_sick_device(0);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaErrorECCUncorrectable);
    imf_emu_reset();
}
END_TEST

START_TEST(event_times)
{
    fresh();
    float *x = device_array<float>(32), ms = -1.0f;
    cudaEvent_t a, b, untimed;
    cudaEventCreate(&a);
    cudaEventCreate(&b);
    cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming);
    ck_assert_int_eq(cudaEventElapsedTime(&ms, a, b),
                     cudaErrorInvalidResourceHandle); /* not recorded */
    cudaGetLastError();
    ck_assert_int_eq(cudaEventQuery(a), cudaSuccess);
    cudaEventRecord(a, 0);
    IMF_LAUNCH(add_one, 1, 32, 0, 0, x, 1.0f);
    cudaEventRecord(b, 0);
    cudaEventRecord(untimed, 0);
    ck_assert_int_eq(cudaEventElapsedTime(&ms, a, b), cudaErrorNotReady);
    ck_assert_int_eq(cudaEventSynchronize(b), cudaSuccess);
    ck_assert_int_eq(cudaEventElapsedTime(&ms, a, b), cudaSuccess);
    ck_assert(ms > 0.0f);
    cudaEventSynchronize(untimed);
    ck_assert_int_eq(cudaEventElapsedTime(&ms, a, untimed), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    cudaEventDestroy(a);
    ck_assert_int_eq(cudaEventRecord(a, 0), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    cudaEventDestroy(b);
    cudaEventDestroy(untimed);
    expect(0);
    cudaFree(x);
}
END_TEST

static void append(void *user)
{
    static_cast<std::vector<int> *>(user)->push_back(1);
}

/* Polling moves a stream one step a time; host functions run in their turn. */
START_TEST(polling_and_host_functions)
{
    fresh();
    std::vector<int> ran;
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(cudaLaunchHostFunc(s, append, &ran), cudaSuccess);
    ck_assert_uint_eq(ran.size(), 0);
    ck_assert_int_eq(cudaStreamQuery(s), cudaErrorNotReady);
    ck_assert_uint_eq(ran.size(), 1);
    int polls = 0;
    while (cudaStreamQuery(s) == cudaErrorNotReady)
        polls++;
    ck_assert_int_le(polls, 3);
    ck_assert_uint_eq(ran.size(), 3);
    cudaStreamDestroy(s);
    cudaGetLastError();
}
END_TEST

/* A fault inside a replayed graph, a graph used after its end, a graph from a stream that is not
 * capturing. */
START_TEST(graphs_gone_wrong)
{
    fresh();
    float *x = device_array<float>(32);
    cudaDeviceSynchronize();
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    enum cudaStreamCaptureStatus status;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnmatched);
    ck_assert_int_eq(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
                     cudaErrorStreamCaptureUnsupported);
    cudaGetLastError();
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    cudaStreamIsCapturing(s, &status);
    ck_assert_int_eq(status, cudaStreamCaptureStatusActive);
    cudaMemsetAsync(x, 0, 128, s);
    IMF_LAUNCH(add_one, 1, 32, 0, s, x, 1.0f);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaSuccess);
    cudaStreamIsCapturing(s, &status);
    ck_assert_int_eq(status, cudaStreamCaptureStatusNone);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    /* Twice without a wait between: in order; the executable may go while it is queued. */
    cudaGraphLaunch(exec, s);
    cudaGraphLaunch(exec, s);
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
    cudaStreamSynchronize(s);
    ck_assert(host_copy(x, 32)[31] == 1.0f);
    ck_assert_int_ne(cudaGraphLaunch(exec, s), cudaSuccess);
    cudaGetLastError();
    cudaGraphInstantiate(&exec, graph, 0);
    cudaFree(x); /* and the graph still points to it */
    cudaGraphLaunch(exec, s);
    ck_assert_int_ne(cudaStreamSynchronize(s), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_USE_AFTER_FREE);
    imf_emu_reset();
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    ck_assert_int_ne(cudaGraphDestroy(graph), cudaSuccess);
    cudaGetLastError();
    cudaStreamDestroy(s);
}
END_TEST

/* An error of the launch itself stays until it is asked for, and is asked for once. */
START_TEST(last_errors)
{
    fresh();
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    IMF_LAUNCH(nothing, 1, 2000, 0, 0);
    ck_assert_int_eq(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess); /* nothing ran, nothing is poisoned */
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    ck_assert_int_eq(cudaPeekAtLastError(), cudaSuccess);
    ck_assert_str_eq(cudaGetErrorName(cudaErrorInvalidConfiguration),
                     "cudaErrorInvalidConfiguration");
    ck_assert(strlen(cudaGetErrorString(cudaErrorMemoryAllocation)) > 5);
    ck_assert_str_eq(cudaGetErrorString(static_cast<cudaError_t>(12345)),
                     "unrecognized error code");
    imf_emu_reset();
}
END_TEST

/* What another thread does spoils a capture in global mode, not in thread-local mode. */
START_TEST(captures_and_other_threads)
{
    fresh();
    const struct {
        enum cudaStreamCaptureMode mode;
        cudaError_t call, end;
    } t[] = {{cudaStreamCaptureModeThreadLocal, cudaSuccess, cudaSuccess},
             {cudaStreamCaptureModeRelaxed, cudaSuccess, cudaSuccess},
             {cudaStreamCaptureModeGlobal, cudaErrorStreamCaptureUnsupported,
              cudaErrorStreamCaptureInvalidated}};
    float *x = device_array<float>(32);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaDeviceSynchronize();
    for (auto &c : t) {
        cudaGraph_t graph = nullptr;
        cudaError_t waited = cudaSuccess, allocated = cudaSuccess;
        ck_assert_int_eq(cudaStreamBeginCapture(s, c.mode), cudaSuccess);
        std::thread other([&] {
            void *p = nullptr;
            cudaSetDevice(1);
            waited = cudaDeviceSynchronize();
            cudaSetDevice(0);
            allocated = cudaMalloc(&p, 64);
            cudaFree(p);
        });
        other.join();
        IMF_LAUNCH(add_one, 1, 32, 0, s, x, 1.0f);
        ck_assert_int_eq(waited, c.call);
        ck_assert_int_eq(allocated, c.call);
        ck_assert_int_eq(cudaStreamEndCapture(s, &graph), c.end);
        if (graph)
            cudaGraphDestroy(graph);
        cudaGetLastError();
    }
    cudaStreamDestroy(s);
    cudaFree(x);
    expect(0);
}
END_TEST

TCase *stream_tests(void)
{
    TCase *t = tcase_create("streams");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, host_read_before_sync);
    tcase_add_test(t, streams_and_events);
    tcase_add_test(t, graphs);
    tcase_add_test(t, injected_errors);
    tcase_add_test(t, event_times);
    tcase_add_test(t, polling_and_host_functions);
    tcase_add_test(t, graphs_gone_wrong);
    tcase_add_test(t, last_errors);
    tcase_add_test(t, captures_and_other_threads);
    return t;
}
